"""Statistics of sets of rows, on arrays: the only place that knows how rows of one set find each other.

Legend: N rows, S sets, W rows in each set where all sets are equal in size. `used` [N] marks the rows that count in a
statistic and None means all of them. A statistic of no rows is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

MOST_FILLED = 4
"""Sets of unequal size are filled up to a matrix of at most so many times the rows, else they are sorted as a list."""
ZERO_DEVIATION = 1e-9
"""A deviation below this share of the set's root mean square is rounding noise and counts as none."""


@dataclass(frozen=True, eq=False)
class Sets:
    """Which rows belong together: `labels` [N] holds the set of every row, 0 <= label < S; a set may be empty.

    Sets of equal size whose rows stand next to each other are seen as a matrix [S, W], which is several times faster.

    Example:
        >>> Sets(np.array([0, 0, 1, 1])).width
        2
    """

    labels: Labels

    @staticmethod
    def of(labels: ArrayLike) -> Sets:
        """Sets from labels that may be any integers.

        Example:
            >>> Sets.of([-7, 900, -7]).labels.tolist()
            [0, 1, 0]
        """
        numbers = np.asarray(labels, dtype=np.int64)
        sets = Sets(numbers)
        if sets.width or not len(numbers) or (numbers.min() >= 0 and numbers.max() < 2 * len(numbers)):
            return sets
        return Sets(np.unique(numbers, return_inverse=True)[1].reshape(-1).astype(np.int64))

    @cached_property
    def size(self) -> int:
        """S"""
        if self.width:
            return len(self.labels) // self.width
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    @cached_property
    def width(self) -> int:
        """W where the rows are a matrix [S, W], else 0."""
        rows = len(self.labels)
        size = int(self.labels[-1]) + 1 if rows and self.labels[0] == 0 else 0
        if size <= 0 or rows % size:
            return 0
        grid = self.labels.reshape(size, rows // size)
        return rows // size if (grid == np.arange(size)[:, None]).all() else 0

    @cached_property
    def counts(self) -> Values:
        """Rows in each set [S]."""
        if self.width:
            return np.full(self.size, float(self.width))
        return np.bincount(self.labels, minlength=self.size).astype(np.float64)

    @cached_property
    def starts(self) -> Labels:
        """Where each set begins [S] once the rows are sorted by set."""
        return (np.cumsum(self.counts) - self.counts).astype(np.int64)

    def sum(self, values: Values) -> Values:
        """The sum of each set [S]."""
        if self.width:
            return np.asarray(np.einsum("sw->s", values.reshape(self.size, self.width)))
        return np.bincount(self.labels, weights=values, minlength=self.size).astype(np.float64)

    def spread(self, per_set: NDArray[T]) -> NDArray[T]:
        """The number of its set for every row: [S] -> [N]."""
        return np.repeat(per_set, self.width) if self.width else per_set[self.labels]

    def minus(self, values: Values, per_set: Values) -> Values:
        """`values - spread(per_set)` [N]."""
        if self.width:
            return np.subtract(values.reshape(self.size, self.width), per_set[:, None]).reshape(-1)
        return np.subtract(values, per_set[self.labels])

    def times(self, values: Values, per_set: Values, *, into: Values | None = None) -> Values:
        """`values * spread(per_set)` [N], written over `into` where the caller owns it."""
        out = np.empty(len(values)) if into is None else into
        if self.width:
            matrix = (self.size, self.width)
            np.multiply(values.reshape(matrix), per_set[:, None], out=out.reshape(matrix))
            return out
        return np.multiply(values, per_set[self.labels], out=out)

    @cached_property
    def order(self) -> Labels:
        """Row numbers [N], set by set."""
        return np.argsort(self.labels, kind="stable")

    def grid(self, values: Values) -> Values | None:
        """The values as a matrix of sets, filled up with infinity; None where a few large sets would waste memory."""
        if self.width:
            return values.reshape(self.size, self.width)
        widest = int(self.counts.max(initial=0))
        if self.size * widest > MOST_FILLED * len(values):
            return None
        place = np.arange(len(values)) - np.repeat(self.starts, self.counts.astype(np.int64))
        filled = np.full((self.size, widest), np.inf)
        filled[self.labels[self.order], place] = values[self.order]
        return filled

    def sorted(self, values: Values) -> Labels:
        """Row numbers [N], set by set and from the smallest value to the largest; equal values keep their order."""
        grid = self.grid(values)
        if grid is None:
            return np.lexsort((values, self.labels))
        place = np.argsort(grid, axis=1, kind="stable")
        rows: Labels = self.order[(place + self.starts[:, None])[place < self.counts[:, None]]]
        return rows


def ratio(above: Values, below: Values) -> Values:
    """`above / below`, NaN where `below` is 0."""
    quotient: Values = np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)
    return quotient


def count(sets: Sets, used: Flags | None = None) -> Values:
    """How many used rows each set has [S]."""
    return sets.counts if used is None else sets.sum(used.astype(np.float64))


def total(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The sum over the used rows of each set [S]."""
    return sets.sum(values if used is None else np.where(used, values, 0.0))


def squares(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The sum of squares over the used rows of each set [S]."""
    if sets.width and used is None:
        grid = values.reshape(sets.size, sets.width)
        return np.asarray(np.einsum("sw,sw->s", grid, grid))
    return total(values * values, sets, used)


def mean(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The mean over the used rows of each set [S].

    Example:
        >>> mean(np.array([1.0, 0.0, 5.0]), Sets(np.array([0, 0, 1]))).tolist()
        [0.5, 5.0]
    """
    return ratio(total(values, sets, used), count(sets, used))


def deviation(values: Values, sets: Sets, used: Flags | None = None, *, ddof: int = 1) -> Values:
    """The standard deviation of each set [S]; exactly 0 where it is rounding noise or there are no more than ddof rows.

    Example:
        >>> deviation(np.array([1.0, 0.0]), Sets(np.array([0, 0])), ddof=0).tolist()
        [0.5]
    """
    middle = mean(values, sets, used)
    return root(squares(sets.minus(values, middle), sets, used), middle, count(sets, used), ddof)


def root(square: Values, middle: Values, rows: Values, ddof: int) -> Values:
    """`sqrt(square / (rows - ddof))` [S], from the squares about the mean `middle`; exactly 0 as in `deviation`."""
    noise = ZERO_DEVIATION**2 * (middle * middle + square / np.maximum(rows, 1.0))
    variance = square / np.maximum(rows - ddof, 1.0)
    return np.sqrt(np.where((rows > ddof) & (variance > noise), variance, 0.0))


def maximum(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The largest used value of each set [S]."""
    known = values if used is None else np.where(used, values, -np.inf)
    if sets.width:
        largest = known.reshape(sets.size, sets.width).max(axis=1)
    else:
        largest = np.full(sets.size, -np.inf)
        np.maximum.at(largest, sets.labels, known)
    return np.where(np.isneginf(largest), np.nan, largest)


def minimum(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The smallest used value of each set [S]."""
    return -maximum(-values, sets, used)


def lower_median(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The middle value of each set [S], the lower of the two middle ones where the number of rows is even.

    Example:
        >>> lower_median(np.array([0.9, 0.2, 0.6, 0.4]), Sets(np.array([0, 0, 0, 0]))).tolist()
        [0.4]
    """
    known = values if used is None else np.where(used, values, np.inf)
    rows = count(sets, used).astype(np.int64)
    place, grid = np.maximum(rows - 1, 0) // 2, sets.grid(known)
    if sets.width and used is None and grid is not None:
        return np.asarray(np.partition(grid, (sets.width - 1) // 2, axis=1)[:, (sets.width - 1) // 2])
    middle = np.full(sets.size, np.nan)
    some = np.flatnonzero(rows)
    if grid is None:
        middle[some] = known[sets.sorted(known)[(sets.starts + place)[some]]]
    else:
        middle[some] = np.sort(grid, axis=1)[some, place[some]]
    return middle


def rank(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """The place of every used row in its set [N], 0 = smallest, equal values in the order of the rows; else NaN.

    Example:
        >>> rank(np.array([0.9, 0.2, 0.6]), Sets(np.array([0, 0, 0]))).tolist()
        [2.0, 0.0, 1.0]
    """
    known = values if used is None else np.where(used, values, np.inf)
    places = np.empty(len(values))
    places[sets.sorted(known)] = np.arange(len(values)) - np.repeat(sets.starts, sets.counts.astype(np.int64))
    return places if used is None else np.where(used, places, np.nan)


def first(flags: Flags, sets: Sets) -> Flags:
    """The first flagged row of each set [N]."""
    hits = np.flatnonzero(flags)
    row = np.full(sets.size, -1)
    row[sets.labels[hits[::-1]]] = hits[::-1]  # of several writes to one place the last stays: the first row
    out = np.zeros(len(flags), dtype=np.bool_)
    out[row[row >= 0]] = True
    return out


def every(flags: Flags, sets: Sets, used: Flags | None = None) -> Flags:
    """Whether all used rows of a set are flagged [S]; True of a set without rows."""
    missed = ~flags if used is None else ~flags & used
    return np.asarray(sets.sum(missed.astype(np.float64)) == 0)


def log_mean_exp(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """`log(mean(exp(v)))` of each set [S], without overflow."""
    largest = maximum(values, sets, used)
    return largest + np.log(mean(_exp_below(values, sets.spread(largest), used), sets, used))


def softmax(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    """`exp(v) / sum(exp(v))` over the used rows of each set [N]; NaN for the others."""
    weight = _exp_below(values, sets.spread(maximum(values, sets, used)), used)
    share = ratio(weight, sets.spread(total(weight, sets, used)))
    return share if used is None else np.where(used, share, np.nan)


def _exp_below(values: Values, largest: Values, used: Flags | None) -> Values:
    """`exp(v - largest)`; 1 for unused rows, which might overflow."""
    return np.exp(values - largest if used is None else np.where(used, values - largest, 0.0))


def normal_scores(values: Values, sets: Sets, used: Flags | None = None) -> Values:
    r"""Every used value's normal quantile by its rank [N], `Phi^-1((rank + 1/2) / rows)`; equal values share theirs.

    Example:
        >>> normal_scores(np.array([0.1, 10.0]), Sets(np.array([0, 0]))).round(3).tolist()
        [-0.674, 0.674]
    """
    places = rank(values, sets, used)
    known = np.isfinite(places)
    rows = sets.spread(count(sets, used))[known].astype(np.int64)
    scores = np.full(len(values), np.nan)
    scores[known] = _by_size(places[known].astype(np.int64), rows, _quantiles)
    return _shared(scores, values, sets, known)


def _by_size(places: Labels, rows: Labels, table: Callable[[int], Values]) -> Values:
    """`table(size)[place]` of every row: one table for each size that occurs."""
    sizes, which = np.unique(rows, return_inverse=True)
    tables = [table(int(size)) for size in sizes]
    begins = np.cumsum([0, *(len(t) for t in tables[:-1])])
    return np.concatenate([*tables, np.empty(0)])[begins[which.reshape(-1)] + places] if tables else np.empty(0)


@lru_cache(maxsize=64)
def _quantiles(rows: int) -> Values:
    """The normal quantiles of `rows` equal parts, symmetric to the last digit."""
    upper = np.array([NormalDist().inv_cdf((rows - place - 0.5) / rows) for place in range(rows // 2)])
    return np.concatenate([-upper, np.zeros(rows % 2), upper[::-1]])


def _shared(scores: Values, values: Values, sets: Sets, known: Flags) -> Values:
    """Scores averaged over values of one set that are equal but for rounding."""
    order = sets.sorted(np.where(known, values, np.inf))
    ordered, labels = np.where(known, values, 0.0)[order], sets.labels[order]
    noise = ZERO_DEVIATION * np.sqrt(mean(values * values, sets, known))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (labels[1:] != labels[:-1]) | ~(np.diff(ordered) <= noise[labels[1:]])
    ties = np.empty(len(order), dtype=np.int64)
    ties[order] = np.cumsum(new) - 1
    tied = Sets(ties)
    return np.where(known, tied.spread(mean(scores, tied, known)), np.nan)
