"""The critics that need no model: solved problems become worked examples.

A model too small to put a lesson into words can still follow a solved problem. *examples* are its own winning rollouts;
*references* are the reference answers of problems that it gets wrong, where a winner is too rare to wait for. Which
example helps is not guessed: all of them are rivals, and measured effect chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

from experience_store import Edit, Experience
from tfgrpo.critic.base import Reading
from tfgrpo.critic.transcript import steps
from tfgrpo.types import Group, Rollout

MAX_CHARS = 1500


class ExampleCritic:
    """Proposes one solved problem per group, until there are `max_examples`.

    Of a group with winners and losers it takes the shortest of the best answers. With `references` it takes the
    reference answer of a group without winners, if that is a text.
    """

    def __init__(self, *, max_examples: int = 10, references: bool = False) -> None:
        self._max_examples, self._references = max_examples, references

    async def read(self, reading: Reading) -> tuple[Edit, ...]:
        """At most one example; none when the answer is empty or very long."""
        group = reading.group
        source = {"group": group.index, "problem": group.problem.id}
        winners = [r for r in group.rollouts if r.score.success]
        whole = [r for r in winners if _is_whole(r)]
        if group.mixed and whole:
            best = min(whole, key=lambda r: (-r.score.value, len(steps(r))))
            return (_example(group, steps(best), {**source, "policy": best.completion.policy}, "own winning rollout"),)
        gold = group.problem.answer
        if self._references and not winners and isinstance(gold, str) and 0 < len(gold) <= MAX_CHARS:
            return (_example(group, gold, {**source, "policy": "reference"}, "reference answer"),)
        return ()

    async def merge(self, step: int, proposals: Sequence[Edit], known: Sequence[Experience]) -> tuple[Edit, ...]:
        """The first ones there is still room for."""
        return tuple(proposals[: max(0, self._max_examples - len(known))])


def _is_whole(rollout: Rollout) -> bool:
    """Neither empty nor very long, and ended by the model itself: a cut answer teaches rambling."""
    return rollout.completion.finish_reason != "length" and 0 < len(steps(rollout).strip()) <= MAX_CHARS


def _example(group: Group, answer: str, source: dict[str, object], reason: str) -> Edit:
    question = group.problem.question
    return Edit(op="add", kind="example", question=question, text=answer.strip(), reason=reason, source=source)
