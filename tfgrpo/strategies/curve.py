"""Score against cost: what fewer answers would have reached, told from the answers that are paid already.

Legend: P problems, N answers to one, m of them that are used.

Where a strategy asks for the same number of answers whatever they say, every order of them was as likely, and a point
at m is the mean of its rule over orders of m of N answers: unbiased, and the plain answer is the point at m = 1. Where
it looks at the answers before it asks on, only their real order says what it would have done with m: the answers after
the first m are cut off. A tournament at m would need matches that nobody played; it has its two ends only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfgrpo import stats
from tfgrpo.measurement import Point
from tfgrpo.report import Measured
from tfgrpo.strategies.base import Bill, Chosen, Replayable, Strategy
from tfgrpo.strategies.formulas import decided_after, majority, orders, sizes

Pick = Callable[[Sequence[str | None], Sequence[float]], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One problem: what the strategy did, and the score of each answer to the question, NaN where there is none."""

    chosen: Chosen
    scores: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Value:
    """Of one problem at one m: score, calls, tokens, dollars."""

    score: float
    calls: float
    tokens: float
    usd: float


def curve(strategy: Strategy, rows: Sequence[Scored], *, seed: int = 0) -> list[Point]:
    """The points of a strategy at 1, 2, 4, ... answers, up to all.

    Args:
        strategy: whose rule is replayed.
        rows: [P] problems that have an answer.
        seed: for intervals, and for the orders where there are too many to look at all.
    """
    if not rows:
        return []
    most = max(len(row.chosen.path) for row in rows)
    name, pick = strategy.name, strategy.pick if isinstance(strategy, Replayable) else None
    if not most:
        ends = [[_first(row) for row in rows], [_whole(row) for row in rows]]
        return [_point(name, n, values, seed) for n, values in zip((1, strategy.max_calls), ends, strict=True)]
    if pick is None:
        return [_point(name, m, [_cut(row, m) for row in rows], seed) for m in sizes(most)]
    return [_point(name, m, [_replayed(row, m, pick, seed) for row in rows], seed) for m in sizes(most)]


def early_stop(rows: Sequence[Scored], *, confidence: float = 0.95, seed: int = 0) -> list[Point]:
    """What `adaptive` would have made of the answers of a vote: its points at 4, 8, ... answers at most.

    Example:
        >>> early_stop([])
        []
    """
    if not rows:
        return []
    wanted = [m for m in sizes(max(len(row.chosen.path) for row in rows)) if m >= 4]
    name = f"adaptive(confidence={confidence:g})"
    return [_point(name, m, [_stopped(row, m, confidence, seed) for row in rows], seed) for m in wanted]


def _replayed(row: Scored, m: int, pick: Pick, seed: int) -> _Value:
    chosen = row.chosen
    numbers = sorted(chosen.answers)
    readings = [chosen.readings.get(number) for number in numbers]
    known = [chosen.scores.get(number, math.nan) for number in numbers]
    size = min(m, len(numbers))
    drawn = orders(len(numbers), size, seed=seed)
    winners = [order[pick([readings[i] for i in order], [known[i] for i in order])] for order in drawn]
    share = size / len(numbers)  # of the bill: what any m of N answers cost on average
    judge = chosen.judge if size > 1 else Bill()
    answers = Bill.of(chosen.answers.values())
    return _Value(
        _mean([row.scores[numbers[i]] for i in winners]),
        share * (answers.calls + judge.calls),
        share * (answers.usage.total_tokens + judge.usage.total_tokens),
        share * _dollars(answers, judge),
    )


def _stopped(row: Scored, m: int, confidence: float, seed: int) -> _Value:
    chosen = row.chosen
    numbers = sorted(chosen.answers)
    readings = [chosen.readings.get(number) for number in numbers]
    bills = [Bill.of([chosen.answers[number]]) for number in numbers]
    tokens, dollars = [bill.usage.total_tokens for bill in bills], [_dollars(bill) for bill in bills]
    drawn = orders(len(numbers), min(m, len(numbers)), seed=seed)
    used = [order[: decided_after([readings[i] for i in order], confidence)] for order in drawn]
    winners = [order[majority([readings[i] for i in order]).place] for order in used]
    return _Value(
        _mean([row.scores[numbers[i]] for i in winners]),
        float(np.mean([len(order) for order in used])),
        float(np.mean([sum(tokens[i] for i in order) for order in used])),
        float(np.mean([sum(dollars[i] for i in order) for order in used])),
    )


def _cut(row: Scored, m: int) -> _Value:
    used = row.chosen.path[:m]
    bill = Bill.of(row.chosen.answers[number] for number in sorted(row.chosen.answers)[: len(used)])
    return _Value(row.scores[used[-1]], bill.calls, bill.usage.total_tokens, _dollars(bill))


def _first(row: Scored) -> _Value:
    """The plain answer: the mean over all that were asked for alike."""
    bill, size = Bill.of(row.chosen.answers.values()), len(row.chosen.answers)
    score = _mean([row.scores[number] for number in row.chosen.answers])
    return _Value(score, 1, bill.usage.total_tokens / size, _dollars(bill) / size)


def _whole(row: Scored) -> _Value:
    bill = row.chosen.bill
    return _Value(row.scores[row.chosen.number], bill.calls, bill.usage.total_tokens, _dollars(bill))


def _dollars(*bills: Bill) -> float:
    return math.fsum(math.nan if bill.cost_usd is None else bill.cost_usd for bill in bills)


def _mean(values: Sequence[float]) -> float:
    """Without what could not be scored; NaN when nothing could."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _point(rule: str, n: int, values: Sequence[_Value], seed: int) -> Point:
    scores = np.array([[value.score] for value in values])
    e = stats.mean_interval(scores, seed=seed)
    usd = float(np.mean([value.usd for value in values]))
    return Point(
        rule=rule,
        n=n,
        calls=float(np.mean([value.calls for value in values])),
        tokens=float(np.mean([value.tokens for value in values])),
        usd=None if math.isnan(usd) else usd,
        score=Measured(mean=e.mean, low=e.low, high=e.high, n=e.n, samples=n),
    )
