"""Votes, and when they are over, as functions of counts.

Legend: N answers to one question; a reading is what an answer says (None: nothing that could be compared, which votes
for nobody); m answers of which only the first are looked at.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

ORDERS = 360
"""Orders of m of N answers that are looked at: all of them where there are no more, else so many random ones."""


@dataclass(frozen=True, slots=True)
class Count:
    """The answer that leads, by its place; votes for it and for the next one."""

    place: int
    first: int
    second: int


def majority(readings: Sequence[str | None]) -> Count:
    """The first answer with the reading that most answers have; of equally many, the reading that came first.

    `argmax_a sum_i 1[a_i = a]` (self-consistency, arXiv 2203.11171). Where no answer can be read, the first one.

    Example:
        >>> majority(["7", "5", None, "5"])
        Count(place=1, first=2, second=1)
    """
    votes: dict[str, list[int]] = {}
    for place, reading in enumerate(readings):
        if reading is not None:
            votes.setdefault(reading, []).append(place)
    if not votes:
        return Count(0, 0, 0)
    ranked = sorted(votes.values(), key=lambda places: -len(places))  # stable: earlier readings stay ahead
    return Count(ranked[0][0], len(ranked[0]), len(ranked[1]) if len(ranked) > 1 else 0)


@functools.cache
def beta_confidence(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1): how sure it is that the leader stays ahead of the next answer.

    The stopping rule of Adaptive-Consistency (arXiv 2305.11860; paper and official code), which integrates
    `int_1/2^1 x^v1 (1 - x)^v2 dx / int_0^1 ...` numerically. For whole counts that is a binomial sum, which is exact:
    `sum_{i <= v1} C(v1 + v2 + 1, i) / 2^(v1 + v2 + 1)`. At 0.95 four equal answers are enough and three are not.

    Args:
        first: v1, votes for the leader.
        second: v2, votes for the next one.

    Example:
        >>> [beta_confidence(*votes) for votes in ((3, 0), (4, 0), (5, 1), (2, 2))]
        [0.9375, 0.96875, 0.9375, 0.5]
    """
    flips = first + second + 1
    return sum(math.comb(flips, i) for i in range(first + 1)) / (1 << flips)


def urgency(count: Count, asked: int) -> float:
    """What one more answer is worth: `(1 - beta_confidence(v1, v2)) / asked`, the doubt that is left per answer so far.

    Ours. Doubt alone would spend everything on questions to which no two answers agree.

    Example:
        >>> urgency(Count(0, 2, 2), 4) > urgency(Count(0, 1, 1), 8) > urgency(Count(0, 3, 0), 3)
        True
    """
    return (1.0 - beta_confidence(count.first, count.second)) / max(asked, 1)


def cannot_be_overtaken(first: int, second: int, left: int) -> bool:
    """Whether the leader wins whatever the answers that are `left` say: `v1 > v2 + left`.

    Example:
        >>> cannot_be_overtaken(3, 0, 2), cannot_be_overtaken(3, 1, 2)
        (True, False)
    """
    return first > second + left


def decided_after(readings: Sequence[str | None], confidence: float) -> int:
    """How many of these answers, in their order, an adaptive vote asks for until it is sure enough.

    Example:
        >>> decided_after(["5", "7", "5", "5", "5", "5", "5", "5"], 0.95), decided_after(["5", "7"], 0.95)
        (7, 2)
    """
    votes: dict[str, int] = {}
    for place, reading in enumerate(readings):
        if reading is not None:
            votes[reading] = votes.get(reading, 0) + 1
        first, second = (*sorted(votes.values(), reverse=True)[:2], 0, 0)[:2]
        if beta_confidence(first, second) >= confidence:
            return place + 1
    return len(readings)


def best_place(scores: Sequence[float]) -> int:
    """`argmax_i s_i`, the first of equals; a score that is NaN is missing and never the best while another is known.

    Example:
        >>> best_place([math.nan, 0.25, 0.75, 0.75])
        2
    """
    return max(range(len(scores)), key=lambda i: (-math.inf if math.isnan(scores[i]) else scores[i], -i))


def orders(n: int, m: int, *, seed: int = 0) -> list[tuple[int, ...]]:
    """Ordered choices of m of n places: all of them, or `ORDERS` random ones where there are more.

    The mean of a rule's value over them estimates what m answers would have reached, without bias: n answers that were
    drawn alike are m of them in any order (a U-statistic; pass@k of arXiv 2107.03374 is the one of "any is right").

    Example:
        >>> orders(3, 2)
        [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    """
    if math.perm(n, m) <= ORDERS:
        return list(itertools.permutations(range(n), m))
    draws = random.Random(f"{seed}/{n}/{m}")
    return [tuple(draws.sample(range(n), m)) for _ in range(ORDERS)]


def sizes(n: int) -> list[int]:
    """1, 2, 4, ... and `n` itself: where a curve is looked at.

    Example:
        >>> sizes(6), sizes(1)
        ([1, 2, 4, 6], [1])
    """
    return [*(1 << power for power in range((n - 1).bit_length())), n] if n > 1 else [1]
