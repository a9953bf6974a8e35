"""The last check before a library ships: paired calls on gate problems that nothing was learned from.

Randomised inclusion judges entries one by one; this judges the library as a whole, as it will be served. Pairs are
taken a few at a time and the same betting test as for entries stops as soon as it is certain, so that a library with
a clear effect costs few calls.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfgrpo.caller import Solver
from tfgrpo.errors import BudgetExhausted
from tfgrpo.evaluation import evaluate_problems
from tfgrpo.evidence import Verdict, Wealth
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import Reward
from tfgrpo.stats import row_means
from tfgrpo.types import Problem, Prompt

PAIRS_AT_ONCE = 8
ALPHA = 0.05

Apply = Callable[[Problem], Prompt]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What the pairs said. `gain` is the mean difference with its 95 % interval, NaN without pairs."""

    pairs: int
    gain: float
    low: float
    high: float
    verdict: Verdict
    proven: bool = True  # while learning, something in the library was shown to help

    @property
    def passed(self) -> bool:
        """No shown harm, neither by verdict nor by interval: a loss inside the noise overrules no evidence.

        A library in which nothing was shown to help has none to overrule: it must not look worse at the gate.
        """
        return self.verdict != "harms" and not self.high < 0 and (self.proven or not self.gain < 0)

    def as_json(self) -> dict[str, Any]:
        numbers = {"gain": self.gain, "low": self.low, "high": self.high}
        known = {name: round(value, 4) for name, value in numbers.items() if math.isfinite(value)}
        return {"pairs": self.pairs, **known, "verdict": self.verdict, "passed": self.passed}

    def words(self) -> str:
        """Such as "helps: +0.500 (95 % +0.210..+0.790) over 24 pairs of gate problems"."""
        if not self.pairs:
            return "not checked: no gate problems or no calls left for them"
        span = f"{self.gain:+.3f} (95 % {self.low:+.3f}..{self.high:+.3f})"
        doubt = (
            "" if self.passed or self.verdict == "harms" or self.high < 0 else ", and nothing was shown to help before"
        )
        return f"{self.verdict}: {span} over {self.pairs} pairs of gate problems{doubt}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gatekeeper:
    """Asks each gate problem once without and once with what was learned, at most `max_pairs` of them."""

    caller: Solver
    reward: Reward
    sampling: Sampling
    max_pairs: int

    async def check(
        self, problems: Sequence[Problem], before: Apply, after: Apply, *, proven: bool = True
    ) -> GateResult:
        """Stops at a verdict, at the last pair, or when the budget is used up. `proven`: as in the result."""
        wealth, differences = Wealth(), list[float]()
        chosen = problems[: self.max_pairs]
        for start in range(0, len(chosen), PAIRS_AT_ONCE):
            batch = chosen[start : start + PAIRS_AT_ONCE]
            sides = await asyncio.gather(
                self._scores(batch, before, epoch=0), self._scores(batch, after, epoch=1), return_exceptions=True
            )
            scored = [side for side in sides if not isinstance(side, BudgetExhausted)]
            for side in scored:
                if isinstance(side, BaseException):
                    raise side
            if len(scored) < len(sides):
                break
            old, new = (side for side in scored if not isinstance(side, BaseException))
            for d in (new - old)[np.isfinite(new - old)]:
                wealth.bet(float(d))
                differences.append(float(d))
            if wealth.verdict(ALPHA) != "undecided":
                break
        return _result(differences, wealth.verdict(ALPHA), proven)

    async def _scores(self, problems: Sequence[Problem], apply: Apply, *, epoch: int) -> np.ndarray[Any, Any]:
        done = await evaluate_problems(
            problems, self.reward, self.caller, apply=apply, sampling=self.sampling, epoch=epoch, purpose="gate"
        )
        return np.clip(row_means(done.scores), 0.0, 1.0)


def _result(differences: Sequence[float], verdict: Verdict, proven: bool = True) -> GateResult:
    n = len(differences)
    if not n:
        return GateResult(pairs=0, gain=math.nan, low=math.nan, high=math.nan, verdict=verdict, proven=proven)
    gain = float(np.mean(differences))
    half = 1.96 * float(np.std(differences, ddof=1)) / math.sqrt(n) if n > 1 else 1.0
    low, high = max(-1.0, gain - half), min(1.0, gain + half)
    return GateResult(pairs=n, gain=gain, low=low, high=high, verdict=verdict, proven=proven)
