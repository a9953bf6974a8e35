"""Text to SQL and tool calling: levels, unseen databases, wordings, and one tiny run of each with the real model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import experience_store
from tasks._databases import DOMAINS, filled
from tfgrpo import alearn
from tfgrpo.budget import Budget
from tfgrpo.errors import InputError, MissingExtraError
from tfgrpo.policy import connect
from tfgrpo.record import RunRecord
from tfgrpo.rewards.base import score_answers
from tfgrpo.task import Task, load_task
from tfgrpo.types import Completion, Problem, Score

NAMES = ("text_to_sql", "tool_calling")


def answer(text: str) -> Completion:
    return Completion(prompt=(), messages=({"role": "assistant", "content": text},), text=text, policy="scripted")


async def score(task: Task, problem: Problem, text: str) -> Score:
    (outcome,) = await score_answers(task.reward, problem, [answer(text)])
    assert isinstance(outcome, Score)
    return outcome


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1, 2, 3, 4])
async def test_each_level_by_itself(name: str, level: int) -> None:
    task = load_task(name, level=level, learn=12, gate=4, test=8)
    assert {p.meta["level"] for p in task.problems} == {level}
    assert await task.check() == []


@pytest.mark.parametrize("name", NAMES)
def test_options_and_wordings(name: str) -> None:
    with pytest.raises(InputError, match="has the levels 1, 2, 3, 4; got level=5"):
        load_task(name, level=5)
    task = load_task(name)
    assert {p.meta["level"] for p in task.learn} == {p.meta["level"] for p in task.test} == {1, 2, 3, 4}
    assert all(p.variants and p.question not in p.variants for p in task.problems)


def test_the_databases_of_the_test_problems_are_new() -> None:
    task = load_task("text_to_sql")
    seen, unseen = ({p.meta["schema"] for p in split} for split in ((*task.learn, *task.gate), task.test))
    assert not seen & unseen and len(seen) > 12
    for problem in task.problems:  # the rows are for the grader alone
        assert "INSERT" in problem.meta["schema"] and "INSERT" not in json.dumps(list(problem.messages))


def test_every_pattern_can_be_drawn() -> None:
    wanted = {pattern.sql for domain in DOMAINS for pattern in domain.patterns}
    task = load_task("text_to_sql", learn=400)
    shapes = [re.escape(sql).replace(r"\{", "{").replace(r"\}", "}") for sql in wanted]
    for shape in (re.sub(r"\{\w+\}", ".+", s) for s in shapes):
        assert any(re.fullmatch(shape, str(p.answer)) for p in task.problems), shape
    assert filled(DOMAINS[0], "a") == filled(DOMAINS[0], "a") != filled(DOMAINS[0], "b")


async def test_other_ways_to_write_a_query_score_and_wrong_ones_do_not() -> None:
    task = load_task("text_to_sql", partial=True)
    for problem in task.test[:12]:
        gold = str(problem.answer)
        assert (await score(task, problem, f"```sql\n{gold};\n```")).success
        other = await score(task, problem, f"Here it is:\nWITH found AS ({gold}) SELECT * FROM found;")
        assert other.success or "ORDER BY" in gold
        wrong = await score(task, problem, f"SELECT * FROM ({gold}) LIMIT 0")
        assert not wrong.success and 0 < wrong.value < other.value


async def test_partly_right_calls_get_a_share() -> None:
    task = load_task("tool_calling")
    double = next(p for p in task.learn if p.meta["level"] == 3)
    half = await score(task, double, json.dumps(double.answer[:1]))
    assert 0 < half.value < 1 and not half.success
    for problem in task.learn[:10]:
        assert (await score(task, problem, f"```json\n{problem.meta['gold']}\n```")).success
        assert not (await score(task, problem, "I did that for you.")).success


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
async def test_a_run_with_a_real_model(name: str, tmp_path: Path) -> None:
    policy = connect("local/smollm2")
    made = load_task(name, learn=3, gate=0, test=2, level=1)
    try:
        with experience_store.open(tmp_path / "store", embedder="hashing") as store:
            report = await alearn(
                made, model=policy, critic="examples", store=store, budget=Budget(calls=16), group=3, runs=tmp_path
            )
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        await policy.aclose()
    with RunRecord.open(report.folder, read_only=True) as record:
        assert not list(record.events("reward_failed"))
    assert report.groups >= 1 and report.rollouts >= 3
