"""Copies of weights for decoding: the same products, gone afterwards, and made where they are worth it."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn

from tfgrpo.policy.packed_linear import WORTH_ROWS, WORTH_STEPS, PackedLinears

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="copies are made on x86 only")


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 32, bias=False)).to(dtype)


def packed_layers(layers: nn.Module) -> int:
    return sum("forward" in vars(m) for m in layers.modules())


@pytest.mark.parametrize("rows", [1, 3, 8, 62, 64])
@torch.inference_mode()
def test_the_same_products(rows: int) -> None:
    layers, asked = model(), torch.randn(rows, 2, 48)
    plain = layers(asked)
    with PackedLinears(layers).used(rows=WORTH_ROWS, steps=WORTH_STEPS):
        assert packed_layers(layers) == 2
        assert layers(asked).shape == plain.shape
        torch.testing.assert_close(layers(asked), plain, rtol=1e-5, atol=1e-6)
    assert packed_layers(layers) == 0
    assert torch.equal(layers(asked), plain)


@torch.inference_mode()
def test_bfloat16_is_as_exact_as_the_plain_product() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no kernels for bfloat16")
    layers, asked = model(torch.bfloat16), torch.randn(8, 48, dtype=torch.bfloat16)
    plain = layers(asked).float()
    exact = model(torch.bfloat16).float()(asked.float())
    with PackedLinears(layers).used(rows=8, steps=99):
        assert packed_layers(layers) == 2
        near = (layers(asked).float() - exact).abs().max()
    assert near <= 1.5 * (plain - exact).abs().max()


def test_few_rows_few_steps_and_large_models_are_not_worth_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = model()
    for rows, steps in ((WORTH_ROWS - 1, 99), (99, WORTH_STEPS - 1)):
        with PackedLinears(layers).used(rows=rows, steps=steps):
            assert packed_layers(layers) == 0
    monkeypatch.setattr("tfgrpo.policy.packed_linear.MOST_BYTES", 100)
    with PackedLinears(layers).used(rows=99, steps=99):
        assert packed_layers(layers) == 0


def test_copies_that_exist_are_used_to_the_last_step() -> None:
    layers = model()
    packed = PackedLinears(layers)
    for rows, steps in ((99, 99), (1, 1)):
        with packed.used(rows=rows, steps=steps):
            assert packed_layers(layers) == 2
    packed.drop()
    with packed.used(rows=1, steps=1):
        assert packed_layers(layers) == 0


def test_dropped_copies_are_made_of_the_weights_as_they_are_now() -> None:
    layers, asked = model(), torch.randn(4, 48)
    packed = PackedLinears(layers)
    with torch.inference_mode(), packed.used(rows=4, steps=99):
        before = layers(asked)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1, fused=True)  # which counts no versions of tensors
    layers(asked).sum().backward()
    optimizer.step()
    packed.drop()
    with torch.inference_mode(), packed.used(rows=4, steps=99):
        now = layers(asked)
    torch.testing.assert_close(now, layers(asked), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(now, before, atol=1e-3)


def test_an_error_leaves_the_model_as_it_was() -> None:
    layers = model()
    with pytest.raises(RuntimeError), PackedLinears(layers).used(rows=99, steps=99):
        layers(torch.randn(4, 47))
    assert packed_layers(layers) == 0


def test_subclasses_compute_for_themselves() -> None:
    class Own(nn.Linear):
        pass

    layers = nn.Sequential(Own(8, 8))
    with PackedLinears(layers).used(rows=99, steps=99):
        assert packed_layers(layers) == 0
