r"""How far a student's next-token distribution is from its teacher's, as functions of arrays of log-probs.

Both arguments are log-probs [..., K] of the same K outcomes in nats: a whole vocabulary, or the student's most likely
tokens with one more outcome for all others (`with_tail`), or those tokens alone (`renormalised`). The gradient goes
through the student; the teacher is a number.

Legend: K outcomes, k of the student's most likely tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tfgrpo.errors import InputError

LEAST = 1e-7
"""Of the probability that all other tokens share: what is left when rounding leaves nothing."""
FURTHEST = 80.0  # nats between student and teacher of one outcome; exp of more is no float32


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    r"""`KL(t || s) = sum_v t_v (log t_v - log s_v)`: the student shall cover all that the teacher might say.

    Example:
        >>> s, t = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
        >>> round(forward_kl(s, t).item(), 4)
        0.192
    """
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    r"""`KL(s || t) = sum_v s_v (log s_v - log t_v)`: the student shall say only what the teacher might.

    Example:
        >>> s, t = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
        >>> round(reverse_kl(s, t).item(), 4)
        0.1838
    """
    return (student.exp() * (student - teacher)).sum(-1)


def jensen_shannon(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    r"""`(1 - a) KL(s || m) + a KL(t || m)` with `m = (1 - a) s + a t`, 0 < a < 1; the gradient flows through m too.

    It tends to 0 where a tends to 0 or 1: the two KLs are no limits of it.

    Example:
        >>> s, t = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
        >>> round(jensen_shannon(s, t, 0.5).item(), 4)
        0.0462
    """
    mixed = _mixed(student, teacher, alpha)
    return (alpha * teacher.exp() * (teacher - student - mixed) - (1 - alpha) * student.exp() * mixed).sum(-1)


def divergence(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """`forward_kl` for alpha 0, `reverse_kl` for alpha 1, `jensen_shannon` between: arXiv 2601.20802.

    Example:
        >>> s, t = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
        >>> [round(divergence(s, t, a).item(), 4) for a in (0.0, 0.5, 1.0)]
        [0.192, 0.0462, 0.1838]

    Raises:
        InputError: an alpha outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha of a divergence lies in 0..1 (0: KL(teacher || student), 1: the reverse), got {alpha}")
    if alpha == 0:
        return forward_kl(student, teacher)
    return reverse_kl(student, teacher) if alpha == 1 else jensen_shannon(student, teacher, alpha)


def pulls(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    r"""`s_v dD/ds_v` [..., K] of `divergence`, up to `c s_v` with one c, which changes nothing for logits.

    The gradient for the logits of the outcomes is `pull_v - s_v sum_u pull_u`. Where both are equal it is exactly 0.

    Example:
        >>> s, t = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
        >>> pulls(s, t, 0.0)
        tensor([ 0.3000, -0.2000, -0.1000])
    """
    if alpha == 0:
        return student.exp() - teacher.exp()
    if alpha == 1:
        return student.exp() * (student - teacher)
    return -(1 - alpha) * student.exp() * _mixed(student, teacher, alpha)


def _mixed(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """`log(m / s)`, exactly 0 where both are equal."""
    return torch.log1p(alpha * torch.expm1((teacher - student).clamp(max=FURTHEST)))


def with_tail(logp: Tensor) -> Tensor:
    """Log-probs [..., k] of some tokens, and last that of all others together, [..., k + 1].

    A divergence of these is never above the one of the whole vocabulary.

    Example:
        >>> with_tail(torch.tensor([0.5, 0.3]).log()).exp()
        tensor([0.5000, 0.3000, 0.2000])
    """
    return torch.cat([logp, tail(logp)[..., None]], -1)


def tail(logp: Tensor) -> Tensor:
    """The log-prob [...] of all other tokens, of which at least LEAST is left."""
    return (1 - logp.exp().sum(-1)).clamp(min=LEAST).log()


def renormalised(logp: Tensor) -> Tensor:
    """Log-probs [..., k] of some tokens as if there were no others.

    Example:
        >>> renormalised(torch.tensor([0.5, 0.3]).log()).exp()
        tensor([0.6250, 0.3750])
    """
    return logp - logp.logsumexp(-1, keepdim=True)


def sampled_token(logp: Tensor, teacher: Tensor) -> Tensor:
    """`sg[logp - teacher] logp` of the tokens that were written: on average the gradient of `reverse_kl`, at the cost
    of one log-prob each, and with more noise.

    Example:
        >>> sampled_token(torch.tensor([-1.0, -0.5]), torch.tensor([-0.4, -1.2]))
        tensor([ 0.6000, -0.3500])
    """
    return (logp - teacher).detach() * logp


def confidence(entropy: Tensor, beta: float) -> Tensor:
    """`exp(-beta H)` in float64: how much a teacher of that entropy, in nats, is listened to. Divide by the mean over
    all distilled tokens of the whole batch, so that the loss keeps its size: SRPO, arXiv 2604.02288.

    Example:
        >>> trust = confidence(torch.tensor([[0.2, 1.5], [0.8, 0.1]]), beta=1.0)
        >>> (trust / trust.mean()).round(decimals=4)
        tensor([[1.3668, 0.3725],
                [0.7501, 1.5106]], dtype=torch.float64)
    """
    return torch.exp(-beta * entropy.double())
