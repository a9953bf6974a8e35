"""What a step tells: golden numbers of the spread of rewards, and a table that matches the answers on record."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tinycounting import FAST, Stop, counting, stop_at, train
from tinymodel import save_tiny

from hybrid.told import scored, step_numbers
from tfgrpo.advantage import Table
from tfgrpo.events import Event
from tfgrpo.record import RunRecord
from tfgrpo.types import Completion, Group, Problem, Rollout, Score, Usage


def group(rewards: Sequence[float], lengths: Sequence[int] | None = None, *, index: int = 0) -> Group:
    """Answers to one problem; the part `half` applies to rewards above 0 only."""
    rollouts = tuple(
        Rollout(
            completion=Completion(
                prompt=(), messages=(), text="x", policy="p", usage=Usage(completion_tokens=length),
                finish_reason="length" if length >= 9 else "stop",
            ),
            score=Score(value=value, parts={"half": value / 2} if value > 0 else {}),
            sample=n,
        )
        for n, (value, length) in enumerate(zip(rewards, lengths or [3] * len(rewards), strict=True))
    )  # fmt: skip
    return Group(problem=Problem(id=f"p{index}", messages=()), rollouts=rollouts, index=index)


def numbers(*groups: Group) -> dict[str, float]:
    return step_numbers(groups, Table.of(groups))


def test_the_spread_of_rewards() -> None:
    found = numbers(group([1, 0, 1, 0]), group([0, 0]), group([0.5, 0.5]), group([1, 0]))
    assert found["zero_variance"] == 0.5
    assert found["reward_std"] == pytest.approx(0.25)  # 0.5, 0, 0, 0.5
    assert found["part/half"] == pytest.approx((3 * 0.5 + 2 * 0.25) / 5)  # of the five answers above 0
    assert "length_reward" not in found  # all are as long


def test_a_part_that_applies_to_nobody_is_left_out() -> None:
    assert "part/half" not in numbers(group([0, 0]))
    table = Table.of([group([0, 0])]).with_columns(parts={"half": np.array([math.nan, math.nan])})
    assert "part/half" not in step_numbers([group([0, 0])], table)


def test_length_and_reward_are_compared_within_groups_only() -> None:
    long_and_good = group([1, 0], [8, 2]), group([0, 1], [1, 7])
    assert numbers(*long_and_good)["length_reward"] == pytest.approx(1.0)
    short_and_good = group([1, 0], [2, 8])
    assert numbers(short_and_good)["length_reward"] == pytest.approx(-1.0)
    assert numbers(long_and_good[0], short_and_good)["length_reward"] == pytest.approx(0.0)
    apart = group([1, 1], [9, 9]), group([0, 0], [1, 1])  # a hard problem with short answers tells nothing
    assert "length_reward" not in numbers(*apart)


def test_the_table_of_a_step() -> None:
    groups = [group([1.0, 0.0], [3, 9], index=4), group([0.5, 0.5], index=5)]
    table = Table.of(groups).with_advantage(np.array([0.5, -0.5, math.nan, 0.0]))
    told = scored(groups, table.with_columns(in_loss=np.array([True, False, True, True])))
    assert told == {
        "group": [4, 4, 5, 5],
        "problem": ["p4", "p4", "p5", "p5"],
        "sample": [0, 1, 0, 1],
        "reward": [1.0, 0.0, 0.5, 0.5],
        "advantage": [0.5, -0.5, None, 0.0],
        "in_loss": [1, 0, 0, 1],
        "success": [1, 0, 0, 0],
        "length": [3, 9, 3, 3],
        "cut": [0, 1, 0, 0],
        "parts": {"half": [0.5, None, 0.25, 0.25]},
    }
    json.loads(json.dumps(told, allow_nan=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def tables(out: Path) -> dict[int, Event]:
    with RunRecord.open(out, read_only=True) as record:
        return {int(e.data["step"]): e for e in record.events("answers_scored")}


def test_every_answer_of_a_run_is_found_on_record_and_scores_the_same(folder: Path, tmp_path: Path) -> None:
    report = train(folder, tmp_path, steps=3)
    told = tables(tmp_path)
    with RunRecord.open(tmp_path, read_only=True) as record:
        calls = {(c.key.epoch, c.key.problem, c.key.sample): c.completion for c in record.calls("solve")}
    known = {problem.id: problem for problem in counting().learn}
    seen = 0
    for point in report.curve:
        data = told[int(point["step"])].data
        assert np.mean(data["reward"]) == pytest.approx(point["reward"], abs=1e-5)
        for place in zip(data["group"], data["problem"], data["sample"], strict=True):
            words = calls[place].text.split()
            row = seen % 12
            assert data["length"][row] == calls[place].usage.completion_tokens
            assert place[1] in known
            assert data["parts"]["brief"][row] == pytest.approx(1 - len(words) / 6, abs=1e-5)
            seen += 1
    assert seen == 36 == len(calls)


def test_a_run_that_goes_on_tells_the_same_tables(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "whole", steps=4)
    with pytest.raises(Stop):
        train(folder, tmp_path / "parts", steps=4, on_event=stop_at("group_done", 7), settings=FAST)
    train(folder, tmp_path / "parts", steps=4)
    whole, parts = tables(tmp_path / "whole"), tables(tmp_path / "parts")
    assert {n: dict(e.data) for n, e in whole.items()} == {n: dict(e.data) for n, e in parts.items()}
