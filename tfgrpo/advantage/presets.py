"""Estimators by name: each a chain of steps and a row. A new one is a function and a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

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
from tfgrpo.advantage.chain import Advantage, chain, make_row
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
from tfgrpo.advantage.table import Scope
from tfgrpo.errors import InputError
from tfgrpo.method import Method
from tfgrpo.user_code import load_object

Scaling = Literal["set", "batch", "none"]


def grpo(*, scaling: Scaling = "set", by: Scope = "group", ddof: int = 1, eps: float = 1e-6) -> Advantage:
    """Mean and deviation of the set of `by`; `scaling` divides by the deviation of the set, of the batch, or not."""
    if scaling == "none":
        return chain(center(by))
    return chain(center(by), scale("batch" if scaling == "batch" else by, ddof=ddof, eps=eps))


def rloo(*, by: Scope = "group") -> Advantage:
    """Against the mean of the others."""
    return chain(leave_one_out(by))


def dapo(*, scaling: Scaling = "set") -> Advantage:
    """GRPO on the groups that are neither all right nor all wrong."""
    return chain(dynamic_sampling(), grpo(scaling=scaling))


def mc_grpo(*, by: Scope = "group", eps: float = 1e-3, guard: bool = True) -> Advantage:
    """Against the median, by the median distance, without the pivot."""
    return chain(center_median(by), scale_mad(by, eps=eps, guard=guard), median_pivot(by))


def ngrpo(*, best: float = 1.0, copies: int = 1, by: Scope = "group") -> Advantage:
    """With a virtual best rollout in every group."""
    return chain(virtual_best(by, best=best, copies=copies))


def gdpo(
    *, weights: Weights | None = None, whitened: bool = True, by: Scope = "group", ddof: int = 1, eps: float = 1e-6
) -> Advantage:
    """Each part alone, then their sum over the batch; one part without the second step is GRPO."""
    steps = [decoupled(weights, by, ddof=ddof, eps=eps)]
    return chain(*steps, whiten(ddof=ddof, eps=eps, only_several_parts=True)) if whitened else chain(*steps)


def g2rpo(*, by: Scope = "group") -> Advantage:
    """By rank alone."""
    return chain(rank_gauss(by))


def a_grae(*, alpha: float = 1.0, floor: float = 0.0, ddof: int = 1) -> Advantage:
    """Easy problems first, hard ones later."""
    return chain(grpo(ddof=ddof), asymmetric(alpha=alpha, floor=floor))


def seed_grpo(*, alpha: float = 0.0417, form: str = "inverse", weigh: Literal["logp", "count"] = "count") -> Advantage:
    """Less from groups whose answers mean many things."""
    return chain(center(), semantic_entropy(alpha=alpha, form=form, weigh=weigh))


def opmd(*, tau: float = 1.0) -> Advantage:
    """Against the log-mean-exp of the rewards."""
    return chain(center_log_mean_exp(tau=tau))


def asymre(*, delta: float = -0.1) -> Advantage:
    """Against a baseline that is shifted by delta."""
    return chain(center(), shift(delta))


def red_drop(*, seed: int = 0) -> Advantage:
    """As many failures as successes."""
    return chain(drop_surplus(seed=seed), center())


def red_weight(*, tau: float = 1.0) -> Advantage:
    """Successes weigh exponentially more."""
    return chain(center(), exp_weight(tau=tau))


def unlikely_grpo(*, beta: float = 0.25, form: Literal["code", "paper"] = "code") -> Advantage:
    """GRPO on rewards that are higher for rarer right answers."""
    return chain(unlikeliness(beta=beta, form=form), grpo())


def e_grpo(*, alpha: float = 0.3, column: str = "entities") -> Advantage:
    """GRPO with a partial reward for known key facts; what was cut off is compared but not learned from."""
    return chain(entity_partial(alpha=alpha, column=column), overlong(), grpo())


def da_grpo(*, theta: float = 0.2, column: str = "fine") -> Advantage:
    """GRPO without pairs of right and wrong that are too alike. A reconstruction from the abstract."""
    return chain(ambiguous(theta=theta, column=column), grpo())


def vgpo(*, k: float = 0.1, ddof: int = 1, eps: float = 1e-6) -> Advantage:
    """GRPO plus a share of the reward itself. A reconstruction from reviews."""
    return chain(grpo(ddof=ddof, eps=eps), value_anchor(k=k))


def prompt_gdro(*, column: str = "bin_weight") -> Advantage:
    """GRPO times the weight of the row's bin of difficulty."""
    return chain(grpo(), weighted(column))


def maxrl(*, by: Scope = "group") -> Advantage:
    """Divided by the mean reward instead of the deviation."""
    return chain(center(by), scale_mean(by))


def pass_k(*, k: int = 2, by: Scope = "group") -> Advantage:
    """As if k answers could be given."""
    return chain(pass_at_k(k, by))


def softmax_weights(*, tau: float = 1.0) -> Advantage:
    """Shares of the group that sum to 1. A reconstruction from an independent account."""
    return chain(softmax(tau=tau))


def gdpo_sr(*, by: Scope = "group") -> Advantage:
    """GRPO on a sum of parts with each problem's own weights."""
    return chain(adaptive_sum(by), grpo(by=by))


ADVANTAGES: dict[str, Method[Callable[..., Advantage]]] = {
    "grpo": Method(
        make=grpo, formula="(r - mean) / (std + eps)", source="arXiv 2402.03300", confidence="paper and code"
    ),
    "dr_grpo": Method(
        make=partial(grpo, scaling="none"), formula="r - mean", source="arXiv 2503.20783", confidence="code"
    ),
    "dapo": Method(
        make=dapo,
        formula="(r - mean) / (std + eps) on groups with 0 < p < 1",
        source="arXiv 2503.14476",
        confidence="code",
        note="the estimator; its clip and overlong reward are a loss and a reward",
    ),
    "rloo": Method(make=rloo, formula="r - mean of the others", source="arXiv 2402.14740", confidence="code"),
    "mc_grpo": Method(
        make=mc_grpo,
        formula="(r - median) / (median|r - median| + 1e-3), the pivot out of the loss",
        source="arXiv 2601.22582",
        confidence="code",
        note="ask for one rollout more than is to be learned from; guarded by std where the distance is 0 (ours); for "
        "graded rewards, with 0/1 ones the stated benefit cannot appear",
    ),
    "ngrpo": Method(
        make=ngrpo,
        formula="(r - mean) / (std + eps) over the rewards and one virtual r = best",
        source="arXiv 2509.18851",
        confidence="code",
        note="all-wrong groups teach; best= is the largest possible reward",
    ),
    "gdpo": Method(
        make=gdpo,
        formula="sum_k w_k (r_k - mean) / (std + eps), then whitened over the batch",
        source="arXiv 2601.05242",
        confidence="code",
        note="needs named parts; makes nothing safe by itself: gate first",
    ),
    "g2rpo": Method(
        make=g2rpo, formula="Phi^-1((rank + 1/2) / G), ties shared", source="arXiv 2604.08539", confidence="paper"
    ),
    "a_grae": Method(
        make=a_grae,
        formula="(w/2 / sqrt(p) + (1-w)/2 / sqrt(1-p)) A, A > 0 times min(1, w / alpha)",
        source="arXiv 2602.05548",
        confidence="paper and code",
        note="the paper's form; the released code differs and never runs it",
    ),
    "seed_grpo": Method(
        make=seed_grpo,
        formula="(r - mean) / (1 + alpha SE / log G)",
        source="arXiv 2505.12346",
        confidence="third party",
        note="meanings weigh by their count unless weigh='logp'; four forms of the factor",
    ),
    "rec": Method(
        make=partial(grpo, scaling="none", ddof=0), formula="r - mean", source="arXiv 2509.24203", confidence="code"
    ),
    "opmd": Method(
        make=opmd,
        formula="r - tau (logsumexp(r / tau) - log G)",
        source="arXiv 2509.24203",
        confidence="code",
        note="its loss is divided by 1 + tau",
    ),
    "asymre": Method(
        make=asymre, formula="r - mean - delta, delta = -0.1", source="arXiv 2509.24203", confidence="code"
    ),
    "red_drop": Method(
        make=red_drop,
        formula="r - mean after dropping failures at random to the number of successes",
        source="arXiv 2509.24203",
        confidence="code",
    ),
    "red_weight": Method(
        make=red_weight, formula="A exp(A / tau), A = r - mean", source="arXiv 2509.24203", confidence="code"
    ),
    "unlikeliness": Method(
        make=unlikely_grpo,
        formula="grpo on r (1 - beta rank(logp) / G)",
        source="arXiv 2506.02355",
        confidence="code",
        note="needs log-probabilities; form='paper' is beta / G lower",
    ),
    "e_grpo": Method(
        make=e_grpo,
        formula="grpo on 1 | alpha m / max(m) | 0",
        source="arXiv 2510.24694",
        confidence="paper",
        note="needs the column 'entities': a part of the score that says which share of the key facts was named",
    ),
    "da_grpo": Method(
        make=da_grpo,
        formula="grpo, loss without right i and wrong j where u_i - u_j < theta",
        source="arXiv 2512.06337",
        confidence="reconstruction",
        note="needs the column 'fine': a finer score than right or wrong",
    ),
    "vgpo": Method(
        make=vgpo, formula="(r - mean) / std + k r", source="VGPO (reviews only)", confidence="reconstruction"
    ),
    "prompt_gdro": Method(
        make=prompt_gdro,
        formula="w_bin (r - mean) / (std + eps)",
        source="arXiv 2601.19280",
        confidence="paper and code",
        note="needs the column 'bin_weight', which the sampler of that name keeps",
    ),
    "maxrl": Method(
        make=maxrl,
        formula="(r - mean) / mean",
        source="arXiv 2602.02710",
        confidence="third party",
        note="rewards of at least 0, meant for 0/1",
    ),
    "pass_at_k": Method(
        make=pass_k,
        formula="GRPO of the reward max of k, averaged over all choices of k",
        source="arXiv 2508.10751",
        confidence="code",
        note="reads verdicts, not rewards; 0 where fewer than k failed; k = 2 is our default",
    ),
    "softmax": Method(
        make=softmax_weights,
        formula="softmax(r / tau)",
        source="FAKER-Air (independent account)",
        confidence="reconstruction",
        note="never below 0: pushes bad answers up too, only less",
    ),
    "gdpo_sr": Method(
        make=gdpo_sr,
        formula="grpo on sum_k w_k(problem) minmax(r_k)",
        source="GDPO-SR",
        confidence="code",
        note="needs a part 'weight/NAME' beside each part NAME",
    ),
}


def resolve_advantage(spec: str | Advantage, **options: Any) -> Advantage:
    """The estimator of that name with its options, or your own: an `Advantage`, or "module:function" of a step.

    Example:
        >>> resolve_advantage("grpo", scaling="batch").name
        "grpo(scaling='batch')"

    Raises:
        InputError: unknown name or option (near ones are listed), or user code that does not load.
    """
    if not isinstance(spec, str) or ":" in spec:
        if options:
            raise InputError(f"an advantage of your own takes no options, got {', '.join(options)}")
        own = spec if not isinstance(spec, str) else load_object(spec, kind="advantage")
        return own if isinstance(own, Advantage) else replace(chain(own), name=str(spec))
    said = ", ".join(f"{n}={o!r}" for n, o in options.items())
    made = make_row("advantage", spec, ADVANTAGES, options)
    return replace(made, name=f"{spec}({said})" if said else spec)
