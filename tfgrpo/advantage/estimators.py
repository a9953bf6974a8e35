"""The estimators that have a name: each a chain of steps. The rows of ADVANTAGES make them."""

from __future__ import annotations

from typing import Literal

from tfgrpo.advantage.centers import (
    center,
    center_log_mean_exp,
    center_median,
    leave_one_out,
    pass_at_k,
    rank_gauss,
    scale,
    scale_mad,
    scale_mean,
    shift,
    softmax,
    virtual_best,
    whiten,
)
from tfgrpo.advantage.chain import Advantage, chain
from tfgrpo.advantage.filters import ambiguous, dynamic_sampling, median_pivot, overlong
from tfgrpo.advantage.parts import Weights, adaptive_sum, decoupled
from tfgrpo.advantage.shapers import (
    asymmetric,
    drop_surplus,
    entity_partial,
    exp_weight,
    semantic_entropy,
    unlikeliness,
    value_anchor,
    weighted,
)
from tfgrpo.advantage.table import Scope, Table  # noqa: F401 - the examples read a table

Scaling = Literal["set", "batch", "none"]


def grpo(*, scaling: Scaling = "set", by: Scope = "group", ddof: int = 1, eps: float = 1e-6) -> Advantage:
    """Mean and deviation of the set of `by`; `scaling` divides by the deviation of the set, of the batch, or not.

    Example:
        >>> one_right = Table.of_rewards([[1, 0, 0, 0]])
        >>> grpo(eps=0.0)(one_right).tolist()
        [1.5, -0.5, -0.5, -0.5]
        >>> grpo(scaling="none")(one_right).tolist()
        [0.75, -0.25, -0.25, -0.25]
    """
    if scaling == "none":
        return chain(center(by))
    return chain(center(by), scale("batch" if scaling == "batch" else by, ddof=ddof, eps=eps))


def ps_grpo(*, ddof: int = 1, eps: float = 1e-6) -> Advantage:
    """GRPO within each wording of a question; a reconstruction from independent accounts of the paper.

    Pooled over all wordings, an answer to an easy wording would be reinforced for the wording. A wording with one
    answer has nothing to compare it with.

    Example:
        >>> table = Table.of_columns(reward=[0.75, 0.375, 0.842, 0], group=[0] * 4, variant=[0, 0, 1, 1])
        >>> ps_grpo()(table).round(3).tolist()
        [0.707, -0.707, 0.707, -0.707]
    """
    return grpo(by="variant", ddof=ddof, eps=eps)


def rloo(*, by: Scope = "group") -> Advantage:
    """Against the mean of the others.

    Example:
        >>> rloo()(Table.of_rewards([[1, 0, 0, 0]])).round(3).tolist()
        [1.0, -0.333, -0.333, -0.333]
    """
    return chain(leave_one_out(by))


def dapo(*, scaling: Scaling = "set") -> Advantage:
    """GRPO on the groups that are neither all right nor all wrong.

    Example:
        >>> dapo()(Table.of_rewards([[1, 1], [1, 0], [0, 0]])).round(3).tolist()
        [0.0, 0.0, 0.707, -0.707, 0.0, 0.0]
    """
    return chain(dynamic_sampling(), grpo(scaling=scaling))


def mc_grpo(*, by: Scope = "group", eps: float = 1e-3, guard: bool = True) -> Advantage:
    """Against the median, by the median distance, without the pivot.

    Example:
        >>> mc_grpo()(Table.of_rewards([[0.2, 0.9, 0.4, 0, 0.6]])).round(3).tolist()
        [-0.995, 2.488, 0.0, -1.99, 0.995]
    """
    return chain(center_median(by), scale_mad(by, eps=eps, guard=guard), median_pivot(by))


def ngrpo(*, best: float = 1.0, copies: int = 1, by: Scope = "group") -> Advantage:
    """With a virtual best rollout in every group.

    Example:
        >>> ngrpo()(Table.of_rewards([[0, 0, 0], [1, 1, 1]])).round(3).tolist()
        [-0.5, -0.5, -0.5, 0.0, 0.0, 0.0]
    """
    return chain(virtual_best(by, best=best, copies=copies))


def gdpo(
    *, weights: Weights | None = None, whitened: bool = True, by: Scope = "group", ddof: int = 1, eps: float = 1e-6
) -> Advantage:
    """Each part alone, then their sum over the batch; one part without the second step is GRPO.

    Example:
        >>> parts = {"right": [0, 1, 0, 1], "short": [0, 0, 0, 1]}
        >>> table = Table.of_columns(reward=[0] * 4, group=[0, 0, 1, 1], parts=parts)
        >>> gdpo(whitened=False)(table).round(3).tolist()
        [-0.707, 0.707, -1.414, 1.414]
        >>> gdpo()(table).round(3).tolist()
        [-0.548, 0.548, -1.095, 1.095]
    """
    steps = [decoupled(weights, by, ddof=ddof, eps=eps)]
    return chain(*steps, whiten(ddof=ddof, eps=eps, only_several_parts=True)) if whitened else chain(*steps)


def g2rpo(*, by: Scope = "group") -> Advantage:
    """By rank alone.

    Example:
        >>> g2rpo()(Table.of_rewards([[0.1, 0.7, 0.3, 10]])).round(3).tolist()
        [-1.15, 0.319, -0.319, 1.15]
    """
    return chain(rank_gauss(by))


def a_grae(*, alpha: float = 1.0, floor: float = 0.0, ddof: int = 1) -> Advantage:
    """Easy problems first, hard ones later.

    Example:
        >>> a_grae()(Table.of_rewards([[1, 0, 0, 0], [1, 1, 1, 0]])).round(3).tolist()
        [0.592, -0.394, -0.394, -0.394, 0.197, 0.197, 0.197, -1.183]
    """
    return chain(grpo(ddof=ddof), asymmetric(alpha=alpha, floor=floor))


def seed_grpo(*, alpha: float = 0.0417, form: str = "inverse", weigh: Literal["logp", "count"] = "count") -> Advantage:
    """Less from groups whose answers mean many things.

    Example:
        >>> alike = Table.of_columns(reward=[1, 0], group=[0, 0], extras={"cluster": [0, 0]})
        >>> seed_grpo(alpha=1.0)(alike).tolist(), seed_grpo(alpha=1.0)(alike.with_extras(cluster=[0, 1])).tolist()
        ([0.5, -0.5], [0.25, -0.25])
    """
    return chain(center(), semantic_entropy(alpha=alpha, form=form, weigh=weigh))


def opmd(*, tau: float = 1.0) -> Advantage:
    """Against the log-mean-exp of the rewards.

    Example:
        >>> opmd()(Table.of_rewards([[1, 0, 0, 0]])).round(3).tolist()
        [0.643, -0.357, -0.357, -0.357]
    """
    return chain(center_log_mean_exp(tau=tau))


def asymre(*, delta: float = -0.1) -> Advantage:
    """Against a baseline that is shifted by delta.

    Example:
        >>> asymre()(Table.of_rewards([[1, 0, 0, 0]])).round(3).tolist()
        [0.85, -0.15, -0.15, -0.15]
    """
    return chain(center(), shift(delta))


def red_drop(*, seed: int = 0) -> Advantage:
    """As many failures as successes.

    Example:
        >>> sorted(red_drop()(Table.of_rewards([[1, 0, 0, 0]])).tolist())
        [-0.5, 0.0, 0.0, 0.5]
    """
    return chain(drop_surplus(seed=seed), center())


def red_weight(*, tau: float = 1.0) -> Advantage:
    """Successes weigh exponentially more.

    Example:
        >>> red_weight()(Table.of_rewards([[1, 0, 0, 0]])).round(3).tolist()
        [1.588, -0.195, -0.195, -0.195]
    """
    return chain(center(), exp_weight(tau=tau))


def unlikely_grpo(*, beta: float = 0.25, form: Literal["code", "paper"] = "code") -> Advantage:
    """GRPO on rewards that are higher for rarer right answers.

    Example:
        >>> table = Table.of_columns(reward=[1, 1, 0, 1], group=[0] * 4, extras={"logp": [-0.2, -0.9, -0.5, -1.4]})
        >>> unlikely_grpo()(table).round(3).tolist()
        [0.269, 0.538, -1.479, 0.672]
    """
    return chain(unlikeliness(beta=beta, form=form), grpo())


def e_grpo(*, alpha: float = 0.3, column: str = "entities") -> Advantage:
    """GRPO with a partial reward for known key facts; what was cut off is compared but not learned from.

    Example:
        >>> extras = {"entities": [0.8, 0.4, 0, 0.6], "truncated": [0, 0, 0, 1]}
        >>> e_grpo()(Table.of_columns(reward=[1, 0, 0, 0], group=[0] * 4, extras=extras)).round(3).tolist()
        [1.484, -0.286, -0.599, 0.0]
    """
    return chain(entity_partial(alpha=alpha, column=column), overlong(), grpo())


def da_grpo(*, theta: float = 0.2, column: str = "fine") -> Advantage:
    """GRPO without pairs of right and wrong that are too alike. A reconstruction from the abstract.

    Example:
        >>> table = Table.of_columns(reward=[1, 1, 0, 0], group=[0] * 4, extras={"fine": [0.9, 0.45, 0.4, 0.1]})
        >>> da_grpo()(table).round(3).tolist()
        [0.866, 0.0, 0.0, -0.866]
    """
    return chain(ambiguous(theta=theta, column=column), grpo())


def vgpo(*, k: float = 0.1, ddof: int = 1, eps: float = 1e-6) -> Advantage:
    """GRPO plus a share of the reward itself. A reconstruction from reviews.

    Example:
        >>> vgpo(ddof=0)(Table.of_rewards([[1, 0, 0, 0], [1, 1, 1, 1]])).round(3).tolist()
        [1.832, -0.577, -0.577, -0.577, 0.1, 0.1, 0.1, 0.1]
    """
    return chain(grpo(ddof=ddof, eps=eps), value_anchor(k=k))


def prompt_gdro(*, column: str = "bin_weight") -> Advantage:
    """GRPO times the weight of the row's bin of difficulty.

    Example:
        >>> prompt_gdro()(Table.of_rewards([[1, 0]]).with_extras(bin_weight=[2, 2])).round(3).tolist()
        [1.414, -1.414]
    """
    return chain(grpo(), weighted(column))


def maxrl(*, by: Scope = "group") -> Advantage:
    """Divided by the mean reward instead of the deviation.

    Example:
        >>> maxrl()(Table.of_rewards([[1, 0, 0, 0]])).tolist()
        [3.0, -1.0, -1.0, -1.0]
    """
    return chain(center(by), scale_mean(by))


def pass_k(*, k: int = 2, by: Scope = "group") -> Advantage:
    """As if k answers could be given.

    Example:
        >>> pass_k(k=2)(Table.of_rewards([[1, 0, 0, 0]])).round(3).tolist()
        [1.0, -0.333, -0.333, -0.333]
    """
    return chain(pass_at_k(k, by))


def softmax_weights(*, tau: float = 1.0) -> Advantage:
    """Shares of the group that sum to 1. A reconstruction from an independent account.

    Example:
        >>> softmax_weights()(Table.of_rewards([[1, 1, 0, 0]])).round(3).tolist()
        [0.366, 0.366, 0.134, 0.134]
    """
    return chain(softmax(tau=tau))


def gdpo_sr(*, by: Scope = "group") -> Advantage:
    """GRPO on a sum of parts with each problem's own weights.

    Example:
        >>> parts = {"psnr": [20, 25, 30], "look": [0.9, 0.5, 0.1], "weight/psnr": [0.8] * 3, "weight/look": [0.2] * 3}
        >>> gdpo_sr()(Table.of_columns(reward=[0] * 3, group=[0] * 3, parts=parts)).round(3).tolist()
        [-1.0, 0.0, 1.0]
    """
    return chain(adaptive_sum(by), grpo(by=by))
