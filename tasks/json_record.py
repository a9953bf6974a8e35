"""Turn a sentence into a JSON record with the keys and types of the house."""

from __future__ import annotations

import random

from tasks._generated import generate, problem
from tasks._people import CITIES, NAMES
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.rewards.json_schema import first_json
from tfgrpo.rewards.text import answer_text
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

QUESTION = "Write this as a JSON record with the fields name, age and city: {}"
SENTENCES = (
    "{name} is {age} years old and lives in {city}.",
    "In {city} lives {name}, aged {age}.",
    "My friend {name}, who turned {age} last week, moved to {city}.",
)


def task(*, learn: int = 60, gate: int = 30, test: int = 80, seed: int = 0) -> Task:
    """The record has exactly the keys name (text), age (number) and city (text)."""

    def make(draw: random.Random) -> Problem:
        record = {"name": draw.choice(NAMES), "age": draw.randint(18, 90), "city": draw.choice(CITIES)}
        return problem(QUESTION.format(draw.choice(SENTENCES).format(**record)), record)

    learning, gating, testing = generate(make, (learn, gate, test), seed)
    return Task(
        name="json_record",
        learn=learning,
        gate=gating,
        test=testing,
        reward=is_the_record,
        reading="json",
        objective="Reply with one JSON object that holds exactly the expected keys, values and types.",
        sampling=Sampling(temperature=1.0, max_tokens=90),
        grader_only=True,
    )


@reward
def is_the_record(problem: Problem, completion: Completion) -> Score:
    """1 for the exact record; 0.2 for a JSON object and up to 0.6 more for its right entries, which is not solved."""
    found = first_json(answer_text(problem, completion))
    if found is None:
        return Score(value=0.0, parts={"json": 0.0}, feedback="The answer holds no JSON object.")
    wanted = dict(problem.answer)
    right = [key for key, value in wanted.items() if found.get(key) == value and type(found[key]) is type(value)]
    share = len(right) / len(wanted)
    if found == wanted and share == 1.0:
        return Score(value=1.0, parts={"json": 1.0, "entries": 1.0})
    wrong = [key for key in wanted if key not in right] + [key for key in found if key not in wanted]
    feedback = f"Expected {wanted}; wrong, missing or surplus: {', '.join(map(str, wrong))[:120]}."
    return Score(value=0.2 + 0.6 * share, parts={"json": 1.0, "entries": share}, feedback=feedback)
