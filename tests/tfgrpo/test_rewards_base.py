"""Lifting plain functions to rewards: what they may return, how they may fail, how they are combined."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from tfgrpo.errors import BudgetExhausted, InputError, RewardError, TransportError
from tfgrpo.rewards.base import (
    Outcome,
    Reward,
    function_name,
    group_reward,
    reward,
    score_answers,
    to_score,
    weighted,
)
from tfgrpo.types import Completion, Problem, Score

PROBLEM = Problem(id="p1", messages=({"role": "user", "content": "2 + 3?"},), answer="5")


def answers(*texts: str) -> list[Completion]:
    return [Completion(prompt=(), messages=(), text=text, policy="scripted") for text in texts]


async def scored(given: Reward, *texts: str) -> tuple[Outcome, ...]:
    return await score_answers(given, PROBLEM, answers(*texts))


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (True, Score(value=1.0)),
        (0, Score(value=0.0)),
        (np.float32(0.5), Score(value=0.5)),
        (np.array(0.5), Score(value=0.5)),
        (None, None),
        ({"a": 1, "b": 0}, Score(value=0.5, parts={"a": 1.0, "b": 0.0})),
        ({"a": 1, "b": None}, Score(value=1.0, parts={"a": 1.0})),
        ({"a": 1, "value": 0.25}, Score(value=0.25, parts={"a": 1.0})),
        ({"a": None}, None),
        (Score(value=2.0, solved=False), Score(value=2.0, solved=False)),
    ],
)
def test_what_is_scorable(returned: Any, expected: Score | None) -> None:
    assert to_score(returned) == expected


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), "1", [1.0], Score(value=float("nan")), object()])
def test_what_is_no_score(returned: Any) -> None:
    with pytest.raises(RewardError, match="finite number"):
        to_score(returned)


async def test_sync_and_async_functions_are_lifted() -> None:
    @reward
    def short(problem: Problem, completion: Completion) -> bool:
        return len(completion.text) < 3

    @reward
    async def slow(problem: Problem, completion: Completion) -> float:
        await asyncio.sleep(0)
        return 0.5

    assert short.name == "short" and isinstance(short, Reward)
    assert await scored(short, "5", "five") == (Score(value=1.0), Score(value=0.0))
    assert await scored(slow, "5") == (Score(value=0.5),)
    assert await scored(slow) == ()


async def test_one_failing_answer_loses_only_itself() -> None:
    @reward
    def strict(problem: Problem, completion: Completion) -> float:
        return float(completion.text)

    good, bad, other = await scored(strict, "1", "one", "0")
    assert (good, other) == (Score(value=1.0), Score(value=0.0))
    assert isinstance(bad, RewardError)
    assert "reward 'strict' failed on problem 'p1': ValueError" in str(bad)
    assert "test_rewards_base.py:" in str(bad)


@pytest.mark.parametrize("error", [BudgetExhausted("over"), asyncio.CancelledError()])
async def test_what_stops_a_run_is_passed_on(error: BaseException) -> None:
    async def stops(problem: Problem, completion: Completion) -> float:
        raise error

    with pytest.raises(type(error)):
        await scored(reward(stops), "a")


async def test_a_lost_judge_call_is_a_failed_score() -> None:
    async def asks(problem: Problem, completion: Completion) -> float:
        raise TransportError("unreachable")

    (outcome,) = await scored(reward(asks), "a")
    assert isinstance(outcome, RewardError)


async def test_group_functions_see_all_answers() -> None:
    @group_reward
    def longest(problem: Problem, completions: Sequence[Completion]) -> list[bool | None]:
        best = max(len(c.text) for c in completions)
        return [len(c.text) == best if c.text else None for c in completions]

    assert await scored(longest, "a", "bb", "") == (Score(value=0.0), Score(value=1.0), None)


async def test_group_function_of_the_wrong_length_fails_every_answer() -> None:
    outcomes = await scored(group_reward(lambda problem, completions: [1.0]), "a", "b")
    assert all(isinstance(o, RewardError) and "1 scores for 2 answers" in str(o) for o in outcomes)
    broken = await scored(group_reward(lambda problem, completions: 1 / 0), "a", "b")  # type: ignore[arg-type, return-value]
    assert all(isinstance(o, RewardError) and "ZeroDivisionError" in str(o) for o in broken)


async def test_weighted_parts() -> None:
    right = reward(lambda p, c: c.text == "5", name="right")
    brief = reward(lambda p, c: Score(value=0.5, feedback="too long") if len(c.text) < 9 else None, name="brief")
    both = weighted({"right": (right, 3.0), "brief": (brief, 1.0)})
    mixed, missing = await scored(both, "5", "0123456789")
    assert mixed == Score(value=0.875, parts={"right": 1.0, "brief": 0.5}, feedback="brief: too long", solved=False)
    assert missing == Score(value=0.0, parts={"right": 0.0}, solved=False)
    assert both.name == "right+brief"


async def test_weighted_reports_a_failed_part_and_an_empty_one() -> None:
    fails = reward(lambda p, c: 1 / int(c.text))
    (failed, fine) = await scored(weighted({"x": (fails, 1.0)}), "0", "1")
    assert isinstance(failed, RewardError) and fine == Score(value=1.0, parts={"x": 1.0}, solved=True)
    assert await scored(weighted({"x": (reward(lambda p, c: None), 1.0)}), "0") == (None,)
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="positive sum"):
            weighted({"x": (fails, weight)})


def test_names_of_functions() -> None:
    class Judge:
        def __call__(self) -> None: ...

    assert [function_name(f) for f in (partial(max, 1), Judge(), len)] == ["max", "Judge", "len"]
