"""Estimators by name, with what is known of each. A new one is a function and a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tfgrpo.advantage.chain import Advantage, chain, make_row
from tfgrpo.advantage.estimators import (
    a_grae,
    asymre,
    da_grpo,
    dapo,
    e_grpo,
    g2rpo,
    gdpo,
    gdpo_sr,
    grpo,
    maxrl,
    mc_grpo,
    ngrpo,
    opmd,
    pass_k,
    prompt_gdro,
    ps_grpo,
    red_drop,
    red_weight,
    rloo,
    seed_grpo,
    softmax_weights,
    unlikely_grpo,
    vgpo,
)
from tfgrpo.errors import InputError
from tfgrpo.method import Method
from tfgrpo.user_code import load_object

ADVANTAGES: dict[str, Method[Callable[..., Advantage]]] = {
    "grpo": Method(
        make=grpo, formula="(r - mean) / (std + eps)", source="arXiv 2402.03300", confidence="paper and code"
    ),
    "ps_grpo": Method(
        make=ps_grpo,
        formula="(r - mean) / (std + eps) over the answers to the same wording",
        source="arXiv 2510.04392",
        confidence="reconstruction",
        note="for groups over wordings, with two answers to each or more; the reward of that name compares wordings",
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
