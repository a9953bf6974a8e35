"""What a training run came to: plain data that prints itself and goes into JSON. Light to import."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.report import Change, Measured, change_lines, measured_from

SHOWN = 8  # points of the curve
EDGE = 5  # steps of a mean at its beginning and its end


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """One run of training. `before` and `after` are measured on test problems that were never trained on.

    `curve` has one row per step: rewards before the update, what the update measured, seconds of its parts.
    """

    folder: str
    checkpoint: str  # load it with transformers, serve it with vLLM, or ask it as local/FOLDER
    task: str
    model: str
    setup: str  # "bfloat16 on cpu, 1 thread"
    steps: int
    stopped: str
    before: Measured | None = None
    after: Measured | None = None
    gain: Measured | None = None
    gain_words: str = ""
    p_value: float | None = None
    beside: Sequence[Change] = ()  # what measures and probes of the task say, before and after
    curve: Sequence[Mapping[str, float]] = ()
    methods: Mapping[str, str] = field(default_factory=dict)  # advantage, loss, grouping, sampler
    rollouts: int = 0
    tokens: int = 0  # written in training
    seconds: float = 0.0
    seconds_by: Mapping[str, float] = field(default_factory=dict)  # sample, update, renew, evaluate
    memory_gib: float = 0.0  # the most that this process held
    notices: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values only; `TrainReport.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrainReport:
        """A report from `as_json`."""
        beside = [Change.from_json(change) for change in data.get("beside", ())]
        return TrainReport(**{**data, **measured_from(data, "before", "after", "gain"), "beside": beside})

    def noted(self, notice: str) -> TrainReport:
        """The same with one more notice."""
        return dataclasses.replace(self, notices=[*self.notices, notice])

    def __str__(self) -> str:
        return "\n".join([f"{self.task}: {self.model} ({self.setup})", *self._result(), *self._facts()])

    def _result(self) -> list[str]:
        if self.before is None or self.after is None:
            return ["  test      not measured: the task has no test problems"]
        sure = "" if self.p_value is None else f"; p = {self.p_value:.3g}"
        return [
            f"  test      {self.before.words()} -> {self.after.words()}, {self.after.samples} sample(s) of each",
            f"  gain      {self.gain_words}{sure}",
            *change_lines(self.beside),
        ]

    def _facts(self) -> list[str]:
        methods = ", ".join(f"{kind} {name}" for kind, name in self.methods.items())
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds_by.items())
        return [
            f"  methods   {methods}",
            f"  steps     {self.steps}, {self.rollouts} answers, {self.tokens:,} tokens written",
            *([f"  reward    {_spark(self.curve)}"] if self.curve else []),
            *([f"  taught    {words}"] if (words := taught_words(self.curve)) else []),
            f"  spent     {self.seconds:.0f} s ({parts}), at most {self.memory_gib:.1f} GiB",
            *([f"  stopped   {self.stopped}"] if self.stopped else []),
            *(f"  note      {notice}" for notice in self.notices),
            f"  weights   {self.checkpoint}",
        ]


def taught_words(curve: Sequence[Mapping[str, float]]) -> str:
    """How many answers a teacher taught, and how far from it the student was at first and at last; "" for none.

    Example:
        >>> taught_words([{"route/taught": 6.0, "answers": 8.0, "skipped": 4.0, "taught/kl": 0.25}])
        '50% of answers; KL to the teacher 0.250 -> 0.250 nats per token'
    """
    apart = [point["taught/kl"] for point in curve if "taught/kl" in point]
    if not apart:
        return ""
    written = sum(point["answers"] + point["skipped"] for point in curve)
    share = sum(point.get("route/taught", 0.0) for point in curve) / written
    first, last = (sum(part) / len(part) for part in (apart[:EDGE], apart[-EDGE:]))
    return f"{share:.0%} of answers; KL to the teacher {first:.3f} -> {last:.3f} nats per token"


def _spark(curve: Sequence[Mapping[str, float]]) -> str:
    """Mean rewards of the run in at most SHOWN parts, such as "0.11 0.14 0.31"."""
    rewards = [point["reward"] for point in curve if point.get("reward") is not None]
    size = max(1, -(-len(rewards) // SHOWN))
    parts = [rewards[at : at + size] for at in range(0, len(rewards), size)]
    return " ".join(f"{sum(part) / len(part):.2f}" for part in parts)
