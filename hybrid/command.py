"""`tfgrpo train TASK --model MODEL --out DIR`. The command line finds it by the entry point "train"."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from typing import Any

from hybrid.api import DEFAULT_STEPS, atrain
from hybrid.settings import Settings
from tfgrpo.budget import Budget
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.errors import unknown_name
from tfgrpo.events import Event

EVERY_S = 5.0
REPEATS = 3


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_task(parser)
    options.add_methods(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="MODEL", required=True, help="local/smollm2, or a folder of transformers")
    model.add_argument("--judge-base-url", metavar="URL", help="a server of your own for --judge")
    model.add_argument("--judge-price", metavar="IN/OUT", help="dollars per million tokens of the judge")
    parser.set_defaults(base_url=None)
    group = parser.add_argument_group("training")
    group.add_argument("--loss", metavar="NAME", default="dapo", help="see: tfgrpo methods --kind loss (%(default)s)")
    group.add_argument("--loss-option", metavar="K=V", action="append", default=[], help="such as high=0.3")
    group.add_argument("--group", metavar="G", type=number(2), default=8, help="answers per problem (%(default)s)")
    group.add_argument("--prompts", metavar="N", type=number(1), default=8, help="problems per step (%(default)s)")
    group.add_argument("--lr", metavar="X", type=number(0, whole=False), help="of AdamW (1e-5)")
    names = ", ".join(f.name for f in fields(Settings) if f.name != "lr")
    group.add_argument("--set", metavar="K=V", action="append", default=[], help=f"any of: {names}")
    run = parser.add_argument_group("run", description=f"Without a limit: {DEFAULT_STEPS} steps.")
    run.add_argument("--steps", metavar="N", type=number(0), help="updates")
    run.add_argument(
        "--budget-seconds", metavar="X", type=number(0, whole=False), help="of the whole run, tests included"
    )
    run.add_argument("--out", metavar="DIR", default="./trained", help="record and checkpoints (%(default)s)")
    run.add_argument("--samples", metavar="K", type=number(1), help="of each test problem (the task's, else 1)")
    run.add_argument("--seed", metavar="N", type=number(0), default=0)
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_train(args))


async def _train(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    async with AsyncExitStack() as stack:
        task = options.with_methods(options.task_of(stack, args), args)
        report = await atrain(
            task,
            model=args.model,
            loss=loss_of(args),
            group=args.group,
            prompts=args.prompts,
            steps=args.steps,
            budget=None if args.budget_seconds is None else Budget(seconds=args.budget_seconds),
            out=args.out,
            seed=args.seed,
            settings=settings,
            on_event=None if args.json or args.quiet else Lines(),
        )
    show(args, report.as_json(), str(report))
    hint(args, f"Ask it, or learn experiences on top: --model local/{report.checkpoint}")
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings of --lr and --set."""
    given = options.pairs_of(args.set, "--set")
    known = [f.name for f in fields(Settings)]
    for name in given:
        if name not in known:
            raise unknown_name("setting", name, known)
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    settings = Settings(**plain)
    return settings if args.lr is None else replace(settings, lr=args.lr)


def loss_of(args: argparse.Namespace) -> Any:
    """The loss of --loss and --loss-option."""
    chosen = options.pairs_of(args.loss_option, "--loss-option")
    if not chosen:
        return args.loss
    from hybrid.losses import resolve_loss  # noqa: PLC0415 - torch

    return resolve_loss(args.loss, **chosen)


class Lines:
    """A run's events as lines on stderr: one per step, troubles a few times, tests every few seconds."""

    def __init__(self) -> None:
        self._told, self._troubles = time.monotonic(), Counter[str]()

    def __call__(self, event: Event) -> None:
        if (line := self._line(event.name, event.data)) is not None:
            print(line, file=sys.stderr, flush=True)

    def _line(self, name: str, data: Mapping[str, Any]) -> str | None:
        if name == "started":
            return f"{data['task']}: {data['model']} ({data['setup']}), {data['plan']}\nrun folder {data['folder']}"
        if name == "resumed":
            return f"going on after step {data['step']}, from {data['checkpoint']}"
        if name == "measured":
            return f"test after step {data['step']}: {data['words']}"
        if name == "update_done":
            return step_words(data)
        if name == "test_progress" and time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            return f"test {data['done']}/{data['total']}"
        if name in ("reward_failed", "call_failed", "request_refused"):
            self._troubles[name] += 1
            return f"note: {data.get('error')}" if self._troubles[name] <= REPEATS else None
        return None


def step_words(data: Mapping[str, Any]) -> str:
    """One step in a line.

    Example:
        >>> step_words({"step": 3.0, "reward": 0.25, "mixed": 0.5, "length": 12.0, "sample_s": 4.0, "update_s": 6.0})
        'step 3  reward 0.250  mixed 50%  length 12  nothing to learn  4+6 s'
    """
    planned = f"/{data['planned']}" if data.get("planned") else ""
    said = [
        f"step {data['step']:.0f}{planned}",
        f"reward {data['reward']:.3f}",
        f"mixed {data['mixed']:.0%}",
        f"length {data['length']:.0f}",
    ]
    if data.get("updates"):
        said.append(f"loss {data['loss']:+.4f}  entropy {data['entropy']:.2f}  grad {data['grad_norm']:.2f}")
        said.append(f"parity {data['parity_mean']:.1e}")
    else:
        said.append("nothing to learn")
    return "  ".join([*said, f"{data['sample_s']:.0f}+{data['update_s']:.0f} s"])
