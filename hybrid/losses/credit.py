r"""From one advantage per answer to one per token, where that takes the model itself.

Legend: N tokens of the answers to one problem, B answers of a micro-batch, T tokens, V* the distinct tokens that occur
in the group's answers, D hidden size. Everything is computed once per set of rollouts, with the policy that wrote
them, without gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tfgrpo.errors import InputError
from tfgrpo.method import Method

DCPO_STEP = 0.1
"""The most nats per token that DCPO answers to at once."""


def dcpo_temperature(entropy: float, *, target: float) -> float:
    """1.2 while the policy's entropy is at or below its target, else 0.8: where DCPO pulls it. (DCPO, released code)"""
    return 1.2 if entropy <= target else 0.8


def dcpo_share(entropy: float, success_rate: float, *, target: float) -> float:
    r"""`alpha = a / (1 + a)`, `a = min(|target - H|, 0.1) / mean(b)`; 0 when nothing succeeded (released: 1 / 0).

    Example:
        >>> round(dcpo_share(0.42, 0.25, target=0.5), 6)
        0.242424
    """
    if success_rate <= 0:
        return 0.0
    raw = min(abs(target - entropy), DCPO_STEP) / success_rate
    return raw / (1 + raw)


def dcpo_advantage(advantage: Tensor, success: Tensor, tempered: Tensor, old: Tensor, share: float) -> Tensor:
    r"""`(1 - alpha) A_i + alpha b_i rho^T_it` [B, T], `rho^T = exp(tempered - old)`: DCPO, from its released code.

    Right answers are pulled towards the same policy at another temperature, also in groups whose A is 0.

    Args:
        advantage: A [B, T].
        success: b [B].
        tempered: log-probs [B, T] of the old policy at `dcpo_temperature`.
        old: log-probs [B, T] of the old policy.
        share: alpha, of `dcpo_share`.

    Example:
        >>> old = torch.zeros(1, 2)
        >>> tempered = torch.tensor([[1.1, 0.9]]).log()
        >>> dcpo_advantage(torch.full((1, 2), 0.75), torch.tensor([True]), tempered, old, 0.242424)
        tensor([[0.8348, 0.7864]])
    """
    pull = torch.exp((tempered - old).clamp(-20.0, 20.0))
    return (1 - share) * advantage + share * success[:, None] * pull


def token_influence(probabilities: Tensor, chosen: Tensor, hidden: Tensor, right: Tensor) -> Tensor:
    r"""`s_t = g_t M h_t` [N], `g = onehot(y) - pi`, `M = sum over right tokens of g h^T`: how far learning token t
    raises the group's right answers.

    The scores of NTHR, arXiv 2505.18830. Only vocabulary that occurs in the group counts, and probabilities are not
    made to sum to 1 over it. M has V* x D numbers, in float32.

    Args:
        probabilities: pi [N, V*] of the old policy at each token.
        chosen: y [N], the column of the token that was written.
        hidden: h [N, D], last hidden states that the tokens were predicted from.
        right: [N] bool, whether the token belongs to a right answer.

    Example:
        >>> pi = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]])
        >>> h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
        >>> token_influence(pi, torch.tensor([0, 1, 2, 0]), h, torch.tensor([True, True, False, False]))
        tensor([ 0.3800,  0.3800, -0.6200,  0.5200])

    Raises:
        InputError: arrays that do not fit each other.
    """
    n = len(chosen)
    if {len(probabilities), len(hidden), len(right)} != {n}:
        raise InputError(
            f"{n} tokens were chosen, but there are {len(probabilities)} distributions, {len(hidden)} hidden states "
            f"and {len(right)} verdicts: give one of each per token"
        )
    g = -probabilities.float()
    g[torch.arange(n, device=g.device), chosen] += 1
    h = hidden.float()
    towards = g[right].T @ h[right]
    return ((g @ towards) * h).sum(-1)


def nthr_advantage(
    advantage: Tensor, influence: Tensor, answer: Tensor, right: Tensor, *, beta: float = 1.0, eta: float | None = None
) -> Tensor:
    r"""`A_t eta` for tokens of wrong answers with `s_t > beta min_{i right} mean_t s_t`: NTHR, arXiv 2505.18830.

    What wrong answers share with right ones is punished less. A group that is all right or all wrong stays as it is.

    Args:
        advantage: A [N] of each token.
        influence: s [N], of `token_influence`.
        answer: [N] number of the answer a token belongs to.
        right: [N] bool.
        beta: how much of the right answers' own influence is the threshold.
        eta: what is left of the punishment; None: 2 |1/2 - p|, p the group's success rate (0 in the paper's analysis).

    Example:
        >>> s = torch.tensor([0.38, 0.38, -0.62, 0.52])
        >>> advantage, answer = torch.tensor([1.5, 1.5, -0.5, -0.5]), torch.tensor([0, 0, 1, 2])
        >>> nthr_advantage(advantage, s, answer, torch.tensor([True, True, False, False]), eta=0.5)
        tensor([ 1.5000,  1.5000, -0.5000, -0.2500])
    """
    names, place = torch.unique(answer, return_inverse=True)
    zeros = torch.zeros(len(names), dtype=influence.dtype, device=influence.device)
    count = zeros.index_add(0, place, torch.ones_like(influence))
    good = zeros.index_add(0, place, right.to(influence)) > 0
    if not good.any() or good.all():
        return advantage
    means = zeros.index_add(0, place, influence) / count
    threshold = beta * means[good].min()
    left = 2 * abs(0.5 - float(good.float().mean())) if eta is None else eta
    return torch.where(~right & (influence > threshold), advantage * left, advantage)


def thr_advantage(advantage: Tensor, influence: Tensor, *, p: float = 0.1, threshold: float = 0.0) -> Tensor:
    r"""`A 1[|THR| > threshold] (1 + sign(THR) p)`, `THR = sign(A) s`: THR(p), arXiv 2510.03669.

    A reconstruction from the abstract and reviews. p > 0 sharpens what the policy already prefers, p < 0 explores. The
    defaults are ours; the threshold comes from the scale of the influences.

    Args:
        advantage: A [B, T] or [N].
        influence: s, of `token_influence`, the same shape.
        p: between -1 and 1.
        threshold: tokens whose |THR| is not above it are not learned.

    Example:
        >>> s = torch.tensor([0.38, 0.38, -0.62, 0.52])
        >>> thr_advantage(torch.tensor([1.5, 1.5, -0.5, -0.5]), s, p=0.2, threshold=0.1)
        tensor([ 1.8000,  1.8000, -0.6000, -0.4000])

    Raises:
        InputError: p outside -1..1, which would turn signs round.
    """
    if not -1 <= p <= 1:
        raise InputError(f"thr weighs tokens by 1 - p and 1 + p; p must lie in -1..1, got {p}")
    thr = torch.sign(advantage) * influence
    return advantage * (thr.abs() > threshold) * (1 + torch.sign(thr) * p)


CREDITS: dict[str, Method[Callable[..., Tensor]]] = {
    "nthr": Method(
        make=nthr_advantage,
        formula="A_t eta where the answer is wrong and s_t > beta min_i mean_t s",
        source="arXiv 2505.18830",
        confidence="paper",
        note="over a whole group, before the loss; s of `token_influence`",
    ),
    "thr": Method(
        make=thr_advantage,
        formula="A 1[|THR| > threshold] (1 + sign(THR) p), THR = sign(A) s",
        source="arXiv 2510.03669",
        confidence="reconstruction",
        note="p > 0 sharpens, p < 0 explores; inside a loss: `thr`",
    ),
    "dcpo": Method(
        make=dcpo_advantage,
        formula="(1 - a) A_i + a b_i exp(tempered - old)",
        source="DCPO (released code)",
        confidence="code",
        note="a of `dcpo_share`; inside a loss: `dcpo`",
    ),
}
