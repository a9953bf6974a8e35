"""One update from scored answers: pack, score, loss, backward, compare with the sampler, step.

Every rank is given the whole batch, which is small as tokens, and takes its share of the packed rows: denominators are
known to all without a message, and only gradients, metrics and the sums of the parity gate are exchanged.

Legend: N answers of the optimiser batch, B of them in one packed row, T tokens of the longest one of a row.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.answers import Batch, Seen, means, totals_of
from hybrid.batch import Tokens, Totals
from hybrid.distill import Distill
from hybrid.influence import influences
from hybrid.losses.compose import Composed, Loss, check_loss
from hybrid.losses.distilled import Distilled
from hybrid.model import Scorer
from hybrid.packing import Pack, Sample, pack, padded, row_budget
from hybrid.parallel import Ranks, dealt
from hybrid.recompute import Recompute
from hybrid.settings import DriftError, RoomError, Settings
from hybrid.sharding import cut_again, gathered, shard
from hybrid.teacher import Lessons, Teacher
from hybrid.weights import Weights
from tfgrpo.errors import InputError
from tfgrpo.policy.local_engine import out_of_memory
from tfgrpo.policy.local_loading import LoadedModel

OFFERED = frozenset({"old", "sampler", "reference", "entropy", "tempered", "influence", "segment", "success", "weight"})
"""Columns of `Tokens` that the trainer fills."""
ASKED_FOR = frozenset({"reference", "tempered", "influence"})
"""Those that cost a pass of their own: only for a composed loss that says it reads them."""
TOKEN_BUDGET = {"cpu": 384}
GPU_TOKEN_BUDGET = 16_384
ANY = Sample(prompt=(0,), tokens=(0,), train=(True,), logps=(0.0,), segment=(0,))
DRIFT = {torch.float32: 0.005, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True)
class _Share:
    """This rank's part of the packed rows of one update."""

    rows: Sequence[Pack]
    lessons: Lessons | None  # what a teacher says of the answers in them
    spare: Pack  # any row
    idle: int  # passes that only keep step with ranks that have more rows: cut weights are put together by all
    count: int  # rows of all ranks
    packed: int  # tokens of all of them


@dataclass(slots=True)
class _Kept:
    """What the first pass over a row leaves for later ones: the policy that wrote the answers."""

    logp: Tensor | None = None
    tempered: Tensor | None = None
    influence: Tensor | None = None


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
        ranks: Ranks | None = None,
        distill: Distill | None = None,
    ) -> None:
        check_loss(loss, offered=OFFERED, updates=settings.updates)
        self.model, self.loss, self.settings = loaded.model, loss, settings
        self.ranks = ranks or Ranks()
        self.cut = settings.parallel == "fsdp" and self.ranks.size > 1
        self.needs = loss.needs if isinstance(loss, Composed) else OFFERED - ASKED_FOR
        credits = loss.credits if isinstance(loss, Composed) else ()
        self.heat = next((credit.heat for credit in credits if credit.heat), None)
        if self.heat is not None and distill is not None:
            raise InputError(
                "a loss that reads log-probs at another temperature (dcpo) and a teacher exclude each other"
            )
        self.token_budget = settings.token_budget or TOKEN_BUDGET.get(loaded.device, GPU_TOKEN_BUDGET)
        self.drift = settings.drift if settings.drift is not None else DRIFT.get(self.model.dtype, 0.1)
        self.device = self.model.device
        self.recompute = Recompute(self.model, settings.checkpointing)
        self.reference = _frozen(loaded, temperature) if "reference" in self.needs else None
        self.scores = Scorer(loaded.model, temperature)
        if self.cut:
            for scorer in (self.scores, self.reference):
                if scorer is not None:
                    shard(scorer, self.ranks, pack([ANY], budget=2)[0].to(self.device))
        self.weights = Weights(
            loaded.model, lr=settings.lr, betas=settings.betas, decay=settings.decay, ranks=self.ranks
        )
        self.teacher = None if distill is None else self._teacher(distill)
        self.combined = Distilled(policy=loss, cap=1.0 if distill is None else distill.is_cap)
        self.updates = 0
        self.entropy = 0.0  # nats per token of the last update, mean of -logp

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

    def empty_state(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Room for a state with these names and shapes, to be filled and given to `restore`.

        Raises:
            RunStateError: they are those of another model or teacher.
        """
        return {**self.weights.empty_state(shapes), **(self.teacher.empty_state(shapes) if self.teacher else {})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The opposite of `state`, for the same model and teacher."""
        self.weights.restore(state)
        if self.teacher is not None:
            self.teacher.restore(state)

    @property
    def skips(self) -> bool:
        """Whether answers with advantage 0 cost no forward pass: the loss has no term that they would change."""
        return isinstance(self.loss, Composed) and not (self.loss.regularisers or self.loss.credits)

    def whole(self) -> AbstractContextManager[None]:
        """Within, the model can be asked for answers: its weights are whole on this rank."""
        return gathered(self.scores)

    def update(self, batch: Batch, *, max_tokens: int) -> dict[str, float]:
        """Learn from one batch: `settings.updates` optimiser steps. Without anything to learn, none.

        The denominators are those of the whole batch, whatever is skipped and however it is cut into rows and ranks.

        Raises:
            DriftError: sampler and trainer disagree; nothing was changed.
            InputError: the loss is not finite; nothing was changed.
            RunStateError: the gradient is not finite; nothing was changed.
            RoomError: there is too little memory; nothing was changed.
        """
        begun = time.perf_counter()
        used = batch.in_loss & ((batch.advantage != 0) | batch.taught) if self.skips else batch.in_loss
        chosen = np.flatnonzero(used).tolist()
        totals = totals_of(batch, max_tokens, self.entropy)
        skipped = float(len(batch.samples) - len(chosen))
        counts = {**batch.counts, "answers": float(len(chosen)), "skipped": skipped}
        if not chosen:
            return {**counts, "updates": 0.0, "update_s": time.perf_counter() - begun}
        with self._room():
            share = self._share(batch, chosen)
            with self.recompute.on():
                metrics = self._steps(share, batch, totals)
        counts |= {"rows": float(share.count), "packed_tokens": float(share.packed)}
        metrics = means(metrics, batch, chosen, totals)
        self.entropy = metrics.get("surprise", self.entropy)
        return {**counts, **metrics, "updates": float(self.updates), "update_s": time.perf_counter() - begun}

    def _share(self, batch: Batch, chosen: Sequence[int]) -> _Share:
        """The rows of the batch that this rank takes; with more ranks than rows they are made shorter."""
        samples = batch.samples
        most = self.settings.token_budget or row_budget(samples, chosen, self.token_budget)
        rows, ranks = self._packed(samples, chosen, most), self.ranks
        if len(rows) < ranks.size:
            longest = max(len(samples[n].prompt) + len(samples[n].tokens) for n in chosen)
            budget = max(longest, -(-sum(row.tokens for row in rows) // ranks.size))
            rows = self._packed(samples, chosen, min(budget, most))
        shares = dealt([row.tokens for row in rows], ranks.size)
        mine = [rows[n].to(self.device) for n in shares[ranks.rank]]
        idle = max(map(len, shares)) - len(mine) if self.cut else 0
        lessons = None
        if self.teacher is not None and batch.taught.any():
            read = [n for row in mine for n in row.samples]
            lessons = self.teacher.lessons(batch.teachers, read, ranks.sum)
        return _Share(mine, lessons, rows[-1].to(self.device), idle, len(rows), sum(row.tokens for row in rows))

    def _packed(self, samples: Sequence[Sample], chosen: Sequence[int], budget: int) -> list[Pack]:
        return pack(samples, budget=budget, shared=self.settings.shared_prompts, chosen=chosen)

    def _steps(self, share: _Share, batch: Batch, totals: Totals) -> dict[str, float]:
        kept = [_Kept(influence=found) for found in self._influence(share, batch)]
        first: dict[str, float] = {}
        try:
            for number in range(self.settings.updates):
                seen = Seen()
                self.weights.ready()
                for row, old in zip(share.rows, kept, strict=True):
                    self._backward(row, batch, totals, old, seen, share.lessons)
                for _ in range(share.idle):
                    self._keep_step(share.spare)
                seen = Seen.all_of(self.ranks.gather(seen))
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
            cut_again(self.scores)
        return {**seen.metrics, **first, "grad_norm": norm, "lr": rate}

    def _backward(
        self, row: Pack, batch: Batch, totals: Totals, kept: _Kept, seen: Seen, lessons: Lessons | None
    ) -> None:
        """One row of one pass. The first pass is on-policy, so its own log-probs are the old ones of the others."""
        heats = () if self.heat is None or kept.logp is not None else (self.heat(totals.entropy),)
        compared = self.teacher.scored(row, lessons) if self.teacher and lessons else None
        scored = self.scores(row, heats) if compared is None else (compared.logp, compared.entropy)
        logp, entropy, *tempered = scored
        if kept.logp is None:
            kept.logp, kept.tempered = logp.detach(), tempered[0] if tempered else None
        tokens = self._tokens(row, batch, logp, entropy, kept)
        share, metrics = self.combined(tokens if compared is None else replace(tokens, **compared.columns), totals)
        share.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            count = max(totals.tokens, 1.0)
            metrics = {**metrics, "surprise": -logp.sum().item() / count, "loss": share.item()}
            metrics["entropy"] = entropy.sum().item() / count
            if compared is not None:
                metrics |= {f"taught/{name}": values.sum().item() / count for name, values in compared.seen.items()}
            gaps = None if tokens.sampler is None else (logp - tokens.sampler)[tokens.mask > 0]
        seen.add(metrics, gaps)

    def _keep_step(self, row: Pack) -> None:
        """The passes of `_backward` without anything to learn: of every model that is cut, and in its order."""
        logp, *_ = self.scores(row)
        if self.reference is not None:
            with torch.no_grad():
                self.reference(row)
        (logp.sum() * 0.0).backward()

    def _tokens(self, row: Pack, batch: Batch, logp: Tensor, entropy: Tensor, kept: _Kept) -> Tokens:
        numbers = list(row.samples)

        def of_answers(values: NDArray[np.float64] | NDArray[np.bool_]) -> Tensor:
            return torch.as_tensor(values[numbers], device=logp.device)

        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = self.reference(row)
        assert kept.logp is not None
        return Tokens(
            logp=logp,
            old=kept.logp,
            mask=row.spread(torch.ones(len(row.target), device=logp.device)),
            advantage=of_answers(batch.advantage).to(logp.dtype),
            sampler=padded(row, batch.samples, "logps"),
            reference=reference,
            entropy=entropy if "entropy" in self.needs else None,
            tempered=kept.tempered,
            influence=kept.influence,
            segment=padded(row, batch.samples, "segment").long() if "segment" in self.needs else None,
            success=of_answers(batch.success),
            weight=None if (batch.weight == 1).all() else of_answers(batch.weight).to(logp.dtype),
        )

    def _influence(self, share: _Share, batch: Batch) -> list[Tensor | None]:
        """The column `influence` of each row, where the loss reads it."""
        if "influence" not in self.needs:
            return [None] * len(share.rows)
        with self.whole():
            found = influences(
                self.scores,
                batch.samples,
                batch.group,
                batch.success,
                chosen={n for row in share.rows for n in row.samples},
                budget=self.token_budget,
            )
        parts = [torch.cat([found[n] for n in row.samples]).to(self.device) for row in share.rows]
        return [row.spread(part) for row, part in zip(share.rows, parts, strict=True)]

    def _agreement(self, seen: Seen) -> dict[str, float]:
        """The parity gate: how far the log-probs of sampler and trainer are apart, before anything has changed.

        Raises:
            DriftError: further than `drift` on average.
        """
        mean, k3 = seen.gap / max(seen.tokens, 1), seen.k3 / max(seen.tokens, 1)
        if not mean <= self.drift:
            raise DriftError(
                f"after {self.updates} updates the sampler and the trainer disagree about the log-probs of the same "
                f"{seen.tokens} tokens by {mean:.4g} nats on average (at most {seen.most:.4g}; allowed are "
                f"{self.drift:g} on average): the answers came from other weights than those that are trained. "
                f"Nothing was changed by this step. If the sampler's arithmetic is coarser than that, raise the "
                f"setting drift"
            )
        return {"parity_mean": mean, "parity_max": seen.most, "parity_k3": k3}

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Too little memory becomes an error that says what to lower."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise RoomError(
                f"too little memory for an update with rows of {self.token_budget} tokens ({error}). Nothing was "
                f"changed, the last checkpoint is whole. Lower the setting token_budget, set checkpointing=full, train "
                f"adapters (lora=16), or cut the weights over several processes (parallel=fsdp)"
            ) from error


def _frozen(loaded: LoadedModel, temperature: float) -> Scorer:
    """The model as it is now, for the log-probs of a reference."""
    model = copy.deepcopy(loaded.model).requires_grad_(False).eval()
    return Scorer(model, temperature)
