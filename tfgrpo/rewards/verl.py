"""Reward functions written for verl, taken as they are.

The call that verl makes: `compute_score(data_source=, solution_str=, ground_truth=, extra_info=)`, one answer at a
time, or with the plural names for the answers of a batch. It returns a number, or a dict whose "score" is the reward;
the other numbers of the dict become named parts, its texts become words for the critic, and "acc" says what is solved.

As in verl, a function that is not async runs in a thread, so that a slow grader holds up nobody.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from tfgrpo.errors import RewardError
from tfgrpo.rewards.base import Outcome, Reward, function_name, outcomes, settled, to_score
from tfgrpo.rewards.calling import accepted, note, parameters_of
from tfgrpo.types import Completion, Problem, Score


def from_verl(fn: Callable[..., Any], name: str | None = None, **kwargs: Any) -> Reward:
    """An unmodified verl reward function, sync or async, for one answer or for a batch, as a reward.

    The ground truth is `meta["reward_model"]["ground_truth"]` where the data is verl's, else the problem's answer;
    `extra_info` is a copy of `meta["extra_info"]` with the number of turns.

    Args:
        kwargs: handed to every call, as verl's `reward_kwargs` are.

    Example:
        >>> def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        ...     return {"score": float(ground_truth in solution_str), "length": len(solution_str)}
        >>> from_verl(compute_score).name
        'compute_score'
    """
    return _Verl(fn=fn, name=name or function_name(fn), kwargs=kwargs)


def looks_like_verl(fn: Callable[..., Any]) -> bool:
    """Whether the signature is verl's."""
    return bool({"solution_str", "solution_strs"} & parameters_of(fn).keys())


@dataclass(frozen=True, kw_only=True)
class _Verl:
    fn: Callable[..., Any]
    name: str
    kwargs: Mapping[str, Any]

    @property
    def alone(self) -> bool:
        """Whether it scores each answer by itself."""
        return "solution_strs" not in parameters_of(self.fn)

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        rows = [_row(problem, c) for c in completions]
        if not self.alone:
            batch = {f"{key}s": [row[key] for row in rows] for key in rows[0] if key != "extra_info"}
            values = await self._call(problem, {**batch, "extra_infos": [row["extra_info"] for row in rows]})
            return await outcomes([_scored(v) for v in values], problem, self.name)
        return await outcomes([self._one(problem, row) for row in rows], problem, self.name)

    async def _one(self, problem: Problem, row: Mapping[str, Any]) -> Score | None:
        return await _scored(await self._call(problem, row))

    async def _call(self, problem: Problem, offered: Mapping[str, Any]) -> Any:
        arguments = accepted(self.fn, {**offered, **self.kwargs}, {}, self.name, problem)
        called = self.fn if inspect.isfunction(self.fn) or inspect.ismethod(self.fn) else type(self.fn).__call__
        if inspect.iscoroutinefunction(self.fn) or inspect.iscoroutinefunction(called):
            return await self.fn(**arguments)
        return await settled(await asyncio.to_thread(self.fn, **arguments))


def _row(problem: Problem, completion: Completion) -> dict[str, Any]:
    model = problem.meta.get("reward_model")
    held = isinstance(model, Mapping) and model.get("ground_truth") is not None
    info = problem.meta.get("extra_info")
    turns = sum(m.get("role") == "assistant" for m in completion.messages)
    return {
        "data_source": problem.meta.get("data_source", ""),
        "solution_str": completion.text,
        "ground_truth": model["ground_truth"] if isinstance(model, Mapping) and held else problem.answer,
        "extra_info": {**(info if isinstance(info, Mapping) else {}), "num_turns": turns, "rollout_reward_scores": {}},
    }


async def _scored(value: Any) -> Score | None:
    if not isinstance(value, Mapping):
        return to_score(value)
    if "score" not in value:
        raise RewardError(f"a verl reward that returns a dict must have a 'score' in it; got {', '.join(value)}")
    whole = to_score(value["score"])
    if whole is None:
        return None
    rest = {str(k): v for k, v in value.items() if k != "score"}
    parts = {k: part.value for k, v in rest.items() if isinstance(v, Real) and (part := to_score(v)) is not None}
    words = "\n".join(note(k, v) for k, v in rest.items() if isinstance(v, str) and v)
    solved = parts["acc"] >= 1.0 if "acc" in parts else None
    return Score(value=whole.value, parts=parts, feedback=words, solved=solved)
