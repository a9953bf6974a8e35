r"""Weights for tokens that another engine sampled than the one that trains: `w = exp(old - sampler)`, cut or masked.

Rounding and kernels differ, so the sampler's probabilities are not the trainer's even for equal weights. The weight
makes up for it without a gradient; what was cut or dropped is a metric, because a mask over whole answers silently
drops the long ones: a mean gap of 0.012 nats over 100 tokens is a ratio of 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from hybrid.losses.formulas import CLAMP
from hybrid.losses.parts import Correction, Seen, at_least
from tfgrpo.advantage.chain import make_row
from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method

Scope: TypeAlias = Literal["token", "answer", "answer_mean"]
SCOPES = ("token", "answer", "answer_mean")


def mismatch(old: Tensor, sampler: Tensor, mask: Tensor, *, scope: Scope = "token") -> Tensor:
    r"""`exp(d_it)`, `exp(sum_t d_it)` or `exp(mean_t d_it)` [B, T] of `d = old - sampler`, cut at 20 nats; no gradient.

    Example:
        >>> old, sampler = torch.tensor([[0.5, 0.6]]).log(), torch.tensor([[0.4, 0.6]]).log()
        >>> mismatch(old, sampler, torch.ones(1, 2))
        tensor([[1.2500, 1.0000]])
    """
    gap = torch.where(mask > 0, (old - sampler).detach(), 0.0)
    if scope != "token":
        total = gap.sum(1, keepdim=True)
        total = total / (mask > 0).sum(1, keepdim=True).clamp(min=1) if scope == "answer_mean" else total
        gap = total.expand_as(gap)
    return torch.exp(gap.clamp(-CLAMP, CLAMP))


def truncated(*, cap: float = 2.0, scope: Scope = "token") -> Correction:
    """Truncated importance sampling: `min(w, cap)`. Every token is still learned from.

    Example:
        >>> ones, gap = torch.ones(1, 3), torch.tensor([[0.5, 1.0, 3.0]]).log()
        >>> truncated(cap=2.0).run(gap, 0 * gap, ones)[0]
        tensor([[0.5000, 1.0000, 2.0000]])

    Raises:
        InputError: a cap below 1, or an unknown scope.
    """
    at_least("cap", cap, 1.0)
    _known(scope)

    def run(old: Tensor, sampler: Tensor, mask: Tensor) -> tuple[Tensor, Seen]:
        weight = mismatch(old, sampler, mask, scope=scope)
        return weight.clamp(max=cap), {"sampler_gap": (old - sampler).abs(), "sampler_capped": weight > cap}

    return Correction(name=f"truncated({scope}, cap={cap:g})", run=run)


def dropped(*, low: float = 0.5, high: float = 2.0, scope: Scope = "token") -> Correction:
    """Masked importance sampling: `w` where `low <= w <= high`, else 0; what is dropped stays in the denominator.

    Example:
        >>> ones, gap = torch.ones(1, 3), torch.tensor([[0.5, 1.0, 3.0]]).log()
        >>> dropped(low=0.5, high=2.0).run(gap, 0 * gap, ones)[0]
        tensor([[0.5000, 1.0000, 0.0000]])

    Raises:
        InputError: bounds that do not contain 1, or an unknown scope.
    """
    if not 0 <= low <= 1 <= high:
        raise InputError(f"tokens are kept where low <= w <= high, which must contain 1; got {low} and {high}")
    _known(scope)

    def run(old: Tensor, sampler: Tensor, mask: Tensor) -> tuple[Tensor, Seen]:
        weight = mismatch(old, sampler, mask, scope=scope)
        keep = (weight >= low) & (weight <= high)
        return weight * keep, {"sampler_gap": (old - sampler).abs(), "sampler_dropped": ~keep}

    return Correction(name=f"dropped({scope}, {low:g}..{high:g})", run=run)


def _known(scope: str) -> None:
    if scope not in SCOPES:
        raise unknown_name("scope of a correction", scope, SCOPES)


CORRECTIONS: dict[str, Method[Callable[..., Correction]]] = {
    "truncated": Method(
        make=truncated,
        formula="min(exp(old - sampler), cap)",
        source="TIS: verl, TRL",
        confidence="code",
        note="the default, cap 2, wherever the sampler's log-probs are known",
    ),
    "dropped": Method(
        make=dropped,
        formula="w 1[low <= w <= high], w = exp(old - sampler)",
        source="IcePop bounds: verl, TRL",
        confidence="code",
        note="watch sampler_dropped: over whole answers it grows with their length",
    ),
}


def resolve_correction(name: str, **options: Any) -> Correction:
    """The correction of that name with its options.

    Example:
        >>> resolve_correction("truncated", cap=3.0).name
        'truncated(token, cap=3)'

    Raises:
        InputError: unknown name or option; the near ones are listed.
    """
    return make_row("correction", name, CORRECTIONS, options)
