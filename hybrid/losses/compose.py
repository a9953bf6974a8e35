"""A loss put together from its slots, with one denominator of the whole batch for each term.

    advantage --credits--> surrogate x correction x row weight --aggregate--> policy term
                           regularisers, each              --aggregate--> + coefficient x term

What a micro-batch returns is its share: shares and metrics of all micro-batches and ranks add up to those of the
batch. (Where ranks average gradients, as DDP does, multiply the loss by their number.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from hybrid.batch import Tokens, Totals, lacking
from hybrid.losses.aggregate import SUMS_TOKENS, Aggregate, Named, resolve_aggregate, token_mean
from hybrid.losses.corrections import truncated
from hybrid.losses.parts import Correction, Credit, Regulariser, Seen, Surrogate
from tfgrpo.errors import InputError

Loss: TypeAlias = Callable[[Tokens, Totals], tuple[Tensor, dict[str, float]]]
"""The share of a micro-batch, with gradient, and metrics whose shares add up like it. Write your own as a function."""
TokenLoss: TypeAlias = Callable[[Tokens], Tensor]
"""Token losses [B, T] of clean tokens: the shorter way to write your own."""
DEFAULT_CORRECTION = truncated()


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A loss made of slots. Called with tokens and totals it returns a share and its metrics."""

    name: str
    surrogate: Surrogate
    aggregate: Named
    credits: tuple[Credit, ...] = ()
    correction: Correction | None = DEFAULT_CORRECTION  # only where tokens bring `sampler`
    regularisers: tuple[Regulariser, ...] = ()
    factor: float = 1.0  # of the policy's term

    @property
    def needs(self) -> frozenset[str]:
        """The columns of `Tokens` without which it cannot be computed, beyond log-probs, mask and advantage."""
        parts: tuple[Surrogate | Credit | Regulariser, ...] = (self.surrogate, *self.credits, *self.regularisers)
        return frozenset().union(*(part.needs for part in parts))

    @property
    def silent_at_first(self) -> tuple[str, ...]:
        """Regularisers that are 0 until the policy has moved since the batch was sampled."""
        return tuple(r.name for r in self.regularisers if r.silent_at_first)

    def __call__(self, tokens: Tokens, totals: Totals) -> tuple[Tensor, dict[str, float]]:
        _refuse_columns(self, tokens)
        clean = tokens.clean()
        learned = clean
        for credit in self.credits:
            learned = replace(learned, advantage=credit.run(learned, totals))
        terms, seen = self.surrogate.run(learned)
        seen = dict(seen)
        if self.correction is not None and clean.sampler is not None:
            weights, more = self.correction.run(clean.old, clean.sampler, clean.mask)
            terms, seen = terms * weights, {**seen, **more}
        if clean.entropy is not None:
            seen["entropy"] = clean.entropy
        shares = {"policy": self.factor * _share(terms, clean, self.aggregate, totals)}
        loss = shares["policy"]
        for part in self.regularisers:
            shares[part.name] = _share(part.run(clean), clean, part.aggregate or self.aggregate, totals)
            loss = loss + part.coefficient * shares[part.name]
        return loss, _numbers(loss, shares, seen, tokens, totals)


def compose(
    surrogate: Surrogate | TokenLoss,
    *regularisers: Regulariser,
    aggregate: str | Aggregate = "token_mean",
    credits: Sequence[Credit] = (),
    correction: Correction | None = DEFAULT_CORRECTION,
    factor: float = 1.0,
    name: str = "",
) -> Composed:
    """A loss from its slots.

    Args:
        surrogate: ratio level x clip or mask x weight; or your own function of tokens that returns token losses.
        regularisers: terms beside it, each with its coefficient.
        aggregate: how token losses become one number, by name or your own.
        credits: steps that change advantages before they are used.
        correction: weights where another engine sampled; None for none.
        factor: of the policy's term.
        name: what reports call it.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.5, 0.5]], advantage=[1])
        >>> loss = compose(lambda tokens: -tokens.advantage * tokens.logp, aggregate="token_mean")
        >>> share, metrics = loss(tokens, tokens.totals())
        >>> round(share.item(), 4), metrics["policy"] == share.item()
        (0.6931, True)

    Raises:
        InputError: parts that contradict each other; says which and why.
    """
    if not isinstance(surrogate, Surrogate):
        surrogate = _own(surrogate)
    made = Composed(
        name=name or surrogate.name,
        surrogate=surrogate,
        aggregate=resolve_aggregate(aggregate),
        credits=tuple(credits),
        correction=correction,
        regularisers=regularisers,
        factor=factor,
    )
    return _consistent(made)


def changed(
    loss: Composed,
    *,
    aggregate: str | Aggregate | None = None,
    correction: Correction | None = DEFAULT_CORRECTION,
    regularisers: Sequence[Regulariser] = (),
) -> Composed:
    """The same loss with another aggregation or correction, and further regularisers.

    Raises:
        InputError: parts that contradict each other.
    """
    return _consistent(
        replace(
            loss,
            aggregate=loss.aggregate if aggregate is None else resolve_aggregate(aggregate),
            correction=correction,
            regularisers=(*loss.regularisers, *regularisers),
        )
    )


def check_loss(loss: Loss, *, offered: Collection[str], updates: int) -> None:
    """Refuse, before anything is spent, a loss that this training could not compute or that would do nothing.

    Args:
        loss: a composed one; of your own function nothing is known and nothing refused.
        offered: columns of `Tokens` that the trainer will fill; without "old", tokens whose old log-probs are unknown.
        updates: optimiser steps on each set of rollouts, and those by which the sampler lags behind.

    Raises:
        InputError: a column is missing, or a part is inactive with one update.
    """
    if not isinstance(loss, Composed):
        return
    missing = sorted(loss.needs - set(offered))
    if missing:
        raise InputError(
            f"the loss {loss.name!r} reads {' and '.join(missing)}, which this training does not provide; it "
            f"provides: {', '.join(sorted(offered))}"
        )
    if loss.silent_at_first and updates < 2:
        raise InputError(
            f"{' and '.join(loss.silent_at_first)} of the loss {loss.name!r} is 0 until the policy has moved, and "
            f"there is {updates} update per set of rollouts: set two or more, or leave it out"
        )


def _own(function: TokenLoss) -> Surrogate:
    def run(tokens: Tokens) -> tuple[Tensor, Seen]:
        terms = function(tokens)
        if not isinstance(terms, Tensor) or terms.shape != tokens.logp.shape:
            got = f"the shape {tuple(terms.shape)}" if isinstance(terms, Tensor) else type(terms).__name__
            raise InputError(f"a loss of your own must return token losses {tuple(tokens.logp.shape)}, got {got}")
        return terms, {}

    return Surrogate(name=getattr(function, "__name__", "own"), run=run)


def _consistent(loss: Composed) -> Composed:
    if loss.surrogate.whole_answers and loss.aggregate.name.partition("(")[0] in SUMS_TOKENS:
        raise InputError(
            f"{loss.surrogate.name} cannot be aggregated by {loss.aggregate.name}: its ratio is a mean over the "
            f"answer, and a sum over tokens multiplies the length back in; take seq_mean_token_mean"
        )
    if loss.surrogate.whole_answers and loss.credits:
        raise InputError(
            f"{loss.surrogate.name} has one ratio per answer, but {loss.credits[0].name} gives each token its own "
            f"advantage; take level 'sequence_token' (gspo_token)"
        )
    twice = [name for name, n in Counter(r.name for r in loss.regularisers).items() if n > 1]
    if twice:
        raise InputError(f"the loss {loss.name!r} has the regulariser {twice[0]!r} twice; add their coefficients")
    return loss


def _refuse_columns(loss: Composed, tokens: Tokens) -> None:
    missing = lacking(tokens, loss.needs)
    if missing:
        raise InputError(f"the loss {loss.name!r} needs the column {' and '.join(map(repr, missing))} of Tokens")
    if loss.surrogate.whole_answers and tokens.advantage.ndim == 2:
        raise InputError(
            f"{loss.surrogate.name} has one ratio per answer, but the advantages are per token "
            f"{tuple(tokens.advantage.shape)}; give one per answer, or take gspo_token"
        )


def _share(terms: Tensor, tokens: Tokens, aggregate: Named, totals: Totals) -> Tensor:
    weighed = terms if tokens.weight is None else terms * tokens.weight[:, None]
    return aggregate(weighed, tokens.mask, totals)


def _numbers(loss: Tensor, shares: Seen, seen: Seen, tokens: Tokens, totals: Totals) -> dict[str, float]:
    """All metrics by one transfer from the device."""
    metrics = {**shares, **{name: token_mean(s.detach(), tokens.mask, totals) for name, s in seen.items()}}
    packed = torch.stack([loss.detach(), *(m.detach().to(loss) for m in metrics.values())])
    value, *numbers = (float(n) for n in packed.tolist())
    if not math.isfinite(value):
        raise InputError(f"the loss is {value}: {_culprits(tokens)}")
    return dict(zip(metrics, numbers, strict=True))


def _culprits(tokens: Tokens) -> str:
    """Which columns hold what is not a number."""
    clean = tokens.clean()
    bad = {name: (~torch.isfinite(c)).nonzero() for name, c in clean.columns().items() if c.is_floating_point()}
    found = [f"{name} at {tuple(where[0].tolist())}" for name, where in bad.items() if len(where)]
    return f"not finite: {', '.join(found)}" if found else "all its columns are finite, so it grew too large"
