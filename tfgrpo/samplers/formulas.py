"""The numeric parts of the samplers, on arrays.

Legend: P problems, B bins of problems of similar difficulty, K arms (numbers of rollouts to choose from).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tfgrpo.errors import InputError
from tfgrpo.samplers.base import Labels, Values

RESOLUTION = 1000
"""Shares of bins are rounded to this part of the whole when rollouts are allocated."""
ROUNDING = 1e-9
"""What floating point may lack of a whole number: 1000 * 0.7 ** 2 is 490."""


def vps(
    variance: ArrayLike, diversity: ArrayLike, *, variance_weight: float = 0.8, diversity_weight: float = 0.2
) -> Values:
    """How promising each problem is: `alpha * variance of its rewards + beta * diversity of its answers`. [P]

    For rewards of 0 and 1 the variance is p (1 - p). `diversity` lies in 0..1, 1 for answers that share nothing.
    Source: MMR1, arXiv 2509.21268.

    Example:
        >>> vps([0.0, 0.25, 0.1875, 0.0], [0.1, 0.6, 0.4, 0.9]).round(2).tolist()
        [0.02, 0.32, 0.23, 0.18]
    """
    return variance_weight * np.asarray(variance, np.float64) + diversity_weight * np.asarray(diversity, np.float64)


def shares_of(weights: ArrayLike) -> Values:
    """Weights as probabilities; all 0 gives equal ones. [P]

    Example:
        >>> shares_of([0.0, 1.0, 3.0]).tolist(), shares_of([0.0, 0.0]).tolist()
        ([0.0, 0.25, 0.75], [0.5, 0.5])

    Raises:
        InputError: a weight that is negative or no number.
    """
    given = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(given)) or np.any(given < 0):
        raise InputError(f"weights are numbers of at least 0, got {given.tolist()}")
    total = given.sum()
    return given / total if total > 0 else np.full(len(given), 1.0 / len(given))


def bins_of(
    rates: ArrayLike, edges: Sequence[float], *, before: ArrayLike | None = None, margin: float = 0.0
) -> Labels:
    """The bin of each pass rate: 0 below the first edge. [P]

    A rate that is NaN (never asked) goes to the middle bin. `before` holds each problem's last bin, -1 for none: it is
    left only when the rate lies more than `margin` beyond the edge, so that noise moves nobody to and fro.

    Example:
        >>> bins_of([0.1, 0.5, 0.9, float("nan")], [0.4, 0.75]).tolist()
        [0, 1, 2, 1]
        >>> bins_of([0.42], [0.4, 0.75], before=[0], margin=0.05).tolist()
        [0]
    """
    given, cuts = np.asarray(rates, np.float64), np.asarray(edges, np.float64)
    fresh = np.where(np.isnan(given), (len(cuts) + 1) // 2, np.searchsorted(cuts, given, side="right")).astype(np.int64)
    if before is None:
        return fresh
    old = np.asarray(before, np.int64)
    bounds = np.concatenate([[-np.inf], cuts, [np.inf]])
    inside = (given >= bounds[np.maximum(old, 0)] - margin) & (given < bounds[np.maximum(old, 0) + 1] + margin)
    return np.where((old >= 0) & (inside | np.isnan(given)), old, fresh)


def gdro_scores(scores: ArrayLike, losses: ArrayLike, *, ema: float = 0.1, shares: ArrayLike | None = None) -> Values:
    """The running loss of each bin, `S <- (1 - ema) S + ema loss`; a bin without a loss (NaN) keeps its own. [B]

    `shares` (of the step's groups in each bin) divide the losses, so that a rare bin is not forgotten.
    Source: Prompt-GDRO, arXiv 2601.19280.

    Example:
        >>> gdro_scores([0.0, 0.0, 0.0], [0.2, 1.0, float("nan")]).tolist()
        [0.020000000000000004, 0.1, 0.0]
    """
    old, new = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if shares is not None:
        part = np.asarray(shares, np.float64)
        new = np.where(part > 0, new / np.where(part > 0, part, 1.0), np.nan)
    moved: Values = (1 - ema) * old + ema * np.nan_to_num(new)
    return np.where(np.isnan(new), old, moved)


def gdro_weights(
    scores: ArrayLike, *, eta: float = 0.1, clip: float = 5.0, cap: float = 10.0, normalize: bool = False
) -> Values:
    """How much a bin counts: `min(exp(eta clip(S)), cap)`, the mean brought to 1 before the cap with `normalize`. [B]

    The paper states the plain form, the released code normalises; equal scores give equal weights in both.
    Source: Prompt-GDRO, arXiv 2601.19280.

    Example:
        >>> gdro_weights([0.02, 0.1, 0.05], eta=0.65).round(6).tolist()
        [1.013085, 1.067159, 1.033034]
        >>> gdro_weights([0.3, 0.3], normalize=True).tolist()
        [1.0, 1.0]
    """
    weights: Values = np.exp(eta * np.clip(np.asarray(scores, np.float64), -clip, clip))
    mean = float(weights.mean()) if normalize else 1.0
    capped: Values = np.minimum(weights / mean, cap)
    return capped


def gdro_probabilities(scores: ArrayLike, *, eta: float = 0.1, gamma: float = 0.15, clip: float = 5.0) -> Values:
    """The chance of each bin, `(1 - gamma) softmax(eta clip(S)) + gamma / B`: EXP3's mixture. [B]

    Example:
        >>> gdro_probabilities([0.02, 0.1, 0.05], eta=0.65, gamma=0.1).round(4).tolist()
        [0.3262, 0.3418, 0.332]
    """
    weights = gdro_weights(scores, eta=eta, clip=clip, cap=np.inf)
    softmax: Values = weights / weights.sum()
    return (1 - gamma) * softmax + gamma / len(weights)


def square_root_law(deviation: ArrayLike, shares: ArrayLike, mean: float) -> Values:
    """Rollouts of each bin in proportion to its rewards' deviation, `sum_b share_b n_b = mean`. [B]

    That allocation has the least variance for its cost; without any deviation all get the mean.
    Source: Rollout-GDRO, arXiv 2601.19280.

    Example:
        >>> square_root_law([0.1, 0.3, 0.6], [0.5, 0.3, 0.2], 4).round(4).tolist()
        [1.5385, 4.6154, 9.2308]
    """
    spread, part = np.asarray(deviation, np.float64), shares_of(shares)
    each = float(part @ spread)
    return spread * mean / each if each > 0 else np.full(len(spread), float(mean))


def allocate(log_p: ArrayLike, arms: Sequence[int], shares: ArrayLike, mean: float, *, slack: float = 0.0) -> Labels:
    """The arm of each bin that is likeliest together and costs the mean: `max sum_b log p_b(n_b)`. [B]

    Solved by dynamic programming over the rollouts spent. `sum_b share_b n_b` may differ from the mean by `slack`;
    where nothing does that, the nearest possible cost is taken, the cheaper one of two.

    Args:
        log_p: log-probability, or any score, of each arm in each bin. [B, K]
        arms: numbers of rollouts. [K]
        shares: how much of what is asked falls into each bin, as counts or shares. [B]

    Source: Rollout-GDRO, arXiv 2601.19280.

    Example:
        >>> log_p = np.log([[0.2, 0.5, 0.3], [0.2, 0.3, 0.5]])
        >>> allocate(log_p, [2, 4, 6], [1, 1], 4).tolist()
        [1, 1]
    """
    table, counts = np.asarray(log_p, np.float64), np.asarray(arms, np.int64)
    if table.ndim != 2 or table.shape[1] != len(counts) or np.any(counts < 1):
        raise InputError(f"allocate needs a score for each of the arms, numbers >= 1; got {table.shape} and {arms}")
    units = np.rint(shares_of(shares) * RESOLUTION).astype(np.int64)
    best = np.full(int(units.sum()) * int(counts.max()) + 1, -np.inf)  # by rollouts spent so far, in units
    best[0] = 0.0
    choices = []
    for row, unit in zip(table, units, strict=True):
        options = np.stack([_later(best, unit * n) + score for n, score in zip(counts, row, strict=True)])
        choices.append(options.argmax(axis=0))
        best = options.max(axis=0)
    spent = _affordable(best, mean * float(units.sum()), slack * float(units.sum()))
    chosen = np.zeros(len(table), dtype=np.int64)
    for b in reversed(range(len(table))):
        chosen[b] = choices[b][spent]
        spent -= int(units[b] * counts[chosen[b]])
    return chosen


def _later(values: Values, by: int) -> Values:
    """The values moved up by that many places; nothing comes in."""
    moved = np.full_like(values, -np.inf)
    moved[by:] = values[: len(values) - by]
    return moved


def _affordable(best: Values, budget: float, slack: float) -> int:
    """The best cost within the slack of the budget, or the nearest one there is."""
    possible = np.flatnonzero(np.isfinite(best))
    off = np.abs(possible - budget)
    near = possible[off <= max(slack, off.min()) + 1e-9]
    return int(near[np.argmax(best[near])]) if slack > 0 else int(near[0])


def arm_losses(objective: ArrayLike, rollouts: ArrayLike, price: float) -> Values:
    """What a bin's arm costs less what it brought, `-J_b + price n_b`. [B]

    Source: Rollout-GDRO, arXiv 2601.19280.

    Example:
        >>> arm_losses([-0.7, -0.4], [4, 6], 0.05).round(6).tolist()
        [0.9, 0.7]
    """
    return -np.asarray(objective, np.float64) + price * np.asarray(rollouts, np.float64)


def next_price(price: float, spent: float, mean: float, *, step: float = 0.05) -> float:
    """The price of a rollout rises while more than the mean is spent, and never falls below 0.

    Source: Rollout-GDRO, arXiv 2601.19280.

    Example:
        >>> round(next_price(0.05, 5, 4), 6)
        0.1
    """
    return max(0.0, price + step * (spent - mean))


def length_budget(step: int, *, start: int = 256, decay: float = 0.7, every: int = 150) -> int:
    """The tokens an answer should have at a step: `max(1, floor(start * decay ** floor(step / every)))`.

    Tell the model the number in its prompt and reward answers by `rewards.length`'s triangle or band around it. At
    evaluation the number is left out or kept fixed.
    Source: Train Long, Think Short, arXiv 2508.08940.

    Example:
        >>> [length_budget(t) for t in (0, 149, 150, 300, 450)]
        [256, 256, 179, 125, 87]

    Raises:
        InputError: a start below 1, a decay outside (0, 1] or steps below 1.
    """
    if start < 1 or not 0 < decay <= 1 or every < 1 or step < 0:
        raise InputError(
            f"a length budget needs start >= 1, 0 < decay <= 1, every >= 1 and step >= 0; "
            f"got start={start}, decay={decay}, every={every}, step={step}"
        )
    return max(1, math.floor(start * decay ** (step // every) + ROUNDING))
