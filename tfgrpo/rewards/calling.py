"""What the adapters of foreign reward functions share: their arguments, what they log, how far training is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from tfgrpo.errors import RewardError
from tfgrpo.types import Completion, Problem

MAX_NOTE_CHARS = 200


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """What a reward function may read of a trainer, named as in transformers; outside of training step 0 of 1."""

    global_step: int = 0
    max_steps: int = 1
    epoch: float = 0.0
    num_train_epochs: int = 1
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True
    log_history: tuple[Mapping[str, float], ...] = ()


Emit = Callable[..., None]
_STATE: ContextVar[TrainerState] = ContextVar("trainer_state", default=TrainerState())  # noqa: B039 - frozen
_EMIT: ContextVar[Emit | None] = ContextVar("reward_events", default=None)


@contextmanager
def training(state: TrainerState) -> Iterator[None]:
    """Within the block, reward functions are told this state of the training."""
    token = _STATE.set(state)
    try:
        yield
    finally:
        _STATE.reset(token)


def trainer_state() -> TrainerState:
    """The state that reward functions are told now."""
    return _STATE.get()


@contextmanager
def metrics_to(emit: Emit) -> Iterator[None]:
    """Within the block, logged metrics are emitted: `emit("reward_metric", reward=, problem=, metric=, value=)`.

    Example:
        >>> with metrics_to(EventLog().emit):  # doctest: +SKIP
        ...     await score_answers(from_trl(fn), problem, completions)
    """
    token = _EMIT.set(emit)
    try:
        yield
    finally:
        _EMIT.reset(token)


def log_metric(reward: str, problem: Problem, name: str, value: float) -> None:
    """One number that a reward function logs for the whole call; nobody listens outside of `metrics_to`."""
    emit = _EMIT.get()
    if emit is not None:
        emit("reward_metric", reward=reward, problem=problem.id, metric=str(name), value=float(value))


def note(name: str, value: Any) -> str:
    """A value that a function logs for one answer, as a line of feedback for the critic.

    It is no part of the score: advantages that look at the parts would take it for an objective.

    Example:
        >>> note("parsed", 5)
        'parsed: 5'
    """
    text = " ".join(str(value).split())
    return f"{name}: {text if len(text) <= MAX_NOTE_CHARS else text[: MAX_NOTE_CHARS - 3] + '...'}"


def parameters_of(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters by name; none for a callable without a readable signature."""
    try:
        return inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return {}


def required(fn: Callable[..., Any]) -> list[str]:
    """The parameters that have no default, in their order."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, p in parameters_of(fn).items() if p.default is p.empty and p.kind not in kinds]


def takes_all(fn: Callable[..., Any]) -> bool:
    """Whether the function has a `**kwargs`."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters_of(fn).values())


def accepted(
    fn: Callable[..., Any], offered: Mapping[str, Any], spare: Mapping[str, Any], name: str, problem: Problem
) -> dict[str, Any]:
    """What of the offered arguments the function takes; `spare` ones stand in where it asks and nothing is offered.

    Raises:
        RewardError: it needs an argument that the problem does not have.
    """
    fixed = fn.keywords if isinstance(fn, partial) else {}
    everything = {**{k: v for k, v in spare.items() if k not in fixed}, **offered}
    lacking = [n for n in required(fn) if n not in everything]
    if lacking:
        raise RewardError(
            f"reward {name!r} asks for the columns {', '.join(lacking)}, which problem {problem.id!r} does "
            f"not have; it has {', '.join(['answer', *problem.meta])}"
        )
    names = parameters_of(fn)
    return {key: value for key, value in everything.items() if takes_all(fn) or key in names}


def produced(completion: Completion) -> list[dict[str, Any]]:
    """The messages of an answer as other libraries give them to rewards: plain dicts, at least one."""
    return [dict(m) for m in completion.messages] or [{"role": "assistant", "content": completion.text}]


def asked(problem: Problem, completion: Completion) -> list[dict[str, Any]]:
    """The prompt of the data set, not the one that was dressed with experiences."""
    return [dict(m) for m in problem.messages or completion.prompt]


def repeated(columns: Mapping[str, Any], size: int) -> dict[str, Sequence[Any]]:
    """Each value once per answer, as batched functions expect it."""
    return {key: [value] * size for key, value in columns.items()}
