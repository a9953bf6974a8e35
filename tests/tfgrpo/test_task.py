"""Tasks, their splits, and finding them by name, function or file."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import InputError
from tfgrpo.rewards.simple import exact
from tfgrpo.task import Task, gold_completion, load_task, split_problems
from tfgrpo.types import Problem


def problem(number: int, question: str = "", answer: Any = "") -> Problem:
    text = question or f"What comes after {number}?"
    return Problem(id=f"p{number}", messages=({"role": "user", "content": text},), answer=answer or str(number + 1))


def problems(count: int) -> tuple[Problem, ...]:
    return tuple(problem(i) for i in range(count))


def task(**changes: Any) -> Task:
    given: dict[str, Any] = {"name": "counting", "learn": problems(3), "reward": exact()}
    return Task(**{**given, **changes})


async def test_check_names_every_gold_answer_that_does_not_score() -> None:
    worked = dataclasses.replace(problem(9), meta={"gold": "it is 10"})
    unknown = Problem(id="free", messages=problem(5, "Any?").messages)
    assert await task().check() == []
    assert await task(learn=(unknown,)).check() == []
    (line,) = await task(learn=(worked, problem(1))).check()
    assert line.startswith("p9: the reference answer 'it is 10' got Score(value=0.0")


@pytest.mark.parametrize(
    ("answer", "text"), [("5", "5"), (5.0, "5"), (["a", "b"], "a"), ({"a": 1}, '{"a": 1}'), (True, "True")]
)
def test_gold_completions(answer: Any, text: str) -> None:
    assert gold_completion(problem(1, "?", answer)).text == text


def test_fingerprint_follows_what_matters() -> None:
    same = task().fingerprint()
    assert same == task().fingerprint()
    changes: list[dict[str, Any]] = [
        {"learn": problems(4)},
        {"test": (problem(8),)},
        {"objective": "Count."},
        {"reward": dataclasses.replace(exact(), name="other")},  # type: ignore[type-var]
    ]
    assert len({same, *(task(**change).fingerprint() for change in changes)}) == 5


def test_splits_must_not_share_problems_or_questions() -> None:
    with pytest.raises(InputError, match="'p2' stands in the split 'test' and, with the same id"):
        task(test=(problem(2),))
    with pytest.raises(InputError, match="'p7' stands in the split 'gate'"):
        task(gate=(problem(7, "what  COMES after 1?"),))
    assert task(learn=(problem(1), problem(7, "What comes after 1?"))).learn


def test_split_is_by_id_and_a_problem_stays_when_the_file_grows() -> None:
    small, large = split_problems(problems(200)), split_problems(problems(400))
    assert [len(split) / 400 for split in large] == pytest.approx([0.5, 0.2, 0.3], abs=0.06)
    for few, many in zip(small, large, strict=True):
        assert {p.id for p in few} <= {p.id for p in many}
    assert split_problems(problems(200), seed=1) != small
    assert split_problems(tuple(reversed(problems(200))))[0] == tuple(reversed(small[0]))


@given(st.integers(3, 30), st.integers(0, 5))
def test_every_split_that_was_asked_for_has_a_problem(count: int, seed: int) -> None:
    splits = split_problems(problems(count), seed=seed)
    assert all(splits) and sorted(p.id for s in splits for p in s) == sorted(p.id for p in problems(count))


def test_equal_questions_stay_together() -> None:
    twins = tuple(problem(i, f"Is {i % 20}  a number?" if i < 20 else f"is {i % 20} a NUMBER?") for i in range(40))
    task(learn=(), gate=(), test=())
    splits = split_problems(twins)
    asked = [{p.id[1:].zfill(2) if int(p.id[1:]) < 20 else str(int(p.id[1:]) - 20).zfill(2) for p in s} for s in splits]
    assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])
    assert sum(map(len, splits)) == 40


def test_unusable_shares_and_too_few_problems() -> None:
    with pytest.raises(InputError, match="leave something to learn"):
        split_problems(problems(5), gate=0.5, test=0.5)
    with pytest.raises(InputError, match="too few"):
        split_problems(problems(2))
    learn, gate, test = split_problems(problems(2), gate=0.0, test=0.0)
    assert (len(learn), gate, test) == (2, (), ())


def write(path: Path, count: int, start: int = 0) -> Path:
    rows = [
        {"id": f"p{i}", "prompt": f"What comes after {i}?", "answer": str(i + 1)} for i in range(start, start + count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_file_with_and_without_files_for_the_other_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "count.jsonl", 40)
    whole = load_task(str(path), reward="exact", objective="Count.")
    assert whole.name == "count" and len(whole.problems) == 40 and whole.gate and whole.test
    val, test = write(tmp_path / "val.jsonl", 5, 100), write(tmp_path / "test.jsonl", 5, 200)
    given = load_task(str(path), reward=exact(), val=val, test=test, limit=30)
    assert [len(s) for s in (given.learn, given.gate, given.test)] == [30, 5, 5]
    tolerant = load_task(str(path), reward="numeric", reward_options={"tolerance": 0.5})
    assert tolerant.reward.name == "numeric(tolerance=0.5)"


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("largest_of_tree", {}, "unknown task 'largest_of_tree'; did you mean 'largest_of_three'"),
        ("largest_of_three", {"sed": 1}, "unknown option of task 'largest_of_three' 'sed'; did you mean 'seed'"),
        ("none.jsonl", {"reward": "exact"}, "none.jsonl: cannot be read"),
        ("none.jsonl", {}, "needs a reward"),
        ("none.jsonl", {"rewrd": "exact"}, "did you mean 'reward'"),
        ("none.jsonl", {"reward": "exat"}, "did you mean 'exact'"),
        ("json:dumps", {"obj": 1}, "expected its function to return a tfgrpo Task, got '1'"),
        ("json:__name__", {}, "expected a Task or a function"),
    ],
)
def test_bad_names_and_options(spec: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_task(spec, **options)
    assert said in str(caught.value)


def test_a_task_of_the_users_own_module(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from tfgrpo.task import Task\nfrom tfgrpo.types import Problem\nfrom tfgrpo.rewards.simple import exact\n"
        "def build(size=1):\n"
        "    asked = [Problem(id=str(i), messages=({'role': 'user', 'content': f'{i} or?'},)) for i in range(size)]\n"
        "    return Task(name='mine', learn=tuple(asked), reward=exact())\n"
        "ready = build()\n"
    )
    assert len(load_task(f"{path}:build", size=3).learn) == 3
    assert load_task(f"{path}:ready").name == "mine"


def test_a_file_that_hides_the_task_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("x = 1\n")
    code = "import tfgrpo.task as t\ntry:\n    t.load_task('word_sorting')\nexcept t.InputError as e:\n    print(e)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "tasks.py hides it; rename that file" in shown
