"""What a sampler is, and what several of them keep: the last verdicts of every problem.

A sampler decides which problem is asked next and how often. It learns from finished groups only, in the order of their
numbers, so that a run that is killed and started again walks the same path through its recorded replies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tfgrpo.errors import InputError
from tfgrpo.types import Group, Problem

Values: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]
Coverage: TypeAlias = Callable[[Problem], float]
"""The summed effect of what is already known for a problem; 0 in an arm without experiences."""

LEAST_GROUP = 2
"""A group of one has nothing to be compared with."""


class Sampler(Protocol):
    """An endless order of problems. Equal problems, seed and groups give an equal order, whatever the speed.

    `state` is JSON; a new sampler of the same problems that gets it by `restore` goes on as the old one would have.
    """

    def next(self, coverage: Coverage) -> Problem:
        """The problem of the next group."""
        ...

    def size(self, problem: Problem, usual: int) -> int:
        """How many rollouts that group should have; `usual` is the mean that the budget allows."""
        ...

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn from the groups of one finished step, in the order of their numbers."""
        ...

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


@runtime_checkable
class Weighing(Protocol):
    """A sampler that also says how much a problem's advantages count: the table's column "bin_weight"."""

    def weight(self, problem: Problem) -> float:
        """What the advantages of its next group are multiplied by."""
        ...


SamplerFactory: TypeAlias = Callable[[Sequence[Problem], int], Sampler]
"""`(problems, seed) -> Sampler`: what a task names, so that every run has a sampler of its own."""


class Deck:
    """The problems of a run by number, with the generator of its draws."""

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        if not problems:
            raise InputError("there are no problems to choose from; a task needs at least one in its learn split")
        self.problems = tuple(problems)
        self.number = {p.id: n for n, p in enumerate(self.problems)}
        self.rng = np.random.default_rng((seed, 1))

    def __len__(self) -> int:
        return len(self.problems)

    def known(self, groups: Iterable[Group]) -> list[tuple[int, Group]]:
        """The groups that have an answer to the problem as it is served, and whose problem is ours, with its number."""
        return [(self.number[g.problem.id], g) for g in groups if g.unaided and g.problem.id in self.number]

    def state(self) -> dict[str, Any]:
        """The generator's state and the number of problems."""
        return {"problems": len(self), "rng": dict(self.rng.bit_generator.state)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where `state` was taken.

        Raises:
            InputError: it was taken with another number of problems.
        """
        if state["problems"] != len(self):
            raise InputError(
                f"this sampler's state is of {state['problems']} problems and there are {len(self)} now; "
                f"start again, or restore it with the problems it was taken with"
            )
        self.rng.bit_generator.state = state["rng"]


class History:
    """The last `window` rewards and verdicts of each problem. P problems."""

    def __init__(self, size: int, window: int) -> None:
        if window < 1:
            raise InputError(f"a history needs a window of at least one rollout, got {window}")
        self._window = window
        self._rewards: list[deque[float]] = [deque(maxlen=window) for _ in range(size)]
        self._solved: list[deque[bool]] = [deque(maxlen=window) for _ in range(size)]

    def add(self, number: int, group: Group) -> None:
        """Take in a group of the problem with that number; answers that were helped with a hint say nothing of it."""
        self._rewards[number].extend(r.score.value for r in group.unaided)
        self._solved[number].extend(r.score.success for r in group.unaided)

    @property
    def counts(self) -> Labels:
        """Rollouts in the window of each problem. [P]"""
        return np.array([len(rewards) for rewards in self._rewards], dtype=np.int64)

    def pass_rates(self) -> Values:
        """Share of solved rollouts of each problem, NaN where there are none. [P]"""
        return np.array([sum(s) / len(s) if s else np.nan for s in self._solved])

    def variances(self) -> Values:
        """Variance of the rewards of each problem, p (1 - p) for rewards of 0 and 1; NaN where there are none. [P]"""
        return np.array([np.var(r) if r else np.nan for r in self._rewards], dtype=np.float64)

    def state(self) -> list[list[list[float]]]:
        """As JSON: pairs of reward and verdict for each problem."""
        return [
            [[r, int(s)] for r, s in zip(*pair, strict=True)] for pair in zip(self._rewards, self._solved, strict=True)
        ]

    def restore(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Take over what `state` said."""
        self._rewards = [deque((r for r, _ in rows), maxlen=self._window) for rows in state]
        self._solved = [deque((bool(s) for _, s in rows), maxlen=self._window) for rows in state]
