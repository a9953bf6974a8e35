"""Group distributionally robust sampling: problems in bins by how often they are solved, the worst bins first or most.

`PromptGdro` decides which bin is asked, `RolloutGdro` how many rollouts a problem of each bin gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from tfgrpo.errors import InputError
from tfgrpo.samplers.base import LEAST_GROUP, Coverage, Deck, History, Labels, Values
from tfgrpo.samplers.epochs import LeastCovered
from tfgrpo.samplers.formulas import (
    allocate,
    arm_losses,
    bins_of,
    gdro_probabilities,
    gdro_scores,
    gdro_weights,
    next_price,
    square_root_law,
)
from tfgrpo.types import Group, Problem

EDGES = (0.4, 0.75)
Rule: TypeAlias = Literal["exp3", "square_root"]


class Bins:
    """Which bin each problem is in, by its running pass rate, with inertia at the edges. P problems, B bins."""

    def __init__(self, deck: Deck, edges: Sequence[float], margin: float, window: int) -> None:
        if list(edges) != sorted(set(edges)) or not all(0 < e < 1 for e in edges) or not 0 <= margin < 0.5:
            raise InputError(
                f"bins need rising edges between 0 and 1 and a margin in 0..0.5, got {list(edges)} and {margin}"
            )
        self._deck, self._edges, self._margin = deck, tuple(edges), margin
        self.history = History(len(deck), window)
        self.of = bins_of(self.history.pass_rates(), self._edges)
        self._placed = np.full(len(deck), -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._edges) + 1

    @property
    def sizes(self) -> Labels:
        """Problems in each bin. [B]"""
        return np.bincount(self.of, minlength=len(self)).astype(np.int64)

    def place(self, groups: Sequence[tuple[int, Group]]) -> None:
        """Take in a finished step and put its problems into their bins."""
        for number, group in groups:
            self.history.add(number, group)
        self.of = bins_of(self.history.pass_rates(), self._edges, before=self._placed, margin=self._margin)
        self._placed = np.where(self.history.counts > 0, self.of, -1)

    def means(self, groups: Sequence[tuple[int, Group]], values: Sequence[float]) -> tuple[Values, Values]:
        """Mean of one value per group over each bin, NaN for a bin without groups, and the bins' shares. [B], [B]"""
        labels = [int(self.of[number]) for number, _ in groups]
        counts = np.bincount(labels, minlength=len(self)).astype(np.float64)
        sums = np.bincount(labels, weights=values, minlength=len(self))
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), counts / max(1, len(groups))

    def state(self) -> dict[str, Any]:
        return {"history": self.history.state(), "bins": self.of.tolist(), "placed": self._placed.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history.restore(state["history"])
        self.of, self._placed = np.array(state["bins"], np.int64), np.array(state["placed"], np.int64)


class PromptGdro:
    """Draws a bin, the worst ones more often, and in it the problem that was asked least.

    A bin's loss is one less the mean reward of its groups (rewards are taken to lie in 0..1). Its running mean S gives
    the chance `q = (1 - gamma) softmax(eta S) + gamma / B` among the bins that hold problems.

    Args:
        edges: pass rates that part the bins; problems that were never asked are in the middle one.
        margin: a problem leaves its bin only this far beyond an edge. Ours; the source's default is 0.
        window: rollouts of a problem that its pass rate counts.
        eta, gamma, ema: temperature, uniform share, and weight of the newest step; as in the published runs.
        debias: divide a bin's loss by its share of the step.
        normalize: bring the mean weight of the bins to 1, as the released code does and the paper does not.

    Source: Prompt-GDRO, arXiv 2601.19280, and its code. The source does not draw by q: it multiplies advantages by the
    bin's weight (`weight(problem)` here, for the advantage `prompt_gdro`). Drawing by q is ours, since learning in
    words has nothing to multiply.

    Example:
        >>> problem = Problem(id="p", messages=({"role": "user", "content": "?"},))
        >>> PromptGdro([problem], 0).next(lambda p: 0.0).id
        'p'
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        *,
        edges: Sequence[float] = EDGES,
        margin: float = 0.05,
        window: int = 50,
        eta: float = 0.65,
        gamma: float = 0.01,
        ema: float = 0.4,
        debias: bool = False,
        normalize: bool = False,
    ) -> None:
        if eta < 0 or not 0 <= gamma <= 1 or not 0 < ema <= 1:
            raise InputError(f"Prompt-GDRO needs eta >= 0, gamma in 0..1, ema in (0, 1]; got {eta}, {gamma}, {ema}")
        self._deck = Deck(problems, seed)
        self.bins = Bins(self._deck, edges, margin, window)
        self._eta, self._gamma, self._ema = eta, gamma, ema
        self._debias, self._normalize = debias, normalize
        self._scores = np.zeros(len(self.bins))
        self._order = self._deck.rng.permutation(len(self._deck))
        self._asked = np.zeros(len(self._deck), dtype=np.int64)

    def next(self, coverage: Coverage) -> Problem:
        """A problem of the drawn bin; among those asked equally often the first in a shuffled order."""
        chances = gdro_probabilities(self._scores, eta=self._eta, gamma=self._gamma) * (self.bins.sizes > 0)
        drawn = int(self._deck.rng.choice(len(self.bins), p=chances / chances.sum()))
        inside = self._order[self.bins.of[self._order] == drawn]
        number = int(inside[np.argmin(self._asked[inside])])
        self._asked[number] += 1
        return self._deck.problems[number]

    def weights(self) -> Values:
        """What the source multiplies the advantages of each bin by. [B]"""
        return gdro_weights(self._scores, eta=self._eta, normalize=self._normalize)

    def weight(self, problem: Problem) -> float:
        """The weight of the problem's bin, for the advantage of the same name."""
        return float(self.weights()[self.bins.of[self._deck.number[problem.id]]])

    def size(self, problem: Problem, usual: int) -> int:
        """Always the usual size."""
        return usual

    def observe(self, groups: Sequence[Group]) -> None:
        """Renew the bins' losses, then the bins."""
        known = self._deck.known(groups)
        if known:
            losses, shares = self.bins.means(known, [1.0 - _mean_reward(g) for _, g in known])
            self._scores = gdro_scores(self._scores, losses, ema=self._ema, shares=shares if self._debias else None)
            self.bins.place(known)

    def state(self) -> dict[str, Any]:
        """Bins, their losses, who was asked how often, and the generator."""
        own = {"scores": self._scores.tolist(), "order": self._order.tolist(), "asked": self._asked.tolist()}
        return {**self._deck.state(), **self.bins.state(), **own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where the state was taken."""
        self._deck.restore(state)
        self.bins.restore(state)
        self._scores = np.array(state["scores"], np.float64)
        self._order, self._asked = np.array(state["order"], np.int64), np.array(state["asked"], np.int64)


class RolloutGdro:
    """The usual order of problems, with more rollouts where they pay; the mean over the problems is kept.

    With rule "exp3" each bin has a bandit over the numbers of rollouts 2 .. 3 x usual. An arm brings `J`, the share of
    its groups whose rewards differ, and costs `price * n`; the price rises while more than the mean is spent. The arms
    of all bins are chosen together by dynamic programming under the mean. With "square_root" a bin gets rollouts in
    proportion to the deviation of its rewards, beyond the two that every group needs.

    Args:
        rule: "exp3" or "square_root".
        edges, margin, window: of the bins, as for Prompt-GDRO.
        eta, gamma: learning rate of the bandits and their uniform share.
        price_step: how fast the price of a rollout follows what is spent.

    Source: Rollout-GDRO, arXiv 2601.19280. Ours: J, which the source takes from its training objective; and noise of
    the Gumbel kind on the arms' log-probabilities, so that the joint choice explores.

    Example:
        >>> problem = Problem(id="p", messages=({"role": "user", "content": "?"},))
        >>> RolloutGdro([problem], 0, rule="square_root").size(problem, 4)
        4
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        *,
        rule: Rule = "exp3",
        edges: Sequence[float] = EDGES,
        margin: float = 0.05,
        window: int = 50,
        eta: float = 0.1,
        gamma: float = 0.15,
        price_step: float = 0.05,
    ) -> None:
        if rule not in ("exp3", "square_root"):
            raise InputError(f"the rule of Rollout-GDRO is 'exp3' or 'square_root', got {rule!r}")
        if eta < 0 or not 0 <= gamma <= 1 or price_step < 0:
            raise InputError(
                f"Rollout-GDRO needs eta, price_step >= 0 and gamma in 0..1; got {eta}, {price_step}, {gamma}"
            )
        self._deck = Deck(problems, seed + 1)  # its draws are apart from those of the order
        self._order = LeastCovered(problems, seed)
        self.bins = Bins(self._deck, edges, margin, window)
        self._rule, self._eta, self._gamma, self._step = rule, eta, gamma, price_step
        self._usual = 0
        self._gains: Values = np.zeros((len(self.bins), 0))  # [B, K] log-weights of the arms
        self._chosen: Values = np.zeros(len(self.bins))  # [B] rollouts of a problem in each bin, until the next step
        self.price = 0.0

    def next(self, coverage: Coverage) -> Problem:
        """As in the usual order."""
        return self._order.next(coverage)

    def size(self, problem: Problem, usual: int) -> int:
        """The rollouts of the problem's bin; a number between two whole ones is rounded by the draw of a coin."""
        if usual != self._usual:
            self._begin(usual)
        wanted = float(self._chosen[self.bins.of[self._deck.number[problem.id]]])
        rounded = int(wanted) + int(self._deck.rng.random() < wanted % 1)
        return max(min(LEAST_GROUP, usual), rounded)

    def _begin(self, usual: int) -> None:
        self._usual = usual
        self._gains = np.zeros((len(self.bins), len(self._arms)))
        self._chosen = np.full(len(self.bins), float(usual))

    @property
    def _arms(self) -> range:
        least = min(LEAST_GROUP, self._usual)
        return range(least, max(least, 3 * self._usual) + 1)

    def _chances(self) -> Values:
        """[B, K]"""
        weights: Values = np.exp(self._gains - self._gains.max(axis=1, keepdims=True))
        softmax: Values = weights / weights.sum(axis=1, keepdims=True)
        return (1 - self._gamma) * softmax + self._gamma / len(self._arms)

    def observe(self, groups: Sequence[Group]) -> None:
        """Learn what the arms of this step brought, renew the bins, and choose the arms of the next step."""
        known = self._deck.known(groups)
        if not known or not self._usual:
            return
        if self._rule == "exp3":
            self._learn(known)
        self.bins.place(known)
        self._chosen = self._lawful() if self._rule == "square_root" else self._jointly()

    def _learn(self, known: Sequence[tuple[int, Group]]) -> None:
        asked = [g.asked or len(g.rollouts) + g.missing for _, g in known]
        brought, shares = self.bins.means(known, [float(_differ(g)) for _, g in known])
        spent, _ = self.bins.means(known, [float(n) for n in asked])
        losses, chances = arm_losses(brought, spent, self.price), self._chances()
        for b in np.flatnonzero(shares > 0):
            arm = int(np.clip(round(float(spent[b])), self._arms[0], self._arms[-1])) - self._arms[0]
            self._gains[b, arm] -= self._eta * float(losses[b]) / float(chances[b, arm])
        self.price = next_price(self.price, float(np.mean(asked)), self._usual, step=self._step)

    def _jointly(self) -> Values:
        noisy = np.log(self._chances()) + self._deck.rng.gumbel(size=self._gains.shape)
        arms = np.array(self._arms, dtype=np.float64)
        return arms[allocate(noisy, self._arms, self.bins.sizes, self._usual)]

    def _lawful(self) -> Values:
        variances = np.nan_to_num(self.bins.history.variances(), nan=0.25)
        sums = np.bincount(self.bins.of, weights=variances, minlength=len(self.bins))
        deviation = np.sqrt(sums / np.maximum(self.bins.sizes, 1))
        least = self._arms[0]
        law = square_root_law(deviation, self.bins.sizes, self._usual - least)
        return np.minimum(least + law, self._arms[-1])

    def state(self) -> dict[str, Any]:
        """Bins, bandits, price, the order of problems and both generators."""
        own = {
            "usual": self._usual,
            "gains": self._gains.tolist(),
            "chosen": self._chosen.tolist(),
            "price": self.price,
        }
        return {**self._deck.state(), **self.bins.state(), **own, "order": self._order.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken."""
        self._deck.restore(state)
        self.bins.restore(state)
        self._order.restore(state["order"])
        self._usual, self.price = state["usual"], state["price"]
        self._chosen = np.array(state["chosen"], np.float64)
        self._gains = np.array(state["gains"], np.float64).reshape(len(self.bins), -1)


def _mean_reward(group: Group) -> float:
    rewards = [min(1.0, max(0.0, r.score.value)) for r in group.unaided]
    return sum(rewards) / len(rewards)


def _differ(group: Group) -> bool:
    """Whether the rewards of a group are not all equal, so that its answers can be compared."""
    return len({r.score.value for r in group.unaided}) > 1
