"""`tfgrpo improve TASK --model MODEL --train-model WEIGHTS`. The command line finds it by the entry point "improve"."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from hybrid.command import loss_of, settings_of
from hybrid.escalation.api import aimprove, checked
from hybrid.escalation.job import PILOT_STEPS, Choices, Job
from hybrid.escalation.outline import outline
from hybrid.escalation.page import PAGE
from hybrid.progress import Lines
from hybrid.settings import Settings
from tfgrpo.budget import Budget
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.cli.progress import View
from tfgrpo.events import Event
from tfgrpo.plan import DEFAULT_CALLS

EVERY_S = 5.0
LEARNING = ("prompts", "more_prompts")
TRAINING = ("pilot", "training")


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_task(parser)
    options.add_methods(parser)
    options.add_model(parser)
    parser.add_argument(
        "--train-model",
        metavar="MODEL",
        help="weights to train: local/smollm2, or a folder of transformers; without it the best prompt-only result",
    )
    parser.add_argument("--critic", metavar="CRITIC", help="as for learn: lessons, paper, examples, or a MODEL")
    parser.add_argument("--critic-base-url", metavar="URL", help="default: --base-url, for the same kind of name")
    parser.add_argument("--critic-price", metavar="IN/OUT", help="dollars per million tokens of the critic")
    parser.add_argument("--store", metavar="PLACE", help="where experiences are kept (in --out)")
    options.add_budget(parser, f"Of everything together. Without any: {DEFAULT_CALLS} solver calls and 50 steps.")
    price = parser.add_argument_group("prices")
    price.add_argument("--gpu-usd-per-hour", metavar="X", type=number(0, whole=False), help="of this machine")
    price.add_argument(
        "--traffic-calls", metavar="N", type=number(0), help="calls that are expected while the result is in use"
    )
    price.add_argument("--horizon-days", metavar="D", type=number(0, whole=False), help="how long that is")
    _add_training(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--out", metavar="DIR", default="./improved", help="everything about this story (%(default)s)")
    run.add_argument("--samples", metavar="K", type=number(1), help="of each held-out problem (the task's, else 1)")
    run.add_argument("--seed", metavar="N", type=number(0), default=0)
    run.add_argument("--concurrency", metavar="N", type=number(1), default=64, help="requests in flight (%(default)s)")
    run.add_argument("--dry-run", action="store_true", help="print how the budget would be divided, and stop")
    add_output(parser, progress=True)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training", description="As for train, if it comes to that.")
    group.add_argument("--loss", metavar="NAME", default="dapo", help="see: tfgrpo methods --kind loss (%(default)s)")
    group.add_argument("--loss-option", metavar="K=V", action="append", default=[], help="such as high=0.3")
    group.add_argument("--group", metavar="G", type=number(2), default=8, help="answers per problem (%(default)s)")
    group.add_argument("--prompts", metavar="N", type=number(1), default=8, help="problems per step (%(default)s)")
    group.add_argument("--lr", metavar="X", type=number(0, whole=False), help="of AdamW (1e-5)")
    names = ", ".join(f.name for f in fields(Settings) if f.name != "lr")
    group.add_argument("--set", metavar="K=V", action="append", default=[], help=f"any of: {names}")
    group.add_argument("--pilot-steps", metavar="N", type=number(1), default=PILOT_STEPS, help="at most (%(default)s)")
    group.add_argument("--force-train", action="store_true", help="train whatever the forecast says")


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_improve(args))


async def _improve(args: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        model = options.solver_of(stack, args)
        task = options.with_methods(options.task_of(stack, args), args)
        task, critic = options.critic_of(stack, args, task, model)
        plain = args.base_url is None and args.price is None  # then the story opens and closes the model as it needs
        given: dict[str, Any] = {
            "model": args.model if plain else model,
            "train_model": args.train_model,
            "critic": critic,
            "store": args.store,
            "budget": options.budget_of(args) or Budget(calls=DEFAULT_CALLS),
            "gpu_usd_per_hour": args.gpu_usd_per_hour,
            "traffic_calls": args.traffic_calls,
            "out": Path(args.out),
            "seed": args.seed,
            "concurrency": args.concurrency,
            "choices": _choices(args),
            "on_event": None if args.json or args.quiet else Told(),
        }
        if args.dry_run:
            job = Job(task=task, **given)
            plan = outline(job, *await checked(job), model=model, critic=critic)
            show(args, plan.as_json(), str(plan))
            return 0
        found = await aimprove(task, **given)
    show(args, found.as_json(), str(found))
    hint(args, f"The whole story: {Path(args.out) / PAGE}")
    return 0


def _choices(args: argparse.Namespace) -> Choices:
    return Choices(
        loss=loss_of(args),
        group=args.group,
        prompts=args.prompts,
        pilot_steps=args.pilot_steps,
        settings=Settings.of(settings_of(args), {}),
        force=args.force_train,
        horizon_days=args.horizon_days,
    )


class Told:
    """A story's events as lines on stderr: its phases, and in them what `learn` and `train` would say."""

    def __init__(self) -> None:
        self._phase, self._told = "", time.monotonic()
        self._view, self._lines = View(), Lines()

    def __call__(self, event: Event) -> None:
        for line in self._said(event):
            print(line, file=sys.stderr, flush=True)

    def _said(self, event: Event) -> list[str]:
        own: dict[str, Callable[[Event], list[str]]] = {
            "begun": _begun,
            "phase": self._entered,
            "decided": lambda e: [str(e.data["words"])],
            "arm_progress": lambda e: [f"{e.data['done']}/{e.data['total']} problems: {e.data['words']}"],
        }
        if event.name in own:
            return own[event.name](event)
        if self._phase in TRAINING:
            self._lines(event)
            return []
        if self._phase in LEARNING:
            return [*self._view.see(event), *self._now()]
        return self._view.see(event) if event.name != "test_progress" else []

    def _entered(self, event: Event) -> list[str]:
        self._phase, self._view = str(event.data["phase"]), View()
        left = ", ".join(f"{value:,.4g} {name}" for name, value in event.data["left"].items())
        return [f"== {self._phase}: {event.data['words']}" + (f" (left: {left})" if left else "")]

    def _now(self) -> list[str]:
        if time.monotonic() - self._told < EVERY_S:
            return []
        self._told = time.monotonic()
        return [self._view.line()]


def _begun(event: Event) -> list[str]:
    barred = event.data.get("barred")
    said = [f"{event.data['task']}: {event.data['model']}, everything in {event.data['folder']}"]
    return [*said, *([f"note: nothing will be trained: {barred}"] if barred else [])]
