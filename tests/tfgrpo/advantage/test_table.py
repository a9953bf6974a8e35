"""What a table is made of, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfgrpo.advantage import ADVANTAGES, ALWAYS, Table, center, chain, leave_one_out, resolve_advantage
from tfgrpo.errors import InputError
from tfgrpo.types import Completion, Group, Problem, Rollout, Score, Segment, Usage


def rollout(value: float, solved: bool | None = None, text: str = "", **said: Any) -> Rollout:
    answer = Completion(prompt=(), messages=(), text=text, policy="scripted", variant=1, **said)
    return Rollout(completion=answer, score=Score(value=value, solved=solved))


PROBLEM = Problem(id="p", messages=({"role": "user", "content": "?"},))


def group(*rollouts: Rollout) -> Group:
    return Group(problem=PROBLEM, rollouts=rollouts)


def test_table_of_groups() -> None:
    one = group(rollout(1), rollout(0.5, True))
    table = Table.of([one, group(), one])
    assert table.group.tolist() == [0, 0, 2, 2]
    assert table.success.tolist() == [True] * 4
    assert table.variant.tolist() == [1] * 4
    assert table.weight.tolist() == [1] * 4
    np.testing.assert_allclose(resolve_advantage("dr_grpo")(table), [0.25, -0.25, 0.25, -0.25])


def test_parts_that_a_score_lacks_are_not_applicable() -> None:
    scored = [Score(value=1, parts={"right": 1, "brief": 0.5}), Score(value=0, parts={"right": 0})]
    rollouts = [Rollout(completion=rollout(0).completion, score=score) for score in scored]
    table = Table.of([group(*rollouts)])
    assert table.parts["right"].tolist() == [1, 0]
    np.testing.assert_array_equal(table.parts["brief"], [0.5, np.nan])


def test_extras_of_groups() -> None:
    told = (
        Segment(token_ids=(1, 2), train=True, logps=(-1.0, -2.0)),
        Segment(token_ids=(3,), train=False, logps=(-9.0,)),
    )
    first = group(
        rollout(1, text="so\nAnswer: 7 "), rollout(0, text="answer: 7", finish_reason="length", segments=told)
    )
    table = Table.of([first, group(rollout(1, text="answer: 7"))])
    assert table.extras["truncated"].tolist() == [0, 1, 0]
    assert table.extras["cluster"][0] == table.extras["cluster"][1] != table.extras["cluster"][2]
    np.testing.assert_array_equal(table.extras["logp"], [np.nan, -1.5, np.nan])
    apart = Table.of([first], answer=lambda c: c.text)
    assert apart.extras["cluster"][0] != apart.extras["cluster"][1]


def test_length_is_tokens_only_where_all_are_known() -> None:
    counted, not_counted = rollout(1, text="four", usage=Usage(completion_tokens=9)), rollout(1, text="fifty")
    assert Table.of([group(counted)]).length.tolist() == [9]
    assert Table.of([group(counted, not_counted)]).length.tolist() == [4, 5]


def test_missing_reward_leaves_the_statistics() -> None:
    for name in ("grpo", "dr_grpo", "rloo", "mc_grpo", "g2rpo"):
        advantage = resolve_advantage(name)
        with_gap = advantage(Table.of_rewards([[1.0, None, 0.0, 0.0, 0.0], [None, None], [1.0, None]]))
        np.testing.assert_allclose(with_gap[[0, 2, 3, 4]], advantage(Table.of_rewards([[1.0, 0.0, 0.0, 0.0]])))
        assert with_gap[[1, 5, 6, 7, 8]].tolist() == [0, 0, 0, 0, 0]


def test_rows_outside_the_statistics_are_compared_with_them() -> None:
    table = Table.of_rewards([[1.0, 0.0, 5.0]]).with_columns(in_stats=np.array([True, True, False]))
    np.testing.assert_allclose(chain(center())(table), [0.5, -0.5, 4.5])
    np.testing.assert_allclose(chain(leave_one_out())(table), [1.0, -1.0, 4.5])
    np.testing.assert_allclose(resolve_advantage("grpo")(table), np.array([0.5, -0.5, 4.5]) / np.sqrt(0.5), rtol=1e-5)


def test_sets_are_found_once_and_again_after_relabelling() -> None:
    table = Table.of_rewards([[1, 0], [1, 1]])
    assert table.with_reward(table.reward * 2).sets() is table.sets()
    relabelled = table.with_columns(group=np.array([0, 1, 0, 1]))
    assert relabelled.sets() is not table.sets()
    np.testing.assert_allclose(chain(center())(relabelled), [0, -0.5, 0, 0.5])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"reward": [1, 0], "group": [0]}, r"column group has the shape \(1,\), but the table has 2 rows"),
        ({"reward": [[1, 0]], "group": [0]}, r"rewards have the shape \(1, 2\)"),
        ({"reward": [1, 0], "group": [0.5, 1.0]}, "column group holds labels, which are integers; got float64"),
        ({"reward": [1, 0], "group": [0, 0], "variant": [0.5, 1]}, "column variant holds labels"),
        ({"reward": [1, 0], "group": [0, 0], "parts": {"right": [1]}}, r"column parts\['right'\] has the shape \(1,\)"),
        ({"reward": [1, 0], "group": [0, 0], "extras": {"logp": 1.0}}, r"column extras\['logp'\] has the shape \(\)"),
        ({"reward": [1, 0], "group": [0, 0], "success": [True]}, r"column success has the shape \(1,\)"),
    ],
)
def test_wrong_shapes_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Table.of_columns(**columns)


def test_a_column_that_is_missing_is_named() -> None:
    table = Table.of_rewards([[1, 0]]).with_extras(fine=[1, 0])
    with pytest.raises(
        InputError, match=r"unlikeliness needs the column 'logp' \[N\].*it has: fine\).*with_extras\(logp="
    ):
        resolve_advantage("unlikeliness")(table)
    assert resolve_advantage("unlikeliness").needs == {"logp"}
    assert resolve_advantage("seed_grpo", weigh="logp").needs == {"logp", "cluster"}
    assert resolve_advantage("grpo").needs == frozenset()
    assert resolve_advantage("gdpo").needs == {"parts"}
    assert resolve_advantage("gdpo", weights={"right": 1}).needs == {"right"}


def test_what_any_reward_can_be_valued_with() -> None:
    table = Table.of([group(rollout(1, text="4"), rollout(0, text="5"), rollout(0.5, text="4"))])
    assert set(table.extras) >= ALWAYS
    plain = {name for name in ADVANTAGES if resolve_advantage(name).needs <= ALWAYS}
    assert set(ADVANTAGES) - plain == {"gdpo", "unlikeliness", "e_grpo", "da_grpo", "prompt_gdro", "gdpo_sr"}
    for name in plain:
        assert resolve_advantage(name)(table).shape == (3,)


def test_a_reward_may_give_the_column_as_a_part() -> None:
    table = Table.of_columns(reward=[1, 1, 0, 0], group=[0] * 4, parts={"fine": [0.9, 0.45, 0.4, 0.1]})
    np.testing.assert_allclose(resolve_advantage("da_grpo")(table), [0.866024, 0, 0, -0.866024], atol=1e-6)


def test_infinite_rewards_are_missing() -> None:
    np.testing.assert_allclose(resolve_advantage("dr_grpo")(Table.of_rewards([[1, np.inf, 0]])), [0.5, 0, -0.5])
