"""Loads the model that is trained, and refuses one that could not be, before any time is spent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid.adapters import add_lora
from hybrid.head import Head, token_scores
from hybrid.packing import Pack, check_attention
from hybrid.settings import Settings
from tfgrpo.errors import InputError
from tfgrpo.policy.local_loading import LoadedModel, load_model

CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the names of architectures end that write text from left to right."""
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""Mean |difference| in nats allowed between our scores and the model's own, over a few tokens."""


def load_trainable(folder: Path, settings: Settings) -> LoadedModel:
    """The model, its data type chosen, checked for everything that training needs of it.

    Raises:
        InputError: no causal language model, no chat template, an attention or a head that is not understood.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written = config.get("architectures") or []
    if written and not any(name.endswith(CAUSAL) for name in written):
        raise InputError(f"{folder} holds {', '.join(written)}; only causal language models are trained")
    loaded = load_model(folder, device=settings.device, dtype=settings.dtype, threads=settings.threads)
    stored = config.get("dtype", config.get("torch_dtype"))
    if settings.dtype is None and loaded.model.dtype == torch.float32 and stored != "bfloat16":
        exact = load_model(folder, device=settings.device, dtype="float32", threads=settings.threads)
        loaded = replace(exact, words=loaded.words)  # the probe had rounded the weights
    if loaded.tokenizer.chat_template is None:
        raise InputError(
            f"the tokenizer of {folder} has no chat template, so nobody knows how the model is asked; set one "
            f"(tokenizer.chat_template = ..., tokenizer.save_pretrained({str(folder)!r}))"
        )
    check_attention(loaded.model)
    if settings.lora is not None:
        add_lora(loaded.model, rank=settings.lora, alpha=settings.lora_alpha)
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the sampler has none, and log-probs of both must agree
    _check_head(loaded)
    return loaded


@torch.no_grad()
def _check_head(loaded: LoadedModel) -> None:
    """Compares our log-probs of a few tokens with the model's own."""
    model: Any = loaded.model
    ids = torch.arange(3, 27, device=model.device) % model.config.vocab_size
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool, device=model.device).tril()[None, None]
    asked = {"input_ids": ids[None], "attention_mask": mask, "use_cache": False}
    own = torch.log_softmax(model(**asked).logits[0, :-1].float(), -1).gather(-1, ids[1:, None])[:, 0]
    ours, _ = token_scores(model.base_model(**asked).last_hidden_state[0, :-1], ids[1:], Head.of(model))
    difference = (own - ours).abs().mean().item()
    if not difference < AGREEMENT.get(model.dtype, 1e-3):
        raise InputError(
            f"the log-probs of {type(model).__name__} are not those of its output embedding alone (mean difference "
            f"{difference:.3g} nats), so this kind of model cannot be trained yet"
        )


class Scorer(torch.nn.Module):
    """Log-probs and entropies of packed rows under a model, at one temperature.

    A module around the model, so that one call passes through all that `hybrid.sharding` hooks into.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    @property
    def head(self) -> Head:
        """As it is now: a cut weight is another tensor at every pass."""
        return Head.of(self.model)

    def forward(
        self,
        row: Pack,
        heats: Sequence[float] = (),
        *,
        instead: Callable[[Tensor, Head], tuple[Tensor, ...]] | None = None,
    ) -> tuple[Tensor, ...]:
        """Log-probs and entropies [B, T], in nats, 0 outside the trained tokens; with gradient where it is enabled.

        For every one of `heats` follow the log-probs [B, T] at that many times the temperature, without gradient.
        With `instead` it is what that makes of the hidden states [N, D] and the head.
        """
        hidden = self.hidden(row)
        head = self.head
        if instead is not None:
            return instead(hidden, head)
        logp, entropy = token_scores(hidden, row.target, head, temperature=self.temperature)
        with torch.no_grad():
            others = [token_scores(hidden, row.target, head, temperature=self.temperature * heat)[0] for heat in heats]
        return tuple(row.spread(values) for values in (logp, entropy, *others))

    def hidden(self, row: Pack) -> Tensor:
        """Last hidden states [N, D] from which the trained tokens are predicted."""
        out = self.model.base_model(
            input_ids=row.ids[None],
            attention_mask=row.added_mask(self.model.dtype),
            position_ids=row.place[None],
            use_cache=False,
        )
        states: Tensor = out.last_hidden_state[0]
        return states[row.source]
