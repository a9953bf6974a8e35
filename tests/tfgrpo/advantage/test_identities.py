"""What must hold for any rewards: sums, shifts, scales, orders, and estimators that equal each other."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgrpo.advantage import (
    ADVANTAGES,
    Table,
    ambiguous,
    center,
    chain,
    decoupled,
    leave_one_out,
    resolve_advantage,
    scale,
    whiten,
)

EXAMPLES = 15  # for each preset
quarters = st.integers(-8, 8).map(lambda n: n / 4)
shares = st.integers(0, 4).map(lambda n: n / 4)


def groups_of(element: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Any]]]:
    return st.lists(st.lists(element, min_size=1, max_size=6), min_size=1, max_size=4)


some = groups_of(shares)
any_sign = groups_of(quarters)
binary = groups_of(st.sampled_from([0.0, 1.0]))
with_gaps = groups_of(st.one_of(st.none(), shares))

NOT_CENTRED = {"mc_grpo", "ngrpo", "asymre", "a_grae", "red_weight", "vgpo", "softmax", "opmd", "e_grpo", "da_grpo"}
MOVED_BY_A_SHIFT = {"ngrpo", "unlikeliness", "e_grpo", "vgpo", "maxrl"}
RANDOM = {"red_drop"}
TEACH_EQUALS = {"ngrpo", "asymre", "vgpo", "unlikeliness", "e_grpo"}


def table_of(groups: list[list[Any]], seed: int = 0) -> Table:
    """A table with every column that a preset reads."""
    table = Table.of_rewards(groups)
    draw = np.random.default_rng((seed, len(table)))
    rows = len(table)
    parts = {"right": table.reward, "brief": draw.random(rows), "weight/right": np.ones(rows)}
    return table.with_columns(
        parts=parts,
        extras={
            "logp": -draw.random(rows),
            "cluster": draw.integers(0, 3, rows).astype(np.float64),
            "entities": draw.random(rows),
            "fine": draw.random(rows),
            "truncated": (draw.random(rows) < 0.2).astype(np.float64),
            "bin_weight": np.full(rows, 1.5),
        },
    )


def moved(table: Table, reward: np.ndarray[Any, Any]) -> Table:
    """Other rewards and nothing else."""
    return table.with_columns(reward=reward, advantage=reward, parts={**table.parts, "right": reward})


every_preset = pytest.mark.parametrize("name", ADVANTAGES)


@every_preset
@settings(max_examples=EXAMPLES)
@given(groups=with_gaps, seed=st.integers(0, 9))
def test_finite_and_zero_where_not_learned_from(name: str, groups: list[list[float | None]], seed: int) -> None:
    columns = resolve_advantage(name).columns(table_of(groups, seed))
    assert columns.advantage.shape == (len(columns),)
    assert np.isfinite(columns.advantage).all()
    assert (columns.advantage[~columns.in_loss] == 0).all()
    assert (columns.advantage[~np.isfinite(columns.reward)] == 0).all()


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - NOT_CENTRED))
@settings(max_examples=EXAMPLES)
@given(groups=some, seed=st.integers(0, 9))
def test_sums_to_zero_in_each_group(name: str, groups: list[list[float]], seed: int) -> None:
    table = table_of(groups, seed)
    options = {"whitened": False} if name == "gdpo" else {}
    sums = np.bincount(table.group, weights=resolve_advantage(name, **options)(table))
    np.testing.assert_allclose(sums, 0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - MOVED_BY_A_SHIFT - RANDOM))
@settings(max_examples=EXAMPLES)
@given(groups=some, shift=st.integers(0, 5), seed=st.integers(0, 9))
def test_shift_changes_nothing(name: str, groups: list[list[float]], shift: int, seed: int) -> None:
    table, advantage = table_of(groups, seed), resolve_advantage(name)
    np.testing.assert_allclose(advantage(table), advantage(moved(table, table.reward + shift)), atol=1e-9)


@pytest.mark.parametrize("name", ["grpo", "mc_grpo", "g2rpo", "gdpo", "a_grae", "maxrl", "da_grpo"])
@settings(max_examples=EXAMPLES)
@given(groups=some, factor=st.sampled_from([0.25, 3.0, 64.0]), seed=st.integers(0, 9))
def test_scale_changes_nothing(name: str, groups: list[list[float]], factor: float, seed: int) -> None:
    table = table_of(groups, seed)
    options: dict[str, Any] = {"eps": 0.0} if name in ("grpo", "mc_grpo", "gdpo") else {}
    advantage = resolve_advantage(name, **options)
    near = {"atol": 1e-9} if options or name in ("g2rpo", "maxrl") else {"atol": 1e-4}
    np.testing.assert_allclose(advantage(table), advantage(moved(table, table.reward * factor)), **near)


@settings(max_examples=EXAMPLES)
@given(any_sign)
def test_g2rpo_reads_only_the_order(groups: list[list[float]]) -> None:
    table, advantage = Table.of_rewards(groups), resolve_advantage("g2rpo")
    np.testing.assert_array_equal(advantage(table), advantage(moved(table, np.exp(3 * table.reward))))


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - RANDOM))
@settings(max_examples=EXAMPLES)
@given(groups=with_gaps, seed=st.integers(0, 99))
def test_permutation_of_rows_permutes_values(name: str, groups: list[list[float]], seed: int) -> None:
    table = table_of(groups, seed)
    order = np.random.default_rng(seed).permutation(len(table))
    arrays = {
        f.name: getattr(table, f.name)[order] for f in fields(Table) if f.name not in ("parts", "extras", "_sets")
    }
    mixed = Table(
        **arrays,
        parts={n: v[order] for n, v in table.parts.items()},
        extras={n: v[order] for n, v in table.extras.items()},
    )
    columns = resolve_advantage(name).columns(table)
    if name == "mc_grpo":  # which of equal pivots leaves the loss depends on the order; its advantage is 0 anyway
        assert columns.in_loss.sum() == resolve_advantage(name).columns(mixed).in_loss.sum()
    np.testing.assert_allclose(columns.advantage[order], resolve_advantage(name)(mixed), atol=1e-9)


@every_preset
@settings(max_examples=EXAMPLES)
@given(groups=some, seed=st.integers(0, 9))
def test_labels_are_only_names(name: str, groups: list[list[float]], seed: int) -> None:
    table = table_of(groups, seed)
    renamed = table.with_columns(group=table.group * -(10**12) + 7)
    np.testing.assert_allclose(resolve_advantage(name)(renamed), resolve_advantage(name)(table), atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - TEACH_EQUALS - {"softmax", "gdpo"}))
@settings(max_examples=EXAMPLES)
@given(value=shares, size=st.integers(1, 6))
def test_equal_rewards_teach_nothing(name: str, value: float, size: int) -> None:
    table = table_of([[value] * size, [0.1 + 0.2, *[0.3] * (size - 1)]])
    table = table.with_columns(success=np.repeat([value >= 1, False], size))
    np.testing.assert_allclose(resolve_advantage(name)(table), 0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"ngrpo", "gdpo"}))
@settings(max_examples=EXAMPLES)
@given(value=shares, seed=st.integers(0, 9))
def test_a_rollout_alone_teaches_nothing(name: str, value: float, seed: int) -> None:
    table = table_of([[value], [1, 0, 0]], seed)
    assert resolve_advantage(name)(table)[0] == pytest.approx(0, abs=1e-12)


@every_preset
def test_no_rows_give_no_values(name: str) -> None:
    assert resolve_advantage(name)(table_of([])).shape == (0,)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - RANDOM - {"gdpo"}))
@settings(max_examples=EXAMPLES)
@given(group=st.lists(shares, min_size=1, max_size=6), others=some, seed=st.integers(0, 9))
def test_missing_rewards_are_as_if_not_there(
    name: str, group: list[float], others: list[list[float]], seed: int
) -> None:
    table = table_of([group, *others], seed)
    gaps = np.random.default_rng(seed).random(len(table)) < 0.3
    holed = moved(table, np.where(gaps, np.nan, table.reward))
    holed = holed.with_columns(in_stats=~gaps, in_loss=~gaps)
    arrays = {
        f.name: getattr(table, f.name)[~gaps] for f in fields(Table) if f.name not in ("parts", "extras", "_sets")
    }
    short = Table(
        **arrays,
        parts={n: v[~gaps] for n, v in table.parts.items()},
        extras={n: v[~gaps] for n, v in table.extras.items()},
    )
    advantage = resolve_advantage(name)
    np.testing.assert_allclose(advantage(holed)[~gaps], advantage(short), atol=1e-9)


# -- estimators that equal each other ----------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES)
@given(some)
def test_rloo_is_dr_grpo_rescaled(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    size = np.repeat([len(g) for g in groups], [len(g) for g in groups])
    factor = np.where(size > 1, size / np.maximum(size - 1, 1), 0)
    np.testing.assert_allclose(chain(leave_one_out())(table), chain(center())(table) * factor, atol=1e-12)


@settings(max_examples=EXAMPLES)
@given(st.integers(1, 7))
def test_binary_grpo_has_a_closed_form(wins: int) -> None:
    share = wins / 8
    values = resolve_advantage("grpo", ddof=0, eps=0.0)(Table.of_rewards([[1.0] * wins + [0.0] * (8 - wins)]))
    assert values[0] == pytest.approx(np.sqrt((1 - share) / share))
    assert values[-1] == pytest.approx(-np.sqrt(share / (1 - share)))
    assert np.abs(values).sum() == pytest.approx(2 * 8 * np.sqrt(share * (1 - share)))


@settings(max_examples=EXAMPLES)
@given(binary)
def test_pass_at_1_is_grpo(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    grpo = resolve_advantage("grpo", ddof=0, eps=0.0)
    np.testing.assert_allclose(resolve_advantage("pass_at_k", k=1)(table), grpo(table), atol=1e-9)


@settings(max_examples=EXAMPLES)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=7), st.integers(2, 4))
def test_pass_at_k_is_grpo_over_all_choices(rewards: list[float], k: int) -> None:
    from itertools import combinations

    draws = list(combinations(range(len(rewards)), k))
    best = np.array([max(rewards[i] for i in draw) for draw in draws])
    spread = best.std()
    score = (best - best.mean()) / spread if spread > 1e-12 else np.zeros(len(best))
    expected = [np.mean([s for s, draw in zip(score, draws, strict=True) if i in draw]) for i in range(len(rewards))]
    values = resolve_advantage("pass_at_k", k=k)(Table.of_rewards([rewards]))
    np.testing.assert_allclose(values, expected, atol=1e-9)


@settings(max_examples=EXAMPLES)
@given(some)
def test_gdpo_of_one_part_is_grpo(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups).with_columns(parts={"only": Table.of_rewards(groups).reward})
    np.testing.assert_allclose(resolve_advantage("gdpo")(table), resolve_advantage("grpo")(table), atol=1e-12)
    doubled = chain(decoupled({"only": 2.0}))(table)
    np.testing.assert_allclose(doubled, 2 * resolve_advantage("grpo")(table), atol=1e-12)


@settings(max_examples=EXAMPLES)
@given(some, st.integers(0, 9))
def test_equal_bin_weights_are_a_constant(groups: list[list[float]], seed: int) -> None:
    table = table_of(groups, seed)
    np.testing.assert_allclose(resolve_advantage("prompt_gdro")(table), 1.5 * resolve_advantage("grpo")(table))


@settings(max_examples=EXAMPLES)
@given(binary)
def test_a_grae_is_off_in_uniform_groups(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    uniform = np.array([len(set(g)) == 1 for g in groups])[table.group]
    values, before = resolve_advantage("a_grae")(table), resolve_advantage("grpo")(table)
    np.testing.assert_array_equal(values[uniform], before[uniform])


@settings(max_examples=EXAMPLES)
@given(binary)
def test_maxrl_weighs_by_the_pass_rate(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    rate = np.array([np.mean(g) for g in groups])[table.group]
    expected = np.where(rate > 0, table.reward / np.maximum(rate, 1e-9) - 1, 0)
    np.testing.assert_allclose(resolve_advantage("maxrl")(table), expected, atol=1e-9)


@settings(max_examples=EXAMPLES)
@given(st.integers(1, 16))
def test_ngrpo_pushes_all_wrong_groups_away(size: int) -> None:
    values = resolve_advantage("ngrpo")(Table.of_rewards([[0.0] * size]))
    np.testing.assert_allclose(values, -1 / np.sqrt(size + 1), rtol=1e-5)


@settings(max_examples=EXAMPLES)
@given(some)
def test_without_ambiguity_da_grpo_is_grpo(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    table = table.with_extras(fine=table.success)
    np.testing.assert_array_equal(chain(ambiguous(theta=0.0), center())(table), chain(center())(table))


@settings(max_examples=EXAMPLES)
@given(some)
def test_whitened_values_have_mean_0_and_deviation_1(groups: list[list[float]]) -> None:
    values = chain(center(), whiten(eps=0.0))(Table.of_rewards(groups))
    assert values.mean() == pytest.approx(0, abs=1e-9)
    assert values.any() == (np.std(values) > 0.5)
    if values.any():
        assert np.std(values, ddof=1) == pytest.approx(1)


@settings(max_examples=EXAMPLES)
@given(some)
def test_variants_are_groups_of_their_own(groups: list[list[float]]) -> None:
    apart = Table.of_rewards(groups)
    inside = Table.of_columns(reward=apart.reward, group=np.zeros(len(apart), np.int64), variant=apart.group)
    for name in ("grpo", "rloo", "mc_grpo", "ngrpo", "g2rpo", "maxrl", "pass_at_k"):
        values = resolve_advantage(name, by="variant")(inside)
        np.testing.assert_allclose(values, resolve_advantage(name)(apart), atol=1e-12)


@settings(max_examples=EXAMPLES)
@given(some)
def test_the_deviation_is_that_of_the_rewards_whatever_stands_before(groups: list[list[float]]) -> None:
    table = Table.of_rewards(groups)
    np.testing.assert_allclose(
        chain(leave_one_out(), scale("batch", eps=0.0))(table) * np.std(table.reward, ddof=1 if len(table) > 1 else 0),
        chain(leave_one_out())(table) if len(set(table.reward)) > 1 else 0,
        atol=1e-9,
    )
