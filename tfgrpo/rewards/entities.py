"""Entity match (E-GRPO): a wrong answer earns by the share of the wanted entities that its thoughts found.

Legend: G answers of one group.

Example:
    >>> entity_rewards(correct=[True, False, False, False], matched=[4, 2, 1, 0], entities=4)
    [1.0, 0.15, 0.075, 0.0]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Reward, group_reward, score_answers
from tfgrpo.rewards.simple import contains
from tfgrpo.rewards.text import normal
from tfgrpo.types import Completion, Message, Problem, Score, message_text

ALPHA = 0.3
"""The best of {0, 0.1, 0.3, 0.5} in the paper."""


def entity_match(*, correct: Reward | None = None, alpha: float = ALPHA, supported: bool = False) -> Reward:
    """1 for a right answer, `alpha` x the share of entities relative to the group's best for a wrong one.

    The entities are the problem's `meta["entities"]`, a list of texts; they are looked for, as whole words and without
    regard to case, in what the assistant wrote in all of its messages, reasoning included. An answer that was cut off
    scores 0. Solved is only what `correct` (by default: contains the reference) calls solved.

    The best wrong answer of a group always gets `alpha`, however few entities it found, and words can be stuffed with
    names: `supported` counts an entity only if a tool's reply of the same rollout holds it too.

    Reconstruction of arXiv 2510.24694 from an independent account; the normal form and `supported` are ours.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer="Curie", meta={"entities": ["radium", "polonium"]})
        >>> texts = ("Marie Curie", "Radium and polonium: Becquerel", "Radium: Becquerel", "Becquerel")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [score.value for score in asyncio.run(entity_match()(problem, said))]
        [1.0, 0.3, 0.15, 0.0]

    Raises:
        RewardError: (as outcome) the problem has no entities.
    """
    if not 0 <= alpha < 1:
        raise InputError(f"entity_match needs 0 <= alpha < 1, so that no wrong answer beats a right one; got {alpha}")
    judged = correct or contains()

    async def scores(problem: Problem, completions: Sequence[Completion]) -> Any:
        entities = _entities(problem)
        verdicts = await score_answers(judged, problem, completions)
        found = [found_entities(entities, c, supported=supported) for c in completions]
        right = [isinstance(v, Score) and v.success for v in verdicts]
        cut = [c.finish_reason == "length" for c in completions]
        values = entity_rewards(
            correct=right, matched=[len(f) for f in found], entities=len(entities), failed=cut, alpha=alpha
        )
        made: list[Any] = []
        for verdict, value, names in zip(verdicts, values, found, strict=True):
            if not isinstance(verdict, Score):  # not applicable or failed: so is this
                made.append(verdict)
                continue
            parts = {"correct": float(verdict.success), "entities": len(names) / len(entities)}
            missed = [e for e in entities if e not in names]
            words = f"Entities not found: {', '.join(missed)[:300]}." if missed and not verdict.success else ""
            feedback = "\n".join(w for w in (verdict.feedback, words) if w)
            made.append(Score(value=value, parts=parts, feedback=feedback, solved=value >= 1.0))
        return made

    return group_reward(scores, name="entity_match")


def entity_rewards(
    *,
    correct: Sequence[bool],  # [G]
    matched: Sequence[int],  # [G] entities found
    entities: int,
    failed: Sequence[bool] = (),  # [G] format or length errors
    alpha: float = ALPHA,
) -> list[float]:
    """The rewards of one group: 0 where failed, 1 where correct, else alpha gamma_i / max_j gamma_j.

    gamma_i = matched_i / entities; the maximum is over all answers of the group, and 0 / 0 counts as 0.

    Example:
        >>> entity_rewards(correct=[False] * 4, matched=[2, 1, 0, 2], entities=4)
        [0.3, 0.15, 0.0, 0.3]
    """
    if entities < 1:
        raise InputError(f"entity rewards need at least one entity, got {entities}")
    share = [m / entities for m in matched]
    best = max(share, default=0.0)
    fails = failed or [False] * len(share)
    return [
        0.0 if bad else 1.0 if ok else alpha * gamma / best if best else 0.0
        for ok, gamma, bad in zip(correct, share, fails, strict=True)
    ]


def found_entities(entities: Sequence[str], completion: Completion, *, supported: bool = False) -> list[str]:
    """Those entities that the assistant named, and with `supported` also read in a tool's reply."""
    said = normal("\n".join(map(_said, (m for m in completion.messages if m.get("role") == "assistant"))))
    said = said or normal(completion.text)
    read = normal("\n".join(message_text(m) for m in completion.messages if m.get("role") == "tool"))
    return [e for e in entities if _stands_in(e, said) and (not supported or _stands_in(e, read))]


def _said(message: Message) -> str:
    return f"{message.get('reasoning_content') or message.get('reasoning') or ''}\n{message_text(message)}"


def _stands_in(entity: str, text: str) -> bool:
    wanted = normal(entity)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text) is not None


def _entities(problem: Problem) -> list[str]:
    given = problem.meta.get("entities")
    names = list(dict.fromkeys(given)) if isinstance(given, list | tuple) else []
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise RewardError(
            f"reward 'entity_match' needs a column 'entities', a list of texts; problem {problem.id!r} has {given!r}"
        )
    return names
