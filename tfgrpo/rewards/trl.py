"""Reward functions written for TRL's GRPO trainer, taken as they are.

The call that TRL makes: `fn(prompts=, completions=, completion_ids=, <columns>, trainer_state=, log_extra=,
log_metric=)`, all keywords, one list entry per answer; it returns a list of numbers, or None where not applicable.
Completions are conversational, `[{"role": "assistant", "content": ...}]`, or plain texts for a function that says so:
`completions: list[str]`.

What differs from a trainer: one call sees exactly the answers to one problem, `log_extra` values become words for the
critic, and `log_metric` values become events of the run. Reward models (a module or its name) are not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tfgrpo.rewards.base import Outcome, Reward, function_name, outcomes, settled, to_score
from tfgrpo.rewards.calling import (
    TrainerState,
    accepted,
    asked,
    log_metric,
    note,
    parameters_of,
    produced,
    repeated,
    trainer_state,
)
from tfgrpo.types import Completion, Problem, Score

__all__ = ["REFERENCE_COLUMNS", "TrainerState", "from_trl", "looks_like_trl"]

REFERENCE_COLUMNS = ("answer", "answers", "solution", "ground_truth", "target", "label")
"""Columns under which TRL functions look for the reference; those a problem's meta lacks are filled with its answer."""

_OWN = {"completions", "completion_ids"}
_OTHERS = {"problem", "states", "infos", "tasks", "solution_strs"}
_TEXTS = ("list[str]", "List[str]", "Sequence[str]")


def from_trl(fn: Callable[..., Any], name: str | None = None, *, conversational: bool | None = None) -> Reward:
    """An unmodified TRL reward function, sync or async, as a reward.

    Args:
        conversational: False gives prompts and completions as plain texts, as TRL does for a data set whose prompts
            are texts. None looks at the annotation of `completions`.

    Example:
        >>> def accuracy(completions, solution, **kwargs):
        ...     return [float(c[0]["content"] == s) for c, s in zip(completions, solution)]
        >>> from_trl(accuracy).name
        'accuracy'
    """
    if conversational is None:
        conversational = not _wants_texts(fn)
    return _Trl(fn=fn, name=name or function_name(fn), conversational=conversational)


def looks_like_trl(fn: Callable[..., Any]) -> bool:
    """Whether the signature is TRL's: what it gives in lists, and nothing that only other libraries have."""
    names = parameters_of(fn).keys()
    return bool(_OWN & names) and not _OTHERS & names


def _wants_texts(fn: Callable[..., Any]) -> bool:
    parameter = parameters_of(fn).get("completions")
    annotation = getattr(parameter, "annotation", "")
    return (annotation if isinstance(annotation, str) else str(annotation)).removeprefix("typing.") in _TEXTS


@dataclass(frozen=True, kw_only=True)
class _Trl:
    fn: Callable[..., Any]
    name: str
    conversational: bool

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        extra: dict[str, list[Any]] = {}
        values = await settled(self.fn(**self._arguments(problem, completions, extra)))
        made = await outcomes([_scored(v) for v in values], problem, self.name)
        return [_noted(outcome, extra, k, len(made)) for k, outcome in enumerate(made)]

    def _arguments(
        self, problem: Problem, completions: Sequence[Completion], extra: dict[str, list[Any]]
    ) -> dict[str, Any]:
        size = len(completions)
        spare = repeated({**dict.fromkeys(REFERENCE_COLUMNS, problem.answer), "id": problem.id}, size)
        plain = not self.conversational
        offered = {
            **repeated(problem.meta, size),
            "prompts": [problem.question if plain else asked(problem, c) for c in completions],
            "completions": [c.text if plain else produced(c) for c in completions],
            "completion_ids": [[t for s in c.segments if s.train for t in s.token_ids] for c in completions],
            "trainer_state": trainer_state(),
            "log_metric": partial(log_metric, self.name, problem),
            "log_extra": partial(_collect, extra),
        }
        return accepted(self.fn, offered, spare, self.name, problem)


def _collect(extra: dict[str, list[Any]], column: str, values: Sequence[Any]) -> None:
    extra.setdefault(str(column), []).extend(values)


def _noted(outcome: Outcome, extra: dict[str, list[Any]], k: int, size: int) -> Outcome:
    """The score with what the function logged about this answer; columns of another length belong to no answer."""
    if not isinstance(outcome, Score):
        return outcome
    lines = [note(column, values[k]) for column, values in extra.items() if len(values) == size]
    return replace(outcome, feedback="\n".join([*filter(None, [outcome.feedback]), *lines])) if lines else outcome


async def _scored(value: Any) -> Score | None:
    not_applicable = isinstance(value, float) and math.isnan(value)  # TRL writes a missing reward as NaN
    return None if not_applicable else to_score(value)
