"""The same question asked of several roles, so that answers within a group differ in approach.

Legend: R roles of the pool, K roles of one group.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experience_store.embed import cosine
from tfgrpo.errors import InputError
from tfgrpo.grouping.base import Embeds, check_size, with_system
from tfgrpo.types import Problem, Prompt

ROLES: Mapping[str, str] = {
    "expert": "You are an expert on the subject of the question. Use the knowledge and the methods of your field.",
    "teacher": "You are a patient teacher. Work from first principles and make every step plain.",
    "sceptic": "You are a sceptic. Look for the trap in the question, check every claim, and only then answer.",
    "practitioner": "You are a practitioner. Take the most direct way that works, and test the result on the question.",
    "planner": "You are a planner. List what is given and what is asked, choose the steps, and follow them.",
}


@dataclass(frozen=True, kw_only=True)
class Roles:
    """`n` rollouts spread over a few roles; see `roles`."""

    n: int
    pool: Mapping[str, str] = field(default_factory=lambda: ROLES)
    per_group: int = 3
    alpha: float = 0.5
    embedder: Embeds | None = None

    def __post_init__(self) -> None:
        check_size(self.n, 2, "a group over roles needs at least {} rollouts")
        if not 1 <= self.per_group <= len(self.pool):
            raise InputError(
                f"per_group must be 1 to {len(self.pool)}, as many roles as there are; got {self.per_group}"
            )

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        chosen = self.chosen(problem, number)[: self.n]
        places = sorted(k % len(chosen) for k in range(self.n))
        return tuple(_in_role(problem, chosen[place], self.pool, place + 1) for place in places)

    def chosen(self, problem: Problem, number: int) -> tuple[str, ...]:
        """The roles of a group: drawn by their probabilities without repetition, equal for equal numbers."""
        names = list(self.pool)
        weights = [1.0] * len(names)
        if self.embedder is not None:
            question, *vectors = self.embedder.embed([problem.question, *self.pool.values()])
            near = [[cosine(a, b) for b in vectors] for a in vectors]
            weights = role_probabilities([cosine(question, v) for v in vectors], near, self.alpha)
        draw = random.Random(f"{problem.id}/{number}")
        keyed = sorted(range(len(names)), key=lambda k: -(draw.random() ** (1.0 / weights[k])))
        return tuple(names[k] for k in keyed[: self.per_group])


def roles(
    n: int,
    *,
    pool: Mapping[str, str] | Sequence[str] | None = None,
    per_group: int = 3,
    alpha: float = 0.5,
    embedder: Embeds | None = None,
) -> Roles:
    """`n` rollouts over `per_group` roles, each told in the system message; variant k is the k-th role of the group.

    Args:
        n: rollouts of a group.
        pool: role names with what they are told, or names alone; None is `ROLES`.
        per_group: K roles, 3 in the source.
        alpha: weight of diversity against relevance when `embedder` chooses.
        embedder: draws roles by `role_probabilities`; None draws all alike.

    Source: MultiRole-R1, arXiv 2507.20187 (paper). There the roles answer in one text and a majority is taken; asking
    each in a conversation of its own is ours.

    Example:
        >>> problem = Problem(id="p", messages=({"role": "user", "content": "2 + 3?"},))
        >>> [prompt.variant for prompt in roles(5)(problem, 0)]
        [1, 1, 2, 2, 3]
        >>> roles(2, pool={"sceptic": "Look for the trap."})(problem, 0)[0].messages[0]["content"]
        'Look for the trap.'
    """
    if not 0 <= alpha <= 100:
        raise InputError(f"roles: alpha weighs diversity against relevance, 0 to 100; got {alpha}")
    if pool is None:
        pool = ROLES
    elif not isinstance(pool, Mapping):
        pool = {name: f"You are {name}. Answer the question as that role would." for name in pool}
    return Roles(n=n, pool=pool, per_group=min(per_group, len(pool)), alpha=alpha, embedder=embedder)


def role_probabilities(relevance: Sequence[float], similarity: Sequence[Sequence[float]], alpha: float) -> list[float]:
    """`P(i) = softmax_i(relevance_i + alpha * mean_{j != i}(1 - similarity_ij))`.

    Args:
        relevance: of each role to the question. [R]
        similarity: cosine between roles. [R, R]
        alpha: weight of being unlike the others.

    Source: arXiv 2507.20187 (paper); that the mean leaves out the role itself is ours.

    Example:
        >>> [round(p, 3) for p in role_probabilities([0.0, 0.0, 0.0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 1.0)]
        [0.274, 0.274, 0.452]
    """
    others = max(1, len(relevance) - 1)
    apart = [sum(1.0 - s for j, s in enumerate(row) if j != i) / others for i, row in enumerate(similarity)]
    logits = [r + alpha * a for r, a in zip(relevance, apart, strict=True)]
    powers = [math.exp(x - max(logits)) for x in logits]
    return [p / sum(powers) for p in powers]


def _in_role(problem: Problem, name: str, pool: Mapping[str, str], variant: int) -> Prompt:
    return Prompt(messages=with_system(problem.messages, pool[name]), variant=variant, origin=f"role/{name}")
