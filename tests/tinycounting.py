"""Small runs of training on the tiny model, with a reward of two parts: for tests of what a run tells about itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinymodel import NUMBERS, WORDS

import hybrid
from hybrid import Settings, TrainReport
from tfgrpo.events import Event
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

FAST = Settings(dtype="float32", device="cpu", threads=1, lr=5e-3, keep_free=0.0, checkpoint_s=0.0)
SELDOM = dataclasses.replace(FAST, checkpoint_s=1e9)
OPTIONS = [f"--set={name}" for name in ("dtype=float32", "device=cpu", "threads=1", "lr=0.005", "keep_free=0")]


@reward
def counts(problem: Problem, completion: Completion) -> Score:
    """Half for the share of words that are numbers, half for saying few words; solved when most are numbers."""
    words = completion.text.split()
    share = sum(word in NUMBERS for word in words) / max(1, len(words))
    parts = {"numbers": share, "brief": 1 - len(words) / 6}
    return Score(value=sum(parts.values()) / 2, parts=parts, solved=share > 0.5)


def problems(name: str, count: int) -> tuple[Problem, ...]:
    words = WORDS[:10] if name == "learn" else WORDS[10:]
    return tuple(
        Problem(id=f"{name}{n}", messages=({"role": "user", "content": f"{words[n % 10]} {words[(3 * n) % 10]}"},))
        for n in range(count)
    )


def counting() -> Task:
    return Task(
        name="counting",
        learn=problems("learn", 10),
        test=problems("test", 6),
        reward=counts,
        sampling=Sampling(temperature=1.0, max_tokens=6),
        test_samples=2,
    )


def train(folder: Path, out: Path, **changes: Any) -> TrainReport:
    """A run of a second or two; `changes` are arguments of `hybrid.train`."""
    given = {"steps": 4, "group": 4, "prompts": 3, "settings": FAST, **changes}
    return hybrid.train(given.pop("task", counting()), model=str(folder), out=out, **given)


class Stop(BaseException):
    """Ends a run as a kill would, as far as listeners can."""


def stop_at(name: str, step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if event.name == name and event.data.get("step", event.data.get("group")) == step:
            raise Stop

    return listen
