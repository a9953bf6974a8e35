"""From rewards to advantages: what a rollout is compared with, and by what the difference is divided.

Legend: N rollouts, G rollouts in one set of `by` (a group, a variant of a group, or the whole batch).

Conventions, the same for every step (frameworks disagree on each):
- The deviation is the sample one (ddof 1) with `eps` 1e-6 added, and is divided by only where it is not 0.
- A rollout without siblings has nothing to be compared with: its advantage is 0. (NGRPO's virtual sibling is one.)
- A rollout without a reward (NaN) leaves statistics and loss, and its advantage is 0.
- Rows with `in_stats` False do not move mean or deviation but are compared with them.
"""

from __future__ import annotations

import numpy as np

from tfgrpo.advantage import segments
from tfgrpo.advantage.chain import Tagged, tagged
from tfgrpo.advantage.segments import Flags, Values
from tfgrpo.advantage.table import Scope, Table
from tfgrpo.errors import InputError

# -- what is subtracted ------------------------------------------------------------------------------------------------


def center(by: Scope = "group") -> Tagged:
    r"""`A_i = v_i - mean(v)`: GRPO's baseline, arXiv 2402.03300.

    Example:
        >>> center()(Table.of_rewards([[1, 0, 0, 0]])).advantage.tolist()
        [0.75, -0.25, -0.25, -0.25]
    """

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        return table.with_advantage(sets.minus(values, segments.mean(values, sets, table.used(values))))

    return tagged(f"center({by!r})", run, "changes advantages")


def leave_one_out(by: Scope = "group") -> Tagged:
    r"""`A_i = v_i - mean_{j != i}(v_j)`: RLOO, arXiv 2402.14740. It is `G / (G - 1)` times `center`.

    Example:
        >>> leave_one_out()(Table.of_rewards([[1, 0, 0]])).advantage.tolist()
        [1.0, -0.5, -0.5]
    """

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        used = table.used(values)
        rows = segments.count(sets, used)
        off, factor = sets.minus(values, segments.mean(values, sets, used)), segments.ratio(rows, rows - 1)
        if used is None:
            return table.with_advantage(sets.times(off, factor, into=off))
        # A row outside the statistics is in no mean that it could leave.
        return table.with_advantage(np.where(used, sets.times(off, factor), off))

    return tagged(f"leave_one_out({by!r})", run, "changes advantages")


def center_median(by: Scope = "group") -> Tagged:
    r"""`A_i = v_i - median(v)`, the lower middle of an even number: MC-GRPO, arXiv 2601.22582.

    Sample one rollout more than is to be learned from and drop the pivot (`median_pivot`). The median is unmoved by one
    outlier; with 0/1 rewards it merely is the majority's value, and the stated benefit cannot appear.

    Example:
        >>> center_median()(Table.of_rewards([[0.2, 0.9, 0.4]])).advantage.tolist()
        [-0.2, 0.5, 0.0]
    """

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        return table.with_advantage(sets.minus(values, segments.lower_median(values, sets, table.used(values))))

    return tagged(f"center_median({by!r})", run, "changes advantages")


def center_log_mean_exp(by: Scope = "group", *, tau: float = 1.0) -> Tagged:
    r"""`A_i = v_i - tau (logsumexp(v / tau) - log G)`: OPMD's own baseline, arXiv 2509.24203.

    Its loss is divided by 1 + tau.

    Example:
        >>> center_log_mean_exp()(Table.of_rewards([[1, 0, 0, 0]])).advantage.round(6).tolist()
        [0.642626, -0.357374, -0.357374, -0.357374]
    """
    _positive("tau", tau)

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        baseline = tau * segments.log_mean_exp(values / tau, sets, table.used(values))
        return table.with_advantage(sets.minus(values, baseline))

    return tagged(f"center_log_mean_exp({by!r})", run, "changes advantages")


def shift(delta: float) -> Tagged:
    r"""`A_i <- A_i - delta` for rollouts that have siblings: AsymRE with delta -0.1, arXiv 2509.24203.

    A delta below 0 makes all advantages larger, so that successes weigh more than failures; then every rollout of a
    uniform group is pushed up by it, a light supervised pull.

    Example:
        >>> asymre = [center(), shift(-0.1)]
        >>> asymre[1](asymre[0](Table.of_rewards([[1, 0, 0, 0]]))).advantage.round(2).tolist()
        [0.85, -0.15, -0.15, -0.15]
    """

    def run(table: Table) -> Table:
        return table.with_advantage(np.where(compared(table), table.advantage - delta, table.advantage))

    return tagged(f"shift({delta})", run, "changes advantages")


# -- what it is divided by ---------------------------------------------------------------------------------------------


def scale(by: Scope = "group", *, ddof: int = 1, eps: float = 1e-6) -> Tagged:
    r"""`A_i <- A_i / (std(r) + eps)`, the deviation of the *rewards* of the set; 0 where that is 0.

    After `center()`, `scale("group")` is GRPO (arXiv 2402.03300) and `scale("batch")` TRL's `scale_rewards="batch"`.

    Example:
        >>> scale(eps=0.0)(center()(Table.of_rewards([[1, 0, 0, 0]]))).advantage.tolist()
        [1.5, -0.5, -0.5, -0.5]
    """

    def run(table: Table) -> Table:
        sets = table.sets(by)
        deviation = segments.deviation(table.reward, sets, table.used(table.reward), ddof=ddof)
        return table.with_advantage(sets.times(table.advantage, one_over(deviation, eps)))

    return tagged(f"scale({by!r})", run, "changes advantages")


def scale_mad(by: Scope = "group", *, eps: float = 1e-3, guard: bool = True) -> Tagged:
    r"""`A_i <- A_i / (median|A| + eps)`, to follow `center_median`: MC-GRPO, arXiv 2601.22582.

    Where one value holds the majority the median distance is 0 and the published form divides by eps alone (advantages
    of 1000). `guard` divides by the deviation there; without it such rewards are refused.

    Example:
        >>> scale_mad()(center_median()(Table.of_rewards([[1, 0, 0, 0, 0]]))).advantage.round(6).tolist()
        [2.231079, 0.0, 0.0, 0.0, 0.0]

    Raises:
        InputError: (when called, without `guard`) a mixed group whose median distance is 0.
    """

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        used = table.used(values)
        distance = segments.lower_median(np.abs(values), sets, used)
        spread = segments.deviation(table.reward, sets, used)
        flat = ~(distance > segments.ZERO_DEVIATION * spread)
        if not guard and (flat & (spread > 0)).any():
            raise InputError(
                f"the median distance is 0 in {int((flat & (spread > 0)).sum())} groups where one reward holds the "
                f"majority, as 0/1 rewards do; use guard=True, or graded rewards"
            )
        return table.with_advantage(sets.times(values, one_over(np.where(flat, spread, distance), eps)))

    return tagged(f"scale_mad({by!r})", run, "changes advantages")


def scale_mean(by: Scope = "group") -> Tagged:
    r"""`A_i <- A_i / mean(r)`, 0 where no reward is above 0: MaxRL after `center()`, arXiv 2602.02710.

    With 0/1 rewards a success weighs (1 - p) / p: the gradient of log p to the order that G samples can tell.

    Example:
        >>> scale_mean()(center()(Table.of_rewards([[1, 0, 0, 0]]))).advantage.tolist()
        [3.0, -1.0, -1.0, -1.0]

    Raises:
        InputError: (when called) a reward below 0, for which a mean says nothing of the pass rate.
    """

    def run(table: Table) -> Table:
        if (table.reward < 0).any():
            raise InputError(
                f"MaxRL divides by the mean reward, so rewards are at least 0; got {np.nanmin(table.reward)}. "
                f"Shift them, or use grpo"
            )
        sets = table.sets(by)
        mean = segments.mean(table.reward, sets, table.used(table.reward))
        return table.with_advantage(sets.times(table.advantage, one_over(np.nan_to_num(mean), 0.0)))

    return tagged(f"scale_mean({by!r})", run, "changes advantages")


def whiten(*, ddof: int = 1, eps: float = 1e-6, only_several_parts: bool = False) -> Tagged:
    r"""`A_i <- (A_i - mean(A)) / (std(A) + eps)` over all rows that are in statistics and loss; 0 where all are equal.

    GDPO's last step, arXiv 2601.05242, over rollouts rather than tokens. In a run on several ranks the table holds the
    rows of all. `only_several_parts` leaves a table of fewer than two parts as it is.

    Example:
        >>> whiten(eps=0.0)(center()(Table.of_rewards([[1, 0], [3, 0]]))).advantage.round(3).tolist()
        [0.387, -0.387, 1.162, -1.162]
    """

    def run(table: Table) -> Table:
        if only_several_parts and len(table.parts) < 2:
            return table
        values, sets = table.advantage, table.sets("batch")
        used = table.used(values, table.in_stats & table.in_loss)
        deviation = segments.deviation(values, sets, used, ddof=ddof)
        off = sets.minus(values, segments.mean(values, sets, used))
        return table.with_advantage(sets.times(off, one_over(deviation, eps), into=off))

    return tagged("whiten()", run, "changes advantages")


# -- both at once ------------------------------------------------------------------------------------------------------


def virtual_best(
    by: Scope = "group", *, best: float = 1.0, copies: int = 1, ddof: int = 1, eps: float = 1e-6
) -> Tagged:
    r"""Mean and deviation over the rewards and `copies` virtual rollouts that got `best`: NGRPO, arXiv 2509.18851.

    An all-wrong group of G then gets `-1 / sqrt(G + 1)` each, a small push away; an all-right one 0; a rollout alone is
    compared with the virtual one.

    Example:
        >>> virtual_best()(Table.of_rewards([[1, 0, 0, 0]])).advantage.round(6).tolist()
        [1.095443, -0.730295, -0.730295, -0.730295]

    Raises:
        InputError: fewer than one copy; (when called) a reward above `best`.
    """
    if copies < 1:
        raise InputError(f"NGRPO adds virtual rollouts: copies must be at least 1, got {copies}")

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        if (values > best).any():
            raise InputError(
                f"NGRPO compares with the best possible reward, given as {best}, but one of {np.nanmax(values)} was "
                f"got; pass best= as large as a reward can be"
            )
        used = table.used(values)
        rows = segments.count(sets, used) + copies
        middle = (segments.total(values, sets, used) + copies * best) / rows
        off = sets.minus(values, middle)
        squares = segments.squares(off, sets, used) + copies * (best - middle) ** 2
        deviation = segments.root(squares, middle, rows, ddof)
        return table.with_advantage(sets.times(off, one_over(deviation, eps), into=off))

    return tagged(f"virtual_best({by!r})", run, "changes advantages", "teaches all-wrong groups")


def rank_gauss(by: Scope = "group") -> Tagged:
    r"""`A_i = Phi^-1((rank_i + 1/2) / G)`, equal rewards sharing their mean: G2RPO, arXiv 2604.08539.

    Only the order of the rewards counts, so that no outlier and no scale dominates. `by="batch"` ranks all rollouts
    of one task together.

    Example:
        >>> rank_gauss()(Table.of_rewards([[0.1, 0.7, 0.3, 10]])).advantage.round(6).tolist()
        [-1.150349, 0.318639, -0.318639, 1.150349]
    """

    def run(table: Table) -> Table:
        values = table.advantage
        return table.with_advantage(segments.normal_scores(values, table.sets(by), table.used(values)))

    return tagged(f"rank_gauss({by!r})", run, "changes advantages")


def softmax(by: Scope = "group", *, tau: float = 1.0) -> Tagged:
    r"""`A_i = exp(r_i / tau) / sum_j exp(r_j / tau)`: never below 0, so that bad answers are pushed up too, only less.

    Source: the advantage-weighted likelihood of FAKER-Air, from an independent account. Reconstruction.

    Example:
        >>> softmax()(Table.of_rewards([[1, 1, 0, 0]])).advantage.round(3).tolist()
        [0.366, 0.366, 0.134, 0.134]
    """
    _positive("tau", tau)

    def run(table: Table) -> Table:
        values, sets = table.advantage, table.sets(by)
        share = segments.softmax(values / tau, sets, table.used(values))
        return table.with_advantage(np.where(compared(table, by), share, 0.0))

    return tagged(f"softmax({by!r})", run, "changes advantages")


def pass_at_k(k: int, by: Scope = "group") -> Tagged:
    r"""Advantage under the reward "one of k answers is right", averaged over all choices of k: arXiv 2508.10751.

    With F failures among G: `P = 1 - C(F, k) / C(G, k)`, `s = sqrt(P (1 - P))`; a success gets `(1 - P) / s`, a failure
    `(1 - P - C(F - 1, k - 1) / C(G - 1, k - 1)) / s`. Where P is 0 or 1 there is nothing to gain: 0. So it is 0 as soon
    as fewer than k failed. k = 1 is GRPO with ddof 0.

    Example:
        >>> pass_at_k(2)(Table.of_rewards([[1, 0, 0, 0]])).advantage.round(4).tolist()
        [1.0, -0.3333, -0.3333, -0.3333]

    Raises:
        InputError: k below 1.
    """
    if k < 1:
        raise InputError(f"pass@k needs k of at least 1, got {k}")

    def run(table: Table) -> Table:
        sets, used = table.sets(by), table.used(table.reward)
        rows = segments.count(sets, used)
        failed = segments.total((~table.success).astype(np.float64), sets, used)
        all_fail = _share_of_choices(failed, rows, k)
        deviation = np.sqrt(all_fail * (1 - all_fail))
        others = np.where(failed > 0, _share_of_choices(failed - 1, rows - 1, k - 1), 0.0)
        inverse = np.where(rows >= k, one_over(deviation, 0.0), 0.0)
        success, failure = all_fail * inverse, (all_fail - others) * inverse
        values = np.where(table.success, sets.spread(success), sets.spread(failure))
        return table.with_advantage(np.where(np.isfinite(table.reward), values, np.nan))

    return tagged(f"pass_at_k({k})", run, "makes advantages")


# -- shared ------------------------------------------------------------------------------------------------------------


def compared(table: Table, by: Scope = "group") -> Flags:
    """The rows that have at least one sibling in the statistics [N]."""
    sets, used = table.sets(by), table.used(table.reward)
    rows = sets.spread(segments.count(sets, used))
    return np.asarray(rows - (1.0 if used is None else used) > 0)


def one_over(divisor: Values, eps: float) -> Values:
    """`1 / (d + eps)`, 0 where d is 0: nothing to divide by means nothing to tell apart."""
    return np.where(divisor > 0, 1.0 / np.where(divisor > 0, divisor + eps, 1.0), 0.0)


def _share_of_choices(some: Values, rows: Values, k: int) -> Values:
    """`C(some, k) / C(rows, k)`: how many of the ways to draw k rows draw only some of them [S]."""
    share = np.ones_like(rows)
    for taken in range(k):
        share = share * np.maximum(some - taken, 0.0) / np.maximum(rows - taken, 1.0)
    return share


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name} must be above 0, got {value}")
