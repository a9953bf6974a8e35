"""`tfgrpo demo`: the main job on an embedded default: a real small model, Chroma on disk, no key, no server."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from contextlib import AsyncExitStack

import experience_store
from tfgrpo.api import alearn
from tfgrpo.budget import Budget
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.cli.progress import progress
from tfgrpo.policy import connect
from tfgrpo.report import Report
from tfgrpo.task import load_task

TASK, MODEL = "largest_of_three", "local/smollm2"
CALLS, TEST_SAMPLES, GROUP, CONCURRENCY = 1600, 4, 4, 64
STORY = """The model is SmolLM2-135M: 135 million parameters, on this machine's processor. The task is to name the
largest of three numbers, which it gets right about one time in eight. Its weights are not touched.
So small a model cannot put a lesson into words. Its experiences are its own winning answers, kept as worked examples:
which of them help is measured, by showing each in a random half of the prompts, and one is shown from then on.
With --critic MODEL a larger model writes lessons instead, as `tfgrpo learn` does by default.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="FOLDER", default="demo/experience", help="(%(default)s)")
    parser.add_argument("--runs", metavar="FOLDER", default="demo/runs", help="(%(default)s)")
    parser.add_argument("--critic", metavar="MODEL", help=f"a larger model that writes lessons: {options.MODEL_HELP}")
    parser.add_argument("--budget-calls", metavar="N", type=number(60), default=CALLS, help="(%(default)s)")
    parser.add_argument("--seed", metavar="N", type=number(0), default=0, help="(%(default)s)")
    parser.add_argument("--new", action="store_true", help="again, instead of showing the demo that was finished")
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_demo(args))


async def _demo(args: argparse.Namespace) -> int:
    hint(args, STORY)
    task = dataclasses.replace(load_task(TASK, seed=args.seed), test_samples=TEST_SAMPLES)
    if args.critic:
        task = dataclasses.replace(task, critic="lessons", layout=None)
    async with AsyncExitStack() as stack:
        model = connect(MODEL)
        stack.push_async_callback(model.aclose)
        store = stack.enter_context(await asyncio.to_thread(experience_store.open, args.store, embedder="hashing"))
        with progress(args) as on_event:
            report = await alearn(
                task,
                model=model,
                critic=args.critic,
                store=store,
                budget=Budget(calls=args.budget_calls),
                group=GROUP,
                seed=args.seed,
                concurrency=CONCURRENCY,
                runs=args.runs,
                new=args.new,
                on_event=on_event,
            )
    show(args, report.as_json(), f"{report}\n\n{report.diff}")
    hint(args, *_next(args, report))
    return 0


def _next(args: argparse.Namespace, report: Report) -> list[str]:
    said = [] if report.accepted else ["Nothing was accepted, so the store is as it was; another --seed may do better."]
    return [
        *said,
        f"What the prompt looks like now: tfgrpo store render {args.store}",
        f"The whole story:               tfgrpo report {report.run} --runs {args.runs}",
        f"All of it in the browser:      tfgrpo ui --store {args.store} --runs {args.runs}",
    ]
