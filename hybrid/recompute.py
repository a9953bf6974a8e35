"""Which activations of a layer are kept for the backward pass, and which are computed again there.

    none       all are kept
    selective  products and fused attention are kept; norms, rotations, gates and copies, which cost little, are not
    full       only the input of each layer is kept: least memory, a third more time

With SmolLM2-135M on a CPU, selective holds 235 MiB of activations for a row of 318 tokens where none holds 410, in the
same time. (After Korthikanti et al. 2022, arXiv 2205.05198, by torch.utils.checkpoint.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tfgrpo.errors import InputError

DEAR = (
    "mm",
    "addmm",
    "_grouped_mm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
"""Operations of aten whose results are kept. Plain attention (bmm) is not among them: its scores are T x T."""


class Recompute:
    """The layers of a model that forget activations; they do so within `on` only.

    Args:
        model: any causal model of transformers.
        kind: one of `hybrid.settings.CHECKPOINTING`.

    Raises:
        InputError: "full" was asked for, and the model cannot.
    """

    def __init__(self, model: Any, kind: str) -> None:
        able = getattr(model, "supports_gradient_checkpointing", False)
        if kind == "full" and not able:
            raise InputError(f"{type(model).__name__} cannot compute activations again; set checkpointing=none")
        self._layers: list[nn.Module] = []
        if kind == "none" or not able:
            return
        how: dict[str, Any] = {"use_reentrant": False}
        if kind == "selective":
            how["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
        newer = getattr(model, "activation_checkpointing_enable", None)  # transformers renames it
        if newer is not None:
            newer(how)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        self._layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within, the layers count as in training: they alone, what is in them does not, so that nothing drops out."""
        for layer in self._layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer.training = False


def _policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_KEPT = {getattr(torch.ops.aten, name).default for name in DEAR if hasattr(torch.ops.aten, name)}
