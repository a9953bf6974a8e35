"""Steps that change rewards before anything is compared, or advantages afterwards.

Legend: N rollouts, G rollouts in a group, p the share of successes in a group, w that of the whole batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from tfgrpo.advantage import segments
from tfgrpo.advantage.centers import compared, one_over
from tfgrpo.advantage.chain import Tagged, tagged
from tfgrpo.advantage.segments import Sets, Values
from tfgrpo.advantage.table import Table
from tfgrpo.errors import InputError, unknown_name

# -- rewards -----------------------------------------------------------------------------------------------------------


def unlikeliness(*, beta: float = 0.25, form: Literal["code", "paper"] = "code") -> Tagged:
    r"""`r_i <- r_i (1 - beta rank_i / G)`, rank 0 the least probable answer of the group: arXiv 2506.02355.

    A rare right answer is worth more than a common one, so that an all-right group still teaches. "paper" is
    `1 - beta (G - rank) / G` with rank 0 the most probable, `beta / G` lower throughout. Reads "logp": the mean
    log-probability of the trained tokens, in nats; a rollout without one keeps its reward.

    Example:
        >>> table = Table.of_columns(reward=[1, 1, 0, 1], group=[0] * 4, extras={"logp": [-0.2, -0.9, -0.5, -1.4]})
        >>> unlikeliness()(table).reward.tolist()
        [0.8125, 0.9375, 0.0, 1.0]

    Raises:
        InputError: beta outside 0..1; (when called) no "logp".
    """
    if not 0 <= beta <= 1:
        raise InputError(f"unlikeliness: beta is a share of the reward, 0 to 1, got {beta}")
    behind = {"code": 0.0, "paper": 1.0}
    if form not in behind:
        raise unknown_name("form of unlikeliness", form, behind)

    def run(table: Table) -> Table:
        sets, logp = table.sets(), table.column("logp", "unlikeliness")
        known = np.isfinite(logp) & np.isfinite(table.reward)
        places = segments.rank(logp, sets, known) + behind[form]
        shaped = table.reward * (1 - beta * places / sets.spread(np.maximum(segments.count(sets, known), 1.0)))
        return table.with_reward(np.where(known, shaped, table.reward))

    return tagged("unlikeliness()", run, "shapes rewards", "teaches uniform groups", needs=("logp",))


def entity_partial(*, alpha: float = 0.3, column: str = "entities", bad: str = "truncated") -> Tagged:
    r"""A failure is worth `alpha m_i / max(m)`, m its share of the key facts; a success 1: E-GRPO, arXiv 2510.24694.

    Reads `column` (the share of the reference's entities that the answer's reasoning names, 0..1) and, where there is
    one, the column `bad` (1: format error or cut off), whose rows get 0. Without any match a group stays as it was.

    Example:
        >>> extras = {"entities": [0.8, 0.4, 0, 0.6], "truncated": [0, 0, 0, 1]}
        >>> entity_partial()(Table.of_columns(reward=[1, 0, 0, 0], group=[0] * 4, extras=extras)).reward.tolist()
        [1.0, 0.15, 0.0, 0.0]

    Raises:
        InputError: (when called) no such column.
    """

    def run(table: Table) -> Table:
        sets, matched = table.sets(), table.column(column, "entity_partial")
        most = np.nan_to_num(segments.maximum(matched, sets, np.isfinite(matched) & np.isfinite(table.reward)))
        partial = alpha * np.nan_to_num(matched) * sets.spread(one_over(most, 0.0))
        shaped = np.where(table.success, 1.0, partial)
        flawed = table.extras.get(bad, table.parts.get(bad, np.zeros(len(table)))) > 0
        return table.with_reward(np.where(np.isfinite(table.reward), np.where(flawed, 0.0, shaped), np.nan))

    return tagged("entity_partial()", run, "shapes rewards", "teaches uniform groups", needs=(column,))


def drop_surplus(*, seed: int = 0) -> Tagged:
    r"""Where more rollouts lie below the mean than not, drop the surplus at random: RED-Drop, arXiv 2509.24203.

    The dropped leave statistics and loss; centre afterwards, over those that are kept. The choice depends on the seed
    and the rewards alone.

    Example:
        >>> drop_surplus()(Table.of_rewards([[1, 0, 0, 0]])).in_loss.sum()
        np.int64(2)
    """

    def run(table: Table) -> Table:
        sets, used = table.sets(), table.used(table.reward)
        below = table.reward < sets.spread(segments.mean(table.reward, sets, used))
        below &= True if used is None else used
        kept = segments.count(sets, used) - segments.total(below.astype(np.float64), sets)
        drawn = np.random.default_rng((seed, zlib.crc32(table.reward.tobytes()))).random(len(table))
        surplus = segments.rank(drawn, sets, below) >= sets.spread(kept)
        return table.without(below & surplus, stats=True)

    return tagged("drop_surplus()", run, "changes statistics")


# -- advantages --------------------------------------------------------------------------------------------------------


def asymmetric(*, alpha: float = 1.0, floor: float = 0.0) -> Tagged:
    r"""`A <- w/2 A / sqrt(p) + (1 - w)/2 A / sqrt(1 - p)`, then `A min(1, w / alpha)` where A > 0: A-GRAE.

    Easy problems count while the batch is weak, hard ones once it is strong; what succeeds is reinforced little while
    the batch is weak. Groups with p of 0 or 1 are left as they are. `floor` is the least w, so that w = 0 at the start
    does not remove every positive advantage (ours). This is the paper's form: the released code divides by
    `1 - sqrt(p)`, in a branch that its trainer never takes. Source: arXiv 2602.05548.

    Example:
        >>> from tfgrpo.advantage import chain, center, scale
        >>> table = Table.of_rewards([[1, 0, 0, 0], [1, 1, 1, 0]])
        >>> chain(center(), scale(), asymmetric())(table).round(4).tolist()[:4]
        [0.5915, -0.3943, -0.3943, -0.3943]
    """
    if not alpha > 0:
        raise InputError(f"A-GRAE: alpha must be above 0, got {alpha}")

    def run(table: Table) -> Table:
        sets, used = table.sets(), table.used(table.reward)
        success = table.success.astype(np.float64)
        p = np.nan_to_num(segments.mean(success, sets, used))
        whole = table.sets("batch")
        w = np.maximum(whole.spread(np.nan_to_num(segments.mean(success, whole, used))), floor)
        mixed = (p > 0) & (p < 1)
        safe = np.where(mixed, p, 0.5)
        focus = w / 2 / np.sqrt(sets.spread(safe)) + (1 - w) / 2 / np.sqrt(1 - sets.spread(safe))
        values = table.advantage * focus
        values = np.where(values > 0, values * np.minimum(1.0, w / alpha), values)
        return table.with_advantage(np.where(sets.spread(mixed), values, table.advantage))

    return tagged("asymmetric()", run, "changes advantages", "reads success rates")


FACTORS: Mapping[str, Callable[[Values, float], Values]] = {
    "inverse": lambda share, alpha: 1.0 / (1.0 + alpha * share),
    "linear": lambda share, alpha: 1.0 - alpha * share,
    "exponential": lambda share, alpha: np.exp(-alpha * share),
    "focal": lambda share, alpha: (1.0 - share) ** alpha,
}
"""How SEED-GRPO's factor falls with the entropy's share of its largest value: the port's form, then the paper's."""


def semantic_entropy(
    *, alpha: float = 0.0417, form: str = "inverse", weigh: Literal["logp", "count"] = "count"
) -> Tagged:
    r"""`A_i <- A_i f(alpha SE / log G)`, SE the entropy of the group's meanings: SEED-GRPO, arXiv 2505.12346.

    A group whose answers mean many things is an uncertain one and moves the model less. Reads "cluster": rows of a
    group with equal numbers mean the same. A meaning's mass is its share of the answers, or with `weigh="logp"` of
    their probabilities, `softmax` of the mean log-probability of their tokens.

    Example:
        >>> extras = {"cluster": [0, 0, 1, 2], "logp": [-0.5, -0.6, -0.8, -1.2]}
        >>> table = Table.of_columns(reward=[1, 1, 0, 0], group=[0] * 4, extras=extras)
        >>> semantic_entropy(weigh="logp")(table.with_advantage(table.reward - 0.5)).advantage.round(6).tolist()
        [0.486313, 0.486313, -0.486313, -0.486313]

    Raises:
        InputError: an unknown form; (when called) a column is missing.
    """
    if form not in FACTORS:
        raise unknown_name("form of semantic_entropy", form, FACTORS)

    def run(table: Table) -> Table:
        sets, used = table.sets(), table.used(table.reward)
        logp = table.column("logp", "semantic_entropy") if weigh == "logp" else np.zeros(len(table))
        known = np.isfinite(logp) if used is None else np.isfinite(logp) & used
        mass = np.nan_to_num(segments.softmax(logp, sets, known))
        entropy = meaning_entropy(mass, table.column("cluster", "semantic_entropy"), sets)
        largest = np.log(np.maximum(segments.count(sets, known), 1.0))
        factor = np.clip(FACTORS[form](entropy * one_over(largest, 0.0), alpha), 0.0, 1.0)
        return table.with_advantage(sets.times(table.advantage, factor))

    needs = ("cluster", "logp") if weigh == "logp" else ("cluster",)
    return tagged("semantic_entropy()", run, "changes advantages", needs=needs)


def meaning_entropy(mass: Values, cluster: Values, sets: Sets) -> Values:
    """`-sum_c P_c log P_c` over the clusters of each set [S], P_c the mass [N] of its rows, in nats."""
    pairs = np.stack([sets.labels.astype(np.float64), np.nan_to_num(cluster)], axis=1)
    owner, label = np.unique(pairs, axis=0, return_inverse=True)
    meanings = np.bincount(label.reshape(-1), weights=mass, minlength=len(owner)).astype(np.float64)
    terms = -meanings * np.log(np.where(meanings > 0, meanings, 1.0))
    return np.bincount(owner[:, 0].astype(np.int64), weights=terms, minlength=sets.size).astype(np.float64)


def exp_weight(*, tau: float = 1.0) -> Tagged:
    r"""`A_i <- A_i exp(A_i / tau)`: RED-Weight, arXiv 2509.24203.

    Example:
        >>> table = Table.of_rewards([[1, 0, 0, 0]])
        >>> exp_weight()(table.with_advantage(table.reward - 0.25)).advantage.round(4).tolist()
        [1.5878, -0.1947, -0.1947, -0.1947]
    """
    if not tau > 0:
        raise InputError(f"RED-Weight: tau must be above 0, got {tau}")

    def run(table: Table) -> Table:
        return table.with_advantage(table.advantage * np.exp(table.advantage / tau))

    return tagged("exp_weight()", run, "changes advantages")


def value_anchor(*, k: float = 0.1) -> Tagged:
    r"""`A_i <- A_i + k r_i` for rollouts with siblings: a group of equal rewards still says how good it is. VGPO.

    Reconstruction of the text half of a method for images. Risk: it drifts to imitation on all-right problems.

    Example:
        >>> value_anchor()(Table.of_rewards([[1, 1]]).with_advantage(np.zeros(2))).advantage.tolist()
        [0.1, 0.1]
    """

    def run(table: Table) -> Table:
        return table.with_advantage(np.where(compared(table), table.advantage + k * table.reward, table.advantage))

    return tagged("value_anchor()", run, "changes advantages")


def weighted(column: str = "bin_weight") -> Tagged:
    r"""`A_i <- w_i A_i` with the weight of a column, such as Prompt-GDRO's of the row's bin: arXiv 2601.19280.

    `tfgrpo.samplers` keeps those weights; despite its name that method draws problems evenly and reweights advantages.

    Example:
        >>> table = Table.of_rewards([[1, 0]]).with_extras(bin_weight=[2, 2])
        >>> weighted()(table).advantage.tolist()
        [2.0, 0.0]
    """

    def run(table: Table) -> Table:
        return table.with_advantage(table.advantage * table.column(column, "weighted"))

    return tagged(f"weighted({column!r})", run, "changes advantages", needs=(column,))
