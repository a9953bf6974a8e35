"""The divergence of a student's next-token distributions from a teacher's, without ever holding all logits of either.

Of the teacher are kept: hidden states, and one log-sum-exp per token. The student's logits exist for one chunk at a
time, and on its k most likely tokens the teacher is asked for k logits, not for V: a teacher costs one pass through
its head, whatever the number of chunks, passes and updates. Log-probs and entropies of the student come from the same
logits, so that a row with distilled tokens costs one pass through the head and one back, like any other.

Legend: N trained tokens of a row, M distilled ones among them, D hidden size, V vocabulary, R rows of one chunk, k of
the student's most likely tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybrid.head import Head, chunk_rows, cut, logits_gradient, pulled_back
from hybrid.losses.divergences import LEAST, divergence, pulls, renormalised, reverse_kl, tail, with_tail
from tfgrpo.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Voice:
    """One model's say in a teacher: its hidden states and its head. Logits are added up in the given shares."""

    hidden: Tensor  # [M, D]
    head: Head
    share: float = 1.0
    own: bool = False  # the head is the student's, as it will be when they are compared


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What a teacher says at M places, of which its logits can be made again; nothing of it has a gradient.

    Example:
        >>> voice = Voice(hidden=torch.ones(1, 2), head=Head(weight=torch.zeros(4, 2)))
        >>> lesson = Lesson.of([voice], torch.tensor([3]))
        >>> round(lesson.logp.item(), 4), round(lesson.entropy.item(), 4)
        (-1.3863, 1.3863)
    """

    voices: tuple[Voice, ...]
    temperature: float
    lse: Tensor  # [M] of the tempered logits
    entropy: Tensor  # [M] in nats, of the whole vocabulary
    logp: Tensor  # [M] of the token that the student wrote

    @staticmethod
    @torch.no_grad()
    def of(voices: Sequence[Voice], targets: Tensor, *, temperature: float = 1.0, rows: int | None = None) -> Lesson:
        """One pass through the heads. `targets` [M] are the tokens that the student wrote.

        Raises:
            InputError: a temperature that is not above 0.
        """
        first = voices[0].hidden
        size = chunk_rows(voices[0].head, temperature, rows)
        lse = first.new_empty(len(first), dtype=torch.promote_types(first.dtype, torch.float32))
        made = Lesson(
            voices=tuple(voices),
            temperature=temperature,
            lse=lse,
            entropy=torch.empty_like(lse),
            logp=torch.empty_like(lse),
        )
        for at in range(0, len(first), size):
            part = slice(at, at + size)
            z = made.logits(part)
            lse[part] = torch.logsumexp(z, -1)
            made.logp[part] = z.gather(-1, targets[part, None])[:, 0] - lse[part]
            made.entropy[part] = lse[part] - torch.linalg.vecdot(torch.exp(z - lse[part, None]), z)
        return made

    def logits(self, part: slice) -> Tensor:
        """Tempered logits [R, V] of some places."""
        heard = [v.head.logits(v.hidden[part]).mul_(v.share / self.temperature) for v in self.voices]
        return heard[0] if len(heard) == 1 else sum(heard[1:], heard[0])

    def logps_at(self, part: slice, ids: Tensor) -> Tensor:
        """Log-probs [R, k] of the tokens `ids` [R, k]."""
        heard = [v.head.logits_at(v.hidden[part], ids).mul_(v.share / self.temperature) for v in self.voices]
        return (heard[0] if len(heard) == 1 else sum(heard[1:], heard[0])).sub_(self.lse[part, None])

    def places(self, chosen: Tensor, head: Head | None = None) -> Lesson:
        """The same at some of the places, by number; with the student's `head` where a voice has that."""
        voices = tuple(
            replace(v, hidden=v.hidden[chosen], head=head if v.own and head is not None else v.head)
            for v in self.voices
        )
        return replace(self, voices=voices, lse=self.lse[chosen], entropy=self.entropy[chosen], logp=self.logp[chosen])


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Which divergence, and on what: the student's k most likely tokens, with all others as one more outcome or as if
    there were none, or the whole vocabulary (k None).

    Raises:
        InputError: a k below 1, or an alpha outside 0..1.
    """

    alpha: float = 0.5  # 0: KL(teacher || student), 1: KL(student || teacher), between: Jensen-Shannon
    k: int | None = 100
    tail: bool = True

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise InputError(f"the k most likely tokens are at least 1, or None for all of them; got k={self.k}")
        divergence(torch.zeros(1), torch.zeros(1), self.alpha)

    def support(self, vocabulary: int) -> int | None:
        """k, or None where that is the whole vocabulary."""
        return None if self.k is None or self.k >= vocabulary else self.k

    def outcomes(self, logp: Tensor) -> Tensor:
        """Log-probs [R, k] as outcomes that add up to 1."""
        return with_tail(logp) if self.tail else renormalised(logp)


class Scores(NamedTuple):
    """Of a row's tokens, in nats: log-probs and entropies of all [N], divergences of the distilled ones [M]."""

    logp: Tensor
    entropy: Tensor
    divergence: Tensor
    kl: Tensor  # [M] KL(student || teacher) of the same outcomes, without gradient


def taught_scores(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    lesson: Lesson,
    at: Tensor,
    measure: Measure,
    rows: int | None = None,
) -> Scores:
    """`token_scores`, and the divergence from a teacher at some of the tokens, from the same logits.

    Args:
        hidden: [N, D] hidden states at the places whose next token is scored.
        targets: [N] those next tokens.
        head: what makes logits of hidden states.
        lesson: what the teacher says at M of them.
        at: [M] which of the N they are, in rising order.
        measure: the divergence.
        rows: R of one chunk; None: as many as CHUNK_BYTES holds.

    Returns:
        in float32 (float64 for a float64 model), with gradient to `hidden` and the head but for `kl`.

    Example:
        >>> head = Head(weight=torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[:, None])
        >>> other = Head(weight=torch.tensor([0.2, 0.5, 0.1, 0.2]).log()[:, None])
        >>> lesson = Lesson.of([Voice(hidden=torch.ones(1, 1), head=other)], torch.tensor([0]))
        >>> given = {"lesson": lesson, "at": torch.tensor([0])}
        >>> for measure in Measure(k=2), Measure(k=2, tail=False), Measure(k=None):
        ...     scores = taught_scores(torch.ones(1, 1), torch.tensor([0]), head, measure=measure, **given)
        ...     print(round(scores.divergence.item(), 4), round(scores.kl.item(), 4))
        0.0509 0.2238
        0.0592 0.2476
        0.0725 0.2964

    Raises:
        InputError: student and teacher have vocabularies of different sizes.
    """
    words = {head.weight.shape[0], *(v.head.weight.shape[0] for v in lesson.voices)}
    if len(words) > 1:
        raise InputError(f"student and teacher need one vocabulary, got sizes {' and '.join(map(str, sorted(words)))}")
    size = chunk_rows(head, lesson.temperature, rows)
    options = head.scale, head.softcap, size, lesson, at, measure
    made = _TaughtScores.apply(hidden, head.weight, head.bias, targets, *options)  # type: ignore[no-untyped-call]
    return Scores(*made)


class _TaughtScores(torch.autograd.Function):
    """Chunks of the student's logits, made once in the forward pass and once more in the backward pass.

    With outcomes b of probability P_b, made of the probabilities p_v of tokens, and `pull_b = P_b dD/dP_b` up to what
    changes nothing, `dD/dz_v = p_v (pull_b / P_b - sum_b pull_b)`. So what is kept of a token is one number for all
    tokens of the tail (`drag`) and one more for each of the k others (`lift`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        rows: int,
        lesson: Lesson,
        at: Tensor,
        measure: Measure,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logp = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        lse, entropy = torch.empty_like(logp), torch.empty_like(logp)
        head = Head(weight=weight, bias=bias, scale=scale, softcap=softcap)
        k = measure.support(len(weight))
        found = _Found.empty(logp, len(at), k)
        numbers = at.tolist()
        for begin in range(0, len(hidden), rows):
            part = slice(begin, begin + rows)
            z = head.logits(hidden[part]).div_(lesson.temperature)
            lse[part] = torch.logsumexp(z, -1)
            logp[part] = z.gather(-1, targets[part, None])[:, 0] - lse[part]
            entropy[part] = lse[part] - torch.linalg.vecdot(torch.exp(z - lse[part, None]), z)
            taught = _taught(numbers, part)
            if taught.stop > taught.start:
                own = at[taught]
                found.measure(z if len(own) == len(z) else z[own - begin], lse[own], lesson, taught, measure)
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy, at)
        ctx.found, ctx.lesson, ctx.numbers, ctx.measure = found, lesson, numbers, measure
        ctx.options = scale, softcap, rows
        ctx.set_materialize_grads(False)
        value, kl = found.value.clone(), found.kl.clone()  # an output that its own node holds would never be freed
        ctx.mark_non_differentiable(kl)
        return logp, entropy, value, kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, entropy, at = ctx.saved_tensors
        scale, softcap, rows = ctx.options
        head = Head(weight=weight, bias=bias, scale=scale, softcap=softcap)
        d_logp, d_entropy, d_value, _ = grads

        def d_logits(z: Tensor, part: slice) -> Tensor:
            taught = _taught(ctx.numbers, part)
            drag, add = None, None
            if d_value is not None and taught.stop > taught.start:
                local = at[taught] - part.start
                up = d_value[taught].to(z.dtype)
                drag = torch.zeros_like(lse[part]).index_put((local,), up * ctx.found.drag[taught])
                lift = up[:, None] * ctx.found.lifts(z, lse[part], local, ctx.lesson, taught, ctx.measure)
                add = local, lift
            dz = logits_gradient(
                z, targets[part], lse[part], entropy[part], cut(d_logp, part), cut(d_entropy, part), drag
            )
            return dz if add is None else ctx.found.lifted(dz, *add, taught)

        needs = ctx.needs_input_grad[:3]
        pulled = pulled_back(hidden, head, d_logits, needs, temperature=ctx.lesson.temperature, rows=rows)
        return (*pulled, *(None,) * 7)


def _taught(numbers: Sequence[int], part: slice) -> slice:
    """Which of the M distilled tokens stand in a slice of the N."""
    return slice(bisect_left(numbers, part.start), bisect_left(numbers, part.stop))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """Values at the distilled tokens, and what their gradient is made of."""

    value: Tensor  # [M]
    kl: Tensor  # [M]
    drag: Tensor  # [M] the gradient of a logit, over its probability, for all tokens of the tail
    ids: Tensor | None = None  # [M, k] the student's most likely tokens, in 4 bytes each
    lift: Tensor | None = None  # [M, k] what comes on top for these

    @staticmethod
    def empty(like: Tensor, count: int, k: int | None) -> _Found:
        value, kl, drag = (like.new_zeros(count) for _ in range(3))
        if k is None:
            return _Found(value=value, kl=kl, drag=drag)
        ids = torch.empty(count, k, dtype=torch.int32, device=like.device)
        return _Found(value=value, kl=kl, drag=drag, ids=ids, lift=like.new_zeros(count, k))

    def measure(self, z: Tensor, lse: Tensor, lesson: Lesson, taught: slice, measure: Measure) -> None:
        """Fills in the tokens of `taught` from the student's tempered logits [R, V] there."""
        if self.ids is None or self.lift is None:
            student, teacher = z.sub_(lse[:, None]), lesson.logits(taught).sub_(lesson.lse[taught, None])
            self.value[taught] = divergence(student, teacher, measure.alpha)
            self.kl[taught] = reverse_kl(student, teacher)
            return
        ids = z.topk(self.ids.shape[1], sorted=False).indices
        likely = z.gather(-1, ids).sub_(lse[:, None])
        student, teacher = (measure.outcomes(logp) for logp in (likely, lesson.logps_at(taught, ids)))
        pull = pulls(student, teacher, measure.alpha)
        self.value[taught] = divergence(student, teacher, measure.alpha)
        self.kl[taught] = reverse_kl(student, teacher)
        self.ids[taught] = ids.int()
        if measure.tail:
            left = 1 - likely.exp().sum(-1)
            kept = left > LEAST  # else it is a constant
            slope = torch.where(kept, pull[:, -1] / torch.exp(tail(likely)), 0.0)
            total = torch.where(kept, pull.sum(-1), pull[:, :-1].sum(-1))
            self.drag[taught] = slope - total
            self.lift[taught] = pull[:, :-1] - student[:, :-1].exp() * slope[:, None]
        else:
            self.lift[taught] = pull - student.exp() * pull.sum(-1, keepdim=True)

    def lifts(self, z: Tensor, lse: Tensor, local: Tensor, lesson: Lesson, taught: slice, measure: Measure) -> Tensor:
        """What comes on top of `drag`: [R, k], or [R, V] of the whole vocabulary from tempered logits."""
        if self.lift is not None:
            return self.lift[taught]
        student = z[local] - lse[local, None]
        pull = pulls(student, lesson.logits(taught).sub_(lesson.lse[taught, None]), measure.alpha)
        return pull - student.exp_() * pull.sum(-1, keepdim=True)

    def lifted(self, dz: Tensor, local: Tensor, lift: Tensor, taught: slice) -> Tensor:
        """The gradient [R, V] with `lift` added at its tokens."""
        if self.ids is None:
            return dz.index_add_(0, local, lift)
        places = local[:, None], self.ids[taught].long()
        return dz.index_put_(places, dz[places] + lift)
