"""How well predicted scores fit labels, as formulas on arrays, with intervals over whole families. Loads no torch.

Legend: N answers; y labels in 0..1, p predictions in 0..1, both [N]; an unknown label is NaN and in no figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from tfgrpo.stats import Array, Estimate

RESAMPLES = 1000
LEAST_USABLE = 0.5  # share of resamples in which a figure must exist for its interval to be given


def mae(y: Array, p: Array) -> float:
    """mean |p - y|; NaN without labels.

    Example:
        >>> round(mae(np.array([1.0, 0.5, np.nan, 1.0]), np.array([0.8, 0.5, 0.4, 0.9])), 3)
        0.1
    """
    known = np.isfinite(y)
    return float(np.abs(p[known] - y[known]).mean()) if known.any() else math.nan


def ranks(x: Array) -> Array:
    """1 .. N in the order of size, equal values at the mean of their places.

    Example:
        >>> ranks(np.array([0.2, 0.9, 0.2, 0.5])).tolist()
        [1.5, 4.0, 1.5, 3.0]
    """
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse].astype(float)


def spearman(y: Array, p: Array) -> float:
    """Pearson's correlation of the ranks; NaN for fewer than three labels, or when either side is constant.

    Example:
        >>> spearman(np.array([0.1, 0.4, 0.9]), np.array([0.2, 0.3, 0.4]))
        1.0
        >>> round(spearman(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.3, 0.9])), 4)
        0.4472
    """
    known = np.isfinite(y)
    a, b = ranks(y[known]), ranks(p[known])
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def auc(y: Array, p: Array, *, threshold: float = 0.5) -> float:
    """P(p_i > p_j) + P(p_i = p_j) / 2 for a random i with y_i >= threshold and j with y_j below; NaN without both.

    By the rank sum of Mann and Whitney (1947): `(R_1 - n_1 (n_1 + 1) / 2) / (n_1 n_0)`.

    Example:
        >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
        0.75
        >>> auc(np.array([0, 1]), np.array([0.5, 0.5]))
        0.5
    """
    known = np.isfinite(y)
    positive = y[known] >= threshold
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return math.nan
    return float((ranks(p[known])[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def by_families(
    figure: Callable[[Array, Array], float],
    y: Array,
    p: Array,
    families: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A figure with a 95 % interval over resampled families, because answers of one family are not independent.

    Widened by sqrt(F / (F - 1)) as in `tfgrpo.stats.bootstrap_mean`. The interval is unbounded for a single family, and
    where the figure does not exist in half of the resamples; `n` is the number of labels.

    Example:
        >>> y, p = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.9, 0.2, 0.8])
        >>> found = by_families(mae, y, p, ["a", "a", "b", "b"])
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3), found.n
        (0.15, 0.079, 0.221, 4)
    """
    mean, known = figure(y, p), int(np.isfinite(y).sum())
    names = list(dict.fromkeys(families))
    found = Estimate(mean=mean, low=-math.inf, high=math.inf, n=known)
    if len(names) < 2 or math.isnan(mean):
        return found
    place = {name: k for k, name in enumerate(names)}
    labels = np.array([place[family] for family in families])
    members = [np.flatnonzero(labels == k) for k in range(len(names))]
    draw = np.random.default_rng(seed)
    drawn = draw.integers(0, len(names), size=(resamples, len(names)))
    values = np.array([figure(y[rows], p[rows]) for rows in (np.concatenate([members[k] for k in d]) for d in drawn)])
    usable = values[np.isfinite(values)]
    if len(usable) < LEAST_USABLE * resamples:
        return found
    wider = math.sqrt(len(names) / (len(names) - 1))
    low, high = (mean + (q - mean) * wider for q in np.quantile(usable, [0.025, 0.975]))
    return replace(found, low=float(low), high=float(high))
