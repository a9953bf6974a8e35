"""Grade-school word problems (arXiv 2110.14168, MIT): the whole number after reasoning in steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks._hub import hub_rows
from tfgrpo.policy.base import Sampling
from tfgrpo.problems import load_problems, problems_from
from tfgrpo.rewards.math_equal import math_equal
from tfgrpo.task import Task, split_problems
from tfgrpo.types import Problem

REPO, CONFIG, REVISION = "openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"
INSTRUCTION = "\n\nReason step by step and end with the final number alone on a line after ####."


def task(
    *,
    data: str | Path | None = None,
    test_data: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
    instruction: str = INSTRUCTION,
) -> Task:
    """From the hub, or from files: `data` to learn from and gate with, `test_data` to measure on.

    Without `test_data` the test problems are dealt from `data`. `limit` and `test_limit` shorten the two files.
    """
    source = load_problems(data) if data else problems_from(hub_rows(REPO, CONFIG, REVISION, "train"))
    held = load_problems(test_data) if test_data else ()
    if not data and not test_data:
        held = problems_from(hub_rows(REPO, CONFIG, REVISION, "test"))
    learn, gate, test = split_problems(source[:limit], seed=seed, gate=0.2, test=0.0 if held else 0.3)

    def asked(split: tuple[Problem, ...]) -> tuple[Problem, ...]:
        return tuple(instructed(p, instruction) for p in split)

    return Task(
        name="gsm8k",
        learn=asked(learn),
        gate=asked(gate),
        test=asked((held or test)[:test_limit]),
        reward=math_equal(),
        objective="Solve the word problem and state the right final number.",
        sampling=Sampling(temperature=1.0, max_tokens=512),
        grader_only=True,
    )


def instructed(problem: Problem, instruction: str) -> Problem:
    """The problem with an instruction after its question."""
    last = {**problem.messages[-1], "content": problem.question + instruction}
    return dataclasses.replace(problem, messages=(*problem.messages[:-1], last))
