"""The order of a story's phases, each done once: what a phase came to is on record when it is over.

    baseline   the model as it is, on held-out problems; its pace decides how the budget is divided
    prompts    a learning run (`tfgrpo.alearn`), measured on problems that were set aside for the decision
    pilot      a few steps of training (`hybrid.atrain`), measured on the same
    decision   `hybrid.decide`, a pure function of the three
    training   the pilot's run goes on; or the learning does, where that is the decision
    final      all other arms on the held-out problems, with fresh samples

A story that was killed is told on by the same call: phases on record are skipped, the one that was under way goes on.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from hybrid.api import DEFAULT_STEPS
from hybrid.escalation.arms import Arm
from hybrid.escalation.decision import Decision, Prices, decide
from hybrid.escalation.evidence import Evidence, Pilot
from hybrid.escalation.held_out import baseline, final
from hybrid.escalation.prompt_arm import added_tokens, learned
from hybrid.escalation.stage import Stage
from hybrid.escalation.weight_arm import pilot, training
from hybrid.report import TrainReport
from tfgrpo.budget import Budget
from tfgrpo.report import Report


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What the phases came to."""

    arms: list[Arm]
    decision: Decision
    prompts: Report | None
    more_prompts: Report | None
    pilot: TrainReport | None
    training: TrainReport | None


async def told(stage: Stage) -> Ending:
    """All phases, or those that are left."""
    try:
        base = await baseline(stage)
        prompts = await learned(stage, "prompts", base)
        piloted = await pilot(stage, base)
        decision = await decided(stage, base, prompts, piloted)
        more = await learned(stage, "more_prompts", base) if decision.action == "continue" else None
        trained = await training(stage, base, piloted, decision)
        arms = await final(stage, base, more or prompts, trained)
    finally:
        await stage.release()
    return Ending(arms=arms, decision=decision, prompts=prompts, more_prompts=more, pilot=piloted, training=trained)


async def decided(stage: Stage, base: Arm, prompts: Report | None, piloted: TrainReport | None) -> Decision:
    """What to do with what is left; decided once."""
    known = stage.once("decision")
    if known is not None:
        return Decision.from_json(known)
    pilot_of = None if piloted is None else Pilot.of(piloted)
    left = stage.left(stage.scale(base, piloted), trained_arms=stage.trained_arms)
    force = stage.job.choices.force and piloted is not None
    evidence = await _evidence(stage, prompts, pilot_of)
    decision = decide(evidence, _in_steps(stage, left, pilot_of), await _prices(stage), force=force)
    stage.once("decision", decision.as_json())
    stage.events.emit("decided", action=decision.action, words=str(decision))
    return decision


async def _evidence(stage: Stage, prompts: Report | None, piloted: Pilot | None) -> Evidence:
    same = stage.job.same_model or stage.job.train_model is None
    if prompts is None:
        return Evidence(now=None, same_model=same, pilot=piloted, no_pilot=stage.barred)
    added = await asyncio.to_thread(added_tokens, stage, prompts)
    known = Evidence.of(prompts, pilot=piloted, no_pilot=stage.barred, added_tokens=added, same_model=same)
    if not stage.job.local:
        return known
    hourly = stage.job.gpu_usd_per_hour  # no provider is paid, the machine is
    return dataclasses.replace(known, group_usd=None if hourly is None else known.group_s * hourly / 3600)


def _in_steps(stage: Stage, left: Budget, piloted: Pilot | None) -> Budget:
    """A budget that limits no time of training gets the limit of `hybrid.train`, in seconds."""
    if piloted is None or stage.purse.machine_seconds(left) is not None:
        return left
    steps = max(0, DEFAULT_STEPS - piloted.steps)
    return dataclasses.replace(left, seconds=steps * piloted.step_s + piloted.test_s)


async def _prices(stage: Stage) -> Prices:
    job, price = stage.job, (await stage.model()).price
    return Prices(
        prompt_usd_per_mtok=None if price is None else price.prompt_usd_per_mtok,
        completion_usd_per_mtok=None if price is None else price.completion_usd_per_mtok,
        gpu_usd_per_hour=job.gpu_usd_per_hour,
        traffic_calls=job.traffic_calls,
        horizon_days=job.choices.horizon_days,
    )
