"""What a story will do and how its budget is divided, before anything is asked: what `--dry-run` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.escalation.held_out import LABELS
from hybrid.escalation.job import Job
from hybrid.escalation.prompt_arm import GROUP
from hybrid.escalation.purse import part
from hybrid.escalation.shares import FIRST_SHARE, MEASURE, MEASURE_CALLS, PILOT, WITHOUT_TRAINING, share_of
from tfgrpo.budget import Budget
from tfgrpo.errors import InputError
from tfgrpo.forecast import Estimate, estimate
from tfgrpo.policy import Policy
from tfgrpo.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """The plan of a story. `shares` are rough, in the units of the budget, and so is the estimate `prompts`."""

    task: str
    model: str
    train_model: str | None
    problems: Mapping[str, int]  # learn, gate, decision, held_out
    samples: int
    arms: Sequence[str]
    shares: Mapping[str, Mapping[str, float]]
    pilot: str
    barred: str  # why nothing will be trained; ""
    prompts: Estimate | None = None  # None: only the pace of the model will tell, or the budget pays for no group
    prompts_why: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON values only."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**plain, "prompts": None if self.prompts is None else self.prompts.as_json()}

    def __str__(self) -> str:
        p = self.problems
        trained = "" if self.barred else f"; trained: {self.train_model}"
        lines = [
            f"{self.task}: {self.model}{trained}",
            f"  problems  {p['learn']} to learn from, {p['gate']} for the gate, {p['decision']} set aside for the "
            f"decision, up to {p['held_out']} held out x {self.samples} sample(s)",
            f"  arms      {'; '.join(LABELS[name] for name in self.arms)}",
            *(f"  {name:<9} {_limits(limits)}" for name, limits in self.shares.items()),
        ]
        lines += [f"  training  none: {self.barred}"] if self.barred else [f"  pilot     {self.pilot}"]
        if self.prompts is not None:
            lines += [f"  {line.strip()}" for line in str(self.prompts).splitlines()[1:-1]]
        elif self.prompts_why:
            lines.append(f"  learning  {self.prompts_why}")
        return "\n".join(lines)


def _limits(limits: Mapping[str, float]) -> str:
    return "about " + ", ".join(f"{value:,.4g} {name}" for name, value in limits.items()) if limits else "no limit"


def outline(job: Job, aside: Task, barred: str, *, model: Policy, critic: Policy | None) -> Outline:
    """The plan of a job; asks nothing and writes nothing."""
    trains = not barred
    arms = ["base", "library"]
    if trains:
        arms += [*([] if job.same_model else ["untrained"]), "trained", "trained_library"]
    measuring = part(job.budget, MEASURE)
    if job.budget.calls is not None:
        measuring = dataclasses.replace(measuring, calls=int(job.budget.calls * MEASURE_CALLS))
    left = Budget(**{k: None if v is None else v - _of(measuring, k) for k, v in _fields(job.budget).items()})
    prompts = share_of(left, FIRST_SHARE if trains else WITHOUT_TRAINING, priced=bool(job.gpu_usd_per_hour))
    machine = Budget(seconds=left.seconds, usd=left.usd if job.gpu_usd_per_hour else None)
    shares = {"measuring": measuring, "prompts": prompts}
    if trains:
        shares |= {"pilot": part(machine, PILOT), "training": part(machine, 1 - FIRST_SHARE[0] - PILOT)}
    c = job.choices
    found, why = _prompts(aside, model, critic, prompts, local=job.local)
    return Outline(
        task=job.task.name,
        model=job.model_name,
        train_model=job.train_model,
        problems={
            "learn": len(aside.learn),
            "gate": len(aside.gate),
            "decision": len(aside.test),
            "held_out": len(job.task.test),
        },
        samples=job.task.test_samples,
        arms=arms,
        shares={name: {k: v for k, v in _fields(b).items() if v is not None} for name, b in shares.items()},
        pilot=f"up to {c.pilot_steps} steps of {c.prompts} problems x {c.group} answers; then the decision",
        barred=barred,
        prompts=found,
        prompts_why=why,
    )


def _prompts(
    aside: Task, model: Policy, critic: Policy | None, budget: Budget, *, local: bool
) -> tuple[Estimate | None, str]:
    """The estimate of the learning run, where the budget tells its size before the model was asked."""
    if budget.calls is None and (local or budget.usd is None):
        return None, "as many calls as the pace of the model leaves time for"
    limits = dataclasses.replace(budget, seconds=None, usd=None if local else budget.usd)
    try:
        return estimate(aside, model=model, critic=critic, budget=limits, group=GROUP), ""
    except InputError as error:
        return None, str(error)


def _fields(budget: Budget) -> dict[str, Any]:
    return dataclasses.asdict(budget)


def _of(budget: Budget, name: str) -> Any:
    return getattr(budget, name) or 0
