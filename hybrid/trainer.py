"""One update from scored answers: pack, score, loss, backward, compare with the sampler, step.

Legend: N answers of the optimiser batch, B of them in one packed row, T tokens of the longest one of a row.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.batch import Tokens, Totals
from hybrid.distill import Distill
from hybrid.losses.compose import Composed, Loss, check_loss
from hybrid.losses.distilled import Distilled
from hybrid.model import Scorer
from hybrid.packing import Pack, Sample, pack, padded
from hybrid.settings import DriftError, Settings
from hybrid.teacher import Lessons, Teacher
from hybrid.weights import Weights
from tfgrpo.advantage import Table
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.types import Group

OFFERED = frozenset({"old", "sampler", "reference", "entropy", "segment", "success", "weight"})
"""Columns of `Tokens` that the trainer fills."""
TOKEN_BUDGET = {"cpu": 512}
GPU_TOKEN_BUDGET = 16_384
NO_MEANS = frozenset({"loss", "policy", "taught/loss", "parity_mean", "parity_max", "parity_k3", "grad_norm", "lr"})
"""Metrics that are no means over tokens of the batch; the others are told as means over those that they are of."""
OF_ALL = frozenset({"surprise", "entropy"})  # means over all scored tokens; else of taught ones, or of the policy's
DRIFT = {torch.float32: 0.005, torch.bfloat16: 0.1}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one update learns from: answers as tokens, and a number for each."""

    samples: tuple[Sample, ...]
    advantage: NDArray[np.float64]  # [N]
    weight: NDArray[np.float64]  # [N]
    success: NDArray[np.bool_]  # [N]
    in_loss: NDArray[np.bool_]  # [N]
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
        )


@dataclass(slots=True)
class _Seen:
    """What the rows of one update add up to."""

    metrics: dict[str, float] = field(default_factory=dict)
    gaps: list[Tensor] = field(default_factory=list)  # trainer minus sampler, of every trained token

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value


class Trainer:
    """The gradient arm's learner. It owns the optimiser; the model is shared with the sampler.

    Example:
        >>> trainer = Trainer(loaded, resolve_loss("dapo"), Settings(), temperature=1.0)     # doctest: +SKIP
        >>> metrics = trainer.update(Batch.of(groups, table), max_tokens=16)                 # doctest: +SKIP

    Raises:
        InputError: the loss needs something that this training does not provide.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        loss: Loss,
        settings: Settings,
        *,
        temperature: float,
        distill: Distill | None = None,
    ) -> None:
        check_loss(loss, offered=OFFERED, updates=settings.updates)
        self.model, self.loss, self.settings = loaded.model, loss, settings
        self.needs = loss.needs if isinstance(loss, Composed) else OFFERED - {"reference"}
        self.reference = _frozen(loaded, temperature) if "reference" in self.needs else None
        self.scores = Scorer.of(loaded.model, temperature)
        self.weights = Weights(loaded.model, lr=settings.lr, betas=settings.betas, decay=settings.decay)
        self.token_budget = settings.token_budget or TOKEN_BUDGET.get(loaded.device, GPU_TOKEN_BUDGET)
        self.drift = settings.drift if settings.drift is not None else DRIFT.get(self.model.dtype, 0.1)
        self.device = self.model.device
        self.teacher = None if distill is None else self._teacher(distill)
        self.combined = Distilled(policy=loss, cap=1.0 if distill is None else distill.is_cap)
        self.updates = 0
        self.entropy = 0.0  # nats per token of the last update, mean of -logp
        if settings.checkpointing:
            newer = getattr(self.model, "activation_checkpointing_enable", None)  # transformers renames it
            (newer or self.model.gradient_checkpointing_enable)()

    def _teacher(self, distill: Distill) -> Teacher:
        return Teacher(
            distill,
            self.scores,
            self.weights,
            token_budget=self.token_budget,
            shared=self.settings.shared_prompts,
            again=self.settings.updates > 1,
        )

    def state(self) -> dict[str, Tensor]:
        """All tensors that training goes on with, by name."""
        return {**self.weights.state(), **(self.teacher.state() if self.teacher else {})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The opposite of `state`, for the same model and teacher.

        Raises:
            RunStateError: it is of another model or teacher.
        """
        self.weights.restore(state)
        if self.teacher is not None:
            self.teacher.restore(state)

    @property
    def skips(self) -> bool:
        """Whether answers with advantage 0 cost no forward pass: the loss has no term that they would change."""
        return isinstance(self.loss, Composed) and not (self.loss.regularisers or self.loss.credits)

    def update(self, batch: Batch, *, max_tokens: int) -> dict[str, float]:
        """Learn from one batch: `settings.updates` optimiser steps. Without anything to learn, none.

        The denominators are those of the whole batch, whatever is skipped and however it is cut into rows.

        Raises:
            DriftError: sampler and trainer disagree; nothing was changed.
            InputError: the loss is not finite; nothing was changed.
            RunStateError: the gradient is not finite; nothing was changed.
        """
        begun = time.perf_counter()
        used = batch.in_loss & ((batch.advantage != 0) | batch.taught) if self.skips else batch.in_loss
        chosen = np.flatnonzero(used).tolist()
        totals = _totals(batch, max_tokens, self.entropy)
        skipped = float(len(batch.samples) - len(chosen))
        counts = {**batch.counts, "answers": float(len(chosen)), "skipped": skipped}
        if not chosen:
            return {**counts, "updates": 0.0, "update_s": time.perf_counter() - begun}
        rows = pack(batch.samples, budget=self.token_budget, shared=self.settings.shared_prompts, chosen=chosen)
        rows = [row.to(self.device) for row in rows]
        lessons = self.teacher.lessons(batch.teachers, chosen) if self.teacher and batch.taught.any() else None
        metrics = self._steps(rows, batch, totals, lessons)
        counts |= {"rows": float(len(rows)), "packed_tokens": float(sum(row.tokens for row in rows))}
        metrics = _means(metrics, batch, chosen, totals)
        self.entropy = metrics.get("surprise", self.entropy)
        return {**counts, **metrics, "updates": float(self.updates), "update_s": time.perf_counter() - begun}

    def _steps(self, rows: Sequence[Pack], batch: Batch, totals: Totals, lessons: Lessons | None) -> dict[str, float]:
        old: list[Tensor] = []
        first: dict[str, float] = {}
        self.model.train(self.settings.checkpointing)
        try:
            for number in range(self.settings.updates):
                seen = _Seen()
                for place, row in enumerate(rows):
                    self._backward(row, batch, totals, old, place, seen, lessons)
                if not number:
                    first = self._agreement(seen)
                rate = self.settings.rate(self.updates)
                norm = self.weights.step(clip=self.settings.clip, lr=rate)
                self.updates += 1
                if self.teacher is not None:
                    self.teacher.follow()
        except BaseException:
            self.weights.clear()
            raise
        finally:
            self.model.eval()
        return {**seen.metrics, **first, "grad_norm": norm, "lr": rate}

    def _backward(
        self,
        row: Pack,
        batch: Batch,
        totals: Totals,
        old: list[Tensor],
        place: int,
        seen: _Seen,
        lessons: Lessons | None,
    ) -> None:
        """One row of one pass. The first pass is on-policy, so its own log-probs are the old ones of the others."""
        compared = self.teacher.scored(row, lessons) if self.teacher and lessons else None
        logp, entropy = self.scores(row) if compared is None else (compared.logp, compared.entropy)
        if len(old) == place:
            old.append(logp.detach())
        tokens = self._tokens(row, batch, logp, entropy, old[place])
        share, metrics = self.combined(tokens if compared is None else replace(tokens, **compared.columns), totals)
        share.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            count = max(totals.tokens, 1.0)
            metrics = {**metrics, "surprise": -logp.sum().item() / count, "loss": share.item()}
            metrics["entropy"] = entropy.sum().item() / count
            if compared is not None:
                metrics |= {f"taught/{name}": values.sum().item() / count for name, values in compared.seen.items()}
            if tokens.sampler is not None:
                seen.gaps.append((logp - tokens.sampler)[tokens.mask > 0])
        seen.add(metrics)

    def _tokens(self, row: Pack, batch: Batch, logp: Tensor, entropy: Tensor, old: Tensor) -> Tokens:
        numbers = list(row.samples)

        def of_answers(values: NDArray[np.float64] | NDArray[np.bool_]) -> Tensor:
            return torch.as_tensor(values[numbers], device=logp.device)

        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = self.reference(row)
        return Tokens(
            logp=logp,
            old=old,
            mask=row.spread(torch.ones(len(row.target), device=logp.device)),
            advantage=of_answers(batch.advantage).to(logp.dtype),
            sampler=padded(row, batch.samples, "logps"),
            reference=reference,
            entropy=entropy if "entropy" in self.needs else None,
            segment=padded(row, batch.samples, "segment").long() if "segment" in self.needs else None,
            success=of_answers(batch.success),
            weight=None if (batch.weight == 1).all() else of_answers(batch.weight).to(logp.dtype),
        )

    def _agreement(self, seen: _Seen) -> dict[str, float]:
        """The parity gate: how far the log-probs of sampler and trainer are apart, before anything has changed.

        Raises:
            DriftError: further than `drift` on average.
        """
        gaps = torch.cat(seen.gaps).float()
        mean, most = gaps.abs().mean().item(), gaps.abs().max().item()
        k3 = (torch.expm1(gaps) - gaps).mean().item()
        if not mean <= self.drift:
            raise DriftError(
                f"after {self.updates} updates the sampler and the trainer disagree about the log-probs of the same "
                f"{len(gaps)} tokens by {mean:.4g} nats on average (at most {most:.4g}; allowed are {self.drift:g} on "
                f"average): the answers came from other weights than those that are trained. Nothing was changed by "
                f"this step. If the sampler's arithmetic is coarser than that, raise the setting drift"
            )
        return {"parity_mean": mean, "parity_max": most, "parity_k3": k3}


def _means(metrics: dict[str, float], batch: Batch, chosen: Sequence[int], totals: Totals) -> dict[str, float]:
    """Shares of the whole batch's tokens as means over the tokens that a metric is of."""
    whole, taught = (sum(batch.samples[n].trained for n in c) for c in (chosen, np.flatnonzero(batch.taught)))

    def tokens_of(name: str) -> int:
        return whole if name in OF_ALL else taught if name.startswith("taught/") else whole - taught

    return {n: v if n in NO_MEANS else v * totals.tokens / max(1, tokens_of(n)) for n, v in metrics.items()}


def _totals(batch: Batch, max_tokens: int, entropy: float) -> Totals:
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


def _frozen(loaded: LoadedModel, temperature: float) -> Scorer:
    """The model as it is now, for the log-probs of a reference."""
    model = copy.deepcopy(loaded.model).requires_grad_(False).eval()
    return Scorer.of(model, temperature)
