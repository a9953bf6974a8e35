"""`tfgrpo train TASK --model MODEL --out DIR`. The command line finds it by the entry point "train"."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from dataclasses import fields
from typing import Any

from hybrid.api import DEFAULT_STEPS, atrain
from hybrid.progress import progress
from hybrid.recipes import DEFAULT_LOSS, OF_TASK, RECIPES, TrainRecipe, resolve_recipe
from hybrid.settings import Settings, leading
from hybrid.trackers import TRACKERS, tracking
from tfgrpo.budget import Budget
from tfgrpo.cli import options
from tfgrpo.cli.output import add_output, hint, show
from tfgrpo.cli.parsing import number
from tfgrpo.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_task(parser)
    options.add_methods(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="MODEL", required=True, help="local/smollm2, or a folder of transformers")
    model.add_argument("--judge-base-url", metavar="URL", help="a server of your own for --judge")
    model.add_argument("--judge-price", metavar="IN/OUT", help="dollars per million tokens of the judge")
    parser.set_defaults(base_url=None)
    group = parser.add_argument_group("training")
    group.add_argument("--recipe", metavar="NAME", help=f"{', '.join(RECIPES)}; see: tfgrpo methods --kind recipe")
    group.add_argument("--recipe-option", metavar="K=V", action="append", default=[], help="such as teacher=live")
    group.add_argument("--loss", metavar="NAME", help=f"see: tfgrpo methods --kind loss (the recipe's, {DEFAULT_LOSS})")
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
    run.add_argument(
        "--track", metavar="NAME", action="append", default=[], help=f"{', '.join(TRACKERS)}; may be given twice"
    )
    add_output(parser, progress=True)


def run(args: argparse.Namespace) -> int:
    return asyncio.run(_train(args))


async def _train(args: argparse.Namespace) -> int:
    settings, recipe = settings_of(args), recipe_of(args)
    async with AsyncExitStack() as stack:
        shown = stack.enter_context(progress(silent=args.json or args.quiet or not leading()))
        told = stack.enter_context(tracking(args.track if leading() else (), out=args.out, beside=[shown]))
        task = options.with_methods(options.task_of(stack, args), args)
        report = await atrain(
            task,
            model=args.model,
            recipe=recipe,
            loss=loss_of(args, recipe),
            group=args.group,
            prompts=args.prompts,
            steps=args.steps,
            budget=None if args.budget_seconds is None else Budget(seconds=args.budget_seconds),
            out=args.out,
            seed=args.seed,
            settings=settings,
            on_event=told,
        )
    if not leading():  # rank 0 tells it
        return 0
    show(args, report.as_json(), str(report))
    hint(
        args,
        f"Ask it, or learn experiences on top: --model local/{report.checkpoint}",
        f"Curves, alarms and answers: tfgrpo report {args.out}",
    )
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were asked for; refused here, before the task is read, where they are none."""
    given = options.pairs_of(args.set, "--set")
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    plain |= {} if args.lr is None else {"lr": args.lr}
    Settings.of(plain, {})
    return plain


def recipe_of(args: argparse.Namespace) -> TrainRecipe | None:
    """The recipe, without what was chosen in its stead."""
    chosen = options.pairs_of(args.recipe_option, "--recipe-option")
    if args.recipe is None:
        if chosen:
            raise InputError("--recipe-option needs --recipe")
        return None
    return resolve_recipe(args.recipe, **chosen).without(*(name for name in OF_TASK if getattr(args, name)))


def loss_of(args: argparse.Namespace, recipe: TrainRecipe | None = None) -> Any:
    chosen = options.pairs_of(args.loss_option, "--loss-option")
    if not chosen:
        return args.loss
    from hybrid.losses import resolve_loss  # noqa: PLC0415 - torch

    return resolve_loss(args.loss or (recipe and recipe.loss) or DEFAULT_LOSS, **chosen)
