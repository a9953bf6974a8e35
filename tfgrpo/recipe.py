"""How a task's groups are asked, valued and ordered: its three choices, resolved and checked before money is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tfgrpo.advantage import ALWAYS, Advantage, Table, resolve_advantage
from tfgrpo.errors import InputError
from tfgrpo.grouping import Grouping, GroupingSpec, Preparing, check_grouping, grouping_of, most_calls, refused_wordings
from tfgrpo.rewards.base import compares_wordings
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
        recipe = Recipe(
            grouping=SizedGroupings(task.grouping, task.learn, group_size),
            advantage=resolve_advantage(task.advantage),
            sampler=resolve_sampler(task.sampler or DEFAULT),
        )
        if not isinstance(recipe.grouping(group_size)[0], Preparing):
            recipe.check(task, group_size)
        return recipe

    def check(self, task: Task, group_size: int) -> None:
        """Refuses groups in which there is nothing to compare; for a grouping that prepares problems, once it has.

        Raises:
            InputError: a reward over wordings and no problem with two of them, or an advantage within each wording and
                no wording with two answers.
        """
        grouping, _ = self.grouping(group_size)
        groups = [[prompt.variant for prompt in grouping(problem, 0)] for problem in task.learn]
        if compares_wordings(task.reward) and not any(len(set(group)) > 1 for group in groups):
            raise InputError(
                f"the reward {task.reward.name!r} compares answers to different wordings of a question, and every "
                f"group has one wording only{_why_alone(task)}; give problems `variants` and --grouping paraphrases, "
                f"or another model that writes them"
            )
        if all(len(set(group)) == len(group) > 1 for group in groups) and _within_wordings(self.advantage, groups[0]):
            raise InputError(
                f"the advantage {self.advantage.name!r} compares the answers to one wording, and a group of "
                f"{group_size} has one answer to each: ask for larger groups, or for fewer wordings (--grouping-option "
                f"each=2)"
            )


def _why_alone(task: Task) -> str:
    """What became of the wordings that a model wrote."""
    why = refused_wordings(task.learn)
    return f" ({len(task.learn)} problems; {why})" if why else ""


def _within_wordings(advantage: Advantage, variants: Sequence[int]) -> bool:
    """Whether an advantage finds something in a group of one wording, and nothing where each answer has its own."""
    if not advantage.needs <= ALWAYS:
        return False

    def finds(labels: Sequence[int]) -> bool:
        ramp = Table.of_columns(reward=range(len(labels)), group=[0] * len(labels), variant=labels)
        return bool(advantage(ramp).any())

    return finds([0] * len(variants)) and not finds(variants)


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
