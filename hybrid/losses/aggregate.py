r"""From token losses [B, T] to a micro-batch's share of one number: shares of all micro-batches and ranks add up to it.

Denominators come from `Totals`, so that it does not matter how a batch was cut. Answers without a trained token
contribute 0 and are not counted.

Legend: B answers of the micro-batch, T tokens; N answers and M tokens of the whole optimiser batch, n_i of one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor

from hybrid.batch import Totals
from tfgrpo.errors import InputError, unknown_name

Aggregate: TypeAlias = Callable[[Tensor, Tensor, Totals], Tensor]
"""Token losses [B, T], mask [B, T] and totals to a share []."""


def token_mean(loss: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    """`sum_it l_it / M`: long answers weigh more. DAPO, arXiv 2503.14476.

    Example:
        >>> import torch
        >>> losses, mask = torch.tensor([[-1.2, -1.0, -0.5], [0.8, 1.2, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> totals = Totals.of(mask=mask, advantage=torch.tensor([1.0, -1.0]), max_tokens=4)
        >>> round(token_mean(losses, mask, totals).item(), 4)
        -0.14
    """
    return (loss * mask).sum() / max(totals.tokens, 1.0)


def seq_mean_token_mean(loss: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    """`1/N sum_i 1/n_i sum_t l_it`: every answer weighs the same. GRPO, arXiv 2402.03300.

    Example:
        >>> import torch
        >>> losses, mask = torch.tensor([[-1.2, -1.0, -0.5], [0.8, 1.2, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> totals = Totals.of(mask=mask, advantage=torch.tensor([1.0, -1.0]), max_tokens=4)
        >>> round(seq_mean_token_mean(losses, mask, totals).item(), 4)
        0.05
    """
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / max(totals.sequences, 1.0)


def seq_mean_token_sum(loss: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    """`1/N sum_it l_it`: what the policy gradient theorem says, with gradients as long as the answers.

    Example:
        >>> import torch
        >>> losses, mask = torch.tensor([[-1.2, -1.0, -0.5], [0.8, 1.2, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> totals = Totals.of(mask=mask, advantage=torch.tensor([1.0, -1.0]), max_tokens=4)
        >>> round(seq_mean_token_sum(losses, mask, totals).item(), 4)
        -0.35
    """
    return (loss * mask).sum() / max(totals.sequences, 1.0)


def constant(loss: Tensor, mask: Tensor, totals: Totals, *, limit: int | None = None) -> Tensor:
    """`1/(N L) sum_it l_it`, L the most tokens an answer may have. Dr.GRPO, arXiv 2503.20783.

    Example:
        >>> import torch
        >>> losses, mask = torch.tensor([[-1.2, -1.0, -0.5], [0.8, 1.2, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> totals = Totals.of(mask=mask, advantage=torch.tensor([1.0, -1.0]), max_tokens=4)
        >>> round(constant(losses, mask, totals).item(), 4)
        -0.0875

    Raises:
        InputError: an L below 1.
    """
    length = totals.max_tokens if limit is None else limit
    if length < 1:
        raise InputError(f"an answer may have {length} tokens, by which nothing can be divided; give limit= above 0")
    return (loss * mask).sum() / (max(totals.sequences, 1.0) * length)


def preserved_mean(loss: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    """`1/N' sum_i 1/n_i sum_t l_it`, N' the answers with an advantage >= 0. LLDS, arXiv 2512.04220.

    Example:
        >>> import torch
        >>> losses, mask = torch.tensor([[-1.2, -1.0, -0.5], [0.8, 1.2, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> totals = Totals.of(mask=mask, advantage=torch.tensor([1.0, -1.0]), max_tokens=4)
        >>> round(preserved_mean(losses, mask, totals).item(), 4)
        0.1
    """
    return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / max(totals.preserved, 1.0)


def success_token_mean(loss: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    """`sum_it l_it / M'`, M' the tokens of right answers.

    Example:
        >>> import torch
        >>> losses, mask = torch.tensor([[-1.2, -1.0, -0.5], [0.8, 1.2, 0.0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> totals = Totals.of(mask=mask, advantage=torch.zeros(2), success=torch.tensor([True, False]))
        >>> round(success_token_mean(losses, mask, totals).item(), 4)
        -0.2333
    """
    return (loss * mask).sum() / max(totals.success_tokens, 1.0)


AGGREGATES: dict[str, Aggregate] = {
    "token_mean": token_mean,
    "seq_mean_token_mean": seq_mean_token_mean,
    "seq_mean_token_sum": seq_mean_token_sum,
    "constant": constant,
}
SUMS_TOKENS = frozenset({"seq_mean_token_sum", "constant"})


@dataclass(frozen=True, kw_only=True)
class Named:
    """An aggregation under its name."""

    name: str
    run: Aggregate

    def __call__(self, loss: Tensor, mask: Tensor, totals: Totals) -> Tensor:
        return self.run(loss, mask, totals)


def resolve_aggregate(spec: str | Aggregate, *, limit: int | None = None) -> Named:
    """The aggregation of that name, or your own; `limit` is the L of "constant".

    Raises:
        InputError: an unknown name, or a limit for one that has none.
    """
    if isinstance(spec, Named):
        return spec
    if not isinstance(spec, str):
        return Named(name=getattr(spec, "__name__", "own"), run=spec)
    if spec not in AGGREGATES:
        raise unknown_name("aggregation", spec, AGGREGATES)
    if limit is None:
        return Named(name=spec, run=AGGREGATES[spec])
    if spec != "constant":
        raise InputError(f"only the aggregation 'constant' has a limit; {spec!r} got limit={limit}")
    return Named(name=f"constant({limit})", run=partial(constant, limit=limit))
