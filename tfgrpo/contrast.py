"""What a comparison came to: plain data that prints itself, goes into JSON and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.report import Change, Measured, change_lines, measured_from, spent_words

FLIPS_SHOWN = 20
TEXT_KEPT = 2_000  # characters of an answer; the record has all of it
_LINE = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One side: what it is, how it did, and what its answers cost (None: some have no known price)."""

    label: str
    model: str
    score: Measured
    cost_usd: float | None
    tokens: int
    recorded: bool = False  # the answers were on record, and paid before

    def words(self) -> str:
        """Such as "Mean@2 0.412 (95 % 0.301..0.520, n=60), $0.0123, 8,123 tokens"."""
        s = self.score
        said = f"Mean@{s.samples} {s.words()[:-1]}, n={s.n})"
        said += "" if s.pass_at_k is None else f", Pass@{s.samples} {s.pass_at_k:.3f}"
        said += f", {s.missing} samples missing or not scored" if s.missing else ""
        return f"{said}, {self.cost_words}, {self.tokens:,} tokens" + (", paid before" if self.recorded else "")

    @property
    def cost_words(self) -> str:
        """Such as "$0.0123", or "price unknown"."""
        return "price unknown" if self.cost_usd is None else f"${self.cost_usd:.4f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One scored answer, cut where it is very long."""

    text: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A problem of which the two sides got different shares right; `better` is "a" or "b"."""

    problem: str
    question: str
    better: str
    a: Sequence[Answer]
    b: Sequence[Answer]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Flip:
        """A flip from its fields as plain data."""
        return Flip(**{**data, **{side: [Answer(**answer) for answer in data[side]] for side in ("a", "b")}})

    def words(self) -> str:
        """The flip in one line, with the first answer of each side."""
        sides = " | ".join(f"{name}: {_answered(getattr(self, name.lower()))}" for name in ("A", "B"))
        return f"{self.better.upper()} better  {self.problem}  {sides}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Two sides on the same problems. `difference` is B less A, paired by problem, with its 95 % interval and n.

    `better` and `worse` count problems of which B got a larger or smaller share right; `flips` has all of them.
    `verdict` claims nothing that no difference at all would explain.
    """

    folder: str
    task: str
    split: str
    a: Standing
    b: Standing
    verdict: str
    difference: Measured | None = None  # None: no problem has samples on both sides
    difference_words: str = ""
    p_value: float | None = None
    better: int = 0
    worse: int = 0
    flips: Sequence[Flip] = ()
    beside: Sequence[Change] = ()  # what measures and probes of the task say of both
    spend: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of this comparison, by purpose
    seconds: float = 0.0
    notices: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values only, with the result in `words`; `Contrast.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {**plain, "words": self.words()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Contrast:
        """A contrast from `as_json`."""
        fields = {name: value for name, value in data.items() if name != "words"}
        sides = {name: Standing(**{**data[name], **measured_from(data[name], "score")}) for name in ("a", "b")}
        beside = [Change.from_json(change) for change in data.get("beside", ())]
        flips = [Flip.from_json(flip) for flip in data.get("flips", ())]
        return Contrast(**{**fields, **sides, **measured_from(data, "difference"), "beside": beside, "flips": flips})

    def noted(self, notice: str) -> Contrast:
        """The same with one more notice."""
        return dataclasses.replace(self, notices=[*self.notices, notice])

    def words(self) -> str:
        """The result in one line."""
        return self.difference_words or self.verdict

    def __str__(self) -> str:
        lines = [f"{self.task} ({self.split}): {self.verdict}"]
        lines += [f"  {name}         {side.label}: {side.words()}" for name, side in (("A", self.a), ("B", self.b))]
        if self.difference_words:
            sure = "" if self.p_value is None else f"; p = {self.p_value:.3g}"
            lines.append(f"  B - A     {self.difference_words}{sure}; B better on {self.better}, worse on {self.worse}")
        lines += change_lines(self.beside)
        lines += [f"  flip      {flip.words()}" for flip in self.flips[:FLIPS_SHOWN]]
        if len(self.flips) > FLIPS_SHOWN:
            lines.append(f"            ... and {len(self.flips) - FLIPS_SHOWN} more; --json has all")
        lines.append(f"  spent     {spent_words(self.spend, self.seconds)}")
        lines += [f"  note      {notice}" for notice in self.notices]
        return "\n".join([*lines, f"  run       {self.folder}"])


def _answered(answers: Sequence[Answer]) -> str:
    """Such as `'It is red.' 1` of one sample, and how many more there are."""
    if not answers:
        return "no answer"
    text = " ".join(answers[0].text.split())
    first = f"{text if len(text) <= _LINE else '...' + text[-_LINE:]!r} {answers[0].score:.3g}"
    rest = f" (mean of {len(answers)}: {sum(a.score for a in answers) / len(answers):.3f})" if answers[1:] else ""
    return first + rest
