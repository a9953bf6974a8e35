"""Extract three fields from a message in a house format that the model has to learn.

The format is never stated in the question, and one sentence states it: so the base is low, and a rule lifts it.
"""

from __future__ import annotations

import random

from tasks._generated import generate, problem
from tasks._people import CITIES, NAMES, THINGS
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.rewards.text import answer_text, normal
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

QUESTION = "Message: {}\nExtract the quantity, the item and the city as one line in our format."
MESSAGES = (
    "{name} from {city} would like to buy {count} {thing} before the end of the month.",
    "Please send {count} {thing} to {name} in {city}.",
    "Hello, this is {name}. We need {count} {thing} delivered to {city}, thank you.",
    "In {city}, {name} is waiting for an order of {count} {thing}.",
)


def task(*, learn: int = 60, gate: int = 30, test: int = 80, seed: int = 0) -> Task:
    """Orders in several wordings; the house format is "12 x pears > Bergen"."""

    def make(draw: random.Random) -> Problem:
        count, thing, city = draw.randint(2, 99), draw.choice(THINGS), draw.choice(CITIES)
        message = draw.choice(MESSAGES).format(name=draw.choice(NAMES), city=city, count=count, thing=thing)
        fields = (str(count), thing, city)
        return problem(QUESTION.format(message), f"{count} x {thing} > {city}", fields=fields)

    learning, gating, testing = generate(make, (learn, gate, test), seed)
    return Task(
        name="house_extraction",
        learn=learning,
        gate=gating,
        test=testing,
        reward=in_house_format,
        objective="Reply with the three fields in exactly the house format, and nothing else.",
        sampling=Sampling(temperature=1.0, max_tokens=60),
        grader_only=True,
    )


@reward
def in_house_format(problem: Problem, completion: Completion) -> Score:
    """1 for exactly the expected line; up to 0.3 for the fields alone, which is not solved."""
    given, wanted = answer_text(problem, completion), str(problem.answer)
    if normal(given) == normal(wanted):
        return Score(value=1.0, parts={"fields": 1.0, "format": 1.0})
    words = normal(given, ignore_punctuation=True).split()
    fields = [normal(str(f)) for f in problem.meta["fields"]]
    share = sum(field in words for field in fields) / len(fields)
    feedback = f"Expected exactly {wanted!r}, got {' '.join(given.split())[:80]!r}."
    return Score(value=0.3 * share, parts={"fields": share, "format": 0.0}, feedback=feedback)
