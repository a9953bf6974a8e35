"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: put into the model in place, trained instead of its weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hybrid.sharding import whole
from tfgrpo.errors import InputError, missing_extra


def add_lora(model: Any, *, rank: int, alpha: float | None = None, seed: int = 0) -> None:
    """Adapters of a rank beside every linear layer but the output; only they are trained from then on.

    They start at 0: the model's answers are what they were.

    Args:
        model: a transformers model, changed in place.
        rank: of the two factors.
        alpha: their product is scaled by alpha / rank; None: 2 x rank.
        seed: of their beginning.

    Raises:
        InputError: peft is not installed, or the model has no linear layers.
    """
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "train", "low-rank adapters")
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]):  # half of each adapter starts at random: the same in every process
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model)
    except ValueError as error:
        raise InputError(f"{type(model).__name__} takes no adapters: {error}") from error


def lora_layers(model: Any) -> dict[str, Any]:
    """The layers that have an adapter, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def save_adapter(model: Any, folder: Path, *, keep: bool = True) -> None:
    """The adapter alone, as `peft.PeftModel.from_pretrained(base, folder)` and `vllm --lora-modules` read it.

    Nothing is written for a model without one. Cut weights are put together by all ranks; one (`keep`) writes.
    """
    layers = lora_layers(model)
    if not layers:
        return
    kept: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        for part in ("lora_A", "lora_B"):
            kept[f"base_model.model.{name}.{part}.weight"] = whole(getattr(layer, part)["default"].weight).contiguous()
    if keep:
        folder.mkdir(exist_ok=True)
        save_file({name: tensor.detach() for name, tensor in kept.items()}, str(folder / "adapter_model.safetensors"))
        model.peft_config["default"].save_pretrained(str(folder))
