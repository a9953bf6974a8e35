"""Answers whose length is told, and answers that may leave their thought empty."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tfgrpo.errors import InputError
from tfgrpo.grouping.base import check_size, with_system, with_words
from tfgrpo.types import Problem, Prompt

BUDGET = "Use at most {} tokens for your answer."
THINK = (
    "Write your thought between <think> and </think>, and the answer after it. Leave the thought empty, "
    "<think>\n\n</think>, where the answer is clear without one."
)
EMPTY = "<think>\n\n</think>"

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class StatedBudget:
    """The problem with the number of tokens its answer may have; see `token_budget`."""

    n: int
    start: int = 256
    decay: float = 0.7
    every: int = 150

    def __post_init__(self) -> None:
        check_size(self.n)
        self.tokens(0)

    def tokens(self, number: int) -> int:
        """The budget of group number `number`."""
        from tfgrpo.samplers.formulas import length_budget  # noqa: PLC0415 - loads numpy

        return length_budget(number, start=self.start, decay=self.decay, every=self.every)

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        tokens = self.tokens(number)
        told = with_words(problem.messages, BUDGET.format(tokens))
        return (Prompt(messages=told, origin=f"budget/{tokens}"),) * self.n


def token_budget(n: int, *, start: int = 256, decay: float = 0.7, every: int = 150) -> StatedBudget:
    """The problem `n` times, with a stated budget that shrinks with the number of the group.

    `B(t) = max(1, floor(start * decay ** floor(t / every)))`, t the group's number. The number also stands in the
    origin of every answer, "budget/179", where a length reward finds it. Served prompts state no budget.

    Source: Train Long, Think Short, arXiv 2508.08940 (paper), which counts optimiser steps; counting groups is ours.

    Example:
        >>> [token_budget(4).tokens(t) for t in (0, 149, 150, 300, 450)]
        [256, 256, 179, 125, 87]
    """
    return StatedBudget(n=n, start=start, decay=decay, every=every)


@dataclass(frozen=True, kw_only=True)
class OptionalThought:
    """The problem with leave to think or not; see `optional_thinking`."""

    n: int

    def __post_init__(self) -> None:
        check_size(self.n)

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        told = with_system(problem.messages, THINK)
        return (Prompt(messages=told, origin="thought"),) * self.n


def optional_thinking(n: int) -> OptionalThought:
    """The problem `n` times, told that the thought before the answer may stay empty.

    Rewards on text read what follows the thought. There is no length reward in it: skipping is learned because a
    short right answer counts as much as a long one.

    Source: TON, kokolerk/TON (code). There a model is first trained on traces whose thought was dropped
    (`drop_thought`); saying it in the prompt instead is a reconstruction of ours, for models that are not trained.

    Example:
        >>> problem = Problem(id="p", messages=({"role": "user", "content": "2 + 3?"},))
        >>> [(prompt.origin, prompt.messages[0]["role"]) for prompt in optional_thinking(2)(problem, 0)]
        [('thought', 'system'), ('thought', 'system')]
    """
    return OptionalThought(n=n)


def drop_thought(text: str, draw: random.Random, p: float = 0.5) -> str:
    r"""With probability `p` the same trace with an empty thought, for a model's first training; else as it is.

    Source: TON, kokolerk/TON (code), p = 0.5.

    Example:
        >>> drop_thought("<think>2 + 3 is 5</think>5", random.Random(0), p=1.0)
        '<think>\n\n</think>5'

    Raises:
        InputError: `p` is no probability.
    """
    if not 0.0 <= p <= 1.0:
        raise InputError(f"p must be a probability, 0..1; got {p}")
    found = _THOUGHT.fullmatch(text)
    if found is None or draw.random() >= p:
        return text
    return f"{EMPTY}{found[2]}"


def thought_and_answer(text: str) -> tuple[str, str] | None:
    """The thought, perhaps empty, and the answer; None where the text has not that form or no answer follows.

    Example:
        >>> thought_and_answer("<think></think> 5"), thought_and_answer("5")
        (('', '5'), None)
    """
    found = _THOUGHT.fullmatch(text)
    if found is None or not found[2].strip():
        return None
    return found[1].strip(), found[2].strip()
