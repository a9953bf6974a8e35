"""What a reward is, and how plain functions become one.

A reward scores the answers to one problem together: `(problem, completions) -> outcomes`, one outcome per answer:
a `Score`, None (*not applicable*, never 0), or a `RewardError` when scoring that one answer failed. So one answer
that breaks the user's function never loses the scores of its siblings.

Example:
    >>> @reward
    ... def polite(problem, completion):
    ...     return "please" in completion.text
"""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

from tfgrpo.errors import InputError, RequestError, RewardError, TfgrpoError, TransportError
from tfgrpo.types import Completion, Problem, Score

Outcome: TypeAlias = Score | RewardError | None
Scorable: TypeAlias = Score | float | int | bool | Mapping[str, float | None] | None
AnswerFunction: TypeAlias = Callable[[Problem, Completion], Scorable | Awaitable[Scorable]]
GroupFunction: TypeAlias = Callable[[Problem, Sequence[Completion]], Sequence[Scorable] | Awaitable[Sequence[Scorable]]]
T = TypeVar("T")


@runtime_checkable
class Reward(Protocol):
    """Scores the answers to one problem together."""

    @property
    def name(self) -> str: ...

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]: ...


def reward(fn: AnswerFunction, *, name: str = "") -> Reward:
    """Lifts a function of one answer to a reward; it may be async and may return anything that is scorable.

    A number or bool is the value; a mapping gives named parts (their mean is the value, or its "value" entry);
    a `Score` says everything, with feedback for the critic; None means not applicable.
    """
    return _PerAnswer(fn=fn, name=name or function_name(fn))


def group_reward(fn: GroupFunction, *, name: str = "") -> Reward:
    """Lifts a function of all answers to a problem, `fn(problem, completions) -> list`, to a reward."""
    return _PerGroup(fn=fn, name=name or function_name(fn))


def weighted(parts: Mapping[str, tuple[Reward, float]], *, name: str = "") -> Reward:
    """Combines rewards into one with named parts: the weighted mean of the parts that apply.

    An answer is solved when every part with a positive weight that applies is solved.

    Example:
        >>> from tfgrpo.rewards.simple import contains, exact
        >>> problem = Problem(id="p", messages=(), answer="Paris")
        >>> answer = Completion(prompt=(), messages=(), text="It is Paris.", policy="any")
        >>> both = weighted({"right": (contains(), 1.0), "bare": (exact(), 0.25)})
        >>> asyncio.run(both(problem, [answer]))[0].value
        0.8

    Raises:
        InputError: no parts, or weights that are negative, not finite or all 0.
    """
    weights = [weight for _, weight in parts.values()]
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
        raise InputError(f"weighted needs finite weights >= 0 with a positive sum, got {weights}")
    return _Weighted(parts=dict(parts), name=name or "+".join(parts))


def to_score(value: Any) -> Score | None:
    """What a user's function returned, as a score.

    Raises:
        RewardError: it is no number, mapping, `Score` or None, or it is not finite.
    """
    if value is None or (isinstance(value, Score) and math.isfinite(value.value)):
        return value
    if isinstance(value, Mapping):
        return _score_of_parts(value)
    item = getattr(value, "item", None)  # a zero-dimensional array or tensor
    number = item() if callable(item) and not isinstance(value, Real) else value
    if isinstance(number, Real) and math.isfinite(number):
        return Score(value=float(number))
    raise RewardError(
        f"a reward must return a finite number, bool, mapping, Score, or None (not applicable); got {value!r}"
    )


def _score_of_parts(value: Mapping[str, Any]) -> Score | None:
    parts = {name: part.value for name, given in value.items() if (part := to_score(given)) is not None}
    if not parts:
        return None
    whole = parts.pop("value", None)
    return Score(value=math.fsum(parts.values()) / len(parts) if whole is None else whole, parts=parts)


def function_name(fn: object) -> str:
    """A name to show for a function, partial or callable object."""
    if isinstance(fn, partial):
        return function_name(fn.func)
    return str(getattr(fn, "__name__", type(fn).__name__))


async def score_answers(reward: Reward, problem: Problem, completions: Sequence[Completion]) -> tuple[Outcome, ...]:
    """One outcome per answer, whatever the reward does; the way the loop and the evaluation call a reward.

    A reward that fails as a whole gives a `RewardError` for each answer. Errors that stop a run (budget, key,
    missing package, interruption) are passed on.
    """
    if not completions:
        return ()
    (result,) = await outcomes([reward(problem, completions)], problem, reward.name)
    if isinstance(result, RewardError):
        return (result,) * len(completions)
    if len(result) == len(completions):
        return tuple(result)
    error = RewardError(
        f"reward {reward.name!r} returned {len(result)} scores for {len(completions)} answers to problem {problem.id!r}"
    )
    return (error,) * len(completions)


async def outcomes(calls: Sequence[Awaitable[T]], problem: Problem, name: str) -> list[T | RewardError]:
    """Awaits all calls together; a failed one becomes a `RewardError` in its place, without losing the others."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [as_reward_error(r, problem, name) if isinstance(r, BaseException) else r for r in results]


def as_reward_error(error: BaseException, problem: Problem, name: str) -> RewardError:
    """The failure of one scoring as an error that names reward, problem and line; what stops a run is raised again."""
    passed_on = isinstance(error, TfgrpoError) and not isinstance(error, RewardError | TransportError | RequestError)
    if passed_on or not isinstance(error, Exception):
        raise error
    if isinstance(error, RewardError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    wrapped = RewardError(f"reward {name!r} failed on problem {problem.id!r}: {type(error).__name__}: {error}{where}")
    wrapped.__cause__ = error
    return wrapped


async def settled(value: T | Awaitable[T]) -> T:
    """The value, awaited when the user's function was async."""
    return await value if inspect.isawaitable(value) else value


def scores_alone(reward: Reward) -> bool:
    """Whether a reward scores each answer by itself, so that a score stays right when the group around it changes."""
    return bool(getattr(reward, "alone", False))


def compares_wordings(reward: Reward) -> bool:
    """Whether a reward compares answers to different wordings, so that groups over one wording leave it nothing."""
    return bool(getattr(reward, "over_wordings", False))


def each_alone(made: Reward) -> Reward:
    """Says of a `group_reward` that it scores each answer by itself, though it is called for all together."""
    return replace(made, alone=True) if isinstance(made, _PerGroup) else made


@dataclass(frozen=True, kw_only=True)
class _PerAnswer:
    fn: AnswerFunction
    name: str
    alone: ClassVar[bool] = True

    async def _one(self, problem: Problem, completion: Completion) -> Score | None:
        return to_score(await settled(self.fn(problem, completion)))

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        return await outcomes([self._one(problem, c) for c in completions], problem, self.name)


@dataclass(frozen=True, kw_only=True)
class _PerGroup:
    fn: GroupFunction
    name: str
    alone: bool = False

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        values: Any = await settled(self.fn(problem, completions))
        return await outcomes([_scored(v) for v in values], problem, self.name)


async def _scored(value: Any) -> Score | None:
    if isinstance(value, RewardError):  # a group function may report the failure of one answer
        raise value
    return to_score(value)


@dataclass(frozen=True, kw_only=True)
class _Weighted:
    parts: Mapping[str, tuple[Reward, float]]
    name: str

    @property
    def alone(self) -> bool:
        return all(scores_alone(reward) for reward, _ in self.parts.values())

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        columns = await asyncio.gather(*(score_answers(r, problem, completions) for r, _ in self.parts.values()))
        return [self._joined(row) for row in zip(*columns, strict=True)]

    def _joined(self, row: Sequence[Outcome]) -> Outcome:
        failed = next((outcome for outcome in row if isinstance(outcome, RewardError)), None)
        if failed is not None:
            return failed
        named = zip(self.parts.items(), row, strict=True)
        scores = [(name, weight, score) for (name, (_, weight)), score in named if isinstance(score, Score)]
        total = math.fsum(weight for _, weight, _ in scores)
        if total <= 0:
            return None
        return Score(
            value=math.fsum(weight * score.value for _, weight, score in scores) / total,
            parts={name: score.value for name, _, score in scores},
            feedback="\n".join(f"{name}: {score.feedback}" for name, _, score in scores if score.feedback),
            solved=all(score.success for _, weight, score in scores if weight > 0),
        )
