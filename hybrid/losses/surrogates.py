"""What fills the first slot of a loss: formulas with a ratio level and numbers, ready to be called with tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from hybrid.batch import Tokens
from hybrid.losses import formulas
from hybrid.losses.parts import Seen, Surrogate, at_least, bounds
from tfgrpo.errors import InputError, unknown_name

Level: TypeAlias = Literal["token", "sequence", "sequence_token"]
MaskKind: TypeAlias = Literal["one_side", "two_side", "ring", "none"]
Weight: TypeAlias = Literal["none", "token", "sequence"]
Ratio: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

RATIOS: dict[str, Ratio] = {
    "token": formulas.token_ratio,
    "sequence": formulas.sequence_ratio,
    "sequence_token": formulas.sequence_ratio,
}
OLD = frozenset({"old"})
T = TypeVar("T")


def clipped(*, level: Level = "token", low: float = 0.2, high: float = 0.2, dual: float | None = None) -> Surrogate:
    """PPO's clipped term with a ratio per token, per answer ("sequence"), or per answer with advantages per token
    ("sequence_token"). Bounds for whole answers are a hundred times tighter: 3e-4 and 4e-4."""
    bounds(low, high)
    if dual is not None and not dual > 1:
        raise InputError(f"the dual clip bounds the loss at dual times |A|, which must be above 1; got {dual}")
    ratio_of = _named("ratio level", level, RATIOS)

    def run(tokens: Tokens) -> tuple[Tensor, Seen]:
        ratio = ratio_of(tokens.logp, tokens.old, tokens.mask)
        loss = formulas.ppo_min(ratio, tokens.advantage, low=low, high=high, dual=dual)
        seen = {"ratio": ratio, **_clips(ratio, tokens.advantage, low, high)}
        if dual is not None:
            seen["clipped_dual"] = (tokens.advantage < 0) & (ratio > dual)
        return loss, seen

    return Surrogate(name=f"clipped({level})", run=run, needs=OLD, whole_answers=level == "sequence")


def capped(*, level: Level = "token", low: float | None = None, high: float = 4.0) -> Surrogate:
    """CISPO: REINFORCE with the ratio as a weight that is cut to 1 - low .. 1 + high; without low only from above."""
    bounds(0.0 if low is None else low, high)
    ratio_of = _named("ratio level", level, RATIOS)

    def run(tokens: Tokens) -> tuple[Tensor, Seen]:
        ratio = ratio_of(tokens.logp, tokens.old, tokens.mask)
        below = torch.zeros_like(ratio, dtype=torch.bool) if low is None else ratio < 1 - low
        loss = formulas.cispo(ratio, tokens.advantage, tokens.logp, low=low, high=high)
        return loss, {"ratio": ratio, "clipped_low": below, "clipped_high": ratio > 1 + high}

    return Surrogate(name=f"capped({level})", run=run, needs=OLD, whole_answers=level == "sequence")


def mixed(
    *,
    share: float | Literal["entropy"] = 0.5,
    token_clip: formulas.Bounds = (0.2, 0.28),
    sequence_clip: formulas.Bounds = (3e-4, 4e-4),
) -> Surrogate:
    """DHPO: a mean of the token's and the answer's ratio. `share` is the token's; "entropy" gives it more where the
    policy is uncertain, H_t over the largest H of the answer, and 0.5 where all are 0."""
    if not isinstance(share, str) and not 0 <= share <= 1:
        raise InputError(f"the share of the token's ratio must lie in 0..1 or be 'entropy', got {share}")
    bounds(*token_clip)
    bounds(*sequence_clip)

    def run(tokens: Tokens) -> tuple[Tensor, Seen]:
        token = formulas.token_ratio(tokens.logp, tokens.old, tokens.mask)
        sequence = formulas.sequence_ratio(tokens.logp, tokens.old, tokens.mask)
        part = _uncertain(tokens.entropy) if tokens.entropy is not None and share == "entropy" else None
        part = torch.full_like(token, float(share)) if part is None else part
        loss = formulas.ppo_mixed(
            token, sequence, tokens.advantage, part, token_clip=token_clip, sequence_clip=sequence_clip
        )
        clips = _clips(token, tokens.advantage, *token_clip)
        return loss, {"ratio": token, "ratio_sequence": sequence, "token_share": part, **clips}

    needs = OLD | ({"entropy"} if share == "entropy" else frozenset())
    return Surrogate(name=f"mixed({share})", run=run, needs=needs)


def _uncertain(entropy: Tensor) -> Tensor:
    """H_t over the answer's largest; 0.5 where all are 0."""
    fixed = entropy.detach()
    most = fixed.amax(1, keepdim=True)
    return torch.where(most > 0, fixed / torch.where(most > 0, most, 1.0), 0.5)


def masked(
    mask: MaskKind = "one_side",
    *,
    weight: Weight = "none",
    level: Level = "token",
    low: float = 0.2,
    high: float = 0.2,
    far_low: float = 0.6,
    far_high: float = 2.0,
) -> Surrogate:
    """REINFORCE on the tokens that a mask keeps (REC). `level` is the ratio of the mask; `weight` multiplies by no
    ratio, the token's or the answer's, without its gradient. Without mask and weight no old log-probs are read."""
    bounds(low, high)
    keep = _mask(mask, low, high, far_low, far_high)
    mask_ratio, weigh = _named("ratio level", level, RATIOS), _named("weight", weight, WEIGHTS)

    def run(tokens: Tokens) -> tuple[Tensor, Seen]:
        seen: dict[str, Tensor] = {}
        kept: Tensor | float = 1.0
        if keep is not None:
            ratio = mask_ratio(tokens.logp, tokens.old, tokens.mask).detach()
            kept = keep(ratio, tokens.advantage)
            seen = {"ratio": ratio, "dropped": 1 - kept}
        factor = 1.0 if weigh is None else weigh(tokens.logp, tokens.old, tokens.mask).detach()
        return formulas.reinforce(tokens.advantage, tokens.logp, kept, factor), seen

    return Surrogate(
        name=f"masked({mask}, weight={weight})",
        run=run,
        needs=OLD if keep is not None or weigh is not None else frozenset(),
        whole_answers=level == "sequence" and keep is not None,
    )


WEIGHTS: dict[str, Ratio | None] = {
    "none": None,
    "token": formulas.token_ratio,
    "sequence": formulas.sequence_ratio,
}
Keep: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _mask(kind: str, low: float, high: float, far_low: float, far_high: float) -> Keep | None:
    if kind == "ring" and not (low <= far_low <= 1 and high <= far_high):
        raise InputError(
            f"the ring's far bounds must lie outside its near ones: low {low} <= far_low {far_low} <= 1 and "
            f"high {high} <= far_high {far_high}"
        )
    at_least("far_high", far_high, 0.0)
    kinds: dict[str, Keep | None] = {
        "one_side": partial(formulas.one_side, low=low, high=high),
        "two_side": partial(formulas.two_side, low=low, high=high),
        "ring": partial(formulas.ring, low=low, high=high, far_low=far_low, far_high=far_high),
        "none": None,
    }
    return _named("mask", kind, kinds)


def _named(kind: str, name: str, known: dict[str, T]) -> T:
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def _clips(ratio: Tensor, advantage: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Where the clip takes the gradient away."""
    return {
        "clipped_low": (advantage < 0) & (ratio < 1 - low),
        "clipped_high": (advantage > 0) & (ratio > 1 + high),
    }
