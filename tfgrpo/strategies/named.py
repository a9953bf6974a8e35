"""Strategies by name: one row each. A new one is a file and a row."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method
from tfgrpo.strategies.base import Strategy
from tfgrpo.strategies.best import Best, Oracle, best, oracle
from tfgrpo.strategies.readings import reading_of
from tfgrpo.strategies.refine import Refine, refine
from tfgrpo.strategies.tournament import Tournament, tournament
from tfgrpo.strategies.vote import Adaptive, Vote, adaptive, vote
from tfgrpo.user_code import load_object

if TYPE_CHECKING:
    from tfgrpo.task import Task

STRATEGIES: dict[str, Method[Callable[..., Strategy]]] = {
    "vote": Method(
        make=vote,
        formula="argmax_a sum_{i <= n} 1[a_i = a], the first of equals",
        source="arXiv 2203.11171",
        confidence="paper",
        note="self-consistency; answers are compared as the task's reward reads them",
    ),
    "adaptive": Method(
        make=adaptive,
        formula="the same vote, over when P(p > 1/2) >= 0.95, p ~ Beta(v1 + 1, v2 + 1), or after n answers",
        source="arXiv 2305.11860",
        confidence="paper and code",
        note="4 equal answers are enough; `stop='sure'` ends when no answer can change the winner; a mean number of "
        "calls over all questions is ours",
    ),
    "best": Method(
        make=best,
        formula="argmax_{i <= n} s(question, a_i), the first of equals",
        source="arXiv 2112.09332",
        confidence="ours",
        note="s is a judge or a check; it never sees the reference answer",
    ),
    "tournament": Method(
        make=tournament,
        formula="single elimination of the different answers, seeded by votes, each match judged in both orders",
        source="arXiv 2601.06487",
        confidence="ours",
        note="the source ranks for training with 2 N - 2 matches; choosing one answer takes D - 1",
    ),
    "refine": Method(
        make=refine,
        formula="a_0 = M(q); a_{k+1} = M(q, a_k), until a_{k+1} = a_k or n answers",
        source="arXiv 2303.17651",
        confidence="ours",
        note="one generic prompt instead of prompts for each task; `critique=True` asks for errors first",
    ),
    "oracle": Method(
        make=oracle,
        formula="max_{i <= n} r(a_i, reference): pass@n",
        source="arXiv 2107.03374",
        confidence="paper",
        note="an upper bound, no result: it looks at the reference answer. For evaluations only",
    ),
}


def resolve_strategy(spec: Strategy | str, **options: Any) -> Strategy:
    """The strategy of that name with its number of answers and options, such as "vote:5", or the given one itself.

    Your own is "module:function", called with the options.

    Example:
        >>> resolve_strategy("adaptive:12", confidence=0.9).name
        'adaptive(n=12, confidence=0.9, reading=auto)'

    Raises:
        InputError: unknown name or option (near ones are listed), a wrong number, or user code that does not load.
    """
    if not isinstance(spec, str):
        if options:
            raise InputError(f"a strategy of your own takes no options here, got {', '.join(options)}")
        return spec
    name, colon, count = spec.partition(":")
    if name not in STRATEGIES:
        if colon and not count.isdigit():
            made: Strategy = load_object(spec, kind="strategy")(**options)
            return made
        raise unknown_name("strategy", name, [*STRATEGIES, "module:function"])
    if colon and not count.isdigit():
        raise InputError(f"strategy {spec!r}: after the colon stands a number of answers, such as {name}:5")
    known = accepted(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of strategy {name!r}", option, known)
    return STRATEGIES[name].make(*([int(count)] if colon else []), **options)


def accepted(name: str) -> list[str]:
    """The options of a strategy by name; none for one of the user's own."""
    if name not in STRATEGIES:
        return []
    parameters = inspect.signature(STRATEGIES[name].make).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def fitted(strategy: Strategy, task: Task) -> Strategy:
    """The strategy for a task: answers are read as its reward reads them, and "task" stands for that reward.

    Example:
        >>> from tfgrpo.rewards.simple import numeric
        >>> from tfgrpo.task import Task
        >>> fitted(resolve_strategy("vote:5"), Task(name="t", learn=(), reward=numeric())).name
        'vote(n=5, reading=number)'
    """
    if isinstance(strategy, Oracle):
        return dataclasses.replace(strategy, reward=task.reward) if strategy.reward is None else strategy
    if isinstance(strategy, Best):
        return dataclasses.replace(strategy, by=task.reward) if strategy.by == "task" else strategy
    if isinstance(strategy, Vote | Adaptive | Tournament | Refine) and strategy.reading == "auto":
        return dataclasses.replace(strategy, reading=task.reading or reading_of(task.reward.name))
    return strategy
