"""The figures of a safety report and the calibrations: golden numbers, identities, and what does not exist."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybrid.safety
from hybrid.safety.calibrate import KINDS, Calibration, calibrated, check_kinds, isotonic, platt
from hybrid.safety.report import Figure
from hybrid.safety.scores import auc, by_families, mae, ranks, spearman
from hybrid.safety.settings import CALIBRATIONS, FitSettings
from tfgrpo.errors import InputError
from tfgrpo.stats import Array, Estimate

NAN = math.nan
MODULES = [f"hybrid.safety.{m.name}" for m in pkgutil.iter_modules(hybrid.safety.__path__)]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def arrays(*rows: list[float]) -> list[Array]:
    return [np.array(row, dtype=float) for row in rows]


def test_known_figures() -> None:
    y, p = arrays([0.0, 0.2, 0.6, 1.0, NAN], [0.1, 0.2, 0.9, 0.7, 0.5])
    assert mae(y, p) == pytest.approx((0.1 + 0.0 + 0.3 + 0.3) / 4)
    assert spearman(y, p) == pytest.approx(0.8)  # one swap of neighbours: 1 - 6 * 2 / (4 * 15)
    assert auc(y, p) == 1.0 and auc(y, p, threshold=0.7) == pytest.approx(2 / 3)
    assert auc(y, -p) == 0.0 and auc(1 - y, p, threshold=0.45) == 0.0


def test_ties_count_half_and_rank_in_the_middle() -> None:
    assert ranks(np.array([3.0, 3.0, 1.0, 3.0])).tolist() == [3.0, 3.0, 1.0, 3.0]
    y, p = arrays([0, 0, 1, 1], [0.5, 0.2, 0.5, 0.9])
    assert auc(y, p) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


@pytest.mark.parametrize(
    ("y", "p"),
    [([], []), ([NAN, NAN], [0.1, 0.2]), ([1.0, 1.0], [0.1, 0.9]), ([0.2, 0.1, 0.4], [0.1, 0.9, 0.3])],
)
def test_without_both_classes_there_is_no_auc(y: list[float], p: list[float]) -> None:
    assert math.isnan(auc(*arrays(y, p)))


def test_rank_correlation_needs_three_and_two_levels() -> None:
    assert math.isnan(spearman(*arrays([0.0, 1.0], [0.1, 0.9])))
    assert math.isnan(spearman(*arrays([0.5, 0.5, 0.5], [0.1, 0.9, 0.2])))
    assert math.isnan(mae(*arrays([NAN], [0.5])))


unit = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(st.booleans(), unit), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, float]]) -> None:
    yes, no = ([p for ok, p in rows if ok is side] for side in (True, False))
    found = auc(*arrays([float(ok) for ok, _ in rows], [p for _, p in rows]))
    if not yes or not no:
        assert math.isnan(found)
    else:
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
        assert found == pytest.approx(sum(pairs) / len(pairs))


# -- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_are_over_families() -> None:
    """Ten equal answers of one family are one piece of evidence: the interval is as wide as without the copies."""
    y, p = arrays([0, 1, 0, 1], [0.1, 0.8, 0.4, 0.6])
    names = ["a", "a", "b", "b"]
    few = by_families(mae, y, p, names)
    many = by_families(mae, np.tile(y, 10), np.tile(p, 10), names * 10)
    assert (many.low, many.high) == pytest.approx((few.low, few.high)) and many.n == 40
    assert few.low < few.mean < few.high


def test_one_family_has_no_interval_and_a_missing_figure_none_either() -> None:
    y, p = arrays([0, 1], [0.1, 0.8])
    assert by_families(mae, y, p, ["a", "a"]).high == math.inf
    alone = by_families(auc, *arrays([1, 1, 0], [0.5, 0.4, 0.1]), ["a", "b", "c"])  # both classes in few resamples
    assert alone.mean == 1.0 and math.isfinite(alone.high) is (alone.low != -math.inf)
    none = Figure.of(by_families(auc, *arrays([1, 1], [0.5, 0.4]), ["a", "b"]))
    assert none.mean is None and none.low is None and none.words() == "–"


def test_intervals_are_cut_to_where_a_figure_can_lie() -> None:
    figure = Figure.of(Estimate(mean=0.95, low=0.9, high=1.1, n=9), least=0.0, most=1.0)
    assert figure.high == 1.0 and figure.words() == "0.950 (0.900..1.000)"


# -- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=25))
def test_calibrations_never_fall_and_stay_in_range(kind: str, rows: list[tuple[float, float]]) -> None:
    fit = calibrated(kind, *arrays([x for x, _ in rows], [y for _, y in rows]))
    grid = fit(np.linspace(0, 1, 101))
    assert (np.diff(grid) >= -1e-12).all() and (grid >= 0).all() and (grid <= 1).all()
    again = Calibration.from_json(fit.as_json())
    np.testing.assert_array_equal(again(np.linspace(0, 1, 11)), fit(np.linspace(0, 1, 11)))


def test_platt_finds_the_map_that_bent_the_scores() -> None:
    draw = np.random.default_rng(0)
    truth = draw.uniform(0.02, 0.98, 4000)
    logit = np.log(truth / (1 - truth))
    raw = 1 / (1 + np.exp(-(logit - 0.7) / 2))  # too timid, and shifted
    labels = (draw.uniform(size=4000) < truth).astype(float)
    fit = platt(raw, labels)
    ((slope, shift),) = fit.knots
    assert slope == pytest.approx(2.0, abs=0.15) and shift == pytest.approx(0.7, abs=0.1)
    assert mae(truth, fit(raw)) < 0.02 < mae(truth, raw)
    assert spearman(truth, fit(raw)) == pytest.approx(spearman(truth, raw))
    assert auc(labels, fit(raw)) == pytest.approx(auc(labels, raw))


def test_scores_that_run_against_the_labels_become_the_mean() -> None:
    x, y = arrays([0.1, 0.2, 0.8, 0.9], [1.0, 0.8, 0.2, 0.0])
    fit = platt(x, y)
    assert fit.flat and fit(np.array([0.1, 0.9])) == pytest.approx([0.5, 0.5])
    steps = isotonic(x, y)
    assert steps.flat and steps(np.array([0.0, 1.0])) == pytest.approx([0.5, 0.5])


def test_separable_labels_do_not_run_away() -> None:
    fit = platt(*arrays([0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0]))
    assert all(math.isfinite(knot) for pair in fit.knots for knot in pair)
    assert fit(np.array([0.1]))[0] < 0.02 and fit(np.array([0.9]))[0] > 0.98


def test_isotonic_pools_what_falls() -> None:
    fit = isotonic(*arrays([0.1, 0.3, 0.3, 0.5, 0.9], [0.0, 1.0, 0.5, 0.6, 0.9]))
    assert [round(v, 4) for _, v in fit.knots] == [0.0, 0.7, 0.9]  # 0.75 twice and 0.6 are one block
    assert [round(x, 4) for x, _ in fit.knots] == [0.1, 0.3667, 0.9]


def test_unknown_labels_take_no_part() -> None:
    x, y = arrays([0.2, 0.4, 0.6, 0.9], [0.1, NAN, 0.5, NAN])
    known = np.isfinite(y)
    assert calibrated("platt", x, y) == platt(x[known], y[known])
    assert calibrated("isotonic", x, y * NAN).kind == "none"


def test_kinds_that_are_not_known() -> None:
    with pytest.raises(InputError, match="did you mean 'platt'"):
        calibrated("plat", *arrays([0.1], [0.2]))
    with pytest.raises(InputError, match="got 'beta'"):
        check_kinds([Calibration(kind="beta")])
    assert KINDS == CALIBRATIONS


@pytest.mark.parametrize(
    "given_", [{"share": 1.0}, {"hidden": 0}, {"lr": -1.0}, {"calibration": "x"}, {"unfreeze": -1}, {"batch": True}]
)
def test_settings_out_of_range(given_: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"setting|calibration"):
        FitSettings(**given_)  # type: ignore[arg-type]
