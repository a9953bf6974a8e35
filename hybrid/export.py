"""The trained weights as any transformers user knows them: whole, under the model's own names, adapters merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid.adapters import lora_layers, save_adapter
from hybrid.sharding import whole
from tfgrpo.policy.local_loading import LoadedModel, quiet


@torch.no_grad()
def plain_weights(model: Any, dtype: torch.dtype, *, keep: bool = True) -> dict[str, Tensor]:
    """The state of a model without what training put into it: cut weights whole, low-rank updates added.

    Args:
        model: a transformers model; where it is cut every rank must ask.
        dtype: of the result. An update is added in float32 and then rounded.
        keep: False on ranks that only take part; the result is empty.
    """
    first: dict[int, str] = {}
    tied = {n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}
    found: dict[str, Tensor] = {}
    for name, tensor in _merged(model):
        if not keep:
            continue
        same = tied.get(name, name)
        plain = tensor.to(dtype) if tensor.is_floating_point() else tensor
        found[name] = found.get(same, plain)  # one tensor under two names is written once
    return found


def _merged(model: Any) -> Iterator[tuple[str, Tensor]]:
    layers = lora_layers(model)
    for name, tensor in model.state_dict().items():
        owner, _, last = name.rpartition(".")
        if ".lora_" in name:
            continue
        layer = layers.get(owner.removesuffix(".base_layer"))
        plain = whole(tensor)
        if layer is not None and last == "weight":
            up, down = whole(layer.lora_B["default"].weight), whole(layer.lora_A["default"].weight)
            delta = layer.scaling["default"] * (up.float() @ down.float())
            plain = plain.float() + (delta.T if layer.fan_in_fan_out else delta)
        yield name.replace(".base_layer.", "."), plain


def save_model(loaded: LoadedModel, folder: Path, dtype: torch.dtype, *, keep: bool = True) -> None:
    """Weights, config, tokenizer, and the adapter alone if there is one. Every rank takes part, one (`keep`) writes."""
    weights = plain_weights(loaded.model, dtype, keep=keep)
    if keep:
        with quiet():
            loaded.model.save_pretrained(folder, state_dict=weights)
            loaded.tokenizer.save_pretrained(folder)
        config = folder / "config.json"
        said = {**json.loads(config.read_text(encoding="utf-8")), "dtype": str(dtype).removeprefix("torch.")}
        config.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    save_adapter(loaded.model, folder / "adapter", keep=keep)
