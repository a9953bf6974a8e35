"""Divergences as formulas: numbers that were computed by hand, what they are equal to, and what bounds them."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor

from hybrid.losses import divergences
from hybrid.losses.divergences import (
    LEAST,
    confidence,
    divergence,
    forward_kl,
    jensen_shannon,
    pulls,
    renormalised,
    reverse_kl,
    sampled_token,
    tail,
    with_tail,
)
from tfgrpo.errors import InputError


def log(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def drawn(seed: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=draw, dtype=torch.float64)).log_softmax(-1)


def test_examples() -> None:
    assert doctest.testmod(divergences).failed == 0


def test_three_outcomes() -> None:
    s, t = log(0.7, 0.2, 0.1), log(0.4, 0.4, 0.2)
    assert forward_kl(s, t).item() == pytest.approx(0.19204199316179812, abs=1e-12)
    assert reverse_kl(s, t).item() == pytest.approx(0.1837868973868122, abs=1e-12)
    assert jensen_shannon(s, t, 0.5).item() == pytest.approx(0.046200829181513414, abs=1e-12)


def test_two_likely_tokens_of_four() -> None:
    s, t = log(0.5, 0.3, 0.15, 0.05), log(0.2, 0.5, 0.1, 0.2)
    student, teacher = with_tail(s[:2]), with_tail(t[:2])
    assert student.exp().tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert teacher.exp().tolist() == pytest.approx([0.2, 0.5, 0.3])
    assert divergence(student, teacher, 0.5).item() == pytest.approx(0.05087461253959835, abs=1e-12)
    assert divergence(student, teacher, 1.0).item() == pytest.approx(0.2238046571856474, abs=1e-12)
    alone = divergence(renormalised(s[:2]), renormalised(t[:2]), 0.5)
    assert alone.item() == pytest.approx(0.0592394848563981, abs=1e-12)
    assert divergence(s, t, 0.5).item() == pytest.approx(0.07245076797348192, abs=1e-12)
    assert divergence(s, t, 1.0).item() == pytest.approx(0.29640272696751047, abs=1e-12)


def test_sampled_tokens() -> None:
    logp = torch.tensor([-1.0, -0.5], dtype=torch.float64, requires_grad=True)
    weight = torch.exp(logp.detach() - torch.tensor([-1.9, -0.5])).clamp(max=2.0)
    terms = sampled_token(logp, torch.tensor([-0.4, -1.2])) * weight
    assert weight.tolist() == pytest.approx([2.0, 1.0]) and terms.tolist() == pytest.approx([1.2, -0.35])
    terms.mean().backward()
    assert logp.grad is not None
    assert terms.mean().item() == pytest.approx(0.425) and logp.grad.tolist() == pytest.approx([-0.6, 0.35])


def test_trust_in_a_teacher() -> None:
    trust = confidence(torch.tensor([[0.2, 1.5], [0.8, 0.1]], dtype=torch.float64), 1.0)
    weights = trust / trust.mean()
    assert weights.flatten().tolist() == pytest.approx([1.366814, 0.372500, 0.750123, 1.510563], abs=1e-6)
    assert torch.equal(confidence(torch.rand(3), 0.0), torch.ones(3, dtype=torch.float64))
    assert (confidence(torch.tensor([12.0]), 40.0) > 0).all()  # what is trusted least is still something


ALPHAS = [0.0, 0.2, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("seed", range(3))
def test_pulls_are_the_gradient(alpha: float, seed: int) -> None:
    logits = drawn(seed, 5, 7).requires_grad_()
    student, teacher = logits.log_softmax(-1), drawn(seed + 10, 5, 7)
    (wanted,) = torch.autograd.grad(divergence(student, teacher, alpha).sum(), logits)
    pull = pulls(student, teacher, alpha)
    torch.testing.assert_close(pull - student.exp() * pull.sum(-1, keepdim=True), wanted)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_distributions_are_exactly_equal(alpha: float) -> None:
    for dtype in (torch.float64, torch.float32):
        same = drawn(1, 6, 9).to(dtype)
        assert not divergence(same, same, alpha).any() and not pulls(same, same, alpha).any()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_fewer_outcomes_never_show_more(alpha: float, k: int) -> None:
    student, teacher = drawn(2, 40, 8), drawn(3, 40, 8)
    ids = student.topk(k).indices
    parts = [with_tail(p.gather(-1, ids)) for p in (student, teacher)]
    few, all_of_them = divergence(*parts, alpha), divergence(student, teacher, alpha)
    assert (few >= 0).all() and (few <= all_of_them + 1e-12).all()
    if 0 < alpha < 1:
        mixed = torch.log((1 - alpha) * student.exp() + alpha * teacher.exp())
        plain = (1 - alpha) * reverse_kl(student, mixed) + alpha * reverse_kl(teacher, mixed)
        torch.testing.assert_close(all_of_them, plain)


def test_the_kls_are_no_limits() -> None:
    s, t = log(0.7, 0.2, 0.1), log(0.4, 0.4, 0.2)
    for nearly, limit in ((1e-9, 0.0), (1 - 1e-9, 1.0)):
        assert divergence(s, t, nearly).item() < 1e-8 < divergence(s, t, limit).item()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_certain_students_and_far_teachers_stay_finite(alpha: float) -> None:
    logits = torch.tensor([[200.0, 0.0, -50.0]], requires_grad=True)
    teacher = torch.tensor([[-150.0, 0.0, -90.0]]).log_softmax(-1)
    student = logits.log_softmax(-1)
    likely = with_tail(student[:, :2])
    assert likely[0, 2].exp().item() == pytest.approx(LEAST) and tail(student[:, :2]).isfinite().all()
    for one, other in ((student, teacher), (likely, with_tail(teacher[:, :2]))):
        value = divergence(one, other, alpha)
        (grad,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert value.isfinite().all() and grad.isfinite().all() and pulls(one, other, alpha).isfinite().all()


def test_other_alphas_are_refused() -> None:
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            divergence(log(1.0), log(1.0), alpha)
