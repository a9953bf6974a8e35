"""How a task's groups are asked, valued and ordered: its three choices, resolved and checked before money is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tfgrpo.advantage import Advantage, resolve_advantage
from tfgrpo.errors import InputError
from tfgrpo.grouping import Grouping, GroupingSpec, check_grouping, grouping_of, most_calls
from tfgrpo.samplers import DEFAULT, SamplerFactory, resolve_sampler
from tfgrpo.task import Task
from tfgrpo.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a run takes from the task beside its problems and its reward."""

    grouping: SizedGroupings
    advantage: Advantage
    sampler: SamplerFactory

    @staticmethod
    def of(task: Task, group_size: int) -> Recipe:
        """The task's choices for groups of that size.

        Raises:
            InputError: an unknown name, a size that is too small, or problems that lack what a grouping needs.
        """
        return Recipe(
            grouping=SizedGroupings(task.grouping, task.learn, group_size),
            advantage=resolve_advantage(task.advantage),
            sampler=resolve_sampler(task.sampler or DEFAULT),
        )


@dataclass(slots=True)
class SizedGroupings:
    """A size -> the grouping for it, and the most answers that one such group asks for.

    A sampler may want a group that is too small for its grouping: that one is asked in the usual size.
    """

    spec: GroupingSpec
    problems: Sequence[Problem]
    usual: int
    _made: dict[int, tuple[Grouping, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        grouping, _ = self._made[self.usual] = self._make(self.usual)
        check_grouping(grouping, self.problems)

    def __call__(self, size: int) -> tuple[Grouping, int]:
        if size not in self._made:
            try:
                self._made[size] = self._make(size)
            except InputError:
                self._made[size] = self._made[self.usual]
        return self._made[size]

    def _make(self, size: int) -> tuple[Grouping, int]:
        grouping = grouping_of(self.spec, size)
        return grouping, most_calls(grouping, self.problems)
