"""Reward functions written for TRL's GRPO trainer, taken as they are.

The call that TRL makes: `fn(prompts=, completions=, completion_ids=, <columns>, trainer_state=, log_extra=,
log_metric=)`, all keywords, one list entry per answer; it returns a list of numbers, or None where not applicable.
Completions are conversational: `[{"role": "assistant", "content": ...}]`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfgrpo.errors import RewardError
from tfgrpo.rewards.base import Outcome, Reward, function_name, outcomes, settled, to_score
from tfgrpo.types import Completion, Message, Problem, Score

REFERENCE_COLUMNS = ("answer", "solution", "ground_truth", "target", "label")
"""Columns under which TRL functions look for the reference; those a problem's meta lacks are filled with its answer."""


@dataclass(frozen=True)
class TrainerState:
    """What a function may read of a trainer, outside of training."""

    global_step: int = 0
    epoch: float = 0.0
    max_steps: int = 0


def from_trl(fn: Callable[..., Any], name: str | None = None) -> Reward:
    """An unmodified TRL reward function, sync or async, as a reward.

    Example:
        >>> def accuracy(completions, solution, **kwargs):
        ...     return [float(c[0]["content"] == s) for c, s in zip(completions, solution)]
        >>> from_trl(accuracy).name
        'accuracy'
    """
    return _Trl(fn=fn, name=name or function_name(fn))


def looks_like_trl(fn: Callable[..., Any]) -> bool:
    """Whether the signature is TRL's: `completions`, and no `problem`."""
    names = inspect.signature(fn).parameters
    return "completions" in names and "problem" not in names


@dataclass(frozen=True, kw_only=True)
class _Trl:
    fn: Callable[..., Any]
    name: str

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        values = await settled(self.fn(**self._arguments(problem, completions)))
        return await outcomes([_scored(v) for v in values], problem, self.name)

    def _arguments(self, problem: Problem, completions: Sequence[Completion]) -> dict[str, Any]:
        size = len(completions)
        offered: dict[str, Any] = {key: [problem.answer] * size for key in REFERENCE_COLUMNS}
        offered |= {key: [value] * size for key, value in problem.meta.items()}
        offered |= {
            "prompts": [[dict(m) for m in problem.messages] for _ in completions],
            "completions": [_produced(c) for c in completions],
            "completion_ids": [[t for s in c.segments if s.train for t in s.token_ids] for c in completions],
            "trainer_state": TrainerState(),
            "log_metric": _ignore,
            "log_extra": _ignore,
        }
        return self._accepted(offered, problem)

    def _accepted(self, offered: Mapping[str, Any], problem: Problem) -> dict[str, Any]:
        parameters = inspect.signature(self.fn).parameters
        lacking = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in offered
        ]
        if lacking:
            raise RewardError(
                f"reward {self.name!r} asks for the columns {', '.join(lacking)}, which problem {problem.id!r} does "
                f"not have; it has {', '.join(['answer', *problem.meta])}"
            )
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return {key: value for key, value in offered.items() if takes_all or key in parameters}


def _produced(completion: Completion) -> list[Message]:
    return [dict(m) for m in completion.messages] or [{"role": "assistant", "content": completion.text}]


async def _scored(value: Any) -> Score | None:
    not_applicable = isinstance(value, float) and math.isnan(value)  # TRL writes a missing reward as NaN
    return None if not_applicable else to_score(value)


def _ignore(*args: Any, **kwargs: Any) -> None:
    return None
