"""Orders by epochs: every problem once before any comes again. Least covered first, plainly shuffled, easy to hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgrpo.errors import InputError
from tfgrpo.samplers.base import Coverage, Deck, History
from tfgrpo.types import Group, Problem

LOOKAHEAD = 12
"""Among this many problems of the shuffled epoch, the one with the least coverage is taken."""
UNSEEN_RATE = 0.5
"""The pass rate of a problem that was never asked, and the weight of one rollout on the side of it for all others."""


class LeastCovered:
    """Shuffled epochs; of the next few problems the one comes first for which the least is known.

    A problem whose entries are already known to help teaches little, so it waits. `lookahead` 1 is a plain shuffle.

    Example:
        >>> problems = [Problem(id=f"p{n}", messages=({"role": "user", "content": "?"},)) for n in range(4)]
        >>> sampler = LeastCovered(problems, 0)
        >>> sorted(sampler.next(lambda p: 0.0).id for _ in problems)
        ['p0', 'p1', 'p2', 'p3']

    Raises:
        InputError: no problems, or a `lookahead` below 1.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, *, lookahead: int = LOOKAHEAD) -> None:
        if lookahead < 1:
            raise InputError(f"lookahead is the number of problems to choose from, at least 1; got {lookahead}")
        self._deck, self._lookahead = Deck(problems, seed), lookahead
        self._epoch: list[int] = []

    def next(self, coverage: Coverage) -> Problem:
        """The least covered of the next `lookahead` problems of the epoch; among equals the earlier one."""
        if not self._epoch:
            self._epoch = self._deck.rng.permutation(len(self._deck)).tolist()
        window = self._epoch[: self._lookahead]
        chosen = min(range(len(window)), key=lambda i: coverage(self._deck.problems[window[i]]))
        return self._deck.problems[self._epoch.pop(chosen)]

    def size(self, problem: Problem, usual: int) -> int:
        """Always the usual size."""
        return usual

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing: the order depends on coverage alone."""

    def state(self) -> dict[str, Any]:
        """What is left of the epoch, and the generator."""
        return {**self._deck.state(), "epoch": list(self._epoch)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the same epoch."""
        self._deck.restore(state)
        self._epoch = list(state["epoch"])


def uniform(problems: Sequence[Problem], seed: int) -> LeastCovered:
    """Shuffled epochs without regard to anything: what others are compared with.

    Example:
        >>> problem = Problem(id="p", messages=({"role": "user", "content": "?"},))
        >>> uniform([problem], 0).next(lambda p: 0.0).id
        'p'
    """
    return LeastCovered(problems, seed, lookahead=1)


class EasyToHard:
    """Epochs in the order of the pass rate, the easiest first.

    The rate of a problem is that of `rates` (such as pass rates of the bare model, by problem id) until it was asked,
    then that of its last `window` rollouts, drawn towards 1/2 by one rollout's weight: (c + 1/2) / (n + 1). Without
    `rates` the first epoch is a plain shuffle, since nothing is known yet. The order is made when an epoch begins.

    Example:
        >>> problems = [Problem(id=i, messages=({"role": "user", "content": "?"},)) for i in ("hard", "easy")]
        >>> sampler = EasyToHard(problems, 0, rates={"hard": 0.1, "easy": 0.9})
        >>> sampler.next(lambda p: 0.0).id
        'easy'

    Source: the curriculum of SARI (easy to hard by the base model's pass rate). A reconstruction: only its abstract was
    read, so the estimate and the update between epochs are ours.
    """

    def __init__(
        self, problems: Sequence[Problem], seed: int, *, rates: Mapping[str, float] | None = None, window: int = 8
    ) -> None:
        self._deck, self._history = Deck(problems, seed), History(len(problems), window)
        wrong = {i: r for i, r in (rates or {}).items() if not 0 <= r <= 1}
        if wrong:
            raise InputError(f"pass rates lie in 0..1, got {wrong}")
        self._given = np.array([(rates or {}).get(p.id, UNSEEN_RATE) for p in self._deck.problems])
        self._epoch: list[int] = []

    def next(self, coverage: Coverage) -> Problem:
        """The easiest problem that is left in this epoch."""
        if not self._epoch:
            shuffled = self._deck.rng.permutation(len(self._deck))
            order = np.argsort(-self._rates()[shuffled], kind="stable")
            self._epoch = shuffled[order].tolist()
        return self._deck.problems[self._epoch.pop(0)]

    def _rates(self) -> np.ndarray:
        n = self._history.counts
        solved = np.nan_to_num(self._history.pass_rates()) * n
        return np.where(n > 0, (solved + UNSEEN_RATE) / (n + 1), self._given)

    def size(self, problem: Problem, usual: int) -> int:
        """Always the usual size."""
        return usual

    def observe(self, groups: Sequence[Group]) -> None:
        """Count who solved what; it matters from the next epoch on."""
        for number, group in self._deck.known(groups):
            self._history.add(number, group)

    def state(self) -> dict[str, Any]:
        """The epoch, the verdicts so far and the generator."""
        return {**self._deck.state(), "epoch": list(self._epoch), "history": self._history.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the same epoch."""
        self._deck.restore(state)
        self._epoch = list(state["epoch"])
        self._history.restore(state["history"])
