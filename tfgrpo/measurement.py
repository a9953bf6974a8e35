"""What an evaluation came to: plain data that prints itself, goes into JSON and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.report import Change, Measured, change_lines, measured_from, spent_words


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point of a strategy's curve, per problem: `n` answers at most, mean calls and cost, and the score.

    The judge's calls are in it. `usd` is None where a price is unknown.

    Example:
        >>> half = Measured(mean=0.5, low=0.4, high=0.6, n=90)
        >>> Point(rule="vote(n=4)", n=2, calls=2.0, tokens=180.0, usd=0.00125, score=half).words()
        'n=2   2.00 calls  180 tokens  $0.001250  0.500 (95 % 0.400..0.600)'
    """

    rule: str
    n: int
    calls: float
    tokens: float
    usd: float | None
    score: Measured

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Point:
        """A point from its fields as plain data."""
        return Point(**{**data, **measured_from(data, "score")})

    @property
    def cost_words(self) -> str:
        """Such as "$0.001250", or "price unknown"."""
        if self.usd is None:
            return "price unknown"
        if self.usd == 0:
            return "$0"
        return f"${self.usd:.6f}" if self.usd < 0.01 else f"${self.usd:.4f}"

    def words(self) -> str:
        """The point in one line."""
        cost = f"{self.calls:.2f} calls  {self.tokens:.0f} tokens  {self.cost_words}"
        return f"n={self.n:<2}  {cost}  {self.score.words()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One side, or two that are paired by problem: `before` is what `after` was compared with, None without one.

    `better` and `worse` count problems whose share of right answers rose or fell. With a strategy `before` is the plain
    answer, and `curve` says what fewer answers would have reached, at what cost; the points of one rule stand together.
    """

    folder: str
    task: str
    model: str
    split: str
    store: str  # what was measured: "./experience@v7", or "no experiences"
    after: Measured
    against: str = ""
    before: Measured | None = None
    gain: Measured | None = None
    gain_words: str = ""
    p_value: float | None = None
    better: int = 0
    worse: int = 0
    curve: Sequence[Point] = ()  # of a strategy
    beside: Sequence[Change] = ()  # what measures and probes of the task say; `after` only without a comparison
    spend: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    notices: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values only; `Measurement.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measurement:
        """A measurement from `as_json`."""
        beside = [Change.from_json(change) for change in data.get("beside", ())]
        curve = [Point.from_json(point) for point in data.get("curve", ())]
        sides = measured_from(data, "before", "after", "gain")
        return Measurement(**{**data, **sides, "beside": beside, "curve": curve})

    def noted(self, notice: str) -> Measurement:
        """The same with one more notice."""
        return dataclasses.replace(self, notices=[*self.notices, notice])

    def words(self) -> str:
        """The result in one line."""
        return self.gain_words or _line(self.after)

    def __str__(self) -> str:
        width = max(len(self.store), len(self.against))
        sides = [(self.against, self.before)] if self.before else []
        lines = [f"{self.task} ({self.split}): {self.model}"]
        lines += [f"  {name:<{width}}  {_line(side)}" for name, side in [*sides, (self.store, self.after)] if side]
        if self.gain_words:
            sure = "" if self.p_value is None else f"; p = {self.p_value:.3g}"
            lines.append(f"  gain      {self.gain_words}{sure}; {self.better} problems better, {self.worse} worse")
        lines += change_lines(self.beside)
        lines += _curve_lines(self.curve)
        lines.append(f"  asked     {self.after.n} problems, {(self.before or self.after).samples} sample(s) of each")
        lines.append(f"  spent     {spent_words(self.spend, self.seconds)}")
        lines += [f"  note      {notice}" for notice in self.notices]
        return "\n".join([*lines, f"  run       {self.folder}"])


def _curve_lines(curve: Sequence[Point]) -> list[str]:
    """Score against cost per problem, the points of each rule under its name."""
    lines, rule = [], ""
    for point in curve:
        if point.rule != rule:
            lines.append(f"  curve     {point.rule}, per problem")
        rule = point.rule
        lines.append(f"            {point.words()}")
    return lines


def _line(side: Measured) -> str:
    k = side.samples
    said = f"Mean@{k} {side.words()}"
    if side.pass_at_k is not None:
        said += f", Pass@{k} {side.pass_at_k:.3f}"
    return said + (f", {side.missing} samples missing or not scored" if side.missing else "")
