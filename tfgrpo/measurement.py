"""What an evaluation came to: plain data that prints itself, goes into JSON and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.report import Change, Measured, change_lines, measured_from, spent_words


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One side, or two that are paired by problem: `before` is what `after` was compared with, None without one.

    `better` and `worse` count problems whose share of right answers rose or fell.
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
        return Measurement(**{**data, **measured_from(data, "before", "after", "gain"), "beside": beside})

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
        lines.append(f"  asked     {self.after.n} problems, {self.after.samples} sample(s) of each")
        lines.append(f"  spent     {spent_words(self.spend, self.seconds)}")
        lines += [f"  note      {notice}" for notice in self.notices]
        return "\n".join([*lines, f"  run       {self.folder}"])


def _line(side: Measured) -> str:
    k = side.samples
    said = f"Mean@{k} {side.words()}"
    if side.pass_at_k is not None:
        said += f", Pass@{k} {side.pass_at_k:.3f}"
    return said + (f", {side.missing} samples missing or not scored" if side.missing else "")
