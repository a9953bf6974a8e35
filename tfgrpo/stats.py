"""Statistics of scores, as formulas on arrays.

Legend: P problems, K samples of one problem, R bootstrap resamples. A missing sample is NaN and is never counted as
wrong. Problems are the unit of every interval, because samples of one problem are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfgrpo.errors import InputError

Array: TypeAlias = NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000  # cells of one block of resampling weights: 32 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % interval over `n` problems."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def holds_zero(self) -> bool:
        return not (self.low > 0 or self.high < 0)

    def words(self, *, signed: bool = False) -> str:
        """Such as "+0.217 (95 % 0.120..0.310, n=60)"."""
        sign = "+" if signed else ""
        return f"{self.mean:{sign}.3f} (95 % {self.low:{sign}.3f}..{self.high:{sign}.3f}, n={self.n})"


def row_means(scores: Array) -> Array:
    """Mean of each problem over its samples [P, K] -> [P]; NaN where every sample is missing."""
    known = np.isfinite(scores)
    count = known.sum(axis=1)
    total = np.where(known, scores, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_at_k(scores: Array) -> float:
    """Mean over problems of the mean over samples; problems without any sample are left out."""
    rows = row_means(scores)
    return float(np.mean(rows[np.isfinite(rows)])) if np.isfinite(rows).any() else math.nan


def pass_at_k(success: Array, k: int) -> float:
    r"""The unbiased chance that one of `k` samples is right: `mean_p 1 - C(n-c, k) / C(n, k)` (arXiv 2107.03374).

    Problems with fewer than `k` known samples are left out; NaN when none is left.

    Example:
        >>> pass_at_k(np.array([[1.0, 0.0, 0.0, 0.0]]), 2)
        0.5
    """
    if k < 1:
        raise InputError(f"pass_at_k needs k >= 1, got {k}")
    known = np.isfinite(success)
    chances = [
        _pass_chance(int(n), int(c), k) for n, c in zip(known.sum(1), (known & (success > 0)).sum(1), strict=True)
    ]
    usable = [chance for chance in chances if not math.isnan(chance)]
    return sum(usable) / len(usable) if usable else math.nan


def _pass_chance(n: int, c: int, k: int) -> float:
    return math.nan if n < k else float(1.0 - math.comb(n - c, k) / math.comb(n, k))


def bootstrap_mean(rows: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean of [P] values with a percentile interval over resampled problems; NaN rows are left out.

    The interval is widened by sqrt(P / (P - 1)), because resampling P values shows only (P - 1) / P of their
    variance (Hesterberg 2014, arXiv 1411.5279).
    """
    known = rows[np.isfinite(rows)]
    size = len(known)
    if size == 0:
        return Estimate(mean=math.nan, low=math.nan, high=math.nan, n=0)
    mean = float(known.mean())
    if size == 1:
        return Estimate(mean=mean, low=-math.inf, high=math.inf, n=1)
    quantiles = np.quantile(_resampled_means(known, seed, resamples), [0.025, 0.975])
    low, high = (mean + (q - mean) * math.sqrt(size / (size - 1)) for q in quantiles)
    return Estimate(mean=mean, low=float(low), high=float(high), n=size)


def _resampled_means(values: Array, seed: int, resamples: int) -> Array:
    size = len(values)
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // size)
    blocks = [min(step, resamples - done) for done in range(0, resamples, step)]
    share = np.full(size, 1.0 / size)
    return np.concatenate([random.multinomial(size, share, size=block) @ values for block in blocks]) / size


def paired_difference(before: Array, after: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean gain [P, K] -> [P, K'] paired by problem; problems that miss all samples on one side are left out."""
    if len(before) != len(after):
        raise InputError(f"paired scores need the same problems: {len(before)} before, {len(after)} after")
    return bootstrap_mean(row_means(after) - row_means(before), seed=seed, resamples=resamples)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p value for `b` problems that got worse against `c` that got better.

    Under no effect the flips fall as fair coins: `p = min(1, 2 * P(X <= min(b, c)))`, X ~ Binomial(b + c, 1/2).

    Example:
        >>> mcnemar_exact(1, 7)
        0.0703125
    """
    flips, least = b + c, min(b, c)
    tail = sum(math.comb(flips, i) for i in range(least + 1))
    return min(1.0, 2 * tail / (1 << flips))


def sign_flip_p(differences: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p value of a mean difference [P] when each problem's sign is exchangeable; NaN rows are left out.

    Up to 2^12 sign patterns are counted exactly, more are sampled (then the p value is at least 1 / (R + 1)).
    """
    known = differences[np.isfinite(differences)]
    known = known[known != 0]
    size = len(known)
    if size == 0:
        return 1.0
    seen: float = abs(float(known.sum())) * (1 - 1e-12)
    if size <= 12:
        signs = 1 - 2 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1)
        return float(np.mean(np.abs(signs @ known) >= seen))
    random, step = np.random.default_rng(seed), max(1, _CHUNK_CELLS // size)
    blocks = [min(step, resamples - done) for done in range(0, resamples, step)]
    hits = sum(int((np.abs(_random_signs(random, block, size) @ known) >= seen).sum()) for block in blocks)
    return (hits + 1) / (resamples + 1)


def _random_signs(random: np.random.Generator, rows: int, size: int) -> Array:
    return (1 - 2 * random.integers(0, 2, size=(rows, size), dtype=np.int8)).astype(np.float64)


def wilson(successes: int, n: int, z: float = 1.959964) -> Estimate:
    """The Wilson score interval of a share; honest also at 0 and n successes.

    Example:
        >>> wilson(0, 10).words()
        '0.000 (95 % 0.000..0.278, n=10)'
    """
    if n == 0:
        return Estimate(mean=math.nan, low=math.nan, high=math.nan, n=0)
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Estimate(mean=share, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)


def is_binary(scores: Array) -> bool:
    """Whether every known score is 0 or 1."""
    known = scores[np.isfinite(scores)]
    return bool(np.all((known == 0) | (known == 1)))


def mean_interval(scores: Array, *, seed: int = 0) -> Estimate:
    """Mean@K with its interval: Wilson for one yes/no sample per problem or a constant row, else the bootstrap.

    The bootstrap's interval ends where no mean can lie: at 0 and 1, or at the scores that were seen beyond them.
    """
    rows = row_means(scores)
    known = rows[np.isfinite(rows)]
    if is_binary(known):
        return wilson(int(known.sum()), len(known))
    found, (worst, best) = bootstrap_mean(rows, seed=seed), score_range(scores)
    return replace(found, low=max(worst, found.low), high=min(best, found.high))


def missing_share(scores: Array) -> float:
    """Share of the P x K samples that are missing."""
    return float(np.mean(~np.isfinite(scores))) if scores.size else 0.0


def filled(scores: Array, value: float) -> Array:
    """The scores with every missing one taken for `value`."""
    return np.where(np.isfinite(scores), scores, value)


def mean_bounds(scores: Array, *, worst: float = 0.0, best: float = 1.0) -> tuple[float, float]:
    """Mean@K if every missing sample had been `worst`, and if every one had been `best`."""
    return mean_at_k(filled(scores, worst)), mean_at_k(filled(scores, best))


def gain_bounds(before: Array, after: Array, *, worst: float = 0.0, best: float = 1.0) -> tuple[float, float]:
    """The paired gain with the missing samples taken against it, and for it."""
    against = mean_at_k(filled(after, worst)) - mean_at_k(filled(before, best))
    in_favour = mean_at_k(filled(after, best)) - mean_at_k(filled(before, worst))
    return against, in_favour


def score_range(*scores: Array) -> tuple[float, float]:
    """The range missing scores may lie in: 0..1, widened to what was seen."""
    seen: Sequence[float] = [float(v) for s in scores for v in (np.nanmin(s, initial=0.0), np.nanmax(s, initial=1.0))]
    return min(0.0, *seen), max(1.0, *seen)
