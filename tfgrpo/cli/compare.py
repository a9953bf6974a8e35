"""`tfgrpo compare A B --task TASK`, and `tfgrpo compare STORE --transfer MODEL --task TASK`."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from typing import Any

import experience_store
from tfgrpo.cli import options
from tfgrpo.cli.evaluate import cut
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.cli.progress import progress
from tfgrpo.comparing import acompare
from tfgrpo.contenders import NONE, Given, Named, named
from tfgrpo.errors import InputError
from tfgrpo.measure import SPLITS
from tfgrpo.policy import Policy
from tfgrpo.task import Task
from tfgrpo.transfer import atransfer
from tfgrpo.transferred import KEEP

EXAMPLES = """\
A and B are each one of:
  none                                 no experiences
  ./experience@v3, library.json        a version of a store (number or tag), or an exported file
  v3, production                       a version or tag of the store that the other side names
  openai/gpt-4.1-mini, local/smollm2   a model, without experiences
  local/smollm2+./experience@v3        a model with a version
  runs/NAME, runs/NAME:before          the answers that a finished run kept (learn, evaluate, train, improve):
                                       they are scored again and nobody is asked for them

examples:
  tfgrpo compare ./experience@v3 v7 --task problems.jsonl --reward exact --model openai/gpt-4.1-mini
  tfgrpo compare openai/gpt-4.1-nano+./experience openai/gpt-4.1-mini --task problems.jsonl --reward exact
  tfgrpo compare runs/gsm8k-3f9a2c1b7d:before runs/gsm8k-77ab12cd34 --task gsm8k

  which experiences help another model, and a mask that leaves out those that harm it:
  tfgrpo compare ./experience@v7 --transfer openai/gpt-4.1-nano --task problems.jsonl --reward exact
  tfgrpo evaluate problems.jsonl --reward exact --model openai/gpt-4.1-nano --store ./experience@v7 --mask mask.json

The difference is B less A, paired by problem. A command that was stopped goes on where it was.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("a", metavar="A", help="a version, a model, both (MODEL+STORE), or a finished run")
    parser.add_argument("b", metavar="B", nargs="?", help="what A is compared with")
    options.add_task(parser, by_name=True)
    options.add_model(parser, required=False)
    sides = parser.add_argument_group("models that A and B name")
    for side in ("a", "b"):
        sides.add_argument(f"--{side}-base-url", metavar="URL", help="default: --base-url, for the same kind of name")
        sides.add_argument(f"--{side}-price", metavar="IN/OUT", help="dollars per million tokens")
    options.add_namespace(parser)
    parser.add_argument("--split", choices=SPLITS, help="which problems (test; gate with --transfer)")
    parser.add_argument("--limit", metavar="N", type=number(1), help="the first N problems only")
    parser.add_argument("--reuse", action="store_true", help="answer from the last comparison of this kind")
    moved = parser.add_argument_group("which experiences of A help another model")
    moved.add_argument("--transfer", metavar="MODEL", help="the other model; --base-url and --price are its own")
    moved.add_argument("--mask", metavar="FILE", default="mask.json", help="where the mask goes (%(default)s)")
    moved.add_argument("--keep", choices=sorted(KEEP), default="unharmed", help="what the mask leaves in (%(default)s)")
    moved.add_argument("--group", metavar="N", type=number(2), default=8, help="answers to a problem (%(default)s)")
    options.add_budget(parser, "Without any: as many calls as are needed; 600 of them with --transfer.")
    options.add_run(parser)
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    if args.transfer is not None:
        if args.b is not None or args.model is not None:
            raise InputError(
                "--transfer MODEL goes with one store and no --model: tfgrpo compare ./experience --transfer MODEL"
            )
        return asyncio.run(_transfer(args))
    if args.b is None:
        raise InputError("compare with what? tfgrpo compare A B --task TASK; see tfgrpo compare --help")
    return asyncio.run(_compare(args))


async def _compare(args: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        sides = named(args.a, args.b, args.runs)
        task = _task(stack, args, "test")
        model = None if args.model is None else options.solver_of(stack, args)
        opened = dict[tuple[str, str | None, str | None], Policy]()
        a, b = [_given(stack, args, opened, *side) for side in zip("ab", sides, (args.a, args.b), strict=True)]
        with progress(args) as on_event:
            result = await acompare(
                a,
                b,
                task=task,
                model=model,
                samples=task.test_samples,
                split=args.split or "test",
                budget=options.budget_of(args),
                concurrency=args.concurrency,
                seed=args.seed,
                reuse=args.reuse,
                runs=args.runs,
                on_event=on_event,
            )
    show(args, result.as_json(), str(result))
    return 0


def _task(stack: AsyncExitStack, args: argparse.Namespace, split: str) -> Task:
    return cut(options.task_of(stack, args), args.split or split, args.limit)


def _given(
    stack: AsyncExitStack,
    args: argparse.Namespace,
    opened: dict[tuple[str, str | None, str | None], Policy],
    letter: str,
    side: Named,
    word: str,
) -> Given:
    """A side with its model opened as the options say, and its store in the namespace that was asked for."""
    if side.run is not None:
        return word
    own_url, price = getattr(args, f"{letter}_base_url"), getattr(args, f"{letter}_price")
    if not side.model and (own_url or price):
        raise InputError(f"--{letter}-base-url and --{letter}-price are for a model that {letter.upper()} names")
    policy: Policy | None = None
    if side.model:
        key = (side.model, options.beside(args, side.model, own_url), price)
        policy = opened.get(key) or options.model_of(stack, side.model, base_url=key[1], price=price)
        opened[key] = policy  # one model that both sides name is opened once
    place: Any = side.store
    if args.namespace != "default" and place != NONE:
        location, ref = experience_store.parse_ref(place)
        place = stack.enter_context(options.open_store(location, args, create=False)).at(ref)
    return policy, place


async def _transfer(args: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        task = _task(stack, args, "gate")
        args.model = args.transfer
        place: Any = args.a
        if args.namespace != "default":
            location, ref = experience_store.parse_ref(place)
            place = stack.enter_context(options.open_store(location, args, create=False)).at(ref)
        with progress(args) as on_event:
            result = await atransfer(
                place,
                options.solver_of(stack, args),
                task=task,
                keep=args.keep,
                group=args.group,
                split=args.split or "gate",
                budget=options.budget_of(args),
                concurrency=args.concurrency,
                seed=args.seed,
                runs=args.runs,
                on_event=on_event,
            )
    written = result.mask.save(args.mask)
    show(args, {**result.as_json(), "mask_file": str(written)}, f"{result}\n  mask      {written}")
    if result.mask.out:
        use = f"--model {args.transfer} --store {args.a} --mask {written} --against {args.a}"
        hint(args, f"Measure it on problems that are new: tfgrpo evaluate {args.task} {use}")
    return 0
