"""What is computed a second time, and that nothing else changes by it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hybrid.recompute import DEAR, Recompute
from hybrid.settings import CHECKPOINTING
from tfgrpo.errors import InputError

LAYERS = 3
IDS = torch.arange(3, 67)[None]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=80, num_hidden_layers=LAYERS, **sizes)).eval()


def gpt2() -> GPT2LMHeadModel:
    """A model of which a tenth would drop out in training."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=80, n_embd=64, n_layer=LAYERS, n_head=4, n_positions=64)).eval()


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def learned(model: Any, kind: str) -> tuple[Counter[str], list[Tensor]]:
    """Operations of the backward pass, and the gradients."""
    recompute = Recompute(model, kind)
    model.zero_grad()
    with recompute.on():
        loss = model(input_ids=IDS, use_cache=False).logits.logsumexp(-1).mean()
        with Counted() as counted:
            loss.backward()
    assert not any(module.training for module in model.modules())
    return counted.seen, [p.grad.clone() for p in model.parameters()]


def test_selective_recomputes_what_is_cheap_and_full_all() -> None:
    ops = {kind: learned(llama(), kind)[0] for kind in CHECKPOINTING}
    assert [ops[kind]["silu"] for kind in ("none", "selective", "full")] == [0, LAYERS, LAYERS]
    for dear in ("mm", *(name for name in DEAR if "attention" in name)):
        assert ops["selective"][dear] == ops["none"][dear], dear
    assert ops["full"]["mm"] >= ops["none"]["mm"] + 6 * LAYERS  # all products of a layer but perhaps the last


@pytest.mark.parametrize("model", [llama, gpt2])
def test_gradients_are_the_same_bit_for_bit_and_nothing_drops_out(model: Any) -> None:
    grads = {kind: learned(model(), kind)[1] for kind in CHECKPOINTING}
    for kind in ("selective", "full"):
        assert all(torch.equal(a, b) for a, b in zip(grads[kind], grads["none"], strict=True)), kind


def test_outside_nothing_is_recomputed() -> None:
    model = llama()
    Recompute(model, "full")
    loss = model(input_ids=IDS, use_cache=False).logits.sum()
    with Counted() as counted:
        loss.backward()
    assert counted.seen["silu"] == 0


def test_a_model_that_cannot() -> None:
    class Rigid(LlamaForCausalLM):
        supports_gradient_checkpointing = False

    torch.manual_seed(0)
    model = Rigid(llama().config).eval()
    with pytest.raises(InputError, match="cannot compute activations again; set checkpointing=none"):
        Recompute(model, "full")
    assert learned(model, "selective")[0]["silu"] == 0
