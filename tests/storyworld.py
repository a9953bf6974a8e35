"""What the tests of a story share: a tiny model that can be trained in milliseconds, and a task it gets better at."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from tinymodel import NUMBERS, WORDS

import hybrid
from hybrid import Choices, Improvement, Settings
from tfgrpo.budget import Budget
from tfgrpo.policy import connect
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

FAST = Settings(dtype="float32", device="cpu", threads=1, lr=5e-3, keep_free=0.0, checkpoint_s=0.0)
CHOICES = Choices(group=4, prompts=4, pilot_steps=2, settings=FAST)
CALLS = 240


@reward
def says_numbers(problem: Problem, completion: Completion) -> Score:
    """The share of words that are numbers; solved when half of them are."""
    words = completion.text.split()
    share = sum(word in NUMBERS for word in words) / max(1, len(words))
    return Score(value=share, solved=share >= 0.5)


def problems(split: str, count: int) -> tuple[Problem, ...]:
    words, first = WORDS[:10], {"learn": 0, "gate": 40, "test": 60}[split]
    asked = [f"{words[n % 10]} {words[n // 10]}" for n in range(first, first + count)]
    return tuple(
        Problem(id=f"{split}{n}", messages=({"role": "user", "content": text},), answer="one")
        for n, text in enumerate(asked)
    )


def task(**changes: Any) -> Task:
    plain = Task(
        name="numbers",
        learn=problems("learn", 24),
        gate=problems("gate", 12),
        test=problems("test", 20),
        reward=says_numbers,
        sampling=Sampling(temperature=1.0, max_tokens=6),
        critic="examples",
        test_samples=2,
    )
    return dataclasses.replace(plain, **changes)


def numbers_task() -> Task:
    """What the command line is given as module:function."""
    return task()


def improve_served(url: str, out: Path, **changes: Any) -> Improvement:
    """A story whose prompt arm is a priced model behind a server."""

    async def told() -> Improvement:
        model = connect("openai/solver", base_url=url, price="1/4", api_key="none")
        try:
            return await hybrid.aimprove(changes.pop("task"), model=model, out=out, **{"choices": CHOICES, **changes})
        finally:
            await model.aclose()

    return asyncio.run(told())


def improve(model: Any, out: Path, **changes: Any) -> Improvement:
    """A story whose prompt arm is the tiny model in a folder, or a policy.

    It is told from the folder above `out`: the names of trained weights, and with them their samples, are then the same
    wherever it is told.
    """
    given: dict[str, Any] = {"train_model": str(model), "budget": Budget(calls=CALLS), "choices": CHOICES, **changes}
    name = f"local/{model}" if isinstance(model, Path) else model
    with contextlib.chdir(out.parent):
        return hybrid.improve(given.pop("task", task()), model=name, out=out.name, **given)
