"""The chunked divergence against whole logits: values, gradients, and what it is equal to."""

from __future__ import annotations

import doctest
from itertools import product

import pytest
import torch
from torch import Tensor

import hybrid.divergence
from hybrid.divergence import Lesson, Measure, Scores, Voice, taught_scores
from hybrid.head import Head, token_scores
from hybrid.losses.divergences import divergence, renormalised, reverse_kl, with_tail
from tfgrpo.errors import InputError

N, D, V, DT = 11, 7, 13, 5
AT = torch.tensor([0, 2, 3, 4, 8, 10])
TARGETS = torch.arange(N) * 5 % V


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)


def student(bias: bool, scale: float, softcap: float | None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Head]:
    hidden, weight, offset = (drawn(n, *s, dtype=dtype).requires_grad_() for n, s in enumerate([(N, D), (V, D), (V,)]))
    return hidden, Head(weight=weight, bias=offset if bias else None, scale=scale, softcap=softcap)


def voices(count: int, dtype: torch.dtype = torch.float64) -> list[Voice]:
    """Teachers of another hidden size, whose shares add up to 1."""
    return [
        Voice(
            hidden=drawn(20 + n, len(AT), DT, dtype=dtype),
            head=Head(weight=drawn(30 + n, V, DT, dtype=dtype), bias=drawn(40 + n, V, dtype=dtype), softcap=4.0),
            share=1.0 if count == 1 else (0.3, 0.7)[n],
        )
        for n in range(count)
    ]


def plain(hidden: Tensor, head: Head, heard: list[Voice], measure: Measure, temperature: float) -> Scores:
    """The same by log_softmax of all logits."""
    logp = torch.log_softmax(head.logits(hidden) / temperature, -1)
    mixed = sum((v.share * v.head.logits(v.hidden) for v in heard), torch.zeros(()))
    teacher, own = torch.log_softmax(mixed / temperature, -1), logp[AT]
    if measure.k is not None and measure.k < V:
        ids = own.topk(measure.k).indices
        own, teacher = own.gather(-1, ids), teacher.gather(-1, ids)
        narrow = with_tail if measure.tail else renormalised
        own, teacher = narrow(own), narrow(teacher)
    return Scores(
        logp.gather(-1, TARGETS[:, None])[:, 0],
        -(logp.exp() * logp).sum(-1),
        divergence(own, teacher, measure.alpha),
        reverse_kl(own, teacher).detach(),
    )


def chunked(
    hidden: Tensor, head: Head, heard: list[Voice], measure: Measure, temperature: float, rows: int | None
) -> Scores:
    lesson = Lesson.of(heard, TARGETS[AT], temperature=temperature, rows=rows)
    return taught_scores(hidden, TARGETS, head, lesson=lesson, at=AT, measure=measure, rows=rows)


def leaves(hidden: Tensor, head: Head) -> list[Tensor]:
    return [hidden, head.weight, *([] if head.bias is None else [head.bias])]


def test_examples() -> None:
    assert doctest.testmod(hybrid.divergence).failed == 0


MEASURES = [
    Measure(alpha=alpha, k=k, tail=tail)
    for alpha, (k, tail) in product((0.0, 0.5, 1.0), ((1, True), (4, True), (4, False), (None, True)))
]


@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize(
    ("bias", "scale", "softcap", "temperature", "count"),
    [(False, 1.0, None, 1.0, 1), (True, 1.7, 1.5, 0.6, 2), (True, 0.3, None, 1.4, 1)],
)
def test_values_and_gradients_are_those_of_whole_logits(
    measure: Measure, rows: int, bias: bool, scale: float, softcap: float | None, temperature: float, count: int
) -> None:
    hidden, head = student(bias, scale, softcap)
    heard = voices(count)
    ups = [drawn(7, N), drawn(8, N), drawn(9, len(AT))]
    results = []
    for scores in (
        chunked(hidden, head, heard, measure, temperature, rows),
        plain(hidden, head, heard, measure, temperature),
    ):
        total = sum((up * value).sum() for up, value in zip(ups, scores[:3], strict=True))
        results.append((*scores, *torch.autograd.grad(total, leaves(hidden, head))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("measure", [Measure(k=3), Measure(alpha=0.0, k=3, tail=False), Measure(alpha=1.0, k=None)])
def test_gradcheck(measure: Measure) -> None:
    hidden, head = student(True, 1.0, 3.0)
    heard = voices(1)

    def scored(*given: Tensor) -> tuple[Tensor, ...]:
        return chunked(given[0], Head(weight=given[1], bias=given[2], softcap=3.0), heard, measure, 0.8, 4)[:3]

    assert torch.autograd.gradcheck(scored, tuple(leaves(hidden, head)))


@pytest.mark.parametrize("used", [0, 1, 2])
def test_one_result_alone_has_its_gradient(used: int) -> None:
    hidden, head = student(False, 1.0, None)
    made = [
        torch.autograd.grad(scores[used].sum(), leaves(hidden, head))
        for scores in (
            chunked(hidden, head, voices(1), Measure(k=4), 1.0, 4),
            plain(hidden, head, voices(1), Measure(k=4), 1.0),
        )
    ]
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other)


def test_what_the_teacher_says_is_that_of_its_whole_logits() -> None:
    for count in (1, 2):
        heard = voices(count)
        lesson = Lesson.of(heard, TARGETS[AT], temperature=0.7, rows=4)
        mixed = sum((v.share * v.head.logits(v.hidden) for v in heard), torch.zeros(()))
        logp = torch.log_softmax(mixed / 0.7, -1)
        torch.testing.assert_close(lesson.logp, logp.gather(-1, TARGETS[AT, None])[:, 0])
        torch.testing.assert_close(lesson.entropy, -(logp.exp() * logp).sum(-1))
        ids = torch.arange(3).expand(len(AT), 3) + torch.arange(len(AT))[:, None]
        torch.testing.assert_close(lesson.logps_at(slice(0, None), ids), logp.gather(-1, ids))
        some = lesson.places(torch.tensor([4, 1]))
        torch.testing.assert_close(some.logps_at(slice(0, 2), ids[:2]), logp[[4, 1]].gather(-1, ids[:2]))
        assert not lesson.logp.requires_grad


@pytest.mark.parametrize("k", [V, V + 5])
def test_as_many_tokens_as_there_are_words_is_the_whole_vocabulary(k: int) -> None:
    hidden, head = student(True, 1.0, None)
    results = []
    for measure in (Measure(k=k), Measure(k=k, tail=False), Measure(k=None)):
        scores = chunked(hidden, head, voices(1), measure, 0.9, 3)
        results.append((scores.divergence, *torch.autograd.grad(scores.divergence.sum(), leaves(hidden, head))))
    for one, two, three in zip(*results, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_a_student_is_its_own_teacher(measure: Measure, dtype: torch.dtype) -> None:
    hidden, head = student(True, 1.0, None, dtype)
    own = [Voice(hidden=hidden.detach()[AT], head=Head(weight=head.weight.detach(), bias=head.bias))]
    scores = chunked(hidden, head, own, measure, 0.8, None)
    grads = torch.autograd.grad(scores.divergence.sum(), leaves(hidden, head))
    small = 1e-12 if dtype == torch.float64 else 1e-6
    assert scores.divergence.abs().max() < small and max(g.abs().max().item() for g in grads) < 10 * small


def test_log_probs_and_entropies_are_those_without_a_teacher() -> None:
    hidden, head = student(True, 1.0, 2.0)
    scores = chunked(hidden, head, voices(1), Measure(k=4), 0.8, 3)
    logp, entropy = token_scores(hidden, TARGETS, head, temperature=0.8, rows=3)
    torch.testing.assert_close((scores.logp, scores.entropy), (logp, entropy), rtol=1e-12, atol=1e-12)


def test_bfloat16_sums_in_float32() -> None:
    hidden, head = student(False, 1.0, None, torch.bfloat16)
    heard = voices(1, torch.bfloat16)
    got, expected = chunked(hidden, head, heard, Measure(k=5), 1.0, 3), plain(hidden, head, heard, Measure(k=5), 1.0)
    assert got.divergence.dtype == torch.float32
    torch.testing.assert_close(got.divergence, expected.divergence, rtol=0.02, atol=0.02)
    (grad,) = torch.autograd.grad(got.divergence.sum(), head.weight)
    (wanted,) = torch.autograd.grad(expected.divergence.sum(), head.weight)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad, wanted, rtol=0.05, atol=0.05)


def test_nobody_taught_is_no_error() -> None:
    hidden, head = student(False, 1.0, None)
    nobody = torch.zeros(0, dtype=torch.long)
    lesson = Lesson.of([Voice(hidden=torch.zeros(0, DT), head=voices(1)[0].head)], nobody)
    scores = taught_scores(hidden, TARGETS, head, lesson=lesson, at=nobody, measure=Measure(k=2))
    assert scores.divergence.shape == (0,)
    assert torch.autograd.grad(scores.divergence.sum(), hidden)[0].abs().sum() == 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Measure(k=0)
    with pytest.raises(InputError, match="alpha"):
        Measure(alpha=2.0)
    hidden, head = student(False, 1.0, None)
    lesson = Lesson.of([Voice(hidden=torch.zeros(1, 2), head=Head(weight=torch.zeros(V + 1, 2)))], TARGETS[:1])
    with pytest.raises(InputError, match="one vocabulary, got sizes 13 and 14"):
        taught_scores(hidden, TARGETS, head, lesson=lesson, at=AT[:1], measure=Measure())
    with pytest.raises(InputError, match="temperature"):
        Lesson.of(voices(1), TARGETS[AT], temperature=0.0)
