"""What one update learns from, what it divides by, and what its passes count.

Legend: N answers of the optimiser batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.batch import Totals
from hybrid.packing import Sample
from tfgrpo.advantage import Table
from tfgrpo.types import Group

NO_MEANS = frozenset({"loss", "policy", "taught/loss", "parity_mean", "parity_max", "parity_k3", "grad_norm", "lr"})
"""Metrics that are no means over tokens of the batch; the others are told as means over those that they are of."""
OF_ALL = frozenset({"surprise", "entropy"})  # means over all scored tokens; else of taught ones, or of the policy's


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one update learns from: answers as tokens, and a number for each."""

    samples: tuple[Sample, ...]
    advantage: NDArray[np.float64]  # [N]
    weight: NDArray[np.float64]  # [N]
    success: NDArray[np.bool_]  # [N]
    in_loss: NDArray[np.bool_]  # [N]
    group: NDArray[np.int64]  # [N] which of the batch's problems it answers
    teachers: tuple[Sample | None, ...] = ()  # [N] the same tokens under a prompt that says more; (): nobody is taught
    counts: Mapping[str, float] = field(default_factory=dict)  # what was counted on the way, for the metrics

    @property
    def taught(self) -> NDArray[np.bool_]:
        """[N] which answers learn from a teacher instead of from their advantage."""
        return np.array([t is not None for t in self.teachers] or [False] * len(self.samples), dtype=np.bool_)

    @staticmethod
    def of(groups: Sequence[Group], table: Table) -> Batch:
        """Groups, and their table after the advantage.

        Raises:
            InputError: an answer came without its tokens.
        """
        samples = tuple(Sample.of(r.completion) for group in groups for r in group.rollouts)
        return Batch(
            samples=samples,
            advantage=table.advantage,
            weight=table.weight,
            success=table.success,
            in_loss=table.in_loss & np.isfinite(table.advantage),
            group=np.repeat(np.arange(len(groups)), [len(group.rollouts) for group in groups]),
        )


@dataclass(slots=True)
class Seen:
    """What the rows of one pass add up to."""

    metrics: dict[str, float] = field(default_factory=dict)
    tokens: int = 0  # compared with the sampler
    gap: float = 0.0  # sum of |trainer - sampler|
    most: float = 0.0
    k3: float = 0.0

    def add(self, metrics: dict[str, float], gaps: Tensor | None) -> None:
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value
        if gaps is not None:
            apart = gaps.float().abs()
            self.tokens += len(gaps)
            self.gap += apart.sum().item()
            self.most = max(self.most, apart.max().item())
            self.k3 += (torch.expm1(gaps.float()) - gaps.float()).sum().item()

    @staticmethod
    def all_of(parts: Sequence[Seen]) -> Seen:
        """What several ranks saw."""
        total = Seen(most=max(part.most for part in parts))
        for part in parts:
            total.add(part.metrics, None)
            total.tokens, total.gap, total.k3 = total.tokens + part.tokens, total.gap + part.gap, total.k3 + part.k3
        return total


def means(metrics: dict[str, float], batch: Batch, chosen: Sequence[int], totals: Totals) -> dict[str, float]:
    """Shares of the whole batch's tokens as means over the tokens that a metric is of."""
    whole, taught = (sum(batch.samples[n].trained for n in c) for c in (chosen, np.flatnonzero(batch.taught)))

    def tokens_of(name: str) -> int:
        return whole if name in OF_ALL else taught if name.startswith("taught/") else whole - taught

    return {n: v if n in NO_MEANS else v * totals.tokens / max(1, tokens_of(n)) for n, v in metrics.items()}


def totals_of(batch: Batch, max_tokens: int, entropy: float) -> Totals:
    """Counts of all answers in the loss, those without a forward pass too: skipping changes no denominator. Taught
    ones count as tokens and as answers, but neither as right nor as preserved: these are the policy's own."""
    chosen = np.flatnonzero(batch.in_loss)
    lengths = torch.tensor([batch.samples[n].trained for n in chosen])
    width = int(lengths.max()) if len(chosen) else 1
    return Totals.of(
        mask=(torch.arange(width) < lengths[:, None]).float(),
        advantage=torch.as_tensor(np.where(batch.taught, -1.0, batch.advantage)[chosen]),
        success=torch.as_tensor((batch.success & ~batch.taught)[chosen]),
        max_tokens=max_tokens,
        entropy=entropy,
    )
