"""Statistics of sets of rows against the same statistic computed set by set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgrpo.advantage import segments
from tfgrpo.advantage.segments import Sets, Values

EXAMPLES = 40
KERNELS: dict[str, tuple[Callable[..., Values], Callable[[Values], Any]]] = {
    "mean": (segments.mean, np.mean),
    "total": (segments.total, np.sum),
    "deviation": (segments.deviation, lambda v: v.std(ddof=1) if len(v) > 1 and len(set(v)) > 1 else 0.0),
    "maximum": (segments.maximum, np.max),
    "minimum": (segments.minimum, np.min),
    "lower_median": (segments.lower_median, lambda v: np.sort(v)[(len(v) - 1) // 2]),
    "log_mean_exp": (segments.log_mean_exp, lambda v: np.log(np.mean(np.exp(v)))),
}

rows = st.lists(st.tuples(st.integers(0, 3), st.integers(-6, 6).map(lambda n: n / 2), st.booleans()), max_size=24)


def columns(drawn: list[tuple[int, float, bool]], *, even: bool) -> tuple[Sets, Values, segments.Flags]:
    if even:  # three sets of equal size, set by set
        drawn = [(n // (len(drawn) // 3), v, u) for n, (_, v, u) in enumerate(drawn[: len(drawn) // 3 * 3])]
    labels = np.array([label for label, _, _ in drawn], dtype=np.int64)
    return Sets(labels), np.array([v for _, v, _ in drawn], np.float64), np.array([u for _, _, u in drawn], np.bool_)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=EXAMPLES)
@given(drawn=rows, all_used=st.booleans())
def test_kernel_is_the_statistic_of_each_set(
    kernel: str, even: bool, drawn: list[tuple[int, float, bool]], all_used: bool
) -> None:
    sets, values, used = columns(drawn, even=even)
    if all_used:
        used = np.ones_like(used)
    got = KERNELS[kernel][0](values, sets, None if all_used else used)
    assert got.shape == (sets.size,)
    for label in range(sets.size):
        of_set = values[used & (sets.labels == label)]
        if len(of_set):
            assert got[label] == pytest.approx(KERNELS[kernel][1](of_set))
        else:
            assert kernel in ("total", "deviation") or np.isnan(got[label])


@pytest.mark.parametrize("even", [True, False])
@settings(max_examples=EXAMPLES)
@given(drawn=rows)
def test_rank_and_first_and_softmax(even: bool, drawn: list[tuple[int, float, bool]]) -> None:
    sets, values, used = columns(drawn, even=even)
    rank, share, first = (
        segments.rank(values, sets, used),
        segments.softmax(values, sets, used),
        segments.first(used, sets),
    )
    for label in range(sets.size):
        inside = np.flatnonzero(used & (sets.labels == label))
        np.testing.assert_array_equal(rank[inside], np.argsort(np.argsort(values[inside], kind="stable")))
        np.testing.assert_array_equal(np.flatnonzero(first & (sets.labels == label)), inside[:1])
        if len(inside):
            np.testing.assert_allclose(share[inside], np.exp(values[inside]) / np.exp(values[inside]).sum())
    assert np.isnan(rank[~used]).all()
    assert np.isnan(share[~used]).all()


@settings(max_examples=EXAMPLES)
@given(rows)
def test_normal_scores_sum_to_zero_and_keep_the_order(drawn: list[tuple[int, float, bool]]) -> None:
    sets, values, used = columns(drawn, even=False)
    scores = segments.normal_scores(values, sets, used)
    assert np.isnan(scores[~used]).all()
    np.testing.assert_allclose(segments.total(scores, sets, used), 0, atol=1e-12)
    for label in range(sets.size):
        inside = np.flatnonzero(used & (sets.labels == label))
        order = inside[np.argsort(values[inside], kind="stable")]
        same = np.diff(values[order]) == 0
        assert (np.diff(scores[order])[~same] > 0).all()
        assert (np.diff(scores[order])[same] == 0).all()


def test_a_few_large_sets_are_sorted_as_a_list() -> None:
    labels = np.array([0] * 90 + list(range(1, 11)))
    values = np.random.default_rng(0).random(100)
    sets, used = Sets(labels), np.arange(100) % 3 > 0
    assert sets.grid(values) is None
    assert segments.lower_median(values, sets, used)[0] == np.sort(values[:90][used[:90]])[29]
    np.testing.assert_array_equal(segments.rank(values, sets)[:90], np.argsort(np.argsort(values[:90])))


def test_width_is_seen_only_where_rows_are_a_matrix() -> None:
    assert Sets(np.array([0, 0, 0, 1, 1, 1])).width == 3
    assert Sets(np.array([0, 1, 2])).width == 1
    for labels in ([0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1], [0, 0, 2, 2], []):
        assert Sets(np.array(labels, dtype=np.int64)).width == 0, labels


def test_deviation_of_rounding_noise_is_zero() -> None:
    sets = Sets(np.zeros(3, dtype=np.int64))
    assert segments.deviation(np.array([0.1 + 0.2, 0.3, 0.3]), sets)[0] == 0
    assert segments.deviation(np.array([1e15, 1e15, 1e15 + 2]), sets)[0] == 0
    assert segments.deviation(np.array([1e-12, 0, 0]), sets)[0] > 0


def test_labels_of_any_integers() -> None:
    assert Sets.of([5, -3, 5]).labels.tolist() == [1, 0, 1]
    kept = np.array([0, 2, 2])
    assert Sets.of(kept).labels is kept
    assert Sets.of([]).size == 0


def test_large_values_do_not_overflow() -> None:
    sets, used = Sets(np.array([0, 0, 0])), np.array([True, True, False])
    values = np.array([1000.0, 999.0, 5000.0])
    assert segments.log_mean_exp(values, sets, used)[0] == pytest.approx(1000 + np.log((1 + np.exp(-1)) / 2))
    np.testing.assert_allclose(segments.softmax(values, sets, used)[:2].sum(), 1)
