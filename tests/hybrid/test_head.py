"""The chunked head against whole logits: values and gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tinymodel import tiny_model

from hybrid.head import Head, token_scores
from tfgrpo.errors import InputError

N, D, V = 11, 7, 13


def whole(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by log_softmax of all logits."""
    logp = torch.log_softmax(head.logits(hidden) / temperature, -1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def parts(
    dtype: torch.dtype = torch.float64, *, bias: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    draw = torch.Generator().manual_seed(3)
    made = [torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for shape in ((N, D), (V, D), (V,))]
    for tensor in made:
        tensor.requires_grad_()
    return made[0], made[1], made[2] if bias else None


TARGETS = torch.arange(N) * 5 % V


@pytest.mark.parametrize("rows", [1, 4, N, 100])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 2.0), (1.7, 1.5)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_whole_logits(
    rows: int, scale: float, softcap: float | None, temperature: float, bias: bool
) -> None:
    hidden, weight, offset = parts(bias=bias)
    head = Head(weight=weight, bias=offset, scale=scale, softcap=softcap)
    leaves = [hidden, weight, *([] if offset is None else [offset])]
    draw = torch.Generator().manual_seed(4)
    ups = [torch.randn(N, generator=draw, dtype=torch.float64) for _ in range(2)]
    results = []
    for scored in (
        token_scores(hidden, TARGETS, head, temperature=temperature, rows=rows),
        whole(hidden, TARGETS, head, temperature),
    ):
        total = sum((up * value).sum() for up, value in zip(ups, scored, strict=True))
        results.append((*scored, *torch.autograd.grad(total, leaves)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    hidden, weight, offset = parts(bias=True)

    def scored(*leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return token_scores(
            leaves[0], TARGETS, Head(weight=leaves[1], bias=leaves[2], softcap=3.0), temperature=0.8, rows=4
        )

    assert torch.autograd.gradcheck(scored, (hidden, weight, offset))


@pytest.mark.parametrize("used", [0, 1])
def test_one_result_alone_has_its_gradient(used: int) -> None:
    hidden, weight, _ = parts()
    head = Head(weight=weight)
    got = torch.autograd.grad(token_scores(hidden, TARGETS, head, rows=4)[used].sum(), [hidden, weight])
    expected = torch.autograd.grad(whole(hidden, TARGETS, head, 1.0)[used].sum(), [hidden, weight])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_sums_in_float32() -> None:
    hidden, weight, _ = parts(torch.bfloat16)
    logp, entropy = token_scores(hidden, TARGETS, Head(weight=weight), rows=3)
    assert logp.dtype == entropy.dtype == torch.float32
    expected = whole(hidden, TARGETS, Head(weight=weight), 1.0)
    torch.testing.assert_close(logp, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy, expected[1], rtol=0, atol=1e-5)
    (grad,) = torch.autograd.grad(logp.sum(), weight)
    (wanted,) = torch.autograd.grad(expected[0].sum(), weight)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_of_a_model_reaches_its_embedding(tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied).double()
    ids = torch.tensor([[1, 4, 9, 7, 3, 2]])
    hidden = model.base_model(input_ids=ids).last_hidden_state[0, :-1]
    logp, _ = token_scores(hidden, ids[0, 1:], Head.of(model), rows=2)
    expected = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(logp, expected)
    got, wanted = (torch.autograd.grad(total, list(model.parameters())) for total in (logp.sum(), expected.sum()))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_settings_of_other_families_are_read_from_the_config() -> None:
    output = torch.nn.Linear(4, 6)
    config = SimpleNamespace(final_logit_softcapping=30.0, logit_scale=0.25)
    head = Head.of(SimpleNamespace(get_output_embeddings=lambda: output, config=config))
    assert (head.scale, head.softcap, head.bias) == (0.25, 30.0, output.bias)
    divided = Head.of(SimpleNamespace(get_output_embeddings=lambda: output, config=SimpleNamespace(logits_scaling=8.0)))
    assert (divided.scale, divided.softcap) == (0.125, None)


def test_no_tokens_are_no_error() -> None:
    weight = torch.randn(V, D, requires_grad=True)
    logp, entropy = token_scores(torch.zeros(0, D), torch.zeros(0, dtype=torch.long), Head(weight=weight))
    assert logp.shape == entropy.shape == (0,)
    assert torch.autograd.grad(logp.sum(), weight)[0].abs().sum() == 0


def test_what_has_no_probabilities_is_refused() -> None:
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="temperature"):
            token_scores(
                torch.zeros(1, D),
                torch.zeros(1, dtype=torch.long),
                Head(weight=torch.zeros(V, D)),
                temperature=temperature,
            )
    with pytest.raises(InputError, match="output embedding"):
        Head.of(SimpleNamespace(get_output_embeddings=lambda: None))
