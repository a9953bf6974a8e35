"""Facts that no model can know, because they are generated: which gate of a depot takes which goods.

Learning, gate and test problems ask about the same facts in different words, so that only a learned fact helps.
"""

from __future__ import annotations

import random

from experience_store.types import Layout
from tasks._generated import problem
from tasks._people import THINGS, made_up_names
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.simple import contains
from tfgrpo.task import Task
from tfgrpo.types import Problem

MOST = 20
SYSTEM = "You answer questions about the depot in Larkfield, whose gates have names."
LEARN = ("Which gate of the depot takes {}?", "Name the gate that accepts {}.")
GATE = ("Where at the depot are {} handed in?", "Through which gate do {} come in?")
TEST = ("A van with {} has arrived. Which gate should it use?", "I have {} to deliver. What is the right gate?")


def task(*, facts: int = 12, learn: int = 0, gate: int = 0, test: int = 0, seed: int = 0) -> Task:
    """`facts` facts, each asked in two wordings per split; the sizes default to all there are."""
    draw = random.Random(f"{seed}/facts")
    if not 1 <= facts <= MOST:
        raise InputError(f"there can be 1 to {MOST} facts, got {facts}")
    house = dict(zip(draw.sample(THINGS, facts), draw.sample(made_up_names(56), facts), strict=True))

    def questions(wordings: tuple[str, ...], size: int, split: str) -> tuple[Problem, ...]:
        every = [problem(w.format(goods), name, system=SYSTEM) for w in wordings for goods, name in house.items()]
        random.Random(f"{seed}/{split}").shuffle(every)
        return tuple(every[: size or None])

    return Task(
        name="house_facts",
        learn=questions(LEARN, learn, "learn"),
        gate=questions(GATE, gate, "gate"),
        test=questions(TEST, test, "test"),
        reward=contains(),
        objective="Name the gate that takes the goods; the reference answers are facts to remember.",
        sampling=Sampling(temperature=0.7, max_tokens=32),
        layout=Layout(placement="user", select="retrieve", max_entries=1),
        grader_only=True,
    )
