"""`tfgrpo evaluate TASK --model MODEL [--store ./experience@v7]`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from contextlib import AsyncExitStack

import experience_store
from experience_store import Snapshot
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, show
from tfgrpo.cli.parsing import number
from tfgrpo.cli.progress import progress
from tfgrpo.errors import InputError
from tfgrpo.late import LateCaller
from tfgrpo.mask import Mask
from tfgrpo.measure import SPLITS, aevaluate
from tfgrpo.sides import snapshot_of
from tfgrpo.task import Task


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_task(parser)
    options.add_model(parser)
    parser.add_argument("--store", metavar="PLACE[@REF]", help="a store, ./experience@v7 or @tag, or an exported file")
    options.add_namespace(parser)
    parser.add_argument(
        "--against", metavar="REF", help="what to compare with: none (the default), v3, a tag, or another PLACE[@REF]"
    )
    parser.add_argument("--mask", metavar="FILE", help="what the model does not see of --store (compare --transfer)")
    parser.add_argument("--alone", action="store_true", help="measure the store only, compare with nothing")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which problems (%(default)s)")
    parser.add_argument("--limit", metavar="N", type=number(1), help="the first N problems only")
    parser.add_argument("--reuse", action="store_true", help="answer from the last measurement of this kind")
    options.add_strategy(parser)
    parser.add_argument("--strategy-judge", metavar="MODEL", help="of best and tournament; default: the solver itself")
    parser.add_argument("--strategy-judge-price", metavar="IN/OUT")
    options.add_budget(parser, "Without any: as many calls as the problems and samples need.")
    options.add_run(parser)
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_evaluate(args))


async def _evaluate(args: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        model = options.solver_of(stack, args)
        task = cut(options.task_of(stack, args), args.split, args.limit)
        strategy = options.strategy_of(args, _judge(stack, args))
        store, against = await asyncio.to_thread(_sides, stack, args)
        store, said = await asyncio.to_thread(_masked, stack, args, store, model.name)
        with progress(args) as on_event:
            result = await aevaluate(
                task,
                model=model,
                store=store,
                against=against,
                samples=task.test_samples,
                split=args.split,
                budget=options.budget_of(args),
                concurrency=args.concurrency,
                seed=args.seed,
                reuse=args.reuse,
                strategy=strategy,
                runs=args.runs,
                on_event=on_event,
            )
    if said:
        result = dataclasses.replace(result, store=f"{args.store}, masked", notices=[*result.notices, *said])
    show(args, result.as_json(), str(result))
    return 0


def _judge(stack: AsyncExitStack, args: argparse.Namespace) -> LateCaller | None:
    """What chooses for a strategy, where it is another model than the solver."""
    if args.strategy_judge is None:
        return None
    url = options.beside(args, args.strategy_judge, None)
    return LateCaller(options.model_of(stack, args.strategy_judge, base_url=url, price=args.strategy_judge_price))


def cut(task: Task, split: str, limit: int | None) -> Task:
    """The task with the first problems of a split only."""
    if limit is None:
        return task
    problems = getattr(task, split)[:limit]
    return dataclasses.replace(task, **{split: problems})


def _sides(stack: AsyncExitStack, args: argparse.Namespace) -> tuple[Snapshot | str | None, Snapshot | str | None]:
    """What to measure and what to compare it with; places in the default namespace are opened by `aevaluate`."""
    if args.store is None or args.alone or args.strategy:
        if args.against:
            raise InputError("--against needs --store, and does not go with --alone or --strategy")
        return _place(stack, args, args.store), None
    against = args.against or "none"
    if (args.namespace == "default" and args.mask is None) or against == "none":
        return _place(stack, args, args.store), against
    inside = "/" not in against
    place = f"{experience_store.parse_ref(args.store)[0]}@{against}" if inside else against
    return _place(stack, args, args.store), _place(stack, args, place)


def _masked(
    stack: AsyncExitStack, args: argparse.Namespace, store: Snapshot | str | None, model: str
) -> tuple[Snapshot | str | None, list[str]]:
    """The store without what a mask leaves out, and what is to be said of it."""
    if args.mask is None:
        return store, []
    if store is None:
        raise InputError("--mask needs the store that it was made for: --store PLACE[@REF]")
    return Mask.load(args.mask).on(snapshot_of(stack, store)[1], model=model)


def _place(stack: AsyncExitStack, args: argparse.Namespace, given: str | None) -> Snapshot | str | None:
    if given is None or args.namespace == "default":
        return given
    place, ref = experience_store.parse_ref(given)
    return stack.enter_context(options.open_store(place, args, create=False)).at(ref)
