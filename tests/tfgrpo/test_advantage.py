"""Golden rows, identities and properties of the advantage estimators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tfgrpo.advantage import ADVANTAGES, Table, center, chain, leave_one_out, resolve_advantage, scale
from tfgrpo.errors import InputError
from tfgrpo.types import Completion, Group, Problem, Rollout, Score

ONE_WIN = [1.0, 0.0, 0.0, 0.0]
GOLDEN = [
    ("grpo", [1.499997, -0.499999, -0.499999, -0.499999]),
    ("dr_grpo", [0.75, -0.25, -0.25, -0.25]),
    ("rloo", [1.0, -1 / 3, -1 / 3, -1 / 3]),
]
rewards = st.lists(st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=1, max_size=6), min_size=1, max_size=4)


@pytest.mark.parametrize(("name", "expected"), GOLDEN)
def test_golden_row(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(ADVANTAGES[name](Table.of_rewards([ONE_WIN])), expected, atol=5e-7)


@pytest.mark.parametrize(
    ("ddof", "eps", "expected"),
    [
        (0, 1e-6, [1.732047, -0.577349, -0.577349, -0.577349]),
        (1, 1e-4, [1.499700, -0.499900, -0.499900, -0.499900]),
    ],
)
def test_golden_rows_of_other_conventions(ddof: int, eps: float, expected: list[float]) -> None:
    values = chain(center(), scale(ddof=ddof, eps=eps))(Table.of_rewards([ONE_WIN]))
    np.testing.assert_allclose(values, expected, atol=5e-7)


def test_golden_batch_scale() -> None:
    values = chain(center(), scale("batch", eps=0.0))(Table.of_rewards([[1, 0, 0, 0], [1, 1, 1, 0]]))
    centred = np.array([0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75])
    np.testing.assert_allclose(values, centred / np.std(centred, ddof=1))


def test_all_equal_and_alone_are_zero() -> None:
    for advantage in ADVANTAGES.values():
        assert advantage(Table.of_rewards([[1, 1, 1, 1], [0.3], [0.1 + 0.2, 0.3, 0.3]])) == pytest.approx(0, abs=1e-9)
        assert advantage(Table.of_rewards([])).shape == (0,)


def test_missing_reward_leaves_the_statistics() -> None:
    for advantage in ADVANTAGES.values():
        with_gap = advantage(Table.of_rewards([[1.0, None, 0.0, 0.0, 0.0], [None, None], [1.0, None]]))
        np.testing.assert_allclose(with_gap[[0, 2, 3, 4]], advantage(Table.of_rewards([ONE_WIN])))
        assert with_gap[[1, 5, 6, 7, 8]].tolist() == [0, 0, 0, 0, 0]


def test_rows_outside_the_statistics_are_compared_with_them() -> None:
    table = Table.of_rewards([[1.0, 0.0, 5.0]])
    table = table.with_columns(in_stats=np.array([True, True, False]))
    np.testing.assert_allclose(chain(center())(table), [0.5, -0.5, 4.5])
    np.testing.assert_allclose(chain(leave_one_out())(table), [1.0, -1.0, 4.5])


def test_variants_are_normalised_apart() -> None:
    table = Table.of_rewards([[1, 0, 1, 1]]).with_columns(variant=np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(chain(center("variant"))(table), [0.5, -0.5, 0, 0])


def test_table_of_groups() -> None:
    def rollout(value: float, solved: bool | None = None) -> Rollout:
        answer = Completion(prompt=(), messages=(), text="", policy="scripted", variant=1)
        return Rollout(completion=answer, score=Score(value=value, solved=solved))

    problem = Problem(id="p", messages=({"role": "user", "content": "?"},))
    groups = [Group(problem=problem, rollouts=(rollout(1), rollout(0.5, True))), Group(problem=problem, rollouts=())]
    table = Table.of([*groups, groups[0]])
    assert table.group.tolist() == [0, 0, 2, 2]
    assert table.success.tolist() == [True] * 4
    assert table.variant.tolist() == [1] * 4
    np.testing.assert_allclose(ADVANTAGES["dr_grpo"](table), [0.25, -0.25, 0.25, -0.25])


@given(rewards)
def test_sums_to_zero_in_each_group(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    for advantage in ADVANTAGES.values():
        sums = np.bincount(table.group, weights=advantage(table))
        np.testing.assert_allclose(sums, 0, atol=1e-9)


@given(rewards, st.integers(-5, 5))
def test_shift_changes_nothing(groups: list[list[float]], shift: int) -> None:
    moved = [[r + shift for r in group] for group in groups]
    for advantage in ADVANTAGES.values():
        np.testing.assert_allclose(advantage(Table.of_rewards(groups)), advantage(Table.of_rewards(moved)), atol=1e-9)


@given(rewards, st.integers(0, 99))
def test_permutation_of_rows_permutes_values(groups: list[list[float]], seed: int) -> None:
    table = Table.of_rewards(groups)
    order = np.random.default_rng(seed).permutation(len(table))
    columns = {name: getattr(table, name)[order] for name in Table.__dataclass_fields__}
    for advantage in ADVANTAGES.values():
        np.testing.assert_allclose(advantage(table)[order], advantage(Table(**columns)), atol=1e-9)


@given(npst.arrays(np.float64, st.integers(2, 8), elements=st.floats(-10, 10)))
def test_rloo_is_dr_grpo_rescaled(row: Sequence[float]) -> None:
    table, size = Table.of_rewards([list(row)]), len(row)
    np.testing.assert_allclose(
        ADVANTAGES["rloo"](table), ADVANTAGES["dr_grpo"](table) * size / (size - 1), rtol=1e-9, atol=1e-9
    )


@given(st.integers(1, 7))
def test_binary_grpo_has_a_closed_form(wins: int) -> None:
    share = wins / 8
    values = chain(center(), scale(ddof=0, eps=0.0))(Table.of_rewards([[1.0] * wins + [0.0] * (8 - wins)]))
    assert values[0] == pytest.approx(np.sqrt((1 - share) / share))
    assert values[-1] == pytest.approx(-np.sqrt(share / (1 - share)))


def test_unknown_name_lists_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean 'grpo'"):
        resolve_advantage("gprpo")
