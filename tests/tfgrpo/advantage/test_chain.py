"""Chains: your own steps, what is refused and why, the order of steps, filters and parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tfgrpo.advantage import (
    FILTERS,
    REFUSALS,
    Advantage,
    Step,
    Table,
    Tagged,
    adaptive_sum,
    all_correct,
    ambiguous,
    asymmetric,
    center,
    center_median,
    chain,
    conditional,
    decoupled,
    drop_surplus,
    dynamic_sampling,
    entity_partial,
    exp_weight,
    hard_gate,
    kept_groups,
    overlong,
    pass_at_k,
    resolve_advantage,
    resolve_filter,
    scale,
    segments,
    semantic_entropy,
    softmax,
    sum_parts,
    tagged,
    unlikeliness,
    virtual_best,
    zero_variance,
)
from tfgrpo.errors import InputError

ALL_WRONG, MIXED, ALL_RIGHT = [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]


def best_is_one(table: Table) -> Table:
    """An estimator of one's own: the share of the group's best reward."""
    best = segments.maximum(table.reward, table.sets("group"))
    return table.with_advantage(table.reward / table.sets("group").spread(best))


def test_a_step_is_any_function() -> None:
    assert chain(best_is_one)(Table.of_rewards([[0.5, 0.25], [2.0]])).tolist() == [1, 0.5, 1]
    assert chain(center(), best_is_one, scale())(Table.of_rewards([[0.5, 0.25]])).shape == (2,)


def test_an_advantage_among_steps_stands_for_its_steps() -> None:
    joined = chain(overlong(9), resolve_advantage("grpo"))
    assert [s.name for s in joined.steps if isinstance(s, Tagged)] == [
        "overlong()",
        "center('group')",
        "scale('group')",
    ]
    table = Table.of_columns(reward=[1, 0, 0], group=[0] * 3, length=[1, 2, 10])
    values = resolve_advantage("grpo")(table)
    np.testing.assert_array_equal(joined(table), [*values[:2], 0])


def test_the_table_is_not_changed() -> None:
    table = Table.of_rewards([[1, 0, 0.5]])
    columns = resolve_advantage("mc_grpo").columns(table)
    assert table.advantage.tolist() == [1, 0, 0.5]
    assert table.in_loss.all()
    assert columns.in_loss.sum() == 2


def test_called_on_a_table_that_was_used_it_begins_again() -> None:
    grpo, table = resolve_advantage("grpo"), Table.of_rewards([[1, 0]])
    np.testing.assert_array_equal(grpo(grpo.columns(table)), grpo(table))


Refused = tuple[Callable[[], tuple[Step | Advantage, ...]], str]
REFUSED: dict[str, Refused] = {
    "zero variance before unlikeliness": (lambda: (zero_variance(), unlikeliness()), "filter after it"),
    "zero variance before e-grpo": (lambda: (zero_variance(), resolve_advantage("e_grpo")), "filter after it"),
    "dynamic sampling before e-grpo": (lambda: (dynamic_sampling(), entity_partial()), "filter after it"),
    "zero variance before ngrpo": (lambda: (zero_variance(), virtual_best()), "drop only all-correct groups"),
    "zero variance after ngrpo": (lambda: (virtual_best(), zero_variance()), "drop only all-correct groups"),
    "dynamic sampling and ngrpo": (
        lambda: (dynamic_sampling(), resolve_advantage("ngrpo")),
        "all-wrong groups are what",
    ),
    "a filter before a-grae": (lambda: (all_correct(), resolve_advantage("a_grae")), "success rates that it reads"),
    "red-drop before a-grae": (lambda: (drop_surplus(), center(), asymmetric()), "success rates that it reads"),
    "shaping after centring": (lambda: (center(), unlikeliness()), "shape rewards first"),
    "a gate after gdpo": (lambda: (decoupled(), hard_gate("safe")), "shape rewards first"),
    "shaping before gdpo": (lambda: (hard_gate("safe"), decoupled()), "conditional()"),
    "two sums": (lambda: (sum_parts(), adaptive_sum()), "would be lost"),
    "pass@k after centring": (lambda: (center(), pass_at_k(2)), "would be lost"),
    "pass@k after gdpo": (lambda: (decoupled(), pass_at_k(2)), "would be lost"),
    "parts that nobody reads": (lambda: (conditional("a", "b"), center()), "follow it with sum_parts() or decoupled()"),
    "parts changed too late": (
        lambda: (sum_parts(), conditional("a", "b")),
        "follow it with sum_parts() or decoupled()",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case: str) -> None:
    steps, reason = REFUSED[case]
    with pytest.raises(InputError) as refusal:
        chain(*steps())
    assert reason in str(refusal.value)


def test_every_refusal_is_tried() -> None:
    tried = set()
    for steps, _ in REFUSED.values():
        flat = [s for step in steps() for s in (step.steps if isinstance(step, Advantage) else (step,))]
        tags = [s.tags for s in flat if isinstance(s, Tagged)]
        tried |= {
            (r.first, r.then)
            for r in REFUSALS
            for n, later in enumerate(tags)
            for earlier in tags[:n]
            if r.first in earlier and r.then in later
        }
    assert tried == {(r.first, r.then) for r in REFUSALS}


def test_allowed_where_the_order_is_right() -> None:
    chain(unlikeliness(), zero_variance(), center(), scale())
    chain(overlong(), resolve_advantage("a_grae"))
    chain(all_correct(), resolve_advantage("ngrpo"))
    chain(conditional("a", "b"), sum_parts(), hard_gate("c"), center())
    chain(conditional("a", "b"), decoupled())
    chain(tagged("mine", best_is_one), center())


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("zero_variance", [False, True, False]),
        ("dynamic_sampling", [False, True, False]),
        ("all_correct", [True, True, False]),
        ("median_pivot", [True, True, True]),
    ],
)
def test_filter(name: str, kept: list[bool]) -> None:
    filtered = resolve_filter(name)(Table.of_rewards([ALL_WRONG, MIXED, ALL_RIGHT]))
    assert kept_groups(filtered).tolist() == kept
    assert filtered.in_stats.all() == (name == "median_pivot")
    assert (filtered.in_loss <= filtered.in_stats).all()


def test_dynamic_sampling_reads_verdicts_and_zero_variance_rewards() -> None:
    table = Table.of_columns(reward=[0.2, 0.6, 1, 1], group=[0, 0, 1, 1], success=[0, 0, 1, 0])
    assert kept_groups(zero_variance()(table)).tolist() == [True, False]
    assert kept_groups(dynamic_sampling()(table)).tolist() == [False, True]


def test_a_dropped_group_does_not_move_the_batch() -> None:
    table = Table.of_rewards([[1.0, 0.0], [0.5, 0.5]])
    alone = chain(center(), scale("batch"))(Table.of_rewards([[1.0, 0.0]]))
    np.testing.assert_allclose(chain(zero_variance(), center(), scale("batch"))(table), [*alone, 0, 0])


def test_overlong_stays_in_the_statistics() -> None:
    table = Table.of_columns(reward=[1, 0, 0], group=[0] * 3, extras={"truncated": [0, 0, 1]})
    columns = chain(overlong(), center()).columns(table)
    np.testing.assert_allclose(columns.advantage, [2 / 3, -1 / 3, 0])
    assert columns.in_stats.all()
    with pytest.raises(InputError, match="overlong needs the column 'truncated'"):
        overlong()(Table.of_rewards([[1, 0]]))


def test_ambiguity_needs_both_sides() -> None:
    table = Table.of_columns(reward=[1, 1, 0], group=[0, 0, 1], extras={"fine": [0.5, 0.5, 0.5]})
    assert ambiguous()(table).in_loss.all()


def test_every_filter_has_a_formula_and_a_source() -> None:
    for name, row in FILTERS.items():
        assert row.formula, name
        assert row.source, name
    with pytest.raises(InputError, match="did you mean 'overlong'"):
        resolve_filter("overlon")
    with pytest.raises(InputError, match="unknown option of filter 'overlong'"):
        resolve_filter("overlong", limit=3)


# -- parts -------------------------------------------------------------------------------------------------------------


def parted(**parts: list[float]) -> Table:
    rows = len(next(iter(parts.values())))
    return Table.of_columns(reward=[0.5] * rows, group=[0] * rows, parts=parts)


def test_a_part_that_is_not_applicable_adds_nothing() -> None:
    table = parted(right=[1, 0, np.nan], brief=[np.nan, 1, np.nan])
    np.testing.assert_array_equal(sum_parts()(table).reward, [1, 1, np.nan])
    assert chain(sum_parts(), center())(table).tolist() == [0, 0, 0]
    np.testing.assert_allclose(chain(decoupled(eps=0.0))(table), [np.sqrt(0.5), -np.sqrt(0.5), 0])


def test_conditional_pays_only_what_is_reached() -> None:
    table = parted(right=[1, 0, np.nan], brief=[0.7, 0.9, 0.8])
    assert conditional("brief", "right")(table).parts["brief"].tolist() == [0.7, 0, 0.8]
    assert conditional("brief", "right", at_least=0.0)(table).parts["brief"].tolist() == [0.7, 0.9, 0.8]


def test_a_gate_that_rewards_failing_is_refused() -> None:
    table = Table.of_columns(reward=[-1, 3], group=[0, 0], parts={"safe": [1, 0]})
    with pytest.raises(InputError, match="set otherwise= below every reward"):
        hard_gate("safe")(table)
    assert hard_gate("safe", otherwise=-2)(table).reward.tolist() == [-1, -2]
    with pytest.raises(InputError, match="needs part 'safe' of every scored rollout"):
        hard_gate("safe")(parted(safe=[1, np.nan]))


def test_parts_that_are_missing_are_named() -> None:
    with pytest.raises(InputError, match="scores with named parts and these have none"):
        resolve_advantage("gdpo")(Table.of_rewards([[1, 0]]))
    with pytest.raises(InputError, match="did you mean 'right'"):
        sum_parts({"rigth": 1})(parted(right=[1]))
    with pytest.raises(InputError, match="'weight/NAME' for each part"):
        adaptive_sum()(parted(right=[1]))


# -- options that make no sense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pass_at_k(0), "at least 1"),
        (lambda: softmax(tau=0), "tau must be above 0"),
        (lambda: exp_weight(tau=-1), "tau must be above 0"),
        (lambda: unlikeliness(beta=2), "beta is a share"),
        (lambda: asymmetric(alpha=0), "alpha must be above 0"),
        (lambda: semantic_entropy(form="linea"), "did you mean 'linear'"),
        (lambda: virtual_best(copies=0), "copies"),
        (lambda: resolve_advantage("ngrpo")(Table.of_rewards([[2, 0]])), "pass best="),
        (lambda: resolve_advantage("maxrl")(Table.of_rewards([[-1, 0]])), "at least 0"),
    ],
)
def test_options_and_rewards_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_median_centre_alone() -> None:
    np.testing.assert_allclose(chain(center_median())(Table.of_rewards([[3, 1, 2, 9]])), [1, -1, 0, 7])
