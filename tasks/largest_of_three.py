"""Which of three numbers is the largest? Easy to state, to score and to show; the task of the demo."""

from __future__ import annotations

import random
from collections.abc import Sequence

from experience_store.types import Layout
from tasks._generated import Maker, generate, problem
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.rewards.text import answer_text, numbers
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

QUESTION = "What is the largest of these numbers: {}, {}, {}?"


def task(*, learn: int = 60, gate: int = 40, test: int = 100, seed: int = 0, low: int = 10, high: int = 99) -> Task:
    """Three different numbers from `low` to `high`; the answer names the largest and neither of the others.

    A random half of the numbers occurs in the test problems and the other half in all others, so that no answer of a
    test problem can have been seen.
    """
    numbers_of_split = list(range(low, high + 1))
    random.Random(f"{seed}/numbers").shuffle(numbers_of_split)
    half = len(numbers_of_split) // 2
    if half < 3:
        raise InputError(
            f"3 numbers for the test problems and 3 others are needed; low={low}, high={high} were asked for"
        )
    seen, unseen = _maker(numbers_of_split[:half]), _maker(numbers_of_split[half:])
    learning, gating, testing = generate((seen, seen, unseen), (learn, gate, test), seed)
    return Task(
        name="largest_of_three",
        learn=learning,
        gate=gating,
        test=testing,
        reward=names_the_largest,
        objective="Name the largest of the three numbers.",
        sampling=Sampling(temperature=0.8, max_tokens=16),
        layout=Layout(placement="turns", max_entries=1),
        critic="examples",
        reading="numbers",
        setting="local/smollm2 at temperature 0.8: about 0.13; with a good answer of its own as example 0.3 to 0.4",
    )


def _maker(allowed: Sequence[int]) -> Maker:
    def make(draw: random.Random) -> Problem:
        shown = draw.sample(allowed, 3)
        return problem(QUESTION.format(*shown), str(max(shown)), shown=shown)

    return make


@reward
def names_the_largest(problem: Problem, completion: Completion) -> Score:
    """1 when the largest is the only one of the three numbers in the answer, and no other number is named."""
    named = {str(number.value) for number in numbers(answer_text(problem, completion))}
    if named == {problem.answer}:
        return Score(value=1.0)
    if problem.answer in named:
        return Score(
            value=0.0, feedback=f"Name only the largest number, {problem.answer}; other numbers were named too."
        )
    return Score(value=0.0, feedback=f"The largest number is {problem.answer}.")
