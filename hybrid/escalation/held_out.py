"""The held-out problems of a story: the model as it is at the start, every other arm at the end, nothing in between."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from hybrid.escalation.arms import Arm
from hybrid.escalation.purse import part, times_in
from hybrid.escalation.shares import first_calls, held_out_size
from hybrid.escalation.stage import Stage
from hybrid.report import TrainReport
from tfgrpo.budget import Ledger
from tfgrpo.errors import BudgetExhausted, RequestError
from tfgrpo.evaluation import bare
from tfgrpo.practice import served
from tfgrpo.report import Report

LABELS = {
    "base": "as it is",
    "library": "with experiences",
    "untrained": "the other model, untrained",
    "trained": "trained",
    "trained_library": "trained, with experiences",
}


async def baseline(stage: Stage) -> Arm:
    """The model as it is, on as many held-out problems as all arms can be measured on.

    What is behind a server may change in the meantime. Such a model is asked about the first block of problems now,
    which tells its pace, and about the others at the end, beside the other arms.

    Raises:
        BudgetExhausted: the budget does not pay for the first block of problems.
    """
    known, local = stage.bench.known("base"), stage.job.local
    if known is not None and stage.record.get_state("held_out") is not None and (known.finished or not local):
        return known
    stage.enter("baseline", "the model as it is, on the held-out problems", machine=local)
    arm = await stage.bench.measure(
        "base",
        await stage.model(),
        ledger=Ledger(stage.purse.limits(machine=local)),
        local=local,
        count=lambda arm: _held_out(stage, arm) if arm is None or local else len(arm.done.problems),
        finish=local,
    )
    if arm is None:
        raise BudgetExhausted(
            "the budget does not pay for measuring the model as it is, even on a few held-out problems; raise it"
        )
    wanted = _held_out(stage, arm)
    stage.record.put_state("held_out", len(arm.done.problems) if local else wanted)
    return arm


def _held_out(stage: Stage, arm: Arm | None) -> int:
    """How many held-out problems there are; decided once, after the first block, by its pace."""
    known = stage.record.get_state("held_out")
    if known is not None:
        return int(known)
    task, budget, there = stage.job.task, stage.job.budget, len(stage.bench.problems)
    if arm is None:
        first = min(stage.bench.block, there)
        if budget.calls is not None:
            first = min(first, max(1, first_calls(budget) // (2 * task.test_samples * task.calls_per_answer)))
        return first
    seen = len(arm.done.problems)
    size = held_out_size(budget, stage.scale(arm), trained_arms=stage.trained_arms, there=there, least=seen)
    stage.record.put_state("held_out", size)
    return size


async def final(stage: Stage, base: Arm, learned: Report | None, trained: TrainReport | None) -> list[Arm]:
    """Every arm that there is on the same problems, the model as it is first."""
    library = learned if learned is not None and learned.learned else None
    wanted = ["library"] if library is not None else []
    if trained is not None:
        wanted += [*([] if stage.job.same_model else ["untrained"]), "trained"]
        wanted += ["trained_library"] if library is not None else []
    if not base.finished:
        base = await _possible(stage, "base", base, trained, None, rest=len(wanted) + 1) or base
    arms = [base]
    with ExitStack() as stack:
        for n, name in enumerate(wanted):
            known = stage.bench.known(name)
            if known is None or not known.finished:
                apply = await asyncio.to_thread(_dress, stage, stack, library) if name.endswith("library") else None
                known = await _possible(stage, name, base, trained, apply, rest=len(wanted) - n)
            if known is not None:
                arms.append(known)
    return arms


async def _possible(
    stage: Stage,
    name: str,
    base: Arm,
    trained: TrainReport | None,
    apply: Callable[..., Any] | None,
    *,
    rest: int,
) -> Arm | None:
    """An arm, or None and a notice: the others are worth something without it."""
    try:
        arm = await _arm(stage, name, base, trained, apply, rest=rest)
    except RequestError as error:  # such as experiences that do not fit into the context of the trained model
        stage.notices.append(f"the arm {LABELS[name]!r} could not be measured: {error}")
        return None
    if arm is None:
        stage.notices.append(f"the budget ended before the arm {LABELS[name]!r} could be measured")
    return arm


def _dress(stage: Stage, stack: ExitStack, library: Report | None) -> Callable[..., Any]:
    assert library is not None
    return served(stage.snapshot(stack, library))


async def _arm(
    stage: Stage,
    name: str,
    base: Arm,
    trained: TrainReport | None,
    apply: Callable[..., Any] | None,
    *,
    rest: int,
) -> Arm | None:
    """One arm; `rest` arms share what is left, this one included."""
    own = name in ("base", "library")
    stage.enter(f"final_{name}", f"{LABELS[name]}, on the held-out problems", machine=stage.job.local or not own)
    each = stage.scale(base, trained).problem(prompt_arms=int(own), trained_arms=int(not own))

    most = int(stage.record.get_state("held_out")) if name == "base" else len(base.done.problems)

    def count(arm: Arm | None) -> int:
        seen = len(arm.done.problems) if arm else 0
        return int(min(most, seen + times_in(part(stage.purse.left(), 1.0 / rest), each)))

    if own:
        policy, limits = await stage.model(), stage.purse.limits(machine=stage.job.local)
    else:
        place = stage.job.train_model if name == "untrained" or trained is None else trained.checkpoint
        policy = await stage.weights(str(place))
        limits = dataclasses.replace(stage.purse.limits(machine=True), calls=None, tokens=None)
    local = stage.job.local or not own
    return await stage.bench.measure(
        name, policy, ledger=Ledger(limits), local=local, count=count, weights=not own, apply=apply or bare
    )
