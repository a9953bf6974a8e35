"""Training a tiny model in tests: a task that it can learn, a short run, and what two equal runs share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from tinymodel import NUMBERS, WORDS, trainer_state

import hybrid
from hybrid import Settings, TrainReport
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

FAST = Settings(dtype="float32", device="cpu", threads=1, lr=5e-3, keep_free=0.0, checkpoint_s=0.0)


@reward
def says_numbers(problem: Problem, completion: Completion) -> Score:
    """The share of words that are numbers; solved when half of them are."""
    words = completion.text.split()
    share = sum(word in NUMBERS for word in words) / max(1, len(words))
    return Score(value=share, parts={"share": share}, solved=share >= 0.5)


def problems(name: str, count: int) -> tuple[Problem, ...]:
    words = WORDS[:10] if name == "learn" else WORDS[10:]
    return tuple(
        Problem(
            id=f"{name}{n}", messages=({"role": "user", "content": f"{words[n % 10]} {words[(3 * n + n // 10) % 10]}"},)
        )
        for n in range(count)
    )


def task(**changes: Any) -> Task:
    plain = Task(
        name="numbers",
        learn=problems("learn", 10),
        test=problems("test", 12),
        reward=says_numbers,
        sampling=Sampling(temperature=1.0, max_tokens=6),
        test_samples=4,
    )
    return dataclasses.replace(plain, **changes)


def train(folder: Path, out: Path, **changes: Any) -> TrainReport:
    given = {"steps": 4, "group": 4, "prompts": 3, "settings": FAST, **changes}
    return hybrid.train(given.pop("task", task()), model=str(folder), out=out, **given)


def weights(report: TrainReport) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {**load_file(f"{report.checkpoint}/model.safetensors"), **trainer_state(report)}


def results(report: TrainReport) -> list[dict[str, float]]:
    """The curve without what depends on the clock."""
    return [{n: v for n, v in point.items() if not n.endswith(("_s", "_gib"))} for point in report.curve]


def assert_same_end(one: TrainReport, other: TrainReport) -> None:
    assert results(one) == results(other)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert (one.before, one.after) == (other.before, other.after)
