"""`tfgrpo learn TASK --model MODEL`."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from typing import get_args

import experience_store
from tfgrpo.api import alearn
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.cli.progress import progress
from tfgrpo.errors import InputError
from tfgrpo.forecast import estimate
from tfgrpo.learner import Gate
from tfgrpo.report import Report


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_task(parser)
    options.add_methods(parser)
    options.add_model(parser)
    parser.add_argument(
        "--critic",
        metavar="CRITIC",
        help="lessons or paper, each alone or with :MODEL; a MODEL, which writes lessons; examples; references",
    )
    parser.add_argument("--critic-base-url", metavar="URL", help="default: --base-url, for the same kind of name")
    parser.add_argument("--critic-price", metavar="IN/OUT", help="dollars per million tokens of the critic")
    parser.add_argument("--store", metavar="PLACE", default=options.DEFAULT_STORE, help="folder or URL (%(default)s)")
    options.add_namespace(parser)
    parser.add_argument("--embedder", metavar="NAME", help="of a new store: minilm or hashing")
    options.add_budget(parser, "Without any: 600 solver calls.")
    options.add_run(parser)
    parser.add_argument(
        "--group", metavar="G", type=number(2), default=3, help="answers compared at a time (%(default)s)"
    )
    parser.add_argument("--gate", choices=get_args(Gate), default="evidence", help="what ships (%(default)s)")
    parser.add_argument(
        "--new", action="store_true", help="a new run, also where one of this kind is finished or begun"
    )
    parser.add_argument("--dry-run", action="store_true", help="print calls, tokens and dollars of the plan, and stop")
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_learn(args))


async def _learn(args: argparse.Namespace) -> int:
    place, ref = experience_store.parse_ref(args.store)
    if ref != "head":
        raise InputError(
            f"learning goes on from the last version; to begin at {ref}: tfgrpo store rollback {place} {ref}"
        )
    async with AsyncExitStack() as stack:
        model = options.solver_of(stack, args)
        task = options.with_methods(options.task_of(stack, args), args)
        task, critic = options.critic_of(stack, args, task, model)
        budget = options.budget_of(args)
        plan = estimate(task, model=model, critic=critic, budget=budget, group=args.group)
        if args.dry_run:
            show(args, plan.as_json(), str(plan))
            return 0
        store = await asyncio.to_thread(options.open_store, place, args, create=True, embedder=args.embedder)
        stack.enter_context(store)
        with progress(args) as on_event:
            report = await alearn(
                task,
                model=model,
                critic=critic,
                store=store,
                budget=budget,
                group=args.group,
                seed=args.seed,
                concurrency=args.concurrency,
                gate=args.gate,
                runs=args.runs,
                new=args.new,
                on_event=on_event,
            )
    show(args, report.as_json(), str(report))
    _say_what_next(args, place, report)
    return 0


def _say_what_next(args: argparse.Namespace, place: str, report: Report) -> None:
    if any("finished before" in notice for notice in report.notices):
        hint(args, "This run was finished before; --new starts another one.")
    if report.accepted:
        hint(args, f"What changed: tfgrpo store diff {place} v{report.start} v{report.final}")
        hint(args, f"Use it in an application: tfgrpo serve --store {place}@v{report.final}")
    hint(args, f"The whole story: tfgrpo report {report.run}")
