"""The training-free arm of a story: a learning run with its share of the budget, on problems of its own."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

from hybrid.escalation.arms import Arm
from hybrid.escalation.shares import FIRST_SHARE, MORE_SHARE, WITHOUT_TRAINING, for_prompts, share_of
from hybrid.escalation.stage import Stage
from tfgrpo.api import alearn
from tfgrpo.budget import Budget
from tfgrpo.errors import InputError, Interrupted
from tfgrpo.plan import share_out
from tfgrpo.policy import Policy
from tfgrpo.policy.tokens import estimate_tokens
from tfgrpo.practice import served
from tfgrpo.report import Report

GROUP = 3  # answers of one group
FIRST = "prompts"
CUT = "the time ran out while experiences were being learned, and none of them is used"


async def learned(stage: Stage, phase: str, base: Arm) -> Report | None:
    """The learning run of a phase, "prompts" or "more_prompts", with its share of what is left.

    None, and a notice, where the budget pays for none.
    """
    known = stage.once(phase)
    if known is None:
        known = stage.once(phase, await _run(stage, phase, base))
    assert known is not None
    if "none" in known:
        stage.notices.append(str(known["none"]))
        return None
    return Report.from_json(known)


async def _run(stage: Stage, phase: str, base: Arm) -> dict[str, Any]:
    plan = _plan(stage, phase, base)
    stage.enter(phase, "learning experiences, the weights untouched", machine=stage.job.local)
    policy = await stage.model()
    task = stage.aside
    try:
        share_out(plan, task, group_size=GROUP, samples=task.test_samples, price=policy.price)
    except InputError as error:
        return {"none": f"no experiences were learned: {error}"}
    left = stage.left(stage.scale(base), trained_arms=stage.trained_arms)
    report = await _in_time(_learning(stage, phase, policy, plan), left.seconds)
    if report is None:
        return {"none": CUT}
    stage.purse.pay(phase, report.spend)
    return report.as_json()


def _plan(stage: Stage, phase: str, base: Arm) -> Budget:
    """The budget of the run; made once, since it is part of what identifies the run."""
    known = stage.once(f"plan/{phase}")
    if known is None:
        scale = stage.scale(base)
        left = stage.left(scale, trained_arms=stage.trained_arms)
        share = WITHOUT_TRAINING if stage.barred else FIRST_SHARE if phase == FIRST else MORE_SHARE
        given = share_of(left, share, priced=bool(stage.job.gpu_usd_per_hour))
        known = stage.once(f"plan/{phase}", dataclasses.asdict(for_prompts(left, scale, given)))
    return Budget(**(known or {}))


async def _learning(stage: Stage, phase: str, policy: Policy, plan: Budget) -> Report:
    job = stage.job
    with ExitStack() as stack:
        return await alearn(
            stage.aside,
            model=policy,
            critic=job.critic,
            store=stage.store(stack, create=True),
            budget=plan,
            group=GROUP,
            seed=job.seed,
            concurrency=job.concurrency,
            runs=job.out / phase,
            on_event=job.on_event,
        )


async def _in_time(learning: Coroutine[Any, Any, Report], seconds: float | None) -> Report | None:
    """None when all time but that of the last measurement is over: the run keeps its own limit, but not over kills."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await learning
    except (Interrupted, TimeoutError):
        if not limit.expired():
            raise
    return None


def added_tokens(stage: Stage, report: Report) -> float:
    """Tokens that experiences add to a prompt, on average over the problems of the decision, as an estimate."""
    if not report.learned:
        return 0.0
    with ExitStack() as stack:
        apply, problems = served(stage.snapshot(stack, report)), stage.aside.test
        grown = [estimate_tokens(apply(p).messages) - estimate_tokens(p.messages) for p in problems]
    return sum(grown) / len(grown)
