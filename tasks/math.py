"""Competition mathematics (arXiv 2103.03874; the 500 problems of arXiv 2305.20050, MIT): a final expression, boxed."""

from __future__ import annotations

from pathlib import Path

from tasks._hub import hub_file
from tasks.gsm8k import instructed
from tfgrpo.policy.base import Sampling
from tfgrpo.problems import load_problems
from tfgrpo.rewards.math_equal import math_equal
from tfgrpo.task import Task, split_problems

REPO, REVISION, FILE = "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test.jsonl"
INSTRUCTION = "\n\nReason step by step and put the final answer in \\boxed{}."


def task(
    *,
    data: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    level: int | None = None,
    instruction: str = INSTRUCTION,
) -> Task:
    """From the hub, or from the file `data`; all three splits are dealt from it. `level` keeps one difficulty, 1..5."""
    problems = load_problems(data or hub_file(REPO, REVISION, FILE))
    kept = [p for p in problems if level is None or str(p.meta.get("level", "")).removeprefix("Level ") == str(level)]
    splits = split_problems([instructed(p, instruction) for p in kept[:limit]], seed=seed)
    return Task(
        name="math",
        learn=splits[0],
        gate=splits[1],
        test=splits[2],
        reward=math_equal(),
        objective="Solve the problem and state the right final expression.",
        sampling=Sampling(temperature=1.0, max_tokens=1024),
        grader_only=True,
    )
