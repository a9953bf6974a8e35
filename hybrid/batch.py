"""What a loss sees: one number per token and column, never logits; and what it divides by.

Legend: B answers of a micro-batch, T tokens of its longest one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from tfgrpo.errors import InputError

OPTIONAL = ("sampler", "reference", "entropy", "tempered", "influence", "segment", "success", "weight")
"""Columns of `Tokens` that only some losses read."""
ROWS = frozenset({"success", "weight", "taught"})  # [B]; `advantage` is [B] or [B, T], all others [B, T]
PLAIN = frozenset({"segment", "success", "taught"})  # columns that are no real numbers


Rows: TypeAlias = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """A micro-batch as columns. Log-probs are in nats; what stands outside the mask may be anything, even NaN.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.4, 0.1], [0.3]], advantage=[1, -1])
        >>> tokens.logp.shape, tokens.totals().tokens, tokens.rows(slice(1, 2)).totals().tokens
        (torch.Size([2, 3]), 4.0, 1.0)

    Raises:
        InputError: a column has another shape than it must have.
    """

    logp: Tensor  # [B, T] of the policy that is trained, with gradient
    old: Tensor  # [B, T] of the same policy at the start of the update; logp.detach() where nothing changed since
    mask: Tensor  # [B, T] 1 on trained tokens
    advantage: Tensor  # [B] or [B, T]
    sampler: Tensor | None = None  # [B, T] as the engine that wrote the tokens saw them
    reference: Tensor | None = None  # [B, T] of the model the policy shall stay close to
    entropy: Tensor | None = None  # [B, T] of the policy's distributions, with gradient where a regulariser wants it
    tempered: Tensor | None = None  # [B, T] `old` at the temperature of `dcpo_temperature`
    influence: Tensor | None = None  # [B, T] how far a token raises its group's right answers: `token_influence`
    segment: Tensor | None = None  # [B, T] number of the action a token belongs to; one action stands together
    success: Tensor | None = None  # [B] bool
    weight: Tensor | None = None  # [B] how much the answer's losses count; the denominators do not change
    taught: Tensor | None = None  # [B] bool: the answer learns from a teacher, not from its advantage
    divergence: Tensor | None = None  # [B, T] of taught answers from their teacher, with gradient
    trust: Tensor | None = None  # [B, T] how much a token's divergence counts, 1 on average over the whole batch

    def __post_init__(self) -> None:
        shape = self.logp.shape
        if len(shape) != 2:
            raise InputError(f"logp has the shape {tuple(shape)}; give one row per answer, padded to [B, T]")
        for name, column in self.columns().items():
            wanted = [shape[:1]] if name in ROWS else [shape[:1], shape] if name == "advantage" else [shape]
            if column.shape not in wanted:
                raise InputError(
                    f"the column {name!r} has the shape {tuple(column.shape)}, but logp has {tuple(shape)}: give "
                    f"{' or '.join(str(tuple(w)) for w in wanted)}"
                )

    @staticmethod
    def of_probabilities(
        *,
        new: Rows,
        old: Rows | None = None,
        advantage: Sequence[float] | Rows,
        sampler: Rows | None = None,
        reference: Rows | None = None,
        **columns: Tensor,
    ) -> Tokens:
        """A batch from bare probabilities, one inner sequence per answer, in float64; `old` is `new` unless told.

        Example:
            >>> Tokens.of_probabilities(new=[[0.5, 0.25], [0.5]], advantage=[1, -1]).mask
            tensor([[1., 1.],
                    [1., 0.]], dtype=torch.float64)
        """
        given = {"logp": new, "old": new if old is None else old, "sampler": sampler, "reference": reference}
        padded = {name: _padded(rows, 1.0).log() for name, rows in given.items() if rows is not None}
        mask = _padded([[1.0] * len(row) for row in new], 0.0)
        each = [a if isinstance(a, Sequence) else [a] for a in advantage]
        spread = _padded(each, 0.0)
        per_answer = not any(isinstance(a, Sequence) for a in advantage)
        return Tokens(mask=mask, advantage=spread[:, 0] if per_answer else spread, **padded, **columns)

    def totals(self, *, max_tokens: int | None = None, entropy: float = 0.0) -> Totals:
        """The counts of this batch alone, for a batch that is not cut."""
        return Totals.of(
            mask=self.mask, advantage=self.advantage, success=self.success, max_tokens=max_tokens, entropy=entropy
        )

    def columns(self) -> dict[str, Tensor]:
        """The columns that are there, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    def rows(self, chosen: slice | Tensor) -> Tokens:
        """Some of the answers, as a micro-batch of their own."""
        return replace(self, **{name: column[chosen] for name, column in self.columns().items()})

    def to(self, device: torch.device | str) -> Tokens:
        """The same on a device."""
        return replace(self, **{name: column.to(device) for name, column in self.columns().items()})

    def clean(self) -> Tokens:
        """The same with 0 wherever nothing is trained, the advantage spread to [B, T], at least float32."""
        wide = torch.promote_types(self.logp.dtype, torch.float32)
        on = self.mask > 0
        some = on.any(1)
        columns = self.columns()
        columns["advantage"] = self.advantage if self.advantage.ndim == 2 else self.advantage[:, None].expand(on.shape)
        for name, column in columns.items():
            kept = torch.where(some if name in ROWS else on, column, torch.zeros_like(column))
            columns[name] = kept if name in PLAIN else kept.to(wide)
        columns["mask"] = on.to(wide)
        return replace(self, **columns)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts over the whole optimiser batch: all its micro-batches, on all ranks. One denominator per component.

    An answer without a trained token counts nowhere. Micro-batches, and ranks, are added with `+`.

    Example:
        >>> mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
        >>> one = Totals.of(mask=mask, advantage=torch.tensor([1.0, -1.0]), max_tokens=4)
        >>> (one + one).tokens, one.sequences, one.preserved
        (6.0, 2.0, 1.0)
    """

    tokens: float  # trained ones
    sequences: float
    max_tokens: int  # the most tokens an answer may have, by which Dr.GRPO divides
    successes: float = 0.0  # answers
    success_tokens: float = 0.0
    preserved: float = 0.0  # answers with an advantage >= 0 somewhere
    entropy: float = 0.0  # nats per token of the last update: mean of -logp, 0.0 before the first

    @staticmethod
    def of(
        *,
        mask: Tensor,
        advantage: Tensor,
        success: Tensor | None = None,
        max_tokens: int | None = None,
        entropy: float = 0.0,
    ) -> Totals:
        """The counts of one micro-batch, from columns as in `Tokens`; `max_tokens` is T unless told."""
        on = mask > 0
        some, lengths = on.any(1), on.sum(1)
        spread = advantage if advantage.ndim == 2 else advantage[:, None].expand(on.shape)
        right = torch.zeros_like(some) if success is None else success.bool() & some
        return Totals(
            tokens=float(lengths.sum()),
            sequences=float(some.sum()),
            max_tokens=mask.shape[1] if max_tokens is None else max_tokens,
            successes=float(right.sum()),
            success_tokens=float(lengths[right].sum()),
            preserved=float(((spread >= 0) & on).any(1).sum()),
            entropy=entropy,
        )

    def __add__(self, other: Totals) -> Totals:
        tokens = self.tokens + other.tokens
        entropies = self.entropy * self.tokens + other.entropy * other.tokens
        return Totals(
            tokens=tokens,
            sequences=self.sequences + other.sequences,
            max_tokens=max(self.max_tokens, other.max_tokens),
            successes=self.successes + other.successes,
            success_tokens=self.success_tokens + other.success_tokens,
            preserved=self.preserved + other.preserved,
            entropy=entropies / tokens if tokens else self.entropy,
        )


def lacking(tokens: Tokens, needs: Collection[str]) -> list[str]:
    """The columns of `needs` that are not there, sorted."""
    return sorted(name for name in needs if getattr(tokens, name) is None)


def _padded(rows: Rows, fill: float) -> Tensor:
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.float64)
