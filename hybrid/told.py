"""What one step tells: its numbers for the curve, and which answer had which reward and advantage.

Legend: N answers of the step, in the order of the groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tfgrpo.advantage import Table
from tfgrpo.types import Group

DIGITS = 6  # that matter
GIB = 2**30


def step_numbers(groups: Sequence[Group], table: Table) -> dict[str, float]:
    """How the rewards of a step are spread, beside their mean; what is not defined is left out.

    - `part/NAME`: mean over the answers to which the part applies
    - `zero_variance`: share of groups whose answers all have the same reward, so that nothing can be learned from them
    - `reward_std`: standard deviation of the rewards within a group, mean over groups
    - `length_reward`: correlation of an answer's length with its reward, within groups; -1 to 1

    Args:
        groups: of the step.
        table: their table after the advantage [N].
    """
    rewards = [np.array([r.score.value for r in group.rollouts]) for group in groups if group.rollouts]
    numbers = {f"part/{name}": _mean(values) for name, values in table.parts.items()}
    spreads = np.array([values.std() for values in rewards])
    numbers["zero_variance"] = _mean((spreads <= 1e-9).astype(float))
    numbers["reward_std"] = _mean(spreads)
    numbers["length_reward"] = _together(groups)
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def scored(groups: Sequence[Group], table: Table) -> dict[str, Any]:
    """The answers of a step as columns [N] of JSON values, for an event; their words are in the run's record.

    `group`, `problem` and `sample` are the key of an answer there; a sample of -1 was given, not asked for. A reward or
    advantage that is not a number is None.

    Example:
        >>> from tfgrpo.types import Completion, Problem, Rollout, Score
        >>> answer = Completion(prompt=(), messages=(), text="4", policy="p")
        >>> rollout = Rollout(completion=answer, score=Score(value=1.0, parts={"right": 1.0}), sample=0)
        >>> group = Group(problem=Problem(id="p1", messages=()), rollouts=(rollout,), index=7)
        >>> told = scored([group], Table.of([group]))
        >>> told["group"], told["problem"], told["reward"], told["parts"]
        ([7], ['p1'], [1.0], {'right': [1.0]})
    """
    rows = [(group, rollout) for group in groups for rollout in group.rollouts]
    return {
        "group": [group.index for group, _ in rows],
        "problem": [group.problem.id for group, _ in rows],
        "sample": [rollout.sample for _, rollout in rows],
        "reward": _plain([rollout.score.value for _, rollout in rows]),
        "advantage": _plain(table.advantage),
        "in_loss": [int(used) for used in table.in_loss & np.isfinite(table.advantage)],
        "success": [int(rollout.score.success) for _, rollout in rows],
        "length": [rollout.completion.usage.completion_tokens for _, rollout in rows],
        "cut": [int(rollout.completion.finish_reason == "length") for _, rollout in rows],
        "parts": {name: _plain(values) for name, values in table.parts.items()},
    }


def gpu_memory() -> dict[str, float]:
    """`gpu_gib`: the most that tensors of this process have held on a GPU so far; nothing where none is in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    return {"gpu_gib": max(torch.cuda.max_memory_allocated(n) for n in range(torch.cuda.device_count())) / GIB}


def short(value: float) -> float:
    """The number with as many digits as anyone reads.

    Example:
        >>> short(0.123456789), short(3.33333333e-7)
        (0.123457, 3.33333e-07)
    """
    return float(f"{value:.{DIGITS}g}")


def _plain(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [short(float(value)) if math.isfinite(value) else None for value in values]


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _together(groups: Sequence[Group]) -> float:
    """The correlation of length and reward once the means of each group are taken away."""
    pairs: list[Mapping[str, NDArray[np.float64]]] = []
    for group in groups:
        length = np.array([float(r.completion.usage.completion_tokens) for r in group.rollouts])
        reward = np.array([r.score.value for r in group.rollouts])
        if len(reward) > 1 and np.isfinite(reward).all():
            pairs.append({"length": length - length.mean(), "reward": reward - reward.mean()})
    if not pairs:
        return math.nan
    length, reward = (np.concatenate([pair[name] for pair in pairs]) for name in ("length", "reward"))
    scale = math.sqrt(float((length**2).sum() * (reward**2).sum()))
    return float((length * reward).sum()) / scale if scale > 1e-12 else math.nan
