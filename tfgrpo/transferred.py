"""What experiences do to another model: plain data that prints itself, goes into JSON and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.evidence import Verdict
from tfgrpo.mask import Mask, Masked
from tfgrpo.report import spent_words

WIDE = 78  # characters of a text that are printed


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What one experience does to the score of the other model, where it says something: mean and 95 % interval.

    `groups` counts the groups in which a coin decided; 0: no problem is about it, and the interval is the prior's.
    """

    id: str
    hash: str
    text: str
    effect: float
    low: float
    high: float
    groups: int
    verdict: Verdict

    def words(self) -> str:
        """Such as "E3  -0.412 (95 % -0.561..-0.263, 40 groups)  harms"."""
        span = f"{self.effect:+.3f} (95 % {self.low:+.3f}..{self.high:+.3f}, {self.groups} groups)"
        return f"{self.id}  {span if self.groups else 'not measured: no problem is about it'}  {self.verdict}"


KEEP: Mapping[str, Callable[[Effect], bool]] = {
    "unharmed": lambda e: e.verdict != "harms",
    "likely": lambda e: e.verdict != "harms" and (e.effect > 0 or not e.groups),
    "proven": lambda e: e.verdict == "helps",
}
"""What a mask leaves in: all that is not shown to harm, what is expected to help, or only what is shown to."""


def mask_of(model: str, library: str, effects: Sequence[Effect], keep: str) -> Mask:
    """The mask that leaves out what `KEEP[keep]` does not keep."""
    out = [Masked(id=e.id, hash=e.hash, why=e.words()) for e in effects if not KEEP[keep](e)]
    return Mask(model=model, library=library, out=tuple(out))


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """The effects of a library's experiences on another model, and the mask that follows from them."""

    folder: str
    task: str
    model: str
    library: str
    split: str
    keep: str
    effects: Sequence[Effect]
    mask: Mask
    groups: int
    rollouts: int
    missing: int = 0
    stopped: str = ""
    spend: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    notices: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values only, with the result in `words`; `Transfer.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {**plain, "mask": self.mask.as_json(), "words": self.words()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Transfer:
        """A result from `as_json`."""
        fields = {name: value for name, value in data.items() if name != "words"}
        effects = [Effect(**row) for row in data["effects"]]
        return Transfer(**{**fields, "effects": effects, "mask": Mask.from_json(data["mask"])})

    def kept(self, keep: str, library: str) -> Transfer:
        """The same with the mask of another choice."""
        return dataclasses.replace(self, keep=keep, mask=mask_of(self.model, library, self.effects, keep))

    def words(self) -> str:
        """In a line."""
        counts = {verdict: sum(e.verdict == verdict for e in self.effects) for verdict in ("helps", "harms")}
        rest = len(self.effects) - sum(counts.values())
        return f"{counts['helps']} of {len(self.effects)} help, {counts['harms']} harm, {rest} undecided"

    def __str__(self) -> str:
        lines = [f"{self.task} ({self.split}): {self.library} for {self.model}: {self.words()}"]
        for e in sorted(self.effects, key=lambda e: -e.effect):
            text = " ".join(e.text.split())
            lines += [f"  {e.words()}", f"      {text if len(text) <= WIDE else text[: WIDE - 3] + '...'}"]
        lines.append(f"  asked     {self.groups} groups, {self.rollouts} answers, {self.missing} missing")
        lines += [f"  stopped   {self.stopped}"] if self.stopped else []
        lines.append(f"  kept      {self.keep}: {self.mask.words()}")
        lines.append(f"  spent     {spent_words(self.spend, self.seconds)}")
        lines += [f"  note      {notice}" for notice in self.notices]
        return "\n".join([*lines, f"  run       {self.folder}"])
