"""How the decoders behind `local/...` attend and where they keep keys and values; known to transformers by its name.

Imports torch and transformers at the top; whoever imports it is loaded on first use.

Shapes: B rows in one forward pass, S new tokens of each, T cached tokens, H key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

ATTENTION = "tfgrpo_slots"  # the name under which `slot_attention` is known to transformers


class Attend(Protocol):
    """An attention of a caller's own: [B, heads, S, D] and the new keys and values [B, H, S, D] to [B, S, heads, D]."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor: ...


class SlotCache(Cache):
    """Key/value buffers [B, H, T, D] per layer; row b writes at its own positions `at[b]`.

    `at` [B, S] is set before each forward pass. The buffers have room for `rows` at once, and grow in length by
    doubling, but not beyond `longest`.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.rows = 0
        self.longest = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.at = torch.zeros(0, 0, dtype=torch.long)
        self.width = 0  # tokens that the attention looks at

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [B, H, S, D] and gives back all that the rows may look at, [B, H, width, D]."""
        count = self.at.shape[0]
        rows = torch.arange(count, device=self.at.device)[:, None]
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            self._fit(store, layer_idx, new[0], count, self.width)
            store[layer_idx][rows, :, self.at] = new.transpose(1, 2)
        return self.keys[layer_idx][:count, :, : self.width], self.values[layer_idx][:count, :, : self.width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width

    def load(self, row: int, state: torch.Tensor) -> None:
        """Puts the state [layers, 2, H, n, D] of n tokens at the start of a row."""
        for layer, (keys, values) in enumerate(state.unbind(0)):
            for store, new in ((self.keys, keys), (self.values, values)):
                self._fit(store, layer, new, row + 1, new.shape[1])
                store[layer][row, :, : new.shape[1]] = new

    def state(self, row: int, tokens: int) -> torch.Tensor:
        """The state [layers, 2, H, tokens, D] of the first tokens of a row."""
        pairs = zip(self.keys, self.values, strict=True)
        return torch.stack([torch.stack((k[row, :, :tokens], v[row, :, :tokens])) for k, v in pairs])

    def move(self, source: int, target: int, tokens: int) -> None:
        for buffer in (*self.keys, *self.values):
            buffer[target, :, :tokens] = buffer[source, :, :tokens]

    def _fit(self, store: list[torch.Tensor], layer: int, like: torch.Tensor, rows: int, width: int) -> None:
        """Makes the buffer of a layer at least rows x width; `like` [H, n, D] tells the rest."""
        if len(store) <= layer:
            store.append(like.new_zeros(0, like.shape[0], 0, like.shape[2]))
        old = store[layer]
        have_rows, heads, have_width, size = old.shape
        if rows <= have_rows and width <= have_width:
            return
        if width > have_width:
            width = max(width, min(2 * max(width, have_width), self.longest))
        store[layer] = old.new_zeros(max(rows, have_rows, self.rows), heads, max(width, have_width), size)
        store[layer][:have_rows, :, :have_width] = old


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [B, heads, S, D] over [B, H, T, D] with a boolean mask [B, 1, S, T]; result [B, S, heads, D].

    Where S > 1 the mask may also be one that is added.

    One new token per row (S = 1) lets the query heads of one key head stand in the place of S: two plain products.
    Whoever keeps keys and values in another way passes `attend=...` through the model's forward call.
    """
    rows, heads, new, size = query.shape
    shared = key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    if attend is not None:
        layer: Any = module.layer_idx
        return attend(layer, query, key, value, scale), None
    if attention_mask is None:
        raise ValueError("slot_attention needs the mask that Engine builds")
    if new > 1:
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=heads != shared
        )
        return out.transpose(1, 2), None
    scores = torch.matmul(query.reshape(rows, shared, heads // shared, size), key.transpose(2, 3)).float() * scale
    scores = scores.masked_fill_(~attention_mask, -torch.inf)
    out = torch.matmul(torch.softmax(scores, -1).to(value.dtype), value)
    return out.reshape(rows, 1, heads, size), None


AttentionInterface.register(ATTENTION, slot_attention)


def forward(
    model: Any, cache: SlotCache, tokens: Sequence[Sequence[int]], at: Sequence[Sequence[int]], keep: list[int]
) -> torch.Tensor:
    """Logits [B, len(keep), V] at the columns `keep` of tokens [B, S] that stand at the positions `at` [B, S]."""
    device = model.device
    cache.at = torch.tensor(at, device=device)
    cache.width = max(map(max, at)) + 1
    mask = torch.arange(cache.width, device=device) <= cache.at[:, None, :, None]
    out = model(
        input_ids=torch.tensor(tokens, device=device),
        attention_mask=mask,
        position_ids=cache.at,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=torch.tensor(keep, device=device),
    )
    logits: torch.Tensor = out.logits
    return logits
