"""The public verb of the gradient arm: an async core and a thin sync form. Loads torch when called, not before.

report = hybrid.train("largest_of_three", model="local/smollm2", steps=25, out="./trained")
report = await hybrid.atrain(task, model="./my-model", advantage="dr_grpo", loss="cispo", budget=Budget(seconds=900))
report = hybrid.train("gsm8k", model="./my-model", recipe=resolve_recipe("srpo", teacher="live"), settings={"lr": 5e-6})
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.recipes import DEFAULT_LOSS, TrainRecipe, resolve_recipe
from hybrid.settings import Plan, Settings
from tfgrpo.budget import Budget
from tfgrpo.errors import InputError, missing_extra
from tfgrpo.events import Event
from tfgrpo.running import synchronous
from tfgrpo.task import Task, load_task

if TYPE_CHECKING:
    from hybrid.losses import Loss
    from hybrid.report import TrainReport
    from tfgrpo.advantage import Advantage

DEFAULT_STEPS = 50


async def atrain(
    task: Task | str,
    *,
    model: str,
    recipe: TrainRecipe | str | None = None,
    advantage: Advantage | str | None = None,
    loss: Loss | str | None = None,
    group: int = 8,
    prompts: int = 8,
    steps: int | None = None,
    budget: Budget | None = None,
    out: str | Path = "./trained",
    seed: int = 0,
    settings: Settings | Mapping[str, Any] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainReport:
    """Improve a local model on a task by updating its weights.

    The task, its grouping, reward, advantage and sampler are those of `tfgrpo.learn`. The model is measured on the
    task's test problems before and after.

    Args:
        task: a `Task`, or its name as `load_task` takes it.
        model: "local/smollm2", or a folder that transformers' `save_pretrained` wrote.
        recipe: a way to train by name ("srpo"), or from `hybrid.resolve_recipe` with options; what is said of the
            other arguments wins over it. None: nothing is fixed.
        advantage: how rewards become values, by name or your own; None: the recipe's, else the task's.
        loss: by name, "module:function", or your own function of tokens and totals; None: the recipe's, else "dapo".
        group: answers to one problem that are compared.
        prompts: problems of one step.
        steps: updates; None: as many as the budget allows, or 50 without one.
        budget: `seconds` of the whole run, measurements included; other limits do not apply to a local model.
        out: the run's folder: its record, and checkpoints that any transformers user can load.
        seed: decides the order of problems and all samples.
        settings: optimiser, layout and limits: a whole `Settings`, or single ones by name over the recipe's.
        on_event: called with every event, for progress.

    Returns:
        The report; `print` it. The same call goes on with a run that was stopped, with more `steps` or seconds also
        with one that had ended.

    Raises:
        InputError: something given is wrong; nothing was begun.
        RunStateError: `out` holds another run, or there is no room for checkpoints.
        DriftError: sampler and trainer came apart; nothing after the last checkpoint is trusted.
        RolloutError: a server that writes the answers lost the weights or did not get them; so is this.
    """
    for package in ("torch", "transformers", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "train", "training")
    way = resolve_recipe(recipe) if recipe is not None else TrainRecipe(name="")
    chosen = way.of_task(load_task(task) if isinstance(task, str) else task)
    if advantage is not None:
        chosen = dataclasses.replace(chosen, advantage=advantage)
    plan = _plan(group, prompts, steps, budget)
    from hybrid.setup import Job, run  # noqa: PLC0415 - torch

    job = Job(
        task=chosen,
        model=model,
        loss=loss or way.loss or DEFAULT_LOSS,
        distill=way.distill,
        recipe=way.name,
        plan=plan,
        out=Path(out),
        seed=seed,
        settings=Settings.of(settings, way.settings),
        on_event=on_event,
    )
    return await run(job)


train = synchronous(atrain, "train")
"""`atrain` for programs without an event loop; takes the same arguments."""


def _plan(group: int, prompts: int, steps: int | None, budget: Budget | None) -> Plan:
    """The length of the run.

    Raises:
        InputError: sizes that are too small, a budget of nothing, or one of something that training does not spend.
    """
    if group < 2 or prompts < 1 or (steps is not None and steps < 0):
        raise InputError(
            f"a group needs 2 answers to compare, a step 1 problem, and steps are at least 0; got group={group}, "
            f"prompts={prompts}, steps={steps}"
        )
    limits = budget or Budget()
    if any(limit is not None for limit in (limits.usd, limits.tokens, limits.calls)):
        raise InputError("training spends time on a machine of your own: limit it by Budget(seconds=...) or steps=...")
    if limits.seconds == 0:
        raise InputError(
            "a budget of 0 seconds pays for no step of training, and not even for measuring the model as it is; give "
            "more, or steps=0 without a budget to measure alone"
        )
    if steps is None and limits.seconds is None:
        steps = DEFAULT_STEPS
    return Plan(steps=steps, seconds=limits.seconds, prompts=prompts, group=group)
