"""Golden numbers, identities and coverage of the statistics."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgrpo import stats
from tfgrpo.errors import InputError

NAN = math.nan
small_scores = st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=4, max_size=4), min_size=1, max_size=6)


def test_mean_at_k_leaves_out_what_is_missing() -> None:
    assert stats.mean_at_k(np.array([[1.0, NAN], [0.0, 1.0], [NAN, NAN]])) == 0.75
    assert math.isnan(stats.mean_at_k(np.array([[NAN]])))


@pytest.mark.parametrize(("k", "expected"), [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)])
def test_pass_at_k_golden(k: int, expected: float) -> None:
    assert stats.pass_at_k(np.array([[1.0, 0, 0, 0]]), k) == pytest.approx(expected)


def test_pass_at_k_skips_problems_with_too_few_samples() -> None:
    assert stats.pass_at_k(np.array([[1.0, NAN], [0.0, 1.0]]), 2) == 1.0
    assert math.isnan(stats.pass_at_k(np.array([[1.0, NAN]]), 2))
    with pytest.raises(InputError, match="k >= 1"):
        stats.pass_at_k(np.ones((1, 1)), 0)


@given(small_scores, st.integers(1, 4))
def test_pass_at_k_is_the_share_of_winning_subsets(rows: list[list[float]], k: int) -> None:
    chances = []
    for row in rows:
        subsets = list(itertools.combinations([v for v in row if not math.isnan(v)], k))
        if subsets:
            chances.append(sum(map(any, subsets)) / len(subsets))
    got = stats.pass_at_k(np.array(rows), k)
    assert got == pytest.approx(sum(chances) / len(chances)) if chances else math.isnan(got)


@given(small_scores)
def test_pass_at_one_is_mean_at_k(rows: list[list[float]]) -> None:
    assert stats.pass_at_k(np.array(rows), 1) == pytest.approx(stats.mean_at_k(np.array(rows)), nan_ok=True)


@pytest.mark.parametrize(
    ("b", "c", "expected"), [(0, 0, 1.0), (1, 7, 0.0703125), (5, 5, 1.0), (0, 6, 0.03125), (6, 0, 0.03125)]
)
def test_mcnemar_golden(b: int, c: int, expected: float) -> None:
    assert stats.mcnemar_exact(b, c) == pytest.approx(expected)


@given(st.integers(0, 6), st.integers(0, 6))
def test_sign_flip_of_yes_no_answers_is_mcnemar(worse: int, better: int) -> None:
    differences = np.array([-1.0] * worse + [1.0] * better + [0.0] * 3 + [NAN])
    assert stats.sign_flip_p(differences) == pytest.approx(stats.mcnemar_exact(worse, better))


def test_sampled_sign_flips_agree_with_mcnemar() -> None:
    assert stats.sign_flip_p(np.array([-1.0] * 8 + [1.0] * 20)) == pytest.approx(stats.mcnemar_exact(8, 20), abs=0.01)


@pytest.mark.parametrize(("wins", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634)])
def test_wilson_golden(wins: int, n: int, low: float, high: float) -> None:
    assert (stats.wilson(wins, n).low, stats.wilson(wins, n).high) == pytest.approx((low, high), abs=5e-5)


def test_paired_difference_is_seeded_and_by_problem() -> None:
    random = np.random.default_rng(1)
    before = (random.random((60, 4)) < 0.2).astype(float)
    after = (random.random((60, 4)) < 0.5).astype(float)
    gain = stats.paired_difference(before, after, seed=3)
    assert gain == stats.paired_difference(before, after, seed=3)
    assert gain.mean == pytest.approx(after.mean() - before.mean())
    assert 0 < gain.low < gain.mean < gain.high
    normal = 1.96 * np.std(after.mean(1) - before.mean(1), ddof=1) / math.sqrt(60)
    assert gain.high - gain.low == pytest.approx(2 * normal, rel=0.05)
    mirrored = stats.paired_difference(after, before, seed=3)
    assert (mirrored.low, mirrored.high) == pytest.approx((-gain.high, -gain.low), abs=0.01)


def test_pairing_leaves_out_half_missing_problems() -> None:
    before, after = np.array([[0.0], [NAN], [0.0]]), np.array([[1.0], [1.0], [0.0]])
    assert stats.paired_difference(before, after).n == 2
    with pytest.raises(InputError, match="same problems"):
        stats.paired_difference(before, after[:2])


def test_interval_covers_the_truth() -> None:
    random = np.random.default_rng(7)
    hits = 0
    for seed in range(300):
        gain = stats.bootstrap_mean(random.normal(0.3, 1.0, size=25), seed=seed, resamples=600)
        hits += gain.low <= 0.3 <= gain.high
    assert 0.90 <= hits / 300 <= 0.98


def test_single_problem_says_nothing() -> None:
    assert stats.bootstrap_mean(np.array([1.0])).holds_zero
    assert stats.bootstrap_mean(np.array([NAN])).n == 0


def test_resampling_a_thousand_problems_is_cheap() -> None:
    started = time.process_time()
    stats.bootstrap_mean(np.random.default_rng(0).random(1000))
    assert time.process_time() - started < 5.0


def test_missing_bounds() -> None:
    before, after = np.array([[0.0, 1.0], [0.0, NAN]]), np.array([[1.0, 1.0], [NAN, 0.0]])
    assert stats.missing_share(before) == 0.25
    assert stats.mean_bounds(before) == (0.25, 0.5)
    assert stats.gain_bounds(before, after) == (0.0, 0.5)
    assert stats.score_range(before, after * 3) == (0.0, 3.0)


@settings(max_examples=50)
@given(small_scores)
def test_bounds_hold_the_mean_of_every_completion(rows: list[list[float]]) -> None:
    scores = np.array(rows)
    low, high = stats.mean_bounds(scores)
    assert low - 1e-12 <= stats.mean_at_k(stats.filled(scores, 0.5)) <= high + 1e-12


def test_constant_rows_get_wilson_and_graded_ones_the_bootstrap() -> None:
    assert stats.mean_interval(np.ones((10, 3))) == stats.wilson(10, 10)
    graded = stats.mean_interval(np.linspace(0, 1, 30).reshape(10, 3))
    assert graded.n == 10 and 0 < graded.low < 0.5 < graded.high < 1


def test_words() -> None:
    assert stats.Estimate(mean=0.217, low=0.12, high=0.31, n=60).words(signed=True) == (
        "+0.217 (95 % +0.120..+0.310, n=60)"
    )


def test_the_interval_of_a_mean_ends_where_scores_end():
    rows = np.array([[1.0], [1.0], [1.0], [0.4], [1.0], [0.9]])
    assert stats.mean_interval(rows).high <= 1.0
    assert stats.mean_interval(1.0 - rows).low >= 0.0
    assert stats.mean_interval(10 * rows).high > 1.0
