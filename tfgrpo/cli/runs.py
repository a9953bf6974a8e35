"""`tfgrpo runs`: what was run, how it ended, what it cost."""

from __future__ import annotations

import argparse
import dataclasses

from tfgrpo.cli.output import add_output, show, table
from tfgrpo.runs import DEFAULT_FOLDER, list_runs

HEADER = ("RUN", "TASK", "MODEL", "STATE", "CALLS", "USD", "RESULT")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", metavar="FOLDER", default=DEFAULT_FOLDER, help="where run folders are kept (./runs)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    runs = list_runs(args.runs)
    rows = [(r.name, r.task, r.model, r.state, r.calls, f"{r.usd:.4f}", r.result) for r in runs]
    text = table(HEADER, rows) if rows else f"no runs in {args.runs}/; tfgrpo learn makes one"
    show(args, [dataclasses.asdict(r) for r in runs], text)
    return 0
