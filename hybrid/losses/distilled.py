r"""A policy loss for some answers and the divergence from a teacher for the others, under one denominator.

`L = [sum_policy l + sum_taught w min(rho, cap) D] / (all trained tokens)`: SRPO, arXiv 2604.02288; with nothing but
taught answers SDPO, arXiv 2601.20802. The denominator is that of the policy's aggregation, over the whole batch: with
one for each part, a part with few answers would weigh as much as one with many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybrid.batch import Tokens, Totals
from hybrid.losses.aggregate import Named, token_mean
from hybrid.losses.compose import DEFAULT_CORRECTION, Composed, Loss
from hybrid.losses.formulas import token_ratio
from hybrid.losses.parts import Correction
from tfgrpo.errors import InputError

TOKEN_MEAN = Named(name="token_mean", run=token_mean)


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A loss with teachers. Answers that are not `taught` go to `policy`, as if the others were not there.

    Called with tokens and totals it returns a share and its metrics. Those of taught answers begin with "taught/".

    Example:
        >>> from hybrid.losses import resolve_loss
        >>> tokens = Tokens.of_probabilities(
        ...     new=[[0.5, 0.5], [0.5, 0.25]],
        ...     advantage=[1, 0],
        ...     taught=torch.tensor([False, True]),
        ...     divergence=torch.tensor([[0.0, 0.0], [0.1, 0.3]]),
        ...     trust=torch.tensor([[0.0, 0.0], [1.5, 0.5]]),
        ... )
        >>> share, metrics = Distilled(policy=resolve_loss("dapo"))(tokens, tokens.totals())
        >>> round(share.item(), 4)                          # (-1 - 1 + 1.5 x 0.1 + 0.5 x 0.3) / 4
        -0.425
    """

    policy: Loss
    cap: float = 2.0  # of the ratio to the policy that sampled

    @property
    def aggregate(self) -> Named:
        """The policy's; of a loss of your own nothing is known, so there it is the mean over all tokens."""
        return self.policy.aggregate if isinstance(self.policy, Composed) else TOKEN_MEAN

    @property
    def correction(self) -> Correction | None:
        """The policy's, for tokens that another engine sampled."""
        return self.policy.correction if isinstance(self.policy, Composed) else DEFAULT_CORRECTION

    def __call__(self, tokens: Tokens, totals: Totals) -> tuple[Tensor, dict[str, float]]:
        if tokens.taught is None or tokens.divergence is None or tokens.trust is None:
            return self.policy(tokens, totals)
        taught = tokens.taught
        bare = replace(tokens, taught=None, divergence=None, trust=None)
        share, metrics = self._taught(tokens.rows(taught), totals)
        if not taught.all():
            others, more = self.policy(bare.rows(~taught), totals)
            share, metrics = share + others, {**metrics, **more}
        return share, metrics

    def _taught(self, tokens: Tokens, totals: Totals) -> tuple[Tensor, dict[str, float]]:
        clean = tokens.clean()
        assert clean.divergence is not None and clean.trust is not None  # looked at by `__call__`
        weight = clean.trust * token_ratio(clean.logp, clean.old, clean.mask).detach().clamp(max=self.cap)
        if self.correction is not None and clean.sampler is not None:
            weight = weight * self.correction.run(clean.old, clean.sampler, clean.mask)[0]
        if clean.weight is not None:
            weight = weight * clean.weight[:, None]
        share = self.aggregate(weight * clean.divergence, clean.mask, totals)
        apart, listened = (token_mean(column.detach(), clean.mask, totals) for column in (clean.divergence, weight))
        value, *means = (float(n) for n in torch.stack([share.detach(), apart, listened.to(share)]).tolist())
        if not math.isfinite(value):
            raise InputError(
                f"the loss of the answers that a teacher teaches is {value}: student or teacher gives probabilities "
                f"that are no numbers"
            )
        return share, {"taught/loss": value, "taught/divergence": means[0], "taught/weight": means[1]}
