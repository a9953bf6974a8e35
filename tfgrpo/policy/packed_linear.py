"""Linear layers of a CPU model computed from copies of their weights in the order in which oneDNN's kernels read them.

Decoding multiplies few rows by every weight of the model. torch's plain product reads a weight at 5 to 8 GB/s then, the
kernel for copies in blocks at 10 to 14 GB/s (one core, 8 rows; the output embedding with 64 rows: 59 -> 35 ms). Making
the copies costs as much as a dozen steps and as much memory as the weights, so they are made where several answers
have many steps to go, and dropped when nothing is written.

Imports torch at the top; only `tfgrpo.policy.local_engine` imports it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WORTH_ROWS = 4  # with fewer, the plain product is as fast
WORTH_STEPS = 16  # with fewer to go, making the copies would cost more than they save
MOST_BYTES = 2 * 2**30  # of copies; larger models are computed as they are


class PackedLinears:
    """The copies of one model, which its layers use inside of `used` only. Whoever changes weights calls `drop`.

    Example:
        >>> layer = nn.Linear(64, 32)
        >>> packed = PackedLinears(layer)
        >>> with torch.inference_mode(), packed.used(rows=8, steps=100):
        ...     out = layer(torch.ones(8, 64))
        >>> bool(torch.allclose(out, layer(torch.ones(8, 64)), atol=1e-5))
        True
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [m for m in model.modules() if type(m) is nn.Linear and _packable(m.weight)]
        small = sum(m.weight.nbytes for m in layers) <= MOST_BYTES
        self._layers = layers if small else []
        self._copies: list[Tensor] = []

    def drop(self) -> None:
        """Forgets the copies: they are of weights as they were, and take memory."""
        self._copies = []

    @contextmanager
    def used(self, *, rows: int, steps: int) -> Iterator[None]:
        """The layers compute from copies, which are made where `rows` and `steps` to go are worth it."""
        if not self._copies and rows >= WORTH_ROWS and steps >= WORTH_STEPS:
            self._copies = [_pack(layer.weight) for layer in self._layers]
        try:
            for layer, copy in zip(self._layers, self._copies, strict=False):
                layer.forward = _Forward(copy, layer.bias)  # type: ignore[method-assign, assignment]
            yield
        finally:
            for layer in self._layers:
                vars(layer).pop("forward", None)


class _Forward:
    """What `nn.Linear.forward` computes, from a copy of the weight."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, rows: Tensor) -> Tensor:
        out: Tensor = _kernels()._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return out


def _packable(weight: Any) -> bool:
    """Whether this build of torch has the kernels for this weight; those of others than x86 CPUs were never tried."""
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch._C._has_mkldnn or not hasattr(_kernels(), "_linear_pointwise"):
        return False
    narrow = weight.dtype == torch.bfloat16 and _kernels()._is_mkldnn_bf16_supported()
    return bool(narrow) or weight.dtype == torch.float32


def _pack(weight: Tensor) -> Tensor:
    made: Tensor = _kernels()._reorder_linear_weight(weight.detach(), None)
    return made


def _kernels() -> Any:
    return torch.ops.mkldnn
