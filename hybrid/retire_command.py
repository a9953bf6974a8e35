"""`tfgrpo retire TASK --model MODEL --library PLACE[@REF]`. The command line finds it by the entry point "retire"."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from hybrid.noninferior import MARGIN, MOST_TESTS, least_problems
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.cli.progress import progress
from tfgrpo.policy import Policy

if TYPE_CHECKING:
    from hybrid.retirement import Retirement

EXAMPLES = """\
examples:
  tfgrpo train largest_of_three --model local/smollm2 \\
      --recipe distill-library --recipe-option library=./experience@v7
  tfgrpo retire largest_of_three --task-option gate=400 --model local/trained/step-000100 \\
      --before local/smollm2 --library ./experience@v7

  a library that an application ships as a file; the shorter one is written into --out:
  tfgrpo retire problems.jsonl --reward exact --model local/trained/step-000100 --library library.json

  five points of accuracy do not matter, which far fewer gate problems can show:
  tfgrpo retire problems.jsonl --reward exact --model local/trained/step-000100 --library ./experience --margin 0.05

All experiences are left out at once, then halves of what is missed. Gate problems decide; test problems measure and
decide nothing. Within a margin of {margin:g} at 95 % it takes at least {problems} gate problems: with fewer everything
stays, and the report says so. A store gets a new version and keeps the old ones: `tfgrpo store rollback` takes it back.
A command that was stopped goes on where it was, and pays for no answer twice.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES.format(margin=MARGIN, problems=least_problems(MARGIN))
    options.add_task(parser)
    options.add_model(parser)
    group = parser.add_argument_group("what is retired")
    group.add_argument(
        "--library", metavar="PLACE[@REF]", required=True, help="a store, ./experience@v7 or @tag, or an exported file"
    )
    group.add_argument("--before", metavar="MODEL", help="the model before it was trained, to be measured beside it")
    group.add_argument("--before-price", metavar="IN/OUT", help="default: --price, for the same kind of name")
    group.add_argument(
        "--margin",
        metavar="X",
        type=number(0, whole=False),
        default=MARGIN,
        help="the loss of accuracy that does not matter (%(default)s, a point)",
    )
    group.add_argument(
        "--gate-samples", metavar="K", type=number(1), default=1, help="answers to each gate problem (%(default)s)"
    )
    options.add_budget(parser, f"Without any: at most {MOST_TESTS + 1} times the gate problems, and the test problems.")
    run = parser.add_argument_group("run")
    run.add_argument("--out", metavar="DIR", default="./retired", help="the record of all answers (%(default)s)")
    run.add_argument("--samples", metavar="K", type=number(1), help="of each test problem (the task's, else 1)")
    run.add_argument("--seed", metavar="N", type=number(0), default=0)
    run.add_argument("--concurrency", metavar="N", type=number(1), default=64, help="requests in flight (%(default)s)")
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_retire(args))


async def _retire(args: argparse.Namespace) -> int:
    from hybrid.retiring import aretire  # noqa: PLC0415 - torch

    async with AsyncExitStack() as stack:
        task = options.task_of(stack, args)
        model, before = _models(stack, args)
        with progress(args) as on_event:
            report = await aretire(
                task,
                model=model,
                library=args.library,
                before=before,
                margin=args.margin,
                samples=args.gate_samples,
                budget=options.budget_of(args),
                out=args.out,
                concurrency=args.concurrency,
                seed=args.seed,
                on_event=on_event,
            )
    show(args, report.as_json(), str(report))
    hint(args, *_next(args, report))
    return 0


def _models(stack: AsyncExitStack, args: argparse.Namespace) -> tuple[Policy | str, Policy | str | None]:
    """The model and the one before it: names where a name says all: one is closed before the other opens."""
    plain = args.base_url is None and args.price is None and args.before_price is None
    if plain or args.before is None:
        return (args.model if plain else options.solver_of(stack, args)), args.before
    url = options.beside(args, args.before, None)
    same_kind = args.before.partition("/")[0] == args.model.partition("/")[0]
    price = args.before_price or (args.price if same_kind else None)
    return options.solver_of(stack, args), options.model_of(stack, args.before, base_url=url, price=price)


def _next(args: argparse.Namespace, report: Retirement) -> list[str]:
    """What to do with what was written."""
    if not report.written:
        return []
    use = f"--model {report.model} --store {report.written} --against {args.library}"
    return [f"Measure it once more, on problems that are new: tfgrpo evaluate TASK {use}"]
