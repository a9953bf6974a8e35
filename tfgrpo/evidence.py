r"""Does an entry help? Effects from randomised inclusion, and a verdict that may be looked at after every group.

Legend: N rollouts of one group, E entries. `shown` [N, E] is 1 where an entry stood in a rollout's prompt and
applied to the problem; `reward` [N] lies in [0, 1].

Two instruments, for two questions:

*How large?*  A Bayesian linear model with one free baseline per group, fed group by group:

    reward[n] = baseline(group) + sum_e shown[n, e] * effect[e] + noise,   effect[e] ~ Normal(prior_mean, prior_sd^2)

The baseline is removed by centring within the group (the same subtraction as GRPO's advantage), so that easy and
hard problems weigh alike. The posterior is exact and joint: two entries that often stand together share the credit.

*Is it certain?*  A betting process per entry (Waudby-Smith & Ramdas, arXiv 2010.09686): with D the difference of
mean reward between the group's prompts with and without the entry, whose expectation is 0 for an entry without
effect because a coin decided which is which,

    wealth_helps = mean over bets b of prod over groups (1 + b * D),     wealth_harms with -D.

Under "no effect" either wealth exceeds 1/alpha at *any* time with probability at most alpha (Ville), so that looking
after every group costs nothing. `alpha` is spent per entry; the expected number of wrong verdicts among m entries
without effect is therefore at most alpha * m for each direction.

Source: ours, from the two parts named above; nobody published it for experience libraries. Confidence: identities
and coverage are tested; the priors are measured choices (docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Verdict: TypeAlias = Literal["helps", "harms", "undecided"]

BETS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
NOISE_VARIANCE = 0.2
"""Variance of a reward in [0, 1] around its group's baseline; a fair coin has 0.25, most groups less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """What is believed of an entry's effect before any group: mean and standard deviation, in reward."""

    mean: float
    sd: float


SPECIFIC = Prior(mean=0.2, sd=0.4)
"""An entry about some problems, written after seeing one of them answered: usually right, and strong where it is."""
GENERAL = Prior(mean=0.0, sd=0.2)
"""Advice that applies everywhere: as often bad as good, and weak."""


EM_STEPS = 50
"""More change a learned prior by less than a thousandth."""


class EffectModel:
    """The posterior over the effects of all entries, exact, in O(E^2) per group.

    Example:
        >>> model = EffectModel()
        >>> entry = model.add(Prior(mean=0.0, sd=1.0))
        >>> model.observe(np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([1.0, 1.0, 0.0, 0.0]))
        >>> round(float(model.mean[entry]), 3), round(float(model.sd[entry]), 3)
        (0.833, 0.408)
    """

    def __init__(self) -> None:
        self._precision: Array = np.zeros((0, 0))
        self._shift: Array = np.zeros(0)
        self._mean: Array | None = None
        self._covariance: Array = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self._shift)

    def add(self, prior: Prior) -> int:
        """A new entry; returns its column."""
        n = len(self)
        grown: Array = np.zeros((n + 1, n + 1))
        grown[:n, :n] = self._precision
        grown[n, n] = prior.sd**-2
        self._precision = grown
        self._shift = np.append(self._shift, prior.mean * prior.sd**-2)
        self._mean = None
        return n

    def observe(self, shown: Array, reward: Array) -> None:
        """One group: `shown` [N, E] and `reward` [N]. Groups of one and columns that do not vary change nothing."""
        centred = shown - shown.mean(axis=0)
        self._precision = self._precision + centred.T @ centred / NOISE_VARIANCE
        self._shift = self._shift + centred.T @ (reward - reward.mean()) / NOISE_VARIANCE
        self._mean = None

    def refitted(self, columns: Sequence[int], prior: Prior) -> EffectModel:
        r"""The same evidence under a prior of `columns` that is learned from their effects (empirical Bayes, by EM).

        With k columns of posterior means m and deviations s, and the given prior N(m0, s0^2) as one more of them, so
        that a few columns change little:

            mu    = (sum(m) + m0 tau^2 / s0^2) / (k + tau^2 / s0^2)
            tau^2 = (sum((m - mu)^2 + s^2) + s0^2) / (k + 1)

        Source: the textbook normal hierarchical model (Efron & Morris, 1973).
        """
        at = np.asarray(columns, dtype=np.int64)
        mu, variance = prior.mean, prior.sd**2
        fitted = self
        for _ in range(EM_STEPS if len(at) else 0):
            fitted = EffectModel()
            fitted._precision, fitted._shift = self._precision.copy(), self._shift.copy()
            fitted._precision[at, at] += 1.0 / variance - prior.sd**-2
            fitted._shift[at] += mu / variance - prior.mean * prior.sd**-2
            m, s = fitted.mean[at], fitted.sd[at]
            weight = variance / prior.sd**2
            mu = float((m.sum() + prior.mean * weight) / (len(at) + weight))
            variance = float((prior.sd**2 + ((m - mu) ** 2 + s**2).sum()) / (1 + len(at)))
        return fitted

    def _solve(self) -> Array:
        if self._mean is None:
            self._covariance = np.linalg.inv(self._precision)
            self._mean = self._covariance @ self._shift
        return self._mean

    @property
    def mean(self) -> Array:
        """Posterior mean effects [E], in reward."""
        return self._solve()

    @property
    def covariance(self) -> Array:
        """Posterior covariance [E, E]."""
        self._solve()
        return self._covariance

    @property
    def sd(self) -> Array:
        """Posterior standard deviations [E]."""
        return np.sqrt(np.diag(self.covariance))

    def draw(self, rng: np.random.Generator) -> Array:
        """One sample of all effects [E] from the posterior, for Thompson sampling."""
        if not len(self):
            return np.zeros(0)
        return rng.multivariate_normal(self.mean, self.covariance, method="cholesky")

    def probability_of_help(self, column: int) -> float:
        """Posterior probability that the effect is above 0."""
        return 0.5 * math.erfc(-float(self.mean[column]) / (float(self.sd[column]) * math.sqrt(2)))


def difference(shown: Array, reward: Array) -> float | None:
    """Mean reward with the entry minus without it in one group; None where either side is empty.

    Example:
        >>> difference(np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0]))
        0.5
    """
    on = shown > 0
    if on.all() or not on.any():
        return None
    return float(reward[on].mean() - reward[~on].mean())


@dataclass(slots=True)
class Wealth:
    """The betting process of one entry. `groups` counts the groups in which a coin decided its inclusion.

    Example:
        >>> wealth = Wealth()
        >>> for _ in range(8):
        ...     wealth.bet(1.0)
        >>> wealth.verdict(alpha=0.05)
        'helps'
    """

    groups: int = 0
    total: float = 0.0
    log_helps: Array = field(default_factory=lambda: np.zeros(len(BETS)))
    log_harms: Array = field(default_factory=lambda: np.zeros(len(BETS)))

    def bet(self, d: float) -> None:
        """One group's difference, in [-1, 1]."""
        self.groups += 1
        self.total += d
        self.log_helps = self.log_helps + np.log1p(BETS * d)
        self.log_harms = self.log_harms + np.log1p(-BETS * d)

    @property
    def log_wealth(self) -> tuple[float, float]:
        """Logarithms of the wealth of betting on *helps* and on *harms*: e-values of "no effect", at any time."""
        return _log_mean(self.log_helps), _log_mean(self.log_harms)

    def verdict(self, alpha: float) -> Verdict:
        """*helps* or *harms* once that wealth has passed 1/alpha, else *undecided*."""
        helps, harms = self.log_wealth
        if max(helps, harms) < -math.log(alpha):
            return "undecided"
        return "helps" if helps > harms else "harms"


def discoveries(log_wealth: Sequence[float], alpha: float) -> list[bool]:
    r"""Which of m null hypotheses fall when all are looked at together: e-BH on their e-values.

    With e(1) >= e(2) >= ... the largest k with e(k) >= m / (alpha k) is taken, and those k fall. The expected share of
    wrong ones among them is at most alpha however the e-values depend on each other, which entries that stand in the
    same prompts do.

    Source: Wang & Ramdas, arXiv 2009.02824. Confidence: paper.

    Example:
        >>> discoveries([math.log(60), math.log(25), math.log(3)], alpha=0.05)
        [True, False, False]
        >>> discoveries([math.log(60), math.log(30), math.log(3)], alpha=0.05)
        [True, True, False]
    """
    m = len(log_wealth)
    ranked = sorted(log_wealth, reverse=True)
    fallen = max((k for k, e in enumerate(ranked, 1) if e >= math.log(m / (alpha * k)) - 1e-12), default=0)
    return [fallen > 0 and e >= ranked[fallen - 1] for e in log_wealth]


def _log_mean(logs: Array) -> float:
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))
