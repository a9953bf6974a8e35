"""Aggregations of named parts that no weights can express: paid only where another part is good enough, hard gates.

Weights do not fix parts of different difficulty, and equal weights reinforce an unsafe answer whose other parts are
good; normalising each part by itself (GDPO) does not change that either. A condition does. All of it happens in the
parts themselves, so that an advantage that looks at the parts sees what was paid, not what would have been.

A part that is missing stays missing: it is left out of the mean, and what depends on it is missing too, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfgrpo.errors import InputError
from tfgrpo.rewards.base import Outcome, Reward, score_answers, scores_alone, weighted
from tfgrpo.types import Completion, Problem, Score

Conditions = Mapping[str, tuple[str, float]]
"""part -> (the part it hangs on, how much of that is needed)."""


def weighted_mean(parts: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float | None:
    """sum w_k r_k / sum w_k over the parts that there are; None when they weigh nothing. Equal weights by default.

    Example:
        >>> weighted_mean({"right": 1.0, "short": 0.5}, {"right": 3.0, "short": 1.0})
        0.875
    """
    given = {name: 1.0 if weights is None else weights.get(name, 0.0) for name in parts}
    total = math.fsum(given.values())
    return math.fsum(given[name] * value for name, value in parts.items()) / total if total > 0 else None


def paid(parts: Mapping[str, float], only_if: Conditions) -> dict[str, float]:
    """Each part of `only_if` is 0 where the part it hangs on is below its threshold, and missing where that is missing.

    Conditions read the parts as they were given, so that their order does not matter (arXiv 2601.05242, section 3.2).

    Example:
        >>> paid({"right": 0.0, "short": 0.8}, {"short": ("right", 1.0)})
        {'right': 0.0, 'short': 0.0}
    """
    found = {}
    for name, value in parts.items():
        on, at = only_if.get(name, (name, -math.inf))
        if on in parts:
            found[name] = value if parts[on] >= at else 0.0
    return found


def behind_gate(parts: Mapping[str, float], gate: str, at: float) -> dict[str, float] | None:
    """All other parts are 0 where `gate` is below `at`; None where the gate is missing, because nothing is known then.

    Example:
        >>> behind_gate({"polite": 0.9, "safe": 0.2}, "safe", 0.5)
        {'polite': 0.0, 'safe': 0.2}
    """
    return paid(parts, {name: (gate, at) for name in parts if name != gate}) if gate in parts else None


def conditional(
    parts: Mapping[str, tuple[Reward, float]], *, only_if: Mapping[str, tuple[str, float]], name: str = ""
) -> Reward:
    """As `weighted`, with some parts paid only where another part reaches a threshold.

    Example:
        >>> import asyncio
        >>> from tfgrpo.rewards.length import band
        >>> from tfgrpo.rewards.simple import contains
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in ("It is Paris", "Lyon")]
        >>> parts = {"right": (contains(), 1.0), "short": (band(budget=2, unit="words"), 0.5)}
        >>> strict = conditional(parts, only_if={"short": ("right", 1.0)})
        >>> scores = asyncio.run(strict(Problem(id="p", messages=(), answer="Paris"), said))
        >>> [round(score.value, 3) for score in scores]  # (1 + 0.5 x 0.5) / 1.5, and nothing for being short and wrong
        [0.833, 0.0]

    Raises:
        InputError: a condition names a part that there is not, or itself.
    """
    for part, (on, at) in only_if.items():
        if part not in parts or on not in parts or part == on or not math.isfinite(at):
            raise InputError(
                f"conditional: {part!r} cannot hang on {on!r} >= {at}; the parts are {', '.join(parts)}, and a part "
                f"hangs on another one"
            )
    return _Paid(
        inner=weighted(parts),
        weights={part: weight for part, (_, weight) in parts.items()},
        only_if=dict(only_if),
        name=name or "+".join(parts),
    )


def gated(parts: Mapping[str, tuple[Reward, float]], *, gate: str, at: float = 0.5, name: str = "") -> Reward:
    """As `weighted`, and worth 0 in all where the part `gate` is below `at`; not applicable where that part is missing.

    Example:
        >>> import asyncio
        >>> from tfgrpo.rewards.base import reward
        >>> heads = {"Sure!": (0.9, 0.2), "Not that, but this.": (0.8, 0.9)}
        >>> helpful, safe = (reward(lambda p, c, k=k: heads[c.text][k]) for k in (0, 1))
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in heads]
        >>> joined = gated({"helpful": (helpful, 1.0), "safe": (safe, 1.0)}, gate="safe")
        >>> [round(score.value, 3) for score in asyncio.run(joined(Problem(id="p", messages=()), said))]
        [0.0, 0.85]

    Raises:
        InputError: there is no part `gate`.
    """
    if gate not in parts or not math.isfinite(at):
        raise InputError(f"gated: no part {gate!r} with a finite threshold ({at}); the parts are {', '.join(parts)}")
    return _Paid(
        inner=weighted(parts),
        weights={part: weight for part, (_, weight) in parts.items()},
        only_if={},
        gate=(gate, at),
        name=name or "+".join(parts),
    )


def revalued(
    score: Score, weights: Mapping[str, float] | None, *, only_if: Conditions, gate: tuple[str, float] | None
) -> Score | None:
    """The score of named parts after conditions and gate; a closed gate is told in the feedback, with what was lost."""
    parts = paid(score.parts, only_if)
    shut = False
    if gate is not None:
        if gate[0] not in parts:
            return None
        shut = parts[gate[0]] < gate[1]
        parts = behind_gate(parts, *gate) or {}
    value = 0.0 if shut else weighted_mean(parts, weights)
    if value is None:
        return None
    lost = ", ".join(f"{name} {score.parts[name]:.2f}" for name in parts if parts[name] != score.parts[name])
    why = f"{gate[0]} {parts[gate[0]]:.2f} is below {gate[1]:g}, so nothing is paid" if shut and gate else "Not paid"
    told = f"{why}{f': {lost}' if lost else ''}." if shut or lost else ""
    return replace(
        score,
        value=value,
        parts=parts,
        feedback="\n".join(filter(None, (score.feedback, told))),
        solved=score.success and not shut,
    )


@dataclass(frozen=True, kw_only=True)
class _Paid:
    inner: Reward
    weights: Mapping[str, float]
    name: str
    only_if: Conditions
    gate: tuple[str, float] | None = None

    @property
    def alone(self) -> bool:
        return scores_alone(self.inner)

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        scored = await score_answers(self.inner, problem, completions)
        return [
            revalued(s, self.weights, only_if=self.only_if, gate=self.gate) if isinstance(s, Score) else s
            for s in scored
        ]
