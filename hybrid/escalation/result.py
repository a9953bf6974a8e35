"""What a story came to: plain data that prints itself, goes into JSON and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.escalation.arms import Arm, paired, recommend
from hybrid.escalation.decision import Decision
from hybrid.escalation.held_out import LABELS
from hybrid.escalation.stage import Stage
from hybrid.escalation.story import Ending
from hybrid.report import TrainReport
from tfgrpo.practice import measured
from tfgrpo.report import Measured, Report

PAIRS = (
    *(("base", name) for name in ("library", "untrained", "trained", "trained_library")),
    *(("untrained", "trained"), ("library", "trained"), ("trained", "trained_library")),
)
"""Which arms are compared, where both were measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRow:
    """One arm in the report. `call_usd` is None where it is unknown."""

    name: str
    model: str
    score: Measured
    pace_s: float  # of one answer, beside others
    prompt_tokens: float
    call_usd: float | None = None

    @property
    def label(self) -> str:
        """What it is, in words."""
        return LABELS[self.name]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """The paired difference between two arms; `better` and `worse` count problems."""

    before: str
    after: str
    gain: Measured
    words: str
    p_value: float
    better: int
    worse: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Improvement:
    """One story from the model as it is to a recommendation. `print` it.

    All arms were measured on the same held-out problems, which nothing was learned from and nothing was decided on.
    """

    out: str
    task: str
    model: str
    train_model: str | None
    arms: Sequence[ArmRow]
    pairs: Sequence[PairRow]
    recommended: str  # the name of an arm
    why: str
    how: str  # what to do to use it
    decision: Decision
    first_decision: Decision | None = None  # that learning was to go on, where it was
    prompts: Report | None = None
    more_prompts: Report | None = None
    pilot: TrainReport | None = None
    training: TrainReport | None = None
    spend: Mapping[str, float] = field(default_factory=dict)
    seconds_by: Mapping[str, float] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values only; `Improvement.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=dict))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Improvement:
        """An improvement from `as_json`."""
        reports: dict[str, Any] = {
            name: None if data[name] is None else Report.from_json(data[name]) for name in ("prompts", "more_prompts")
        }
        reports |= {
            name: None if data[name] is None else TrainReport.from_json(data[name]) for name in ("pilot", "training")
        }
        first = data["first_decision"]
        reports["first_decision"] = None if first is None else Decision.from_json(first)
        arms = [ArmRow(**{**row, "score": Measured(**row["score"])}) for row in data["arms"]]
        pairs = [PairRow(**{**row, "gain": Measured(**row["gain"])}) for row in data["pairs"]]
        return Improvement(
            **{**data, **reports, "arms": arms, "pairs": pairs, "decision": Decision.from_json(data["decision"])}
        )

    def noted(self, notice: str) -> Improvement:
        """The same with one more notice."""
        return dataclasses.replace(self, notices=[*self.notices, notice])

    def arm(self, name: str) -> ArmRow | None:
        """The arm of that name, if it was measured."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def pair(self, before: str, after: str) -> PairRow | None:
        """The comparison of two arms, if both were measured."""
        return next((pair for pair in self.pairs if (pair.before, pair.after) == (before, after)), None)

    def __str__(self) -> str:
        trained = f"; trained: {self.train_model}" if self.train_model else ""
        return "\n".join(
            [
                f"{self.task}: {self.model}{trained}",
                *self._measured(),
                *(f"  at first  {first.action}: {first.why}" for first in (self.first_decision,) if first),
                f"  decision  {self.decision.action}: {self.decision.why}",
                *(f"            {reason}" for reason in self.decision.reasons),
                f"  use       {LABELS[self.recommended]}: {self.why}",
                f"            {self.how}",
                f"  spent     {self.spent_words()}",
                *(f"  note      {notice}" for notice in self.notices),
                f"  story     {self.out}",
            ]
        )

    def _measured(self) -> list[str]:
        first = self.arms[0].score
        lines = [f"  held out  {first.n} problems that nothing was learned from, {first.samples} sample(s) of each"]
        width = max(len(arm.label) for arm in self.arms)
        for arm in self.arms:
            gain = self.pair("base", arm.name)
            fewer = "" if arm.score.n == first.n else f", n={arm.score.n}"
            lines.append(f"    {arm.label:<{width}}  {arm.score.words()}{fewer}{f'   {gain.words}' if gain else ''}")
        return lines

    def spent_words(self) -> str:
        """Such as "$0.1200 for 900 calls, $0.30 for 610 s of this machine, 1,204 s in all"."""
        s = self.spend
        unpriced = f" ({s['unpriced_calls']:.0f} of unknown price)" if s.get("unpriced_calls") else ""
        said = [f"${s['calls_usd']:.4f} for {s['calls']:,.0f} calls{unpriced}"]
        if s.get("machine_s"):
            priced = "" if s.get("machine_usd") is None else f"${s['machine_usd']:.4f} for "
            said.append(f"{priced}{s['machine_s']:,.0f} s of this machine")
        return ", ".join([*said, f"{s['seconds']:,.0f} s in all"])


def improvement(stage: Stage, ending: Ending) -> Improvement:
    """The story as data, with the arms compared and one of them recommended."""
    job, arms = stage.job, ending.arms
    found = {arm.name: arm for arm in arms}
    chosen = recommend(arms, gpu_usd_per_hour=job.gpu_usd_per_hour, seed=job.seed)
    purse, other, machine_s = stage.purse, stage.purse.elsewhere, stage.purse.machine_s
    return Improvement(
        out=str(job.out),
        task=job.task.name,
        model=job.model_name,
        train_model=job.train_model,
        arms=[_row(arm, job.gpu_usd_per_hour) for arm in arms],
        pairs=[_pair(found[a], found[b], job.seed) for a, b in PAIRS if a in found and b in found],
        recommended=chosen.name,
        why=chosen.why,
        how=_how(chosen.name, stage, ending),
        decision=ending.decision,
        first_decision=ending.first_decision,
        prompts=ending.prompts,
        more_prompts=ending.more_prompts,
        pilot=ending.pilot,
        training=ending.training,
        spend={
            "calls": purse.own.calls + other["calls"],
            "calls_usd": purse.calls_usd,
            "unpriced_calls": purse.own.unpriced_calls + other["unpriced_calls"],
            "machine_s": machine_s,
            "seconds": purse.clock.seconds(),
            **({} if job.gpu_usd_per_hour is None else {"machine_usd": machine_s * job.gpu_usd_per_hour / 3600}),
        },
        seconds_by=purse.clock.by_label(),
        budget=dataclasses.asdict(job.budget),
        notices=[*_notices(stage, ending), *stage.notices],
    )


def _row(arm: Arm, gpu_usd_per_hour: float | None) -> ArmRow:
    score = measured(arm.done)
    assert score is not None
    return ArmRow(
        name=arm.name,
        model=arm.model,
        score=score,
        pace_s=arm.pace_s,
        prompt_tokens=arm.prompt_tokens,
        call_usd=arm.call_usd(gpu_usd_per_hour),
    )


def _pair(before: Arm, after: Arm, seed: int) -> PairRow:
    found = paired(before, after, seed=seed)
    g = found.gain
    return PairRow(
        before=before.name,
        after=after.name,
        gain=Measured(mean=g.mean, low=g.low, high=g.high, n=g.n, samples=after.done.samples),
        words=found.words(),
        p_value=found.p_value,
        better=found.better,
        worse=found.worse,
    )


def _how(name: str, stage: Stage, ending: Ending) -> str:
    """How the recommended arm is used."""
    job = stage.job
    learned = ending.more_prompts or ending.prompts
    store = "" if learned is None else f"{learned.store}@v{learned.final}"
    weights = "" if ending.training is None else f"local/{ending.training.checkpoint.removeprefix('local/')}"
    return {
        "base": f"ask {job.model_name} as before",
        "library": f"ask {job.model_name} with the experiences of {store} (tfgrpo store export writes one file)",
        "untrained": f"ask {job.train_model} as it is",
        "trained": f"ask {weights}, or load that folder with transformers or vLLM",
        "trained_library": f"ask {weights} with the experiences of {store}",
    }[name]


def _notices(stage: Stage, ending: Ending) -> list[str]:
    job, said = stage.job, []
    if ending.pilot is None:
        said.append(f"nothing was trained: {stage.barred}; this is the best prompt-only result")
    if ending.first_decision is not None and ending.decision.action == "continue":
        said.append(f"learning went on once and may go on: tfgrpo learn with --store {stage.place}")
    if ending.training is not None and not job.same_model:
        said.append(
            f"{job.model_name} and {job.train_model} are different models: what training itself brought is the "
            f"difference to {LABELS['untrained']!r}"
        )
    if job.gpu_usd_per_hour is None and stage.purse.machine_s:
        said.append("time of this machine is not in the dollars: no price of it was given (--gpu-usd-per-hour)")
    return said
