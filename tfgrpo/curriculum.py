"""Which problem comes next, with how many rollouts: a sampler's order, and back to a problem that taught something."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from tfgrpo.samplers import DEFAULT, SamplerFactory, resolve_sampler
from tfgrpo.samplers.base import LEAST_GROUP, Coverage, Weighing
from tfgrpo.types import Group, Problem


class Curriculum:
    """An endless order of problems, the same for the same seed, the same groups and the same answers of `coverage`.

    The order is the sampler's. A problem that has just taught an entry comes back once, soon: there the entry's effect
    is seen at its clearest, by the same coin as anywhere else.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, *, sampler: SamplerFactory | str = DEFAULT) -> None:
        self._problems = tuple(problems)
        self._sampler = resolve_sampler(sampler)(self._problems, seed)
        self._again: deque[Problem] = deque()
        self._taken = 0
        self._drawn = 0
        self._spare = 0  # rollouts that smaller groups left over

    def __len__(self) -> int:
        return len(self._problems)

    @property
    def epochs(self) -> int:
        """How many times over the sampler has drawn as many problems as there are, the present time included."""
        return -(-self._drawn // len(self._problems))

    def revisit(self, problem: Problem) -> None:
        """Bring a problem back once; at most every second problem is such a return."""
        self._again.append(problem)

    def next(self, coverage: Coverage) -> Problem:
        """The next problem. `coverage` is the summed effect of the entries that are known for a problem."""
        self._taken += 1
        if self._again and self._taken % 2 == 0:
            return self._again.popleft()
        self._drawn += 1
        return self._sampler.next(coverage)

    def size(self, problem: Problem, usual: int) -> int:
        """Rollouts of the next group. Larger groups use what smaller ones left: never more than `usual` on average."""
        wanted = max(min(LEAST_GROUP, usual), self._sampler.size(problem, usual))
        size = min(wanted, usual + self._spare)
        self._spare += usual - size
        return size

    def weight(self, problem: Problem) -> float:
        """What the advantages of its next group count: 1 but for a sampler that weighs."""
        return self._sampler.weight(problem) if isinstance(self._sampler, Weighing) else 1.0

    def observe(self, groups: Sequence[Group]) -> None:
        """Tell the sampler of a finished step, its groups in the order of their numbers."""
        self._sampler.observe(groups)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as JSON."""
        again = [p.id for p in self._again]
        own = {"again": again, "taken": self._taken, "drawn": self._drawn, "spare": self._spare}
        return {**own, "sampler": self._sampler.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with the same problems and sampler."""
        by_id = {p.id: p for p in self._problems}
        self._sampler.restore(state["sampler"])
        self._again = deque(by_id[i] for i in state["again"])
        self._taken, self._drawn, self._spare = state["taken"], state["drawn"], state["spare"]
