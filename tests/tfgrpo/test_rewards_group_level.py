"""The rows: every preset can be made by name, scores a group, and differs within it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.judges import ScriptedJudge
from tfgrpo.errors import InputError
from tfgrpo.rewards import resolve_reward
from tfgrpo.rewards.base import Reward, score_answers, scores_alone
from tfgrpo.rewards.group_level import AGGREGATIONS, GROUP_REWARDS
from tfgrpo.rewards.simple import contains
from tfgrpo.types import Completion, Problem, Score, Usage

PROBLEM = Problem(
    id="p",
    messages=({"role": "user", "content": "Capital?"},),
    answer="paris",
    meta={"token_budget": 20, "difficulty": 2},
)
VERDICT = '{"reason": "", "first": 8, "second": 2}'
OPTIONS: dict[str, dict[str, Any]] = {
    "ps_grpo": {"with_": contains()},
    "safety": {
        "scorer": lambda problem, completion: {"safety": min(1.0, len(completion.text) / 20), "politeness": 1.0}
    },
    "tournament": {"caller": ScriptedJudge(VERDICT), "alone": contains()},
    "multi_role": {"with_": contains()},
    "bmas": {"embedder": "hashing"},
    "trapezoid": {"knots": (0, 10, 20, 40)},
    "cosine_length": {"with_": contains(), "longest": 40},
    "soft_overlong": {"longest": 40, "cache": 30},
    "pixelthink": {"with_": contains(), "unit": "tokens"},
}


def made(name: str) -> Reward:
    return GROUP_REWARDS[name].make(**OPTIONS.get(name, {}))


def group() -> list[Completion]:
    texts = ("paris", "it is paris", "paris, the big city of light", "lyon and some more words that say nothing at all")
    return [
        Completion(
            prompt=(), messages=(), text=t, policy="p", variant=k % 2, usage=Usage(completion_tokens=4 * len(t.split()))
        )
        for k, t in enumerate(texts)
    ]


@pytest.mark.parametrize("name", GROUP_REWARDS)
async def test_every_row_scores_and_varies_within_the_group(name: str) -> None:
    row, reward = GROUP_REWARDS[name], made(name)
    assert row.formula and row.source and reward.name == name
    outcomes = await score_answers(reward, PROBLEM, group())
    assert all(isinstance(o, Score) for o in outcomes)
    if name != "tournament":  # its judge likes whatever comes first, so that both orders tie
        assert len({o.value for o in outcomes if isinstance(o, Score)}) > 1


@pytest.mark.parametrize("name", GROUP_REWARDS)
async def test_every_row_can_be_had_by_name(name: str) -> None:
    assert resolve_reward(name, **OPTIONS.get(name, {})).name.startswith(name)


@pytest.mark.parametrize("name", GROUP_REWARDS)
async def test_no_row_breaks_on_one_empty_answer(name: str) -> None:
    empty = Completion(prompt=(), messages=(), text="", policy="p")
    (outcome,) = await score_answers(made(name), PROBLEM, [empty])
    assert outcome is None or isinstance(outcome, Score)


def test_rewards_inside_rewards_are_had_by_name() -> None:
    assert resolve_reward("ps_grpo", with_="contains", similarity="token_f1").name
    with pytest.raises(InputError, match="did you mean 'contains'"):
        resolve_reward("ps_grpo", with_="contain")
    with pytest.raises(InputError, match="cannot be the only reward"):
        resolve_reward("ps_grpo")


def test_which_rewards_look_at_the_whole_group() -> None:
    whole = {"ps_grpo", "information_consistency", "tournament", "diversity", "multi_role"}
    assert {name for name in GROUP_REWARDS if not scores_alone(made(name))} == whole
    parts = {"right": (contains(), 1.0), "new": (made("diversity"), 1.0)}
    assert not scores_alone(AGGREGATIONS["gated"].make(parts, gate="right"))
    assert scores_alone(AGGREGATIONS["gated"].make({"right": (contains(), 1.0)}, gate="right"))


def test_aggregations_are_listed() -> None:
    assert list(AGGREGATIONS) == ["weighted", "conditional", "gated"]
    assert all(row.formula for row in AGGREGATIONS.values())
