"""Variance-aware sampling: half of the draws go where rewards vary and answers differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.rewards.diversity import distinct_n, self_bleu
from tfgrpo.samplers.base import Coverage, Deck, History, Values
from tfgrpo.samplers.formulas import shares_of, vps
from tfgrpo.types import Group, Problem

ORDERS = (1, 2, 3)
Diversity: TypeAlias = Literal["self_bleu", "distinct"]
MOST_VARIANCE, MOST_DIVERSITY = 0.25, 1.0
"""What a problem is taken for that was never asked: as promising as one can be."""


def unlike(texts: Sequence[str]) -> float:
    """One less the mean self-BLEU of the texts: 0 for equal ones, 1 for texts that share no word; 0 for a single one.

    Self-BLEU itself is high for answers that are alike, so it must be turned round before it may stand for diversity.
    The mean is over BLEU-1, -2 and -3, since answers of three words rarely share a run of three.

    Example:
        >>> unlike(["the cat sat", "the cat sat"]), unlike(["the cat sat", "a dog ran"])
        (0.0, 1.0)
    """
    known = [score for order in ORDERS for score in self_bleu(texts, order=order) if score is not None]
    return 1.0 - math.fsum(known) / len(known) if known else 0.0


DIVERSITIES: dict[str, Callable[[Sequence[str]], float]] = {"self_bleu": unlike, "distinct": distinct_n}


class VarianceAware:
    """Draws problems with replacement: a share of the draws in proportion to VPS, the rest uniformly.

    `VPS = variance_weight * variance of the rewards + diversity_weight * diversity of the answers`, of the last
    `window` rollouts and the last group of a problem. The source scores all problems again every 28 steps with
    rollouts of their own; here every group that comes back anyway renews its problem's score, at no extra call.

    Args:
        share: of the draws that go by VPS; the others are uniform.
        variance_weight, diversity_weight: alpha and beta. The released configuration of the source uses 1 and 0.
        diversity: "self_bleu" (one less self-BLEU of runs of 1 to 3 words) or "distinct" (different pairs of words).
        window: rollouts of a problem that are remembered.

    Source: MMR1, arXiv 2509.21268. Its released self-BLEU is not turned round, so that it prefers answers that are
    alike; here it is.

    Example:
        >>> problem = Problem(id="p", messages=({"role": "user", "content": "?"},))
        >>> VarianceAware([problem], 0).next(lambda p: 0.0).id
        'p'
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        *,
        share: float = 0.5,
        variance_weight: float = 0.8,
        diversity_weight: float = 0.2,
        diversity: Diversity = "self_bleu",
        window: int = 8,
    ) -> None:
        if not 0 <= share <= 1 or variance_weight < 0 or diversity_weight < 0:
            raise InputError(
                f"variance-aware sampling needs a share in 0..1 and weights >= 0, got share={share}, "
                f"variance_weight={variance_weight}, diversity_weight={diversity_weight}"
            )
        if diversity not in DIVERSITIES:
            raise unknown_name("diversity", diversity, DIVERSITIES)
        self._deck, self._history = Deck(problems, seed), History(len(problems), window)
        self._share, self._weights, self._measure = share, (variance_weight, diversity_weight), DIVERSITIES[diversity]
        self._diversity: Values = np.full(len(problems), MOST_DIVERSITY)
        self._drawn = 0

    def next(self, coverage: Coverage) -> Problem:
        """The next draw; of any B draws in a row about `share` B are weighted."""
        weighted = int((self._drawn + 1) * self._share) > int(self._drawn * self._share)
        self._drawn += 1
        chances = shares_of(self.scores()) if weighted else None
        return self._deck.problems[int(self._deck.rng.choice(len(self._deck), p=chances))]

    def scores(self) -> Values:
        """The VPS of each problem, as it is known now. [P]"""
        variances = self._history.variances()
        variance = np.where(np.isnan(variances), MOST_VARIANCE, variances)
        alpha, beta = self._weights
        return vps(variance, self._diversity, variance_weight=alpha, diversity_weight=beta)

    def size(self, problem: Problem, usual: int) -> int:
        """Always the usual size."""
        return usual

    def observe(self, groups: Sequence[Group]) -> None:
        """Score again the problems that came back."""
        for number, group in self._deck.known(groups):
            self._history.add(number, group)
            self._diversity[number] = self._measure([r.completion.text for r in group.unaided])

    def state(self) -> dict[str, Any]:
        """What is known of the problems, how many were drawn, and the generator."""
        known = {"history": self._history.state(), "diversity": self._diversity.tolist()}
        return {**self._deck.state(), **known, "drawn": self._drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where the state was taken."""
        self._deck.restore(state)
        self._history.restore(state["history"])
        self._diversity, self._drawn = np.array(state["diversity"], np.float64), state["drawn"]
