r"""Policy losses as functions of arrays, each beside its source. Every one is minimised.

Legend: B answers, T tokens of the longest one. `ratio` is `exp(logp - old)`, of each token or of each answer;
`advantage` has the same shape. Nothing here averages: that is `aggregate`.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

CLAMP = 20.0  # nats; a token's log-ratio beyond it is cut and has no gradient
ANSWER_CLAMP = 10.0  # nats per token; the same for a mean over an answer, from above only
Bounds: TypeAlias = tuple[float, float]
"""How far below and above 1 a ratio may lie."""


def token_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    r"""`rho_it = exp(logp_it - old_it)` [B, T], 1 outside the mask; arXiv 1707.06347.

    Example:
        >>> token_ratio(torch.tensor([[0.7]]).log(), torch.tensor([[0.5]]).log(), torch.ones(1, 1)).round(decimals=4)
        tensor([[1.4000]])
    """
    return torch.exp(_gap(logp, old, mask).clamp(-CLAMP, CLAMP))


def sequence_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    r"""`s_i = exp(mean_t(logp_it - old_it))` at each token of the answer [B, T]: GSPO, arXiv 2507.18071.

    Its gradient is written per token, `s_i grad logp_it`, of which a mean over the answer's tokens is the gradient of
    s_i. So the same ratio carries advantages per token (GSPO-token). An answer without tokens has the ratio 1.

    Example:
        >>> new, old = torch.tensor([[0.3, 0.5]]).log(), torch.tensor([[0.5, 0.5]]).log()
        >>> sequence_ratio(new, old, torch.ones(1, 2)).round(decimals=4)
        tensor([[0.7746, 0.7746]])
    """
    mean = _gap(logp, old, mask).sum(1, keepdim=True) / (mask > 0).sum(1, keepdim=True).clamp(min=1)
    own = torch.where(mask > 0, logp - logp.detach(), 0.0)
    return torch.exp((mean.detach() + own).clamp(max=ANSWER_CLAMP))


def _gap(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0, logp - old, 0.0)


def ppo_min(ratio: Tensor, advantage: Tensor, *, low: float, high: float, dual: float | None = None) -> Tensor:
    r"""`-min(r A, clip(r, 1 - low, 1 + high) A)`; with `dual = c`, at most `-c A` where A < 0.

    PPO, arXiv 1707.06347; unequal bounds: DAPO, arXiv 2503.14476; dual clip: arXiv 1912.09729.

    Example:
        >>> ppo_min(torch.tensor([1.4, 0.6, 5.0]), torch.tensor([1.0, -1.0, -1.0]), low=0.2, high=0.2, dual=3.0)
        tensor([-1.2000,  0.8000,  3.0000])
    """
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    return loss if dual is None else torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss)


def ppo_mixed(
    token: Tensor, sequence: Tensor, advantage: Tensor, share: Tensor, *, token_clip: Bounds, sequence_clip: Bounds
) -> Tensor:
    r"""`-min(q A, q' A)`, q = w rho + (1 - w) s, q' the same of each ratio clipped first: DHPO, arXiv 2601.05607.

    A reconstruction: only the abstract and two notes were readable, which say "clip each branch first, then mix".
    `share` is w [B, T], without gradient. w = 1 is GRPO, w = 0 is GSPO.

    Example:
        >>> one = torch.ones(1)
        >>> ppo_mixed(1.4 * one, 0.9 * one, one, 0.5 * one, token_clip=(0.2, 0.28), sequence_clip=(3e-4, 4e-4))
        tensor([-1.1399])
    """
    mixed = share * token + (1 - share) * sequence
    clipped = share * _clip(token, token_clip) + (1 - share) * _clip(sequence, sequence_clip)
    return -torch.minimum(mixed * advantage, clipped * advantage)


def _clip(ratio: Tensor, bounds: Bounds) -> Tensor:
    return ratio.clamp(1 - bounds[0], 1 + bounds[1])


def cispo(ratio: Tensor, advantage: Tensor, logp: Tensor, *, low: float | None, high: float) -> Tensor:
    r"""`-sg[clip(r, 1 - low, 1 + high)] A logp`: the weight is clipped, no token loses its gradient; arXiv 2506.13585.

    Example:
        >>> cispo(torch.tensor([9.0]), torch.tensor([1.0]), torch.tensor([-0.5]), low=None, high=4.0)
        tensor([2.5000])
    """
    weight = ratio.detach().clamp(min=None if low is None else 1 - low, max=1 + high)
    return -(weight * advantage * logp)


def reinforce(advantage: Tensor, logp: Tensor, keep: Tensor | float = 1.0, weight: Tensor | float = 1.0) -> Tensor:
    r"""`-A logp M w` with a mask M and a weight w that have no gradient: REINFORCE and its REC forms, arXiv 2509.24203.

    Example:
        >>> reinforce(torch.tensor([1.0, 1.0]), torch.tensor([-0.5, -0.25]), keep=torch.tensor([1.0, 0.0]))
        tensor([0.5000, 0.0000])
    """
    return -(advantage * logp * keep * weight)


def one_side(ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> Tensor:
    r"""1 where `A >= 0 and r <= 1 + high`, or `A <= 0 and r >= 1 - low`: where PPO has a gradient; arXiv 2509.24203.

    Example:
        >>> one_side(torch.tensor([0.3, 0.7, 1.0, 1.3, 3.5]), torch.ones(5), low=0.2, high=0.2)
        tensor([1., 1., 1., 0., 0.])
    """
    return (((advantage >= 0) & (ratio <= 1 + high)) | ((advantage <= 0) & (ratio >= 1 - low))).to(ratio)


def two_side(ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> Tensor:
    r"""1 where `1 - low <= r <= 1 + high`, whatever the advantage; arXiv 2509.24203.

    Example:
        >>> two_side(torch.tensor([0.3, 0.8, 1.0, 1.3]), torch.ones(4), low=0.2, high=0.2)
        tensor([0., 1., 1., 0.])
    """
    return ((ratio >= 1 - low) & (ratio <= 1 + high)).to(ratio)


def ring(ratio: Tensor, advantage: Tensor, *, low: float, high: float, far_low: float, far_high: float) -> Tensor:
    r"""`two_side`, and far outside it what pulls back: `A >= 0 and r <= 1 - far_low`, `A <= 0 and r >= 1 + far_high`.

    arXiv 2509.24203.

    Example:
        >>> ring(torch.tensor([0.3, 0.7, 1.0, 1.3, 3.5]), torch.ones(5), low=0.2, high=0.2, far_low=0.6, far_high=2.0)
        tensor([1., 0., 1., 0., 0.])
    """
    back = ((advantage >= 0) & (ratio <= 1 - far_low)) | ((advantage <= 0) & (ratio >= 1 + far_high))
    return torch.maximum(two_side(ratio, advantage, low=low, high=high), back.to(ratio))


# -- how far from another model --------------------------------------------------------------------------------------


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    r"""`x = logp - reference`: as a value unbiased for KL(policy || reference), as a loss its expected gradient is 0.

    Subtract it from rewards; as a regulariser on fresh samples it only adds noise. Derivation in `k3`.

    Example:
        >>> k1(torch.tensor([0.7]).log(), torch.tensor([0.5]).log())
        tensor([0.3365])
    """
    return logp - reference


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    r"""`x^2 / 2`: its expected gradient is that of KL(policy || reference), the penalty one usually means.

    Example:
        >>> k2(torch.tensor([0.7]).log(), torch.tensor([0.5]).log())
        tensor([0.0566])
    """
    return (logp - reference).square() / 2


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    r"""`exp(-x) + x - 1`: unbiased and never negative as a value; its gradient is that of KL(reference || policy).

    On samples of the policy p a loss f(x) has the expected gradient `sum_v p_v f'(x_v) grad log p_v`: f' is 1 for k1,
    x for k2 and 1 - exp(-x) for k3. The log-ratio is cut at 20 nats.

    Example:
        >>> k3(torch.tensor([0.7]).log(), torch.tensor([0.5]).log())
        tensor([0.0508])
    """
    x = (logp - reference).clamp(-CLAMP, CLAMP)
    return torch.expm1(-x) + x


# -- what else is asked of a policy ----------------------------------------------------------------------------------


def lost_likelihood(
    logp: Tensor, old: Tensor, mask: Tensor, *, segment: Tensor | None = None, gate: str = "action"
) -> Tensor:
    r"""`max(0, old - logp)` of tokens in actions that lost likelihood as a whole: LLDS, arXiv 2512.04220.

    An action is a run of tokens with one number in `segment`; without numbers the whole answer is one. `gate` is
    "action", "answer" (the answer as a whole must have lost) or "token" (none).

    Example:
        >>> new = torch.tensor([[0.4, 0.6, 0.3, 0.5]]).log()
        >>> actions = torch.tensor([[0, 0, 1, 1]])
        >>> lost_likelihood(new, torch.full((1, 4), 0.5).log(), torch.ones(1, 4), segment=actions)
        tensor([[0.2231, 0.0000, 0.5108, 0.0000]])
    """
    lost = _gap(old, logp, mask)
    if gate == "token":
        return lost.relu()
    if gate == "answer" or segment is None:
        return lost.relu() * (lost.detach().sum(1, keepdim=True) > 0)
    begins = torch.nn.functional.pad(segment[:, 1:] != segment[:, :-1], (1, 0))
    action = begins.cumsum(1)
    sums = torch.zeros_like(lost).scatter_add(1, action, lost.detach())
    return lost.relu() * (sums.gather(1, action) > 0)


def outside_band(values: Tensor, mask: Tensor, *, low: float, high: float) -> Tensor:
    r"""`max(0, H_i - high) + max(0, low - H_i)` [B, 1] of each answer's mean H_i of values [B, T]; 0 without tokens.

    The entropy band of arXiv 2604.08539. Over what its H is a mean the paper does not say; over an answer is ours.

    Example:
        >>> outside_band(torch.tensor([[0.1, 0.3], [1.0, 2.0]]), torch.ones(2, 2), low=0.3, high=1.0)
        tensor([[0.1000],
                [0.5000]])
    """
    count = (mask > 0).sum(1, keepdim=True)
    mean = torch.where(mask > 0, values, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
    return ((mean - high).relu() + (low - mean).relu()) * (count > 0)
