"""The teacher of a self-distilling run: the model that is trained, a moving average of it, or a mix with how it began.

A teacher reads taught answers once per batch, before the first update, without gradient. What is kept of them is one
hidden state per token (a thousandth of what the student's backward pass keeps), so memory does not grow with a second
model's activations, and nothing is read where nobody is taught.

Where weights are cut, they are whole on every rank while a teacher reads, as they are while answers are written, so
that each rank reads its own answers at its own pace. A second set of weights is cut like the first.

Legend: M tokens of taught answers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from hybrid.distill import Distill
from hybrid.divergence import Lesson, Measure, Scores, Voice, taught_scores
from hybrid.head import Head, token_scores
from hybrid.losses.divergences import confidence, sampled_token
from hybrid.model import Scorer
from hybrid.packing import Pack, Sample, pack
from hybrid.sharding import gathered
from hybrid.weights import Weights
from tfgrpo.errors import RunStateError


class Shadow:
    """A second set of the weights that are trained, in float32, put into the model whenever it is wanted there.

    No second model is built: only trained weights differ (with adapters, only these), and whatever is built around
    the model stays as it is.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.tensors = {name: master.detach().clone() for name, master in weights.masters.items()}

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Moves towards the trained weights: `s += rate (w - s)`."""
        for name, tensor in self.tensors.items():
            tensor.lerp_(self.weights.masters[name], rate)

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Within it the model has these weights; after it its own, bit for bit."""
        self._exchange(into=True)
        try:
            yield
        finally:
            self._exchange(into=False)

    @torch.no_grad()
    def _exchange(self, *, into: bool) -> None:
        for name, parameter in self.weights.parameters.items():
            master, own = self.weights.masters[name], self.tensors[name]
            if master is parameter:
                kept = parameter.detach().clone()
                parameter.copy_(own)
                own.copy_(kept)
            else:
                parameter.copy_(own if into else master)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The opposite of reading `tensors`."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """What a teacher said of some answers of a batch, before any update."""

    lesson: Lesson  # [M] all their tokens, one answer after the other
    trust: Tensor  # [M] how much each token counts
    spans: Mapping[int, slice]  # of an answer's number: its tokens among the M

    def of(self, row: Pack) -> tuple[Tensor, Tensor] | None:
        """Of a row's N trained tokens those that are taught [m], and which of the M these are [m]."""
        places = [place for place, number in enumerate(row.samples) if number in self.spans]
        if not places:
            return None
        device = row.ids.device
        at = torch.isin(row.row, torch.tensor(places, device=device)).nonzero()[:, 0]
        spans = [self.spans[row.samples[place]] for place in places]
        return at, torch.cat([torch.arange(s.start, s.stop, device=device) for s in spans])


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores:
    """A row's columns [B, T] for a loss with a teacher; 0 where a token is not taught."""

    logp: Tensor
    entropy: Tensor
    taught: Tensor  # [B] bool
    divergence: Tensor
    trust: Tensor
    seen: Mapping[str, Tensor]  # numbers [B, T] without gradient, for the metrics

    @property
    def columns(self) -> dict[str, Tensor]:
        """What `Tokens` gets besides the log-probs."""
        return {"taught": self.taught, "divergence": self.divergence, "trust": self.trust}


class Teacher:
    """Reads answers under the teacher's prompt and compares the student with it.

    Args:
        spec: which teacher, and by which divergence.
        scores: the model that is trained.
        weights: those of its weights that change.
        token_budget: tokens of one packed row.
        shared: the teacher's prompts of a group are stored once per row, as far as they are equal.
        again: the weights change between the first and the last look at one batch, so the head is kept as it was.

    Example:
        >>> teacher = Teacher(Distill(teacher="live"), scores, weights, token_budget=512)    # doctest: +SKIP
        >>> lessons = teacher.lessons(batch.teachers, chosen)                                # doctest: +SKIP
        >>> columns = teacher.scored(row, lessons)                                           # doctest: +SKIP
    """

    def __init__(
        self,
        spec: Distill,
        scores: Scorer,
        weights: Weights,
        *,
        token_budget: int,
        shared: bool = True,
        again: bool = False,
    ) -> None:
        self.spec, self.scores, self.weights = spec, scores, weights
        self.token_budget, self.shared, self.again = token_budget, shared, again
        self.cut = any(isinstance(master, DTensor) for master in weights.masters.values())
        self.live_share = {"live": 1.0, "ema": 0.0, "trust_region": spec.rate}[spec.teacher]
        self.measure = Measure(alpha=spec.alpha, k=spec.k, tail=spec.tail) if spec.k != 0 else None
        self.shadow = None if spec.teacher == "live" else Shadow(weights)

    # -- reading ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def lessons(
        self, samples: Sequence[Sample | None], chosen: Sequence[int], total: Callable[[Tensor], Tensor] | None = None
    ) -> Lessons:
        """What the teacher says of the chosen answers.

        Args:
            samples: [N] of the whole batch, with the teacher's prompts.
            chosen: the numbers of those that this process learns from.
            total: adds the same numbers of other processes to these, where there are others.
        """
        known = {n: sample for n in chosen if (sample := samples[n]) is not None}
        device = self.scores.head.weight.device
        packed = pack(list(known.values()), budget=self.token_budget, shared=self.shared)
        rows, numbers = [row.to(device) for row in packed], list(known)
        spans: dict[int, slice] = {}
        begin = 0
        for number in (numbers[place] for row in rows for place in row.samples):
            spans[number] = slice(begin, begin := begin + known[number].trained)
        targets = torch.cat([row.target for row in rows]) if rows else torch.zeros(0, dtype=torch.long, device=device)
        voices: list[Voice] = []
        if self.shadow is not None:
            with self.shadow.worn(), gathered(self.scores):
                voices.append(self._voice(rows, 1 - self.live_share, keep=True))
        with gathered(self.scores) if self.live_share else nullcontext():
            if self.live_share:
                voices.append(self._voice(rows, self.live_share, keep=self.again))
            lesson = Lesson.of(voices, targets, temperature=self.scores.temperature)
        return Lessons(lesson=lesson, trust=self._trust(lesson.entropy, total), spans=spans)

    def _voice(self, rows: Sequence[Pack], share: float, *, keep: bool) -> Voice:
        """The hidden states of all rows under the model as it is now; with `keep`, its head as it is now too."""
        head = self.scores.head
        hidden = [self.scores.hidden(row) for row in rows] or [head.weight.new_zeros(0, head.weight.shape[1])]
        return Voice(hidden=torch.cat(hidden), head=self._kept(head) if keep else head, share=share, own=not keep)

    def _kept(self, head: Head) -> Head:
        trained = {id(p) for p in self.weights.parameters.values()}

        def fixed(tensor: Tensor | None) -> Tensor | None:  # whole ones of cut weights are given back
            return tensor.detach().clone() if tensor is not None and (self.cut or id(tensor) in trained) else tensor

        weight = fixed(head.weight)
        assert weight is not None
        return replace(head, weight=weight, bias=fixed(head.bias))

    def _trust(self, entropy: Tensor, total: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Weights of mean 1 over all taught tokens of the whole batch. Their sum is the one number of a teacher that
        every process must know of the others."""
        trust = confidence(entropy, self.spec.beta)
        sums = torch.stack([trust.sum(), trust.new_tensor(float(len(trust)))])
        whole, count = (sums if total is None else total(sums)).tolist()
        return (trust * (count / whole if whole else 1.0)).to(entropy.dtype)

    # -- comparing ----------------------------------------------------------------------------------------------------

    def scored(self, row: Pack, lessons: Lessons) -> RowScores | None:
        """A row of the student with its divergence from the teacher; None where nobody in it is taught."""
        found = lessons.of(row)
        if found is None:
            return None
        at, among = found
        compared = partial(self._compared, row, lessons.lesson, at, among)
        logp, entropy, apart, kl = self.scores(row, instead=compared)
        taught = torch.zeros(len(row.samples), dtype=torch.bool, device=at.device)
        taught[row.row[at]] = True

        def spread(values: Tensor) -> Tensor:
            return row.spread(torch.zeros_like(logp).index_put((at,), values))

        return RowScores(
            logp=row.spread(logp),
            entropy=row.spread(entropy),
            taught=taught,
            divergence=spread(apart),
            trust=spread(lessons.trust[among]),
            seen={
                "kl": spread(kl),
                "teacher_entropy": spread(lessons.lesson.entropy[among]),
                "student_entropy": spread(entropy[at].detach()),
            },
        )

    def _compared(self, row: Pack, lesson: Lesson, at: Tensor, among: Tensor, hidden: Tensor, head: Head) -> Scores:
        """The student's hidden states of a row beside what the teacher says of its tokens `at`."""
        lesson = lesson.places(among, head)
        if self.measure is not None:
            return taught_scores(hidden, row.target, head, lesson=lesson, at=at, measure=self.measure)
        logp, entropy = token_scores(hidden, row.target, head, temperature=lesson.temperature)
        apart = sampled_token(logp[at], lesson.logp)
        return Scores(logp=logp, entropy=entropy, divergence=apart, kl=(logp[at] - lesson.logp).detach())

    # -- going on -----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """After an update: a moving average moves."""
        if self.shadow is not None and self.spec.teacher == "ema":
            self.shadow.follow(self.spec.rate)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: a moving average. How the model began is known from where it came from."""
        if self.shadow is None or self.spec.teacher != "ema":
            return {}
        return {f"teacher/{name}": tensor.contiguous() for name, tensor in self.shadow.tensors.items()}

    def empty_state(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Room for a state with these names and shapes.

        Raises:
            RunStateError: the state is of another run.
        """
        room = {name: torch.empty_like(tensor) for name, tensor in self.state().items()}
        odd = [name for name, tensor in room.items() if shapes.get(name) != tuple(tensor.shape)]
        if odd:
            raise RunStateError(
                f"the checkpoint has no teacher like this run's: {len(odd)} of its weights are missing or have other "
                f"shapes, such as {odd[0]!r}; start a new run"
            )
        return room

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The opposite of `state`."""
        if self.shadow is not None and self.spec.teacher == "ema":
            kept = {n.removeprefix("teacher/"): t for n, t in state.items() if n.startswith("teacher/")}
            self.shadow.restore(kept)
