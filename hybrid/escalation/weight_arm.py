"""The training arm of a story: a pilot of a few steps, and its continuation. One training run in one folder."""

from __future__ import annotations

from typing import Any

from hybrid.api import atrain
from hybrid.escalation.arms import Arm
from hybrid.escalation.decision import Decision
from hybrid.escalation.evidence import Pilot
from hybrid.escalation.purse import part
from hybrid.escalation.shares import PILOT, PILOT_MOST, START_S
from hybrid.escalation.stage import Stage
from hybrid.report import TrainReport
from hybrid.settings import DriftError, RoomError
from tfgrpo.budget import Budget
from tfgrpo.errors import InputError, MissingExtraError

NO_ROOM = "nothing of the budget is left for a pilot of training"


async def pilot(stage: Stage, base: Arm) -> TrainReport | None:
    """A few steps of training with a share of what is left; None where there can be none: `stage.barred` says why."""
    known = stage.once("pilot")
    if known is None:
        known = stage.once("pilot", {"none": stage.barred} if stage.barred else await _pilot(stage, base))
    assert known is not None
    if "none" in known:
        stage.barred = str(known["none"])
        return None
    return TrainReport.from_json(known)


async def _pilot(stage: Stage, base: Arm) -> dict[str, Any]:
    await stage.release()
    scale = stage.scale(base)
    left = stage.left(scale, trained_arms=stage.trained_arms)
    tests_s = START_S + 2 * len(stage.aside.test) * stage.aside.test_samples * scale.trained_s  # before and after
    shares = [stage.purse.machine_seconds(part(left, share)) for share in (PILOT, PILOT_MOST)]
    wanted = None if shares[0] is None or shares[1] is None else min(shares[0] + tests_s, shares[1])
    seconds = _limit(stage, "pilot", wanted, before=0.0, step_s=0.0)
    if seconds is not None and seconds <= 0:
        return {"none": NO_ROOM}
    stage.enter("pilot", "a few steps of training, to see what they bring and cost", machine=True)
    made = await _trained(stage, stage.job.choices.pilot_steps, seconds)
    if made.get("steps") == 0:
        return {"none": f"the pilot's share of the budget, {seconds:.0f} s, paid for no step of training"}
    return made


async def training(stage: Stage, base: Arm, piloted: TrainReport | None, decision: Decision) -> TrainReport | None:
    """The pilot's run goes on for the steps that were decided; None where training was not."""
    if decision.action != "train" or piloted is None:
        return None
    known = stage.once("training")
    if known is None:
        known = stage.once("training", await _more(stage, base, piloted, decision))
    assert known is not None
    if "none" in known:
        stage.notices.append(str(known["none"]))
        return None
    return TrainReport.from_json(known)


async def _more(stage: Stage, base: Arm, piloted: TrainReport, decision: Decision) -> dict[str, Any]:
    steps = decision.training.amount
    if steps < 1:
        return piloted.as_json()  # it was forced, and the budget pays for no more
    await stage.release()
    left = stage.left(stage.scale(base, piloted), trained_arms=stage.trained_arms)
    more = stage.purse.machine_seconds(left)
    limit = None if more is None else piloted.seconds + more
    seconds = _limit(stage, "training", limit, before=piloted.seconds, step_s=Pilot.of(piloted).step_s)
    stage.enter("training", f"the pilot goes on for up to {steps} steps", machine=True)
    return await _trained(stage, piloted.steps + steps, seconds)


def _limit(stage: Stage, phase: str, seconds: float | None, *, before: float, step_s: float) -> float | None:
    """Seconds of the whole training run, up to the end of a phase.

    The run counts its own time, up to its last checkpoint. What a killed process did after that is lost, and is taken
    off here when the phase goes on, so that the story keeps its limit.
    """
    known, now = stage.once(f"plan/{phase}"), stage.clock.seconds(phase)
    if known is not None:
        seconds = known["seconds"]
        if seconds is not None:
            lost = min(now - known["begun"], stage.job.choices.settings.checkpoint_s + step_s)
            seconds = max(before, seconds - lost)
    stage.once(f"plan/{phase}", {"seconds": seconds, "begun": now})
    return seconds


async def _trained(stage: Stage, steps: int, seconds: float | None) -> dict[str, Any]:
    """The training run up to so many steps in all, or why there is none."""
    job, choices = stage.job, stage.job.choices
    assert job.train_model is not None
    try:
        report = await atrain(
            stage.aside,
            model=job.train_model,
            loss=choices.loss,
            group=choices.group,
            prompts=choices.prompts,
            steps=steps,
            budget=None if seconds is None else Budget(seconds=seconds),
            out=job.out / "training",
            seed=job.seed,
            settings=choices.settings,
            on_event=job.on_event,
        )
    except (InputError, MissingExtraError, DriftError, RoomError) as error:
        return {"none": f"training is not possible: {error}"}
    return report.as_json()
