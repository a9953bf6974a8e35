"""A strategy on one side of an evaluation: what it may ask for, and what the evaluation says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfgrpo.budget import Budget
from tfgrpo.errors import InputError
from tfgrpo.measurement import Point
from tfgrpo.sides import Side
from tfgrpo.strategies.base import Averaged, Checked, Strategy, hidden
from tfgrpo.strategies.curve import curve, early_stop
from tfgrpo.strategies.evaluating import Both
from tfgrpo.strategies.named import fitted, resolve_strategy
from tfgrpo.strategies.vote import Adaptive, Vote
from tfgrpo.task import Task
from tfgrpo.types import Problem

PLAIN = "the plain answer"


async def prepared(spec: Strategy | str, task: Task, problems: Sequence[Problem], sides: Sequence[Side]) -> Strategy:
    """The strategy for this task and these problems.

    Raises:
        InputError: it cannot be measured here; nothing was spent.
    """
    strategy = fitted(resolve_strategy(spec), task)
    if len(sides) > 1:
        raise InputError("a strategy is compared with the plain answer of the same store: leave out `against`")
    if strategy.max_calls > 1 and strategy.always > 1 and task.sampling.temperature == 0:
        raise InputError(
            f"{strategy.name} compares answers that are sampled, and at temperature 0 all are the same; "
            "sample at 0.7 or 1 (--temperature 0.7)"
        )
    if isinstance(strategy, Checked):
        await strategy.check(hidden(problems[0], getattr(strategy, "sees", ())))
    return strategy


def least_calls(strategy: Strategy) -> int:
    """Answers for one problem that a budget must have room for; an adaptive strategy makes do with its first ones."""
    return strategy.always if isinstance(strategy, Averaged) else strategy.max_calls


def calls_for(strategy: Strategy, budget: Budget | None, problems: int) -> float:
    """The calls that a strategy may spread over the problems; infinite where it needs no sharing out."""
    if not isinstance(strategy, Averaged):
        return math.inf
    limits = [math.inf if strategy.mean is None else math.floor(strategy.mean * problems)]
    limits += [budget.calls] if budget is not None and budget.calls is not None else []
    return math.inf if min(limits) >= strategy.max_calls * problems else min(limits)


def points(strategy: Strategy, both: Both, *, seed: int) -> list[Point]:
    """The curve, and for a vote also what stopping early would have made of the same answers."""
    found = curve(strategy, both.rows, seed=seed)
    return found + (early_stop(both.rows, seed=seed) if isinstance(strategy, Vote) else [])


def notes(strategy: Strategy, both: Both) -> list[str]:
    """What a reader must know of the numbers."""
    said = []
    if strategy.oracle:
        said.append("an upper bound and no result: oracle chooses by the reference answers, which no application has")
    if both.alike:
        said.append(f"all answers got the same score from what chooses on {both.alike} of {len(both.rows)} problems")
    silent = sum(bool(r.chosen.readings) and set(r.chosen.readings.values()) == {None} for r in both.rows)
    if silent:
        said.append(f"no answer could be read on {silent} of {len(both.rows)} problems; another reading may fit better")
    apart = sum(_apart(list(row.chosen.readings.values())) for row in both.rows)
    if apart and isinstance(strategy, Vote | Adaptive):
        said.append(
            f"no two answers agreed on {apart} of {len(both.rows)} problems, where the first one then stands for all "
            "and a difference is chance; another reading may fit better"
        )
    short = sum("budget is over" in row.chosen.why for row in both.rows)
    return [*said, *([f"the budget ended {short} of {len(both.rows)} problems early"] if short else [])]


def _apart(readings: Sequence[str | None]) -> bool:
    """Whether there were several answers to count, and no two said the same.

    Example:
        >>> _apart(["5", None, "7"]), _apart(["5", "5"]), _apart(["5"])
        (True, False, False)
    """
    known = [reading for reading in readings if reading is not None]
    return len(known) > 1 and len(set(known)) == len(known)
