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
from hybrid.escalation.evidence import Evidence, Pilot, span_of
from hybrid.escalation.forecast import total
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
    first_decision: Decision | None  # that learning was to go on, where it was
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
        decision = await decided(stage, "decision", base, piloted, prompts, None)
        first, more = None, None
        if decision.action == "continue":
            more = await learned(stage, "more_prompts", base)
            first, decision = decision, await decided(stage, "second_decision", base, piloted, prompts, more)
        trained = await training(stage, base, piloted, decision)
        arms = await final(stage, base, more or prompts, trained)
    finally:
        await stage.release()
    return Ending(
        arms=arms,
        decision=decision,
        first_decision=first,
        prompts=prompts,
        more_prompts=more,
        pilot=piloted,
        training=trained,
    )


async def decided(
    stage: Stage,
    name: str,
    base: Arm,
    piloted: TrainReport | None,
    prompts: Report | None,
    more: Report | None,
) -> Decision:
    """What to do with what is left; decided once, and once more after learning went on."""
    known = stage.once(name)
    if known is not None:
        return Decision.from_json(known)
    pilot_of = None if piloted is None else Pilot.of(piloted)
    left = stage.left(stage.scale(base, piloted), trained_arms=stage.trained_arms)
    force = stage.job.choices.force and piloted is not None
    evidence = await _evidence(stage, prompts, more, pilot_of)
    decision = decide(evidence, _in_steps(stage, left, pilot_of), await _prices(stage), force=force)
    stage.once(name, decision.as_json())
    stage.events.emit("decided", action=decision.action, words=str(decision))
    return decision


async def _evidence(stage: Stage, prompts: Report | None, more: Report | None, piloted: Pilot | None) -> Evidence:
    """What is known; after a second learning run its curve counts, and what both runs gained."""
    same = stage.job.same_model or stage.job.train_model is None
    last, phase = (more, "more_prompts") if more is not None else (prompts, "prompts")
    if last is None:  # nothing was learned, so that the untrained model is what would be served
        now = piloted.base if same and piloted is not None else None
        return Evidence(now=now, added_tokens=0.0, same_model=same, pilot=piloted, no_pilot=stage.barred)
    added = await asyncio.to_thread(added_tokens, stage, last)
    last = dataclasses.replace(last, seconds=stage.clock.seconds(phase))  # of all processes
    known = Evidence.of(last, pilot=piloted, no_pilot=stage.barred, added_tokens=added, same_model=same)
    if more is not None and prompts is not None and prompts.gain is not None:
        before = span_of(prompts.gain)
        known = dataclasses.replace(known, gain=before if known.gain is None else total(before, known.gain))
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
    """What both arms cost; a token of a model on this machine has no price, its time has one."""
    job, price = stage.job, None if stage.job.local else (await stage.model()).price
    return Prices(
        prompt_usd_per_mtok=None if price is None else price.prompt_usd_per_mtok,
        completion_usd_per_mtok=None if price is None else price.completion_usd_per_mtok,
        gpu_usd_per_hour=job.gpu_usd_per_hour,
        traffic_calls=job.traffic_calls,
        horizon_days=job.choices.horizon_days,
    )
