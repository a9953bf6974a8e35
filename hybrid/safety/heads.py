"""The regression head: one vector of question and answer in, one score from 0 to 1 per head out, and how it is trained.

Legend: N rows, H heads, D features of one text; an unknown label is NaN and takes no part in the loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Features = Callable[[Sequence[int]], Tensor]
"""Row numbers -> [N, 2D], question and answer side by side; with gradient where the encoder is trained too."""


class Heads(nn.Module):
    """Linear, GELU, dropout, linear, sigmoid, on features that are scaled to those seen in training."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, heads: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, heads))

    def forward(self, features: Tensor) -> Tensor:
        """[N, 2D] -> [N, H] in 0..1."""
        scores: Tensor = torch.sigmoid(self.body((features - self.mean) / self.spread))
        return scores

    @torch.no_grad()
    def fit_scale(self, features: Tensor) -> None:
        """Mean and deviation of the features it will be trained on."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0, correction=0).clamp_min(1e-6))


def masked_loss(predicted: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k m_k (p_k - y_k)^2 / sum_k w_k m_k over all rows and heads; m_k is 0 where the label is unknown.

    Example:
        >>> p, y = torch.tensor([[0.8, 0.5, 0.4, 0.9]]), torch.tensor([[1.0, 0.5, math.nan, 1.0]])
        >>> round(masked_loss(p, y, torch.ones(4)).item(), 4)
        0.0167
    """
    known = labels.isfinite()
    weight = known * weights
    errors = torch.where(known, predicted - labels.nan_to_num(), torch.zeros(())) ** 2
    return (errors * weight).sum() / weight.sum().clamp_min(1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How training the head went."""

    epochs: int
    best: int  # the epoch whose weights were kept
    train_loss: float
    validation_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a head is trained by."""

    epochs: int
    patience: int
    batch: int
    lr: float
    decay: float
    seed: int


def train(
    heads: Heads,
    features: Features,
    labels: Tensor,
    weights: Tensor,
    parts: tuple[Sequence[int], Sequence[int]],
    plan: Plan,
    *,
    with_: Sequence[tuple[nn.Module, float]] = (),
    on_epoch: Callable[[int, float], None] | None = None,
) -> Course:
    """Minimises `masked_loss` on the rows of the first part, and keeps the weights that are best on the second one.

    Stops after `patience` epochs without a better validation loss. The same seed gives the same weights on the same
    machine.

    Args:
        labels: [N, H].
        weights: [H].
        with_: modules that are trained as well, each with its learning rate: layers of the encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return _trained(heads, features, labels, weights, parts, plan, with_, on_epoch)


def _trained(
    heads: Heads,
    features: Features,
    labels: Tensor,
    weights: Tensor,
    parts: tuple[Sequence[int], Sequence[int]],
    plan: Plan,
    with_: Sequence[tuple[nn.Module, float]],
    on_epoch: Callable[[int, float], None] | None,
) -> Course:
    trained, validated = parts
    groups = [
        {"params": [p for p in m.parameters() if p.requires_grad], "lr": lr} for m, lr in [(heads, plan.lr), *with_]
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=plan.decay)
    modules = [heads, *(module for module, _ in with_)]
    kept, best, at, losses = _states(modules), math.inf, 0, 0.0
    epoch = 0
    for epoch in range(1, plan.epochs + 1):
        heads.train()
        losses = 0.0
        order = torch.tensor(trained)[torch.randperm(len(trained))]
        for rows in torch.split(order, plan.batch):
            loss = masked_loss(heads(features(rows.tolist())), labels[rows], weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses += loss.item() * len(rows)
        heads.eval()
        with torch.no_grad():
            now = masked_loss(heads(features(validated)), labels[list(validated)], weights).item()
        if on_epoch is not None:
            on_epoch(epoch, now)
        if now < best - 1e-6:
            kept, best, at = _states(modules), now, epoch
        elif epoch - at >= plan.patience:
            break
    for module, state in zip(modules, kept, strict=True):
        module.load_state_dict(state)
    heads.eval()
    return Course(epochs=epoch, best=at, train_loss=losses / max(1, len(trained)), validation_loss=best)


def _states(modules: Sequence[nn.Module]) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(module.state_dict()) for module in modules]
