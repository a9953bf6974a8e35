"""Who is taught and who gets the policy gradient: decided on columns, before anything is computed.

    right                                        policy gradient      (or taught too, with rows="all")
    wrong, a right sibling or feedback           taught
    wrong, neither                               policy gradient      (or out of the loss, with others="mask")

Legend: N rollouts of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.distill import Distill

Flags = NDArray[np.bool_]
NOBODY = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Routes:
    """Where each rollout goes, and what its teacher is shown."""

    taught: Flags  # [N]
    policy: Flags  # [N]; a rollout that is neither is out of the loss
    sibling: NDArray[np.int64]  # [N] whose answer the teacher is shown, NOBODY for none
    feedback: Flags  # [N] the teacher is shown what the reward said
    alone: Flags  # [N] it was to be taught, and there was nothing to teach it with

    def without(self, rows: Sequence[int], spec: Distill) -> Routes:
        """The same, with some rollouts taught no longer: they go where all others go."""
        lost = np.isin(np.arange(len(self.taught)), rows)
        return replace(
            self,
            taught=self.taught & ~lost,
            policy=self.policy | lost if spec.others == "policy" else self.policy,
            sibling=np.where(lost, NOBODY, self.sibling),
            feedback=self.feedback & ~lost,
        )

    def counts(self) -> dict[str, float]:
        """How many rollouts go where."""
        return {
            "route/taught": float(self.taught.sum()),
            "route/policy": float(self.policy.sum()),
            "route/by_sibling": float((self.sibling != NOBODY).sum()),
            "route/by_feedback": float(self.feedback.sum()),
            "route/alone": float(self.alone.sum()),
        }


def routes(
    success: ArrayLike,
    group: ArrayLike,
    *,
    said: ArrayLike,
    in_loss: ArrayLike | None = None,
    spec: Distill | None = None,
    seed: Sequence[int] = (0,),
) -> Routes:
    """Routes of all rollouts of a batch. The same arguments always give the same ones.

    All rollouts of a group are shown the same sibling, as far as nobody is shown its own answer: their teacher's
    prompts are then equal, and are computed once.

    Args:
        success: [N] whether the answer was right.
        group: [N] which rollouts answered the same problem.
        said: [N] whether the reward had words for it.
        in_loss: [N] those that may be learned from; None: all. The others can still be shown.
        spec: what is distilled; None: SRPO's.
        seed: decides which of several right siblings is shown.

    Example:
        >>> made = routes([1, 0, 0, 0], [7, 7, 7, 7], said=[0, 0, 0, 0])
        >>> made.taught.astype(int).tolist(), made.policy.astype(int).tolist(), made.sibling.tolist()
        ([0, 1, 1, 1], [1, 0, 0, 0], [-1, 0, 0, 0])
    """
    chosen = spec or Distill()
    right, words = np.asarray(success, dtype=np.bool_), np.asarray(said, dtype=np.bool_)
    labels = np.asarray(group)
    allowed = np.ones_like(right) if in_loss is None else np.asarray(in_loss, dtype=np.bool_)
    wanted = allowed & (~right if chosen.rows == "wrong" else True)
    sibling = np.full(len(right), NOBODY, dtype=np.int64)
    if chosen.siblings:
        sibling = _siblings(right, labels, chosen.exclude_self, seed)
    sibling[~wanted] = NOBODY
    shown = {
        "always": words,
        "without_solution": words & (sibling == NOBODY),
        "never": np.zeros_like(words),
    }[chosen.feedback]
    feedback = shown & wanted
    taught = (sibling != NOBODY) | feedback
    return Routes(
        taught=taught,
        policy=allowed & ~taught & (chosen.others == "policy"),
        sibling=sibling,
        feedback=feedback,
        alone=wanted & ~taught,
    )


def _siblings(right: Flags, group: NDArray[np.int64], exclude_self: bool, seed: Sequence[int]) -> NDArray[np.int64]:
    """For each rollout the first right one of its group in a drawn order that is not itself."""
    sibling = np.full(len(right), NOBODY, dtype=np.int64)
    for place, label in enumerate(np.unique(group)):
        members = np.flatnonzero(group == label)
        order = np.random.default_rng([*seed, place]).permutation(members[right[members]])
        if len(order):
            sibling[members] = order[0]
        if exclude_self and len(order):
            sibling[order[0]] = order[1] if len(order) > 1 else NOBODY
    return sibling
