"""Votes as numbers: golden values, identities, and what must hold for all counts."""

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo import stats
from tfgrpo.strategies.formulas import (
    ORDERS,
    Count,
    best_place,
    beta_confidence,
    cannot_be_overtaken,
    decided_after,
    majority,
    orders,
    sizes,
    urgency,
)

READINGS = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=9)
COUNTS = st.integers(0, 30)


@pytest.mark.parametrize(
    ("first", "second", "value"),  # the official code's integrals at these counts: x^a (1-x)^b over 1/2..1 / 0..1
    [(1, 0, 0.75), (2, 0, 0.875), (3, 0, 0.9375), (4, 0, 0.96875), (2, 1, 0.6875), (7, 2, 0.9453125), (5, 5, 0.5)],
)
def test_golden_confidence(first, second, value):
    assert beta_confidence(first, second) == pytest.approx(value, abs=1e-15)


@given(first=COUNTS, second=COUNTS)
def test_the_binomial_sum_is_the_integral(first, second):
    """Against the Beta density, integrated term by term: (1 - x)^b as a polynomial."""
    terms = [(math.comb(second, k) * (-1) ** k, first + k + 1) for k in range(second + 1)]
    whole = sum(Fraction(c, p) for c, p in terms)
    upper = sum(Fraction(c, p) * (1 - Fraction(1, 2**p)) for c, p in terms)
    assert beta_confidence(first, second) == pytest.approx(float(upper / whole), rel=1e-12)


@given(first=COUNTS, second=COUNTS)
def test_confidence_is_symmetric_and_grows_with_the_lead(first, second):
    assert beta_confidence(first, second) + beta_confidence(second, first) == pytest.approx(1.0)
    assert beta_confidence(first + 1, second) > beta_confidence(first, second) > beta_confidence(first, second + 1)


@given(READINGS)
def test_the_winner_has_the_most_votes_and_came_first(readings):
    count = majority(readings)
    votes = {r: readings.count(r) for r in readings if r is not None}
    if not votes:
        assert count == Count(0, 0, 0)
        return
    assert count.first == max(votes.values()) == votes[readings[count.place]]
    best = [r for r in votes if votes[r] == count.first]
    assert count.place == min(readings.index(r) for r in best)
    assert count.second == sorted([*votes.values(), 0], reverse=True)[1]


@given(READINGS.filter(bool), st.integers(0, 3))
def test_what_cannot_be_overtaken_is_not_by_any_further_answers(readings, left):
    count = majority(readings)
    if not cannot_be_overtaken(count.first, count.second, left):
        return
    for further in permutations(["a", "b", "c", None, "new"] * 2, left):
        assert readings[count.place] == [*readings, *further][majority([*readings, *further]).place]


@given(READINGS, st.floats(0.55, 0.99))
def test_an_adaptive_vote_ends_at_the_first_sure_count(readings, confidence):
    used = decided_after(readings, confidence)
    sure = [
        n
        for n in range(1, len(readings) + 1)
        if beta_confidence(*((c := majority(readings[:n])).first, c.second)) >= confidence
    ]
    assert used == (sure[0] if sure else len(readings))


def test_urgency_falls_with_answers_and_with_agreement():
    assert urgency(Count(0, 1, 1), 2) > urgency(Count(0, 1, 1), 6) > 0
    assert urgency(Count(0, 1, 1), 2) > urgency(Count(0, 2, 0), 2)
    assert urgency(Count(0, 0, 0), 0) == 0.5


@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=8))
def test_the_best_is_the_first_highest_and_never_a_missing_one(scores):
    known = [s for s in scores if not math.isnan(s)]
    place = best_place(scores)
    assert place == (scores.index(max(known)) if known else 0)


@given(st.integers(1, 5), st.integers(1, 5))
def test_few_orders_are_all_of_them(n, m):
    m = min(n, m)
    assert orders(n, m) == list(permutations(range(n), m))


def test_many_orders_are_drawn_evenly_and_again_the_same():
    drawn = orders(12, 6, seed=3)
    assert len(drawn) == ORDERS and drawn == orders(12, 6, seed=3) != orders(12, 6, seed=4)
    assert all(len(set(order)) == 6 for order in drawn)
    firsts = np.bincount([order[0] for order in drawn], minlength=12)
    assert firsts.min() > ORDERS / 12 / 3


@pytest.mark.parametrize("right", [0, 1, 3, 5])
@pytest.mark.parametrize("m", [1, 2, 4, 5])
def test_any_is_right_over_all_orders_is_pass_at_k(right, m):
    success = [1.0] * right + [0.0] * (5 - right)
    found = np.mean([max(success[i] for i in order) for order in orders(5, m)])
    assert found == pytest.approx(stats.pass_at_k(np.array([success]), m))


def test_sizes_double_and_end_at_all():
    assert [sizes(n) for n in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]
