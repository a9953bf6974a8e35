"""Small batches of tokens for tests of losses: the one that golden numbers are told of, and random ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybrid.batch import Tokens, Totals
from hybrid.losses import Loss


def log(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def golden(**columns: Any) -> Tokens:
    """Two answers of 3 and 2 tokens, advantages 1 and -1; what stands outside the mask is NaN."""
    nan = float("nan")
    fields = {
        "logp": log([0.7, 0.4, 0.1], [0.3, 0.5, nan]),
        "old": log([0.5, 0.4, 0.2], [0.5, 0.5, nan]),
        "reference": log([0.5, 0.5, 0.2], [0.5, 0.4, nan]),
        "mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "advantage": torch.tensor([1.0, -1.0], dtype=torch.float64),
        **columns,
    }
    return Tokens(**fields)


def drawn(seed: int, *, rows: int = 6, width: int = 7, drift: float = 0.4) -> Tokens:
    """Random answers of 0 to `width` tokens with every column, in float64; garbage outside the mask."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    lengths = torch.randint(0, width + 1, (rows,), generator=make)
    lengths[0], lengths[1] = width, 0
    mask = (torch.arange(width) < lengths[:, None]).double()
    old = -normal(rows, width).abs() - 0.05
    logp = (old + drift * normal(rows, width)).clamp(max=-0.01)
    segment = torch.randint(0, 2, (rows, width), generator=make).cumsum(1)
    columns = {
        "logp": logp,
        "old": old,
        "sampler": old + 0.5 * drift * normal(rows, width),
        "reference": old + drift * normal(rows, width),
        "entropy": normal(rows, width).abs(),
        "tempered": old + 0.1 * normal(rows, width),
        "influence": normal(rows, width),
    }
    return Tokens(
        **{name: torch.where(mask > 0, c, float("nan")) for name, c in columns.items()},
        mask=mask,
        advantage=torch.where(lengths > 0, normal(rows), float("nan")),
        segment=segment,
        success=torch.randint(0, 2, (rows,), generator=make).bool(),
        weight=normal(rows).abs(),
    )


def count(tokens: Tokens, **options: Any) -> Totals:
    return Totals.of(mask=tokens.mask, advantage=tokens.advantage, success=tokens.success, **options)


def gradient(loss: Loss, tokens: Tokens, totals: Totals | None = None) -> tuple[float, Tensor, dict[str, float]]:
    """Value, gradient with respect to `logp`, and metrics."""
    from dataclasses import replace

    logp = tokens.logp.detach().clone().requires_grad_()
    value, metrics = loss(replace(tokens, logp=logp), totals or count(tokens))
    (found,) = torch.autograd.grad(value, logp)
    return value.item(), found, metrics
