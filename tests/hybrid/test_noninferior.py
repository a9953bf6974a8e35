"""Whether something can go: golden numbers, what the limit promises, and the procedure on known scores."""

from __future__ import annotations

import asyncio
import doctest
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hybrid.noninferior
from hybrid.noninferior import Judged, Removal, judged, least_problems, removable, t_quantile
from tfgrpo.errors import InputError
from tfgrpo.stats import Array

POISSON = {0: 2.9957, 1: 4.7439, 3: 7.7537, 10: 16.9622, 30: 40.6905}
"""Exact one-sided 95 % limits of a count: half the chi-square quantile at 2 (losses + 1) degrees of freedom."""


def flips(problems: int, lost: int = 0, won: int = 0) -> tuple[Array, Array]:
    before, after = np.ones(problems), np.ones(problems)
    after[:lost] = 0
    before[lost : lost + won] = 0
    return before, after


def test_examples() -> None:
    assert doctest.testmod(hybrid.noninferior).failed == 0


@pytest.mark.parametrize(
    ("problems", "lost", "won", "verdict", "low"),
    [
        (350, 0, 0, "undecided", -0.010010),
        (351, 0, 0, "non-inferior", -0.009981),
        (500, 1, 0, "undecided", -0.010173),
        (1000, 2, 2, "non-inferior", -0.005354),
        (500, 2, 2, "undecided", -0.010702),
        (60, 0, 30, "non-inferior", None),
        (60, 0, 0, "undecided", None),
        (60, 20, 0, "inferior", None),
        (2000, 60, 5, "inferior", None),
        (3, 3, 0, "undecided", None),
        (0, 0, 0, "undecided", -1.0),
    ],
)
def test_verdicts(problems: int, lost: int, won: int, verdict: str, low: float | None) -> None:
    found = judged(*flips(problems, lost, won))
    assert found.verdict == verdict, found.words()
    assert low is None or found.low == pytest.approx(low, abs=2e-6)
    assert (found.n, found.worse, found.better) == (problems, lost, won)


def test_the_limit_covers_the_exact_one_for_rare_losses() -> None:
    for lost, exact in POISSON.items():
        limit = -judged(*flips(20_000, lost)).low * 20_000
        assert exact < limit < exact + 0.55


@pytest.mark.parametrize("kind", ["rare", "many", "shares"])
def test_a_loss_of_just_the_margin_is_called_non_inferior_at_most_as_often_as_promised(kind: str) -> None:
    """The mean change is exactly the margin, the worst case; 4,000 experiments each."""
    draw, margin, wrong = np.random.default_rng(3), 0.05, 0
    for _ in range(4000):
        size = int(draw.integers(60, 400))
        if kind == "rare":  # only losses
            d = -(draw.random(size) < margin).astype(float)
        elif kind == "many":
            d = draw.choice([-1.0, 0.0, 1.0], size, p=[0.2, 0.65, 0.15])
        else:
            d = draw.choice([-0.5, -0.25, 0.0, 0.25], size, p=[0.05, 0.25, 0.55, 0.15])
        wrong += judged(np.where(d < 0, -d, 0.0), np.where(d > 0, d, 0.0), margin=margin).verdict == "non-inferior"
    assert wrong / 4000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_for_many_problems_it_is_students_limit() -> None:
    draw = np.random.default_rng(0)
    before, after = draw.random(5000), draw.random(5000)
    d = after - before
    plain = d.mean() - 1.645 * d.std(ddof=1) / math.sqrt(5000)
    assert judged(before, after).low == pytest.approx(plain, abs=4e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1])), min_size=2, max_size=60))
def test_the_order_does_not_matter_and_sides_mirror(pairs: list[tuple[float, float]]) -> None:
    before, after = np.array(pairs).T
    one, turned = judged(before, after), judged(before[::-1], after[::-1])
    assert (one.low, one.high, one.verdict) == pytest.approx((turned.low, turned.high, turned.verdict))
    mirrored = judged(after, before)
    assert (mirrored.low, mirrored.high) == pytest.approx((-one.high, -one.low))
    assert one.low <= one.change <= one.high


def test_samples_are_means_and_missing_ones_leave_their_problem_out() -> None:
    before = np.array([[1, 0], [1, np.nan], [np.nan, np.nan], [1, 1]])
    after = np.array([[1, 1], [0, 0], [1, 1], [1, 1]])
    found = judged(before, after)
    assert (found.n, found.change, found.better, found.worse) == (3, pytest.approx(-1 / 6), 1, 1)


def test_bad_input() -> None:
    for before, after, chosen, words in (
        (np.ones(3), np.ones(4), {}, "3 with it, 4 without"),
        (np.ones(3), np.full(3, 2.0), {}, r"0\.\.1"),
        (np.ones((2, 2, 2)), np.ones(2), {}, "the shape"),
        (np.ones(3), np.ones(3), {"margin": 0.0}, "margin"),
        (np.ones(3), np.ones(3), {"confidence": 0.5}, "confidence"),
    ):
        with pytest.raises(InputError, match=words):
            judged(before, after, **chosen)
    assert t_quantile(0.95, 3) == pytest.approx(2.353, rel=0.01)


# -- in batches -------------------------------------------------------------------------------------------------------


def removal(harm: dict[str, int], problems: int = 1000, count: int = 8, most: int = 16) -> tuple[Removal, list[int]]:
    """Each id of `harm` loses so many problems when it is left out."""
    ids, asked = [f"E{n}" for n in range(count)], list[int]()

    async def measure(out: Sequence[str]) -> Array:
        asked.append(len(out))
        scores = np.ones(problems)
        at = 0
        for name in ids:
            lost = harm.get(name, 0)
            scores[at : at + (lost if name in out else 0)] = 0
            at += lost
        return scores

    return asyncio.run(removable(ids, measure, most=most)), asked


def test_harmless_ones_all_go_at_once() -> None:
    found, asked = removal({})
    assert found.retired == tuple(f"E{n}" for n in range(8)) and asked == [0, 8] and not found.why


def test_the_harmful_one_is_found_by_halves_and_stays() -> None:
    found, asked = removal({"E5": 100})
    assert found.retired == tuple(f"E{n}" for n in range(8) if n != 5)
    assert [len(test.batch) for test in found.tests] == [8, 4, 4, 2, 2, 1, 1]
    assert [test.judged.verdict for test in found.tests if "E5" in test.batch] == ["inferior"] * 4
    assert asked[0] == 0 and len(asked) == len(found.tests) + 1


def test_small_losses_do_not_add_up_unseen() -> None:
    """Each loses 3 of 1000, which is non-inferior alone; together they are not."""
    found, _ = removal({f"E{n}": 3 for n in range(8)})
    assert 1 <= len(found.retired) < 3
    last = [test.judged for test in found.tests if test.judged.verdict == "non-inferior"][-1]
    assert last.change == pytest.approx(-0.003 * len(found.retired)) and last.low > -0.01


def test_too_few_problems_decide_nothing_and_cost_nothing_more() -> None:
    found, asked = removal({}, problems=100)
    assert found.retired == () and asked == [0] and f"less than {least_problems()}" in found.why


def test_tests_end() -> None:
    found, _ = removal({f"E{n}": 100 for n in range(8)}, most=3)
    assert (found.retired, len(found.tests)) == ((), 3) and "8 not tested after 3" in found.why
    assert all(isinstance(test.judged, Judged) for test in found.tests)
    assert removal({}, count=0)[0] == Removal(retired=(), tests=())
