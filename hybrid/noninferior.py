"""Whether something can be left out: paired scores with it and without it, and a procedure that leaves out in batches.

Not worse by more than a margin is what has to be shown; that no difference was found shows nothing. Problems are the
unit, as everywhere.

Legend: P problems, K samples of one problem. A sample that is missing is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tfgrpo import stats
from tfgrpo.errors import InputError
from tfgrpo.stats import Array

Verdict: TypeAlias = Literal["non-inferior", "inferior", "undecided"]
Measure: TypeAlias = Callable[[Sequence[str]], Awaitable[Array]]
"""From the ids that are left out to the scores [P, K] without them."""

MARGIN = 0.01
CONFIDENCE = 0.95
UNSEEN = 1.5
"""Problems lost completely that are counted beside those seen; see `judged`."""
MOST_TESTS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What paired scores say of a removal: the change of the mean score, and one-sided limits of it."""

    verdict: Verdict
    change: float  # without minus with; NaN without pairs
    low: float  # with `confidence` the change is above it
    high: float  # with `confidence` the change is below it
    n: int  # problems with samples on both sides
    better: int  # problems with a higher mean without
    worse: int
    margin: float
    confidence: float

    def words(self) -> str:
        """Such as "non-inferior: -0.001, above -0.008 (one-sided 95 %, n=800, 3 better, 4 worse)"."""
        return (
            f"{self.verdict}: {self.change:+.4f}, above {self.low:+.4f} (one-sided {100 * self.confidence:g} %, margin "
            f"{self.margin:g}, n={self.n}, {self.better} better, {self.worse} worse)"
        )


def judged(with_it: ArrayLike, without: ArrayLike, *, margin: float = MARGIN, confidence: float = CONFIDENCE) -> Judged:
    r"""Whether scores without something are non-inferior to those with it: `mean d > -margin`, one-sided.

    `d_p` is the mean score of problem p without minus that with it, and the limit is Student's for paired differences

        low = m - t s / sqrt(n),      n = P + c,  m = (sum d - c) / n,  s^2 = (sum d^2 + c - n m^2) / (n - 1)

    with c = 1.5 problems more that are lost completely. Without these a limit of few and rare losses is far too good
    (no loss in 5 problems would be a proof, with s = 0): with them it covers the exact limit for rare losses, which is
    Poisson's (times P: 3.00 after no loss, 3.51 here; 7.75 after three, 7.99 here; 16.96 after ten, 17.08 here).
    For many problems they do not matter. *Inferior* is the same the other way round: `high < -margin`, with c problems
    won. What is neither is undecided. A test of non-inferiority by a one-sided confidence limit is that of ICH E9.

    Args:
        with_it: [P, K] scores in 0..1; [P] is taken as K = 1.
        without: [P, K'] of the same problems in the same order.
        margin: how much worse does not matter.
        confidence: of the one-sided limit.

    Example:
        Of 1000 problems 2 were lost and 2 won: n = 1001.5, m = -1.5 / n = -0.0015, s^2 = 5.5 / 1000.5 = 0.0741^2,
        low = -0.0015 - 1.646 x 0.0741 / 31.65.

        >>> with_it, without = np.ones(1000), np.ones(1000)
        >>> with_it[:2], without[2:4] = 0, 0
        >>> print(judged(with_it, without).words())
        non-inferior: +0.0000, above -0.0054 (one-sided 95 %, margin 0.01, n=1000, 2 better, 2 worse)
        >>> judged(np.ones(5), np.ones(5)).verdict, judged(np.ones(400), np.ones(400)).verdict
        ('undecided', 'non-inferior')
        >>> judged(np.ones(400), np.arange(400) % 10 > 0).verdict
        'inferior'

    Raises:
        InputError: other problems on the two sides, scores outside 0..1, a margin or confidence that is none.
    """
    _check_numbers(margin, confidence)
    before, after = (_scores(given) for given in (with_it, without))
    if len(before) != len(after):
        raise InputError(f"paired scores need the same problems: {len(before)} with it, {len(after)} without")
    d = stats.row_means(after) - stats.row_means(before)
    d = d[np.isfinite(d)]
    low, high = _limit(d, confidence), -_limit(-d, confidence)
    verdict: Verdict = "non-inferior" if low > -margin else "inferior" if high < -margin else "undecided"
    return Judged(
        verdict=verdict,
        change=float(d.mean()) if len(d) else math.nan,
        low=low,
        high=high,
        n=len(d),
        better=int((d > 0).sum()),
        worse=int((d < 0).sum()),
        margin=margin,
        confidence=confidence,
    )


def _limit(d: Array, confidence: float) -> float:
    """The lower limit of the mean of differences in -1..1."""
    n = len(d) + UNSEEN
    if n < 3:
        return -1.0
    mean = (float(d.sum()) - UNSEEN) / n
    spread = (float((d * d).sum()) + UNSEEN - n * mean * mean) / (n - 1)
    return max(-1.0, mean - t_quantile(confidence, n - 1) * math.sqrt(max(0.0, spread) / n))


def t_quantile(confidence: float, freedom: float) -> float:
    """Student's quantile by the expansion of Abramowitz and Stegun 26.7.5, to 1 % from 3 degrees of freedom on.

    Example:
        >>> [round(t_quantile(0.95, n), 3) for n in (10, 30, 1000)]             # tables: 1.812, 1.697, 1.646
        [1.812, 1.697, 1.646]
    """
    z = NormalDist().inv_cdf(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def least_problems(margin: float = MARGIN, confidence: float = CONFIDENCE) -> int:
    """How many problems it takes at least: as many as show it where not one score changes.

    Example:
        >>> least_problems(), least_problems(0.05)
        (351, 70)
    """
    _check_numbers(margin, confidence)
    count = 1
    while _limit(np.zeros(count), confidence) <= -margin:
        count = max(count + 1, count * 101 // 100) if count > 10_000 else count + 1
    return count


def _scores(given: ArrayLike) -> Array:
    scores = np.asarray(given, dtype=np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    known = scores[np.isfinite(scores)]
    if scores.ndim != 2 or (len(known) and not (known.min() >= 0 and known.max() <= 1)):
        raise InputError(f"scores must be [P, K] in 0..1 (NaN is missing), got the shape {scores.shape}")
    return scores


def _check_numbers(margin: float, confidence: float) -> None:
    if not (0 < margin < 1 and 0.5 < confidence < 1):
        raise InputError(f"margin must lie in 0..1 and confidence in 0.5..1, got {margin!r} and {confidence!r}")


# -- in batches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """One test: everything that was left out in it, of which `batch` was new."""

    batch: tuple[str, ...]
    out: tuple[str, ...]
    judged: Judged


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What can go, and every test on the way there."""

    retired: tuple[str, ...]
    tests: tuple[Tested, ...]
    why: str = ""  # nothing or not everything was tested


async def removable(
    ids: Sequence[str],
    measure: Measure,
    *,
    margin: float = MARGIN,
    confidence: float = CONFIDENCE,
    most: int = MOST_TESTS,
    on_test: Callable[[Tested], None] | None = None,
) -> Removal:
    """Leaves out all of `ids` at once, then the halves of what could not go, each beside what went before.

    Every test compares with the whole library, so that small losses of several batches cannot add up unseen: what is
    retired in the end was, as a whole, shown to be non-inferior. Each test has the given confidence for itself; what
    is left in the end should be measured once more on problems that decided nothing. An undecided batch stays.

    Args:
        ids: in the order of the library.
        measure: scores without some of them; asked first without none.
        margin, confidence: as in `judged`.
        most: tests at most.
        on_test: told of every test.
    """
    whole = _scores(await measure(()))
    needed = least_problems(margin, confidence)
    paired = int(np.isfinite(stats.row_means(whole)).sum())
    if paired < needed:
        return Removal(retired=(), tests=(), why=too_few(paired, needed, margin, confidence))
    retired: tuple[str, ...] = ()
    tests: list[Tested] = []
    waiting = [tuple(ids)] if ids else []
    while waiting and len(tests) < most:
        batch = waiting.pop(0)
        out = tuple(name for name in ids if name in {*retired, *batch})
        test = Tested(
            batch=batch, out=out, judged=judged(whole, await measure(out), margin=margin, confidence=confidence)
        )
        tests.append(test)
        if on_test is not None:
            on_test(test)
        if test.judged.verdict == "non-inferior":
            retired = out
        elif len(batch) > 1:
            half = (len(batch) + 1) // 2
            waiting += [batch[:half], batch[half:]]
    left = sum(map(len, waiting))
    return Removal(retired=retired, tests=tuple(tests), why=f"{left} not tested after {most} tests" if left else "")


def too_few(problems: int, needed: int, margin: float, confidence: float) -> str:
    """Why so few problems cannot decide."""
    return (
        f"{problems} gate problems are too few: within {margin:g} at {100 * confidence:g} % nothing can be shown with "
        f"less than {needed}, not even where no score changes; give more problems, or a wider margin"
    )
