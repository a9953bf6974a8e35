"""Every task that is offered: gold answers score 1.0, splits are disjoint and seeded, wrong answers do not score."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tfgrpo.errors import InputError
from tfgrpo.rewards.base import score_answers
from tfgrpo.task import Task, load_task, question_key, task_entries
from tfgrpo.types import Completion, Score

OURS = sorted(name for name, entry in task_entries().items() if entry.module.partition(".")[0] == "tasks")
GENERATED = sorted(set(OURS) - {"gsm8k", "math"})


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Files for the tasks that read a data set."""
    folder = tmp_path_factory.mktemp("data")
    sums = [
        {"question": f"What is {i} plus {i}?", "answer": f"{i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}
        for i in range(40)
    ]
    expressions = [
        {"problem": f"Simplify ${i}/6$.", "solution": rf"It is $\boxed{{\frac{{{i}}}{{6}}}}$.", "level": i % 5 + 1}
        for i in range(1, 41)
    ]
    for name, rows in (("gsm8k", sums), ("math", expressions)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {name: {"data": str(folder / f"{name}.jsonl")} for name in ("gsm8k", "math")}


def made(name: str, options: dict[str, dict[str, Any]], **more: Any) -> Task:
    return load_task(name, **options.get(name, {}), **more)


def answer(text: str) -> Completion:
    return Completion(prompt=(), messages=(), text=text, policy="scripted")


def test_the_offered_tasks() -> None:
    assert {
        "consistency", "gsm8k", "house_extraction", "house_facts", "json_record", "largest_of_three", "math",
        "open_ended", "safety", "text_to_sql", "tool_calling", "word_sorting",
    } <= set(OURS)  # fmt: skip


@pytest.mark.parametrize("name", OURS)
async def test_gold_answers_score_one(name: str, options: dict[str, dict[str, Any]]) -> None:
    task = made(name, options)
    assert task.name == name and task.objective and task.learn and task.gate and task.test
    assert await task.check() == []
    assert task.grader_only or task.setting


@pytest.mark.parametrize("name", sorted(set(OURS) - {"open_ended"}))  # a judge decides there
async def test_empty_and_echoed_answers_do_not_score(name: str, options: dict[str, dict[str, Any]]) -> None:
    task = made(name, options)
    for problem in task.problems[:20]:
        outcomes = await score_answers(task.reward, problem, [answer(""), answer(problem.question)])
        assert all(isinstance(o, Score) and not o.success for o in outcomes), (problem.question, outcomes)


@pytest.mark.parametrize("name", OURS)
def test_splits_are_seeded_and_disjoint(name: str, options: dict[str, dict[str, Any]]) -> None:
    task = made(name, options, seed=1)
    keys = [question_key(p) for p in task.problems]
    assert len(set(keys)) == len(keys)
    assert task.fingerprint() == made(name, options, seed=1).fingerprint() != made(name, options, seed=2).fingerprint()


@pytest.mark.parametrize("name", sorted(set(GENERATED) - {"house_facts"}))
def test_test_problems_stay_when_the_others_grow(name: str) -> None:
    assert load_task(name).test == load_task(name, learn=90).test


def test_sizes_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match="at least 1 problem"):
        load_task("largest_of_three", learn=0)
    with pytest.raises(InputError, match="were asked for"):
        load_task("largest_of_three", low=1, high=3)
    with pytest.raises(InputError, match="1 to 20 facts, got 21"):
        load_task("house_facts", facts=21)


def test_graded_answers_are_not_solved() -> None:
    extraction, record = load_task("house_extraction"), load_task("json_record")
    order, person = extraction.learn[0], record.learn[0]
    fields = " ".join(order.meta["fields"])
    (partly,) = asyncio.run(score_answers(extraction.reward, order, [answer(fields)]))
    assert (
        isinstance(partly, Score)
        and 0 < partly.value < 1
        and not partly.success
        and "Expected exactly" in partly.feedback
    )
    wrong = {**person.answer, "age": str(person.answer["age"])}
    (typed,) = asyncio.run(score_answers(record.reward, person, [answer(json.dumps(wrong))]))
    assert isinstance(typed, Score) and typed.value == pytest.approx(0.6) and "age" in typed.feedback


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("{0}", True),
        ("The largest number is {0}.", True),
        ("{0} is larger than {1}", False),
        ("{1}", False),
        ("{0}0", False),
    ],
)
async def test_largest_of_three(text: str, right: bool) -> None:
    task = load_task("largest_of_three")
    problem = task.learn[0]
    ordered = sorted(problem.meta["shown"], reverse=True)
    (score,) = await score_answers(task.reward, problem, [answer(text.format(*ordered))])
    assert isinstance(score, Score) and score.success is right


def test_house_facts_ask_for_the_same_facts_in_other_words() -> None:
    task = load_task("house_facts", facts=5)
    assert {p.answer for p in task.learn} == {p.answer for p in task.gate} == {p.answer for p in task.test}
    assert len(task.problems) == 30


def test_math_levels_and_hub_errors(options: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert len(made("math", options, level=3).problems) == 8
    with pytest.raises(InputError, match="cannot be read"):
        load_task("gsm8k", data=tmp_path / "none.jsonl")
