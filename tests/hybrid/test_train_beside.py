"""What stands beside the score of a training run, and groups over wordings in which nothing could be compared."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tinymodel import NUMBERS, save_tiny

import hybrid
from tfgrpo.errors import InputError
from tfgrpo.measures import Answers, Probe
from tfgrpo.policy.base import Sampling
from tfgrpo.record import RunRecord
from tfgrpo.rewards.base import reward
from tfgrpo.rewards.consistency import consistent
from tfgrpo.task import Task
from tfgrpo.types import Completion, Message, Problem

FAST = hybrid.Settings(dtype="float32", device="cpu", threads=1, lr=5e-3, checkpoint_s=0.0, keep_free=0.0)


@reward
def says_a_number(problem: Problem, completion: Completion) -> float:
    said = completion.text.split()
    return sum(word in NUMBERS for word in said) / max(1, len(said))


def brief(problem: Problem, completion: Completion) -> bool:
    return len(completion.text.split()) < 4


def both(problem: Problem) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in (problem.question, *problem.variants)]


def alike(problem: Problem, answers: Answers) -> Mapping[str, float | None]:
    return {"alike": float(len({a.text for a in answers if a is not None}) == 1)}


WORDINGS = Probe(name="wordings", says=("alike",), ask=both, read=alike)


def problems(name: str, count: int) -> tuple[Problem, ...]:
    pairs = [(NUMBERS[n % 10], NUMBERS[(n + 1 + n // 10) % 10]) for n in range(count)]
    return tuple(
        Problem(
            id=f"{name}-{n}",
            messages=({"role": "user", "content": f"{name} {a} {b}"},),
            variants=(f"{name} of {a} and {b}",),
        )
        for n, (a, b) in enumerate(pairs)
    )


def task(**changes: Any) -> Task:
    plain = Task(
        name="numbers",
        learn=problems("largest", 8),
        test=problems("which", 6),
        reward=says_a_number,
        sampling=Sampling(temperature=1.0, max_tokens=5),
        measures={"brief": brief},
        probes=(WORDINGS,),
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("beside") / "tiny", max_position_embeddings=2048)


def train(folder: Path, out: Path, given: Task, steps: int = 2) -> hybrid.TrainReport:
    """The model is named from the folder above it: its answers are drawn by that name."""
    with contextlib.chdir(folder.parent):
        return hybrid.train(given, model=folder.name, out=out, steps=steps, group=4, prompts=2, settings=FAST)


def test_measures_and_probes_are_reported_and_a_resumed_run_asks_for_nothing_again(
    folder: Path, tmp_path: Path
) -> None:
    report = train(folder, tmp_path, task())
    assert [change.name for change in report.beside] == ["brief", "alike"]
    brief_, alike_ = report.beside
    assert brief_.before is not None and brief_.before.n == 6 and alike_.after is not None and alike_.after.n == 6
    assert "  beside    brief  " in str(report) and "            alike  " in str(report)
    with RunRecord.open(tmp_path, read_only=True) as record:
        asked = len(list(record.calls("evaluate")))
    assert asked == 2 * 6 * (1 + 2)
    assert train(folder, tmp_path, task()).beside == report.beside
    with RunRecord.open(tmp_path, read_only=True) as record:
        assert len(list(record.calls("evaluate"))) == asked


def test_over_wordings_the_estimator_compares_within_each(folder: Path, tmp_path: Path) -> None:
    ends = Sampling(temperature=1.0, max_tokens=40)  # an answer that is cut off is compared with no other
    made = task(reward=consistent(says_a_number), grouping="paraphrases", advantage="ps_grpo", sampling=ends)
    report = train(folder, tmp_path, made)
    assert {"part/consistency", "part/says_a_number"} <= set(report.curve[0])
    assert report.methods["advantage"] == "ps_grpo" and not report.notices


def test_one_wording_is_refused_before_the_first_answer(folder: Path, tmp_path: Path) -> None:
    bare = tuple(replace(p, variants=()) for p in problems("largest", 4))
    alone = task(learn=bare, reward=consistent(says_a_number), probes=())
    with pytest.raises(InputError, match="every group has one wording only; give problems `variants`"):
        train(folder, tmp_path / "a", alone)
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="every group has one wording only"):  # the model writes none that can be used
        train(folder, tmp_path / "b", replace(alone, grouping="paraphrases", advantage="ps_grpo"))
    with RunRecord.open(tmp_path / "b", read_only=True) as record:
        assert not list(record.calls("solve")) and not list(record.calls("evaluate"))


def test_problems_that_stay_with_one_wording_are_told(folder: Path, tmp_path: Path) -> None:
    some = (*problems("largest", 3), *(replace(p, variants=()) for p in problems("number", 2)))
    made = task(learn=some, reward=consistent(says_a_number), grouping="paraphrases", advantage="ps_grpo", test=())
    report = train(folder, tmp_path, made, steps=1)
    assert report.notices[0].startswith("2 of 5 problems have one wording, whose answers were compared with no other")
