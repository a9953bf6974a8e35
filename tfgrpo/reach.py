"""How far experiences and hints carry: the counts by which one sees that prompts have come to their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tfgrpo.types import Group


@dataclass(slots=True)
class Reach:
    """Counts over the groups of a run.

    Example: a group of which experiences stood in the prompts, and all answers were wrong, counts in both of the first.
    """

    told: int = 0  # groups with experiences in their prompts
    told_wrong: int = 0  # those of them without one right answer
    hinted: int = 0  # answers with a hint
    hinted_right: int = 0
    again: int = 0  # later answers without a hint to problems that had been solved with one
    again_right: int = 0
    helped: set[str] = field(default_factory=set)  # problems that were solved with a hint

    def add(self, groups: Sequence[Group]) -> None:
        """Count the groups of one step."""
        for group in groups:
            bare = [r for r in group.unaided if r.stage == 0]
            if any(r.experiences for r in bare):
                self.told += 1
                self.told_wrong += not any(r.score.success for r in group.unaided)
            if group.problem.id in self.helped:
                self.again += len(bare)
                self.again_right += sum(r.score.success for r in bare)
            self._hints(group)

    def _hints(self, group: Group) -> None:
        hinted = [r for r in (*group.earlier, *group.rollouts) if r.kind == "hint"]
        right = sum(r.score.success for r in hinted)
        self.hinted += len(hinted)
        self.hinted_right += right
        if right:
            self.helped.add(group.problem.id)

    def as_json(self) -> dict[str, int]:
        """The counts alone."""
        names = ("told", "told_wrong", "hinted", "hinted_right", "again", "again_right")
        return {name: getattr(self, name) for name in names}
