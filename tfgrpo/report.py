"""What a run of learning came to: plain data that prints itself, goes into JSON and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

USUAL = {"grouping": "repeat", "advantage": "grpo", "sampler": "least_covered"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A mean with its 95 % interval over n problems, and the samples of each."""

    mean: float
    low: float
    high: float
    n: int
    samples: int = 1
    missing: int = 0
    pass_at_k: float | None = None

    def words(self) -> str:
        """Such as "0.412 (95 % 0.301..0.520)"."""
        return f"{self.mean:.3f} (95 % {self.low:.3f}..{self.high:.3f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What one measure said before and after; `gain` is paired by problem. None where it was not measured.

    Example:
        >>> rate = Measured(mean=0.5, low=0.3, high=0.7, n=20)
        >>> print(Change(name="over_refusal", after=rate).words())
        0.500 (95 % 0.300..0.700, n=20)
    """

    name: str
    before: Measured | None = None
    after: Measured | None = None
    gain: Measured | None = None
    gain_words: str = ""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Change:
        """A change from its fields as plain data."""
        return Change(**{**data, **measured_from(data, "before", "after", "gain")})

    def words(self) -> str:
        """Such as "0.200 (95 % 0.050..0.350) -> 0.800 (95 % 0.650..0.950), +0.600 (95 % +0.410..+0.790, n=20)"."""
        sides = [side for side in (self.before, self.after) if side is not None]
        if not sides:
            return "not applicable to any answer"
        if not self.gain_words:
            return " -> ".join(f"{side.words()[:-1]}, n={side.n})" for side in sides)
        return f"{' -> '.join(side.words() for side in sides)}, {self.gain_words}"


def change_lines(changes: Sequence[Change]) -> list[str]:
    """What stands beside the score in a report, one line for each measure."""
    width = max((len(change.name) for change in changes), default=0)
    heads = ["  beside    ", *["            "] * (len(changes) - 1)]
    return [f"{head}{c.name:<{width}}  {c.words()}" for head, c in zip(heads, changes, strict=True)] if changes else []


def measured_from(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields of these names as `Measured`, where they are not None."""
    return {name: None if data[name] is None else Measured(**data[name]) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One run. `before` and `after` are measured once, on test problems that chose nothing; None was not measured.

    `learned` holds, per experience that ships, its id, text, kind, effect with interval, groups and verdict; `spend`
    is by purpose; `curve` has one point per step; `counts` are those of `tfgrpo.reach`.
    """

    run: str
    folder: str
    task: str
    model: str
    critic: str
    store: str
    start: int
    final: int
    accepted: bool
    why: str
    before: Measured | None = None
    after: Measured | None = None
    gain: Measured | None = None
    gain_words: str = ""
    beside: Sequence[Change] = ()  # what measures and probes of the task say, before and after
    gate: Mapping[str, Any] = field(default_factory=dict)
    gate_words: str = ""
    learned: Sequence[Mapping[str, Any]] = ()
    diff: str = ""
    groups: int = 0
    open_groups: int = 0
    rollouts: int = 0
    missing: int = 0
    mixed_share: float = 0.0
    mixed_share_before: float | None = None
    informative_share: float = 0.0
    curve: Sequence[Mapping[str, Any]] = ()
    spend: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    busy_share: float = 0.0
    stopped: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notices: Sequence[str] = ()
    methods: Mapping[str, str] = field(default_factory=dict)  # names of grouping, advantage and sampler
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values only; `Report.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Report:
        """A report from `as_json`."""
        beside = [Change.from_json(change) for change in data.get("beside", ())]
        return Report(**{**data, **measured_from(data, "before", "after", "gain"), "beside": beside})

    def noted(self, notice: str) -> Report:
        """The same with one more notice."""
        return dataclasses.replace(self, notices=[*self.notices, notice])

    @property
    def total(self) -> Mapping[str, Any]:
        """The spend of all purposes together; `usd` counts priced calls only."""
        return summed(self.spend)

    def __str__(self) -> str:
        lines = [f"{self.task}: {self.model}", *self._result(), *self._learned(), *self._facts()]
        return "\n".join(lines)

    def _result(self) -> list[str]:
        lines = [f"  {self.why}"]
        if self.before and self.after and self.gain:
            lines.append(f"  test      {self.before.words()} -> {self.after.words()}")
            lines.append(f"  gain      {self.gain_words}, {self.gain.samples} sample(s) of each problem")
        elif self.before:
            lines.append(f"  test      {self.before.words()}, n={self.before.n}; nothing else to compare it with")
        lines += change_lines(self.beside)
        lines.append(f"  gate      {self.gate_words}")
        return lines

    def _learned(self) -> list[str]:
        head = f"  store     {self.store}: v{self.start} -> v{self.final}, {len(self.learned)} experiences served"
        shown = [f"    {_line(row)}" for row in self.learned[:12]]
        more = len(self.learned) - len(shown)
        return [head, *shown, *([f"    ... and {more} more"] if more > 0 else [])]

    def _chosen(self) -> str:
        """The methods that are not the usual ones."""
        return ", ".join(f"{kind} {name}" for kind, name in self.methods.items() if USUAL.get(kind) != name)

    def _facts(self) -> list[str]:
        before = (
            "" if self.mixed_share_before is None else f" ({self.mixed_share_before:.0%} before anything was learned)"
        )
        return [
            *([f"  methods   {chosen}"] if (chosen := self._chosen()) else []),
            f"  groups    {self.groups} ({self.open_groups} open at once), {self.mixed_share:.0%} mixed{before}",
            f"  spent     {spent_words(self.spend, self.seconds)}",
            *([f"  missing   {self.missing} rollouts"] if self.missing else []),
            *([f"  stopped   {self.stopped}"] if self.stopped else []),
            *(f"  note      {notice}" for notice in self.notices),
            f"  run       {self.folder}",
        ]


def summed(spend: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of all purposes added up."""
    names = sorted({name for row in spend.values() for name in row})
    return {name: sum(row.get(name, 0) for row in spend.values()) for name in names}


def spent_words(spend: Mapping[str, Mapping[str, Any]], seconds: float) -> str:
    """Such as "640 calls (600 of them solver calls), 812,345 tokens, $0.4123, 61 s"."""
    total = summed(spend)
    unpriced = total.get("unpriced_calls", 0)
    priced = f"${total.get('usd', 0.0):.4f}" if unpriced < total.get("calls", 0) or not unpriced else ""
    cost = " + ".join([*([priced] if priced else []), *([f"{unpriced} calls of unknown price"] if unpriced else [])])
    tokens = total.get("prompt_tokens", 0) + total.get("completion_tokens", 0)
    calls = f"{total.get('calls', 0)} calls ({total.get('solver_calls', 0)} of them solver calls)"
    return f"{calls}, {tokens:,} tokens, {cost}, {seconds:.0f} s"


def _line(row: Mapping[str, Any]) -> str:
    text = " ".join(str(row.get("text", "")).split())
    if row.get("question"):
        text = f"{' '.join(str(row['question']).split())} -> {text}"
    words = text if len(text) <= 90 else text[:87] + "..."
    effect = (
        f" [{row['effect']:+.2f}, {row['low']:+.2f}..{row['high']:+.2f}, {row['groups']} groups]"
        if "effect" in row
        else ""
    )
    return f"{row['id']}{effect} {words}"
