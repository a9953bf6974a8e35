"""Put words in alphabetical order. A plain rule (letter by letter, commas between) helps a small model."""

from __future__ import annotations

import random
import re

from tasks._generated import generate, problem
from tasks._people import WORDS
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.rewards.text import answer_text
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

QUESTION = "Sort these words alphabetically: {}."


def task(*, learn: int = 60, gate: int = 30, test: int = 80, seed: int = 0, words: int = 5) -> Task:
    """`words` different words of a fixed list in random order."""

    def make(draw: random.Random) -> Problem:
        shown = draw.sample(WORDS, words)
        return problem(QUESTION.format(", ".join(shown)), ", ".join(sorted(shown)))

    learning, gating, testing = generate(make, (learn, gate, test), seed)
    return Task(
        name="word_sorting",
        learn=learning,
        gate=gating,
        test=testing,
        reward=in_order,
        objective="List all given words, each once, in alphabetical order.",
        sampling=Sampling(temperature=1.0, max_tokens=80),
        grader_only=True,
    )


@reward
def in_order(problem: Problem, completion: Completion) -> Score:
    """1 when the given words stand in the answer once each and in order, however they are punctuated."""
    wanted = re.findall(r"[a-z]+", str(problem.answer))
    text = answer_text(problem, completion).casefold()
    listed = [word for word in re.findall(r"[a-z]+", text) if word in wanted]
    if listed == wanted:
        return Score(value=1.0)
    said = "are in the wrong order" if sorted(listed) == wanted else "are not the given ones, once each"
    return Score(value=0.0, feedback=f"The words {said}; expected: {problem.answer}.")
