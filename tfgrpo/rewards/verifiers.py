"""Reward functions and rubrics written for the verifiers library, taken as they are.

A function is called by the names of its parameters: prompt, completion, answer, state, task, info, parser, objects of
the rubric, columns of the data set; one with plural names (completions, states, ...) sees all answers to a problem.
A rubric is any object with `funcs` and `weights` (or `rubrics`, or an environment with a `rubric`): its reward is the
weighted sum, and every function is a named part.

What differs: a function that raises leaves its answer without a score instead of giving it 0, and there is no
trajectory of token data in the state. Tasks and traces of the v1 interface are not taken.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Outcome, Reward, function_name, outcomes, settled, to_score
from tfgrpo.rewards.calling import accepted, asked, parameters_of, produced, required
from tfgrpo.types import Completion, Problem, Score

SINGLE = frozenset({"prompt", "completion", "answer", "state", "info", "task", "parser"})
PLURAL = frozenset({"prompts", "completions", "answers", "states", "tasks", "infos"})
State = dict[str, Any]


def from_verifiers(
    found: Any, name: str | None = None, *, weight: float = 1.0, solved_at: float = 1.0, **objects: Any
) -> Reward:
    """An unmodified verifiers function or rubric as a reward.

    The value is sum_k w_k r_k, as in verifiers. An answer is solved when its value reaches `solved_at` x the sum of
    the positive weights. None from a function means that its part does not apply.

    Args:
        objects: further arguments by name, such as `parser=`; those of a rubric are taken from it.

    Example:
        >>> def right(completion, answer):
        ...     return float(completion[-1]["content"] == answer)
        >>> from_verifiers(right).name
        'right'
    """
    functions = _functions(found, weight)
    if not functions or not any(f.weight > 0 for f in functions):
        raise InputError(f"expected a verifiers function or a rubric with a positive weight, got {found!r}")
    given = tuple(_Function(fn=f.fn, weight=f.weight, objects={**f.objects, **objects}) for f in functions)
    own = function_name(found) if callable(found) else type(found).__name__
    return _Verifiers(functions=given, name=name or own, solved_at=solved_at)


def looks_like_rubric(found: Any) -> bool:
    """Whether the object is a rubric, a group of rubrics, or an environment that has one."""
    if isinstance(found, type):
        return False
    lists = isinstance(getattr(found, "funcs", None), list) and isinstance(getattr(found, "weights", None), list)
    return lists or isinstance(getattr(found, "rubrics", None), list) or _rubric_of(found) is not None


def looks_like_verifiers(fn: Callable[..., Any]) -> bool:
    """Whether the signature is that of a verifiers function.

    `fn(p, completion)` is ours: of two parameters the first is then the problem, under whatever name.
    """
    names, needed = parameters_of(fn).keys(), required(fn)
    if "problem" in names or not needed:
        return False
    if {"states", "infos", "tasks"} & names and set(needed) <= PLURAL | {"parser"}:
        return True
    if set(needed) <= SINGLE:
        return bool({"completion", "state"} & names)
    return "completion" in names and (needed[0] == "completion" or len(needed) > 2)


@dataclass(frozen=True, kw_only=True)
class _Function:
    fn: Callable[..., Any]
    weight: float
    objects: Mapping[str, Any]

    @property
    def sees_all(self) -> bool:
        """As verifiers decides it: by plural parameters, or by an annotation that returns a list."""
        returned = getattr(self.fn, "__annotations__", {}).get("return")
        listed = returned is list or typing.get_origin(returned) is list or str(returned).startswith("list[")
        return bool(PLURAL & parameters_of(self.fn).keys()) or listed


@dataclass(frozen=True, kw_only=True)
class _Verifiers:
    functions: tuple[_Function, ...]
    name: str
    solved_at: float

    @property
    def alone(self) -> bool:
        """Whether it scores each answer by itself."""
        return not any(function.sees_all for function in self.functions)

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        states = [_state(problem, c) for c in completions]
        columns = [await self._column(function, problem, states) for function in self.functions]  # in order: they
        rows = zip(*columns, strict=True)  # may leave something for each other in the state
        return [self._joined(row) for row in rows]

    async def _column(self, function: _Function, problem: Problem, states: Sequence[State]) -> list[Outcome]:
        name = function_name(function.fn)
        if not function.sees_all:
            return list(await outcomes([self._one(function, problem, s) for s in states], problem, name))
        offered = {f"{key}s": [s[key] for s in states] for key in ("prompt", "completion", "answer", "task", "info")}
        offered |= {"states": list(states), **function.objects}
        (values,) = await outcomes([self._values(function, offered, problem)], problem, name)
        if isinstance(values, RewardError):
            return [values] * len(states)
        if len(values) != len(states):
            raise RewardError(f"reward {name!r} returned {len(values)} scores for {len(states)} answers")
        return list(await outcomes([_scored(v) for v in values], problem, name))

    async def _values(self, function: _Function, offered: Mapping[str, Any], problem: Problem) -> Sequence[Any]:
        arguments = accepted(function.fn, offered, {}, function_name(function.fn), problem)
        values: Sequence[Any] = await settled(function.fn(**arguments))
        return values

    async def _one(self, function: _Function, problem: Problem, state: State) -> Score | None:
        named = ("prompt", "completion", "answer", "info", "task")
        offered = {**problem.meta, **{k: state[k] for k in named}, "state": state, **function.objects}
        arguments = accepted(function.fn, offered, {}, function_name(function.fn), problem)
        return to_score(await settled(function.fn(**arguments)))

    def _joined(self, row: Sequence[Outcome]) -> Outcome:
        failed = next((outcome for outcome in row if isinstance(outcome, RewardError)), None)
        if failed is not None:
            return failed
        scores = [(f, s) for f, s in zip(self.functions, row, strict=True) if isinstance(s, Score)]
        top = math.fsum(f.weight for f, _ in scores if f.weight > 0)
        if not top:
            return None
        value = math.fsum(f.weight * s.value for f, s in scores)
        parts = {function_name(f.fn): s.value for f, s in scores}
        feedback = "\n".join(s.feedback for _, s in scores if s.feedback)
        return Score(value=value, parts=parts, feedback=feedback, solved=value >= self.solved_at * top - 1e-9)


def _functions(found: Any, weight: float) -> list[_Function]:
    """The functions of a rubric with their weights, those of a group of rubrics one after the other."""
    rubric = _rubric_of(found)
    if rubric is not None:
        return _functions(rubric, weight)
    if not looks_like_rubric(found):
        return [_Function(fn=found, weight=weight, objects={})] if callable(found) else []
    inner = [f for rubric in getattr(found, "rubrics", ()) for f in _functions(rubric, weight)]
    parser = getattr(found, "parser", None)
    objects = {**({} if parser is None else {"parser": parser}), **(getattr(found, "class_objects", None) or {})}
    pairs = zip(getattr(found, "funcs", ()), getattr(found, "weights", ()), strict=True)
    return [*inner, *(_Function(fn=fn, weight=weight * float(w), objects=objects) for fn, w in pairs)]


def _rubric_of(found: Any) -> Any:
    """The rubric of an environment."""
    rubric = getattr(found, "rubric", None)
    return rubric if rubric is not None and hasattr(rubric, "funcs") and not hasattr(found, "funcs") else None


def _state(problem: Problem, completion: Completion) -> State:
    """The dict that functions read as `state`; one for each answer, shared by all functions of a rubric."""
    info = problem.meta.get("info", {})
    if isinstance(info, str):
        info = json.loads(info) if info.strip().startswith("{") else {"info": info}
    known = {
        "prompt": asked(problem, completion),
        "completion": produced(completion),
        "answer": "" if problem.answer is None else problem.answer,
        "info": info,
        "task": problem.meta.get("task", "default"),
        "example_id": problem.id,
    }
    return {
        **known,
        "input": {**problem.meta, **known},
        "model": completion.model or completion.policy,
        "is_completed": True,
        "is_truncated": completion.finish_reason == "length",
        "stop_condition": None,
        "turn": sum(m.get("role") == "assistant" for m in completion.messages),
        "trajectory": [],
        "responses": [],
        "metrics": {},
        "reward": None,
        "timing": {"generation_ms": 1000 * completion.latency_s, "scoring_ms": 0.0, "total_ms": 0.0},
    }


async def _scored(value: Any) -> Score | None:
    return to_score(value)
