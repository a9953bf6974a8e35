"""Which problem comes next: seeded epochs, the least covered first, and back to a problem that taught something."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from tfgrpo.types import Problem

LOOKAHEAD = 12
"""Among this many problems of the shuffled epoch, the one with the least coverage is taken."""


class Curriculum:
    """An endless order of problems, the same for the same seed and the same answers of `coverage`.

    A problem whose entries are already known to help teaches little, so it waits. A problem that has just taught an
    entry comes back once, soon: there the entry's effect is seen at its clearest, by the same coin as anywhere else.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self._problems = tuple(problems)
        self._rng = np.random.default_rng((seed, 1))
        self._epoch: list[Problem] = []
        self._again: deque[Problem] = deque()
        self._taken = 0
        self.epochs = 0

    def __len__(self) -> int:
        return len(self._problems)

    def revisit(self, problem: Problem) -> None:
        """Bring a problem back once; at most every second problem is such a return."""
        self._again.append(problem)

    def next(self, coverage: Callable[[Problem], float]) -> Problem:
        """The next problem. `coverage` is the summed effect of the entries that are known for a problem."""
        self._taken += 1
        if self._again and self._taken % 2 == 0:
            return self._again.popleft()
        if not self._epoch:
            self._epoch = [self._problems[i] for i in self._rng.permutation(len(self._problems))]
            self.epochs += 1
        window = self._epoch[:LOOKAHEAD]
        chosen = min(range(len(window)), key=lambda i: coverage(window[i]))
        return self._epoch.pop(chosen)
