"""`tfgrpo tasks`: what comes by name; `tfgrpo tasks check NAME`: reference answers must score 1.0."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses

from tfgrpo.cli.options import pairs_of
from tfgrpo.cli.output import add_output, hint, show, table
from tfgrpo.cli.parsing import number
from tfgrpo.errors import InputError
from tfgrpo.task import load_task
from tfgrpo.task_list import list_tasks


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="check", nargs="?", help="check: score the reference answers of TASK")
    parser.add_argument("task", metavar="TASK", nargs="?", help="a task's name, or module:function")
    parser.add_argument("--task-option", metavar="K=V", action="append", default=[], help="for the task's function")
    parser.add_argument("--data", metavar="FILE", help="problems, instead of the task's own source")
    parser.add_argument("--limit", metavar="N", type=number(1), help="check the first N problems only")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    if args.what is None:
        found = list_tasks()
        rows = [(t.name, t.setting, t.about) for t in found]
        show(args, [dataclasses.asdict(t) for t in found], table(("TASK", "SETTING", "WHAT IT IS"), rows))
        return 0
    if args.what != "check" or args.task is None:
        raise InputError(f"expected: tfgrpo tasks, or: tfgrpo tasks check TASK; got {args.what!r}")
    return _check(args)


def _check(args: argparse.Namespace) -> int:
    options = pairs_of(args.task_option, "--task-option") | ({"data": args.data} if args.data else {})
    task = load_task(args.task, **options)
    failures = asyncio.run(task.check(args.limit))
    checked = len(task.problems[: args.limit])
    words = f"{task.name}: {checked - len(failures)} of {checked} reference answers score 1.0"
    data = {"task": task.name, "checked": checked, "failures": failures}
    show(args, data, "\n".join([*(f"  {failure}" for failure in failures[:20]), words]))
    if len(failures) > 20:
        hint(args, f"{len(failures) - 20} more with --json")
    return 1 if failures else 0
