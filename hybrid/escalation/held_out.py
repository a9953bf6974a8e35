"""The held-out problems of a story: the model as it is at the start, every other arm at the end, nothing in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from hybrid.escalation.arms import Arm
from hybrid.escalation.purse import part, times_in
from hybrid.escalation.shares import first_calls, held_out_size
from hybrid.escalation.stage import Stage
from hybrid.report import TrainReport
from tfgrpo.budget import Budget, Ledger
from tfgrpo.errors import BudgetExhausted
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

    Raises:
        BudgetExhausted: the budget does not pay for the first block of problems.
    """
    known = stage.bench.known("base")
    if known is not None and known.finished:
        return known
    stage.enter("baseline", "the model as it is, on the held-out problems", machine=stage.job.local)
    arm = await stage.bench.measure(
        "base",
        await stage.model(),
        ledger=Ledger(stage.purse.limits()),
        local=stage.job.local,
        count=lambda arm: _held_out(stage, arm),
    )
    if arm is None:
        raise BudgetExhausted(
            "the budget does not pay for measuring the model as it is, even on a few held-out problems; raise it"
        )
    stage.record.put_state("held_out", len(arm.done.problems))
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
    """Every arm that there is, the baseline first, on the problems that the baseline was measured on."""
    library = learned if learned is not None and learned.accepted else None
    wanted = ["library"] if library is not None else []
    if trained is not None:
        wanted += [*([] if stage.job.same_model else ["untrained"]), "trained"]
        wanted += ["trained_library"] if library is not None else []
    arms = [base]
    with ExitStack() as stack:
        for n, name in enumerate(wanted):
            known = stage.bench.known(name)
            if known is None or not known.finished:
                apply = await asyncio.to_thread(_dress, stage, stack, library) if name.endswith("library") else None
                known = await _arm(stage, name, base, trained, apply, rest=len(wanted) - n)
            if known is None:
                stage.notices.append(f"the budget ended before the arm {LABELS[name]!r} could be measured")
            else:
                arms.append(known)
    return arms


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
    own = name == "library"
    stage.enter(f"final_{name}", f"{LABELS[name]}, on the held-out problems", machine=stage.job.local or not own)
    each = stage.scale(base, trained).problem(prompt_arms=int(own), trained_arms=int(not own))

    def count(arm: Arm | None) -> int:
        seen = len(arm.done.problems) if arm else 0
        return int(min(len(base.done.problems), seen + times_in(part(stage.purse.left(), 1.0 / rest), each)))

    if own:
        policy, limits = await stage.model(), stage.purse.limits()
    else:
        place = stage.job.train_model if name == "untrained" or trained is None else trained.checkpoint
        policy = await stage.weights(str(place))
        most = stage.purse.limits()
        limits = Budget(usd=most.usd, seconds=most.seconds)
    given = {} if apply is None else {"apply": apply}
    local = stage.job.local or not own
    return await stage.bench.measure(
        name, policy, ledger=Ledger(limits), local=local, count=count, weights=not own, **given
    )
