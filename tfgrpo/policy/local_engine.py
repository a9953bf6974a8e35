"""The decoder behind `local/...`: many prompts at once through one transformers model, on a CPU or a GPU.

Imports torch and transformers at the top; only `tfgrpo.policy.local` imports it, on first use.

How it differs from `model.generate`, and why (SmolLM2-135M, one core with AVX512-bf16, 64 rows of 80 tokens):

- *Slots instead of padding.* Every running answer owns a slot of one key/value buffer and writes at its own
  position. Answers join and leave at any step; a finished one costs nothing more.
- *Shared prefixes once.* Equal prompts (the answers of one group) are read once, and so is every beginning that
  several prompts share (system text, experiences, worked examples); it is kept for later batches.
- *Decode attention as two matrix products.* torch's fused CPU kernel takes 148 ms per step in bfloat16, this 10 ms.

Shapes: B rows in one forward pass, S new tokens of each, T cached tokens, H key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

_Kept = TypeVar("_Kept")
ATTENTION = "tfgrpo_slots"  # the name under which `slot_attention` is known to transformers
BLOCK = 16  # tokens; shared prefixes are kept in multiples of it
KEPT_BYTES = 256 * 2**20  # of shared prefixes, and as much of prompts that were read lately


@dataclass(kw_only=True, slots=True)
class Row:
    """One answer that is being written."""

    prompt: tuple[int, ...]
    temperature: float
    top_p: float
    max_tokens: int
    rng: random.Random
    logprobs: bool = False
    heat: float = 1.0  # the temperature that the log-probabilities are told at
    finished: Callable[[Row], bool] = lambda row: False  # asked after every token: a stop string, a caller who left
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)  # of the model at `heat`, before top_p
    done: bool = False


class SlotCache(Cache):
    """Key/value buffers [B, H, T, D] per layer; row b writes at its own positions `at[b]`.

    `at` [B, S] is set before each forward pass; the buffers grow by doubling.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.at = torch.zeros(0, 0, dtype=torch.long)
        self.width = 0  # tokens that the attention looks at

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [B, H, S, D] and gives back all that the rows may look at, [B, H, width, D]."""
        rows = torch.arange(self.at.shape[0], device=self.at.device)[:, None]
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            if len(store) <= layer_idx:
                store.append(new.new_zeros(new.shape[0], new.shape[1], self.width, new.shape[3]))
            store[layer_idx] = _fitting(store[layer_idx], rows.shape[0], self.width)
            store[layer_idx][rows, :, self.at] = new.transpose(1, 2)
        count = rows.shape[0]
        return self.keys[layer_idx][:count, :, : self.width], self.values[layer_idx][:count, :, : self.width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width

    def load(self, row: int, state: torch.Tensor) -> None:
        """Puts the state [layers, 2, H, n, D] of n tokens at the start of a row."""
        for layer, (keys, values) in enumerate(state.unbind(0)):
            for store, new in ((self.keys, keys), (self.values, values)):
                if len(store) <= layer:
                    store.append(new.new_zeros(row + 1, new.shape[0], new.shape[1], new.shape[2]))
                store[layer] = _fitting(store[layer], row + 1, new.shape[1])
                store[layer][row, :, : new.shape[1]] = new

    def state(self, row: int, tokens: int) -> torch.Tensor:
        """The state [layers, 2, H, tokens, D] of the first tokens of a row."""
        pairs = zip(self.keys, self.values, strict=True)
        return torch.stack([torch.stack((k[row, :, :tokens], v[row, :, :tokens])) for k, v in pairs])

    def move(self, source: int, target: int, tokens: int) -> None:
        for buffer in (*self.keys, *self.values):
            buffer[target, :, :tokens] = buffer[source, :, :tokens]


def _fitting(buffer: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    """The buffer, grown where it is too small for rows x width."""
    have_rows, heads, have_width, size = buffer.shape
    if rows <= have_rows and width <= have_width:
        return buffer
    rows, width = max(rows, have_rows), have_width if width <= have_width else max(width, 2 * have_width)
    bigger = buffer.new_zeros(rows, heads, width, size)
    bigger[:have_rows, :, :have_width] = buffer
    return bigger


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [B, heads, S, D] over [B, H, T, D] with a boolean mask [B, 1, S, T]; result [B, S, heads, D].

    One new token per row (S = 1) lets the query heads of one key head stand in the place of S: two plain products.
    """
    if attention_mask is None:
        raise ValueError("slot_attention needs the mask that Engine builds")
    rows, heads, new, size = query.shape
    shared = key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
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


class Engine:
    """Steps many rows through one model. Not thread-safe: one thread owns it.

    Example:
        >>> engine.add(rows)                      # doctest: +SKIP
        >>> while engine.running: engine.step()   # doctest: +SKIP
    """

    def __init__(self, model: Any, stop_ids: set[int], *, max_rows: int, prefill_tokens: int = 512) -> None:
        self.model = model
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self.prefill_tokens = prefill_tokens  # new tokens in one pass over prompts: more only leaves the CPU's caches
        self.running: list[Row] = []
        self._cache = SlotCache()
        self._prefixes: dict[tuple[int, ...], torch.Tensor] = {}  # oldest use first
        self._read_lately: dict[
            tuple[int, ...], tuple[torch.Tensor, torch.Tensor]
        ] = {}  # the rest of a group comes soon
        self._recent: dict[tuple[int, ...], None] = {}  # prompts of the last batches: a second sight is worth keeping

    def forget(self) -> None:
        """Drops every state that is kept for later: it is worth nothing once the model's weights have changed."""
        assert not self.running, "answers that are being written hold states of the old weights"
        for kept in (self._prefixes, self._read_lately, self._recent):
            kept.clear()

    @property
    def room(self) -> int:
        return self.max_rows - len(self.running)

    @torch.inference_mode()
    def add(self, rows: Sequence[Row]) -> None:
        """Reads the prompts and writes the first token of each row. At most `room` rows."""
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(row.prompt, []).append(row)
        for prefix in self._worth_keeping(list(by_prompt)):
            self._prefixes[prefix] = self._read([prefix])[0][0]
            _trim(self._prefixes, lambda state: state.nbytes)
        for chunk in self._chunks([p for p in by_prompt if p not in self._read_lately]):
            self._read_lately.update(zip(chunk, self._read(chunk), strict=True))
            self._begin(chunk, by_prompt)
        self._begin([p for p in by_prompt if p in self._read_lately], by_prompt)
        _trim(self._read_lately, lambda read: read[0].nbytes)

    def _begin(self, prompts: Sequence[tuple[int, ...]], by_prompt: dict[tuple[int, ...], list[Row]]) -> None:
        """First tokens and slots for all rows of prompts that were read; takes them out of `by_prompt`."""
        if not prompts:
            return
        for prompt in prompts:  # to the end of the line of what is forgotten
            self._read_lately[prompt] = self._read_lately.pop(prompt)
        owners = [(row, *self._read_lately[prompt]) for prompt in prompts for row in by_prompt.pop(prompt)]
        self._emit([row for row, _, _ in owners], torch.stack([logits for _, _, logits in owners]))
        for row, state, _ in owners:
            if not row.done:
                self._cache.load(len(self.running), state)
                self.running.append(row)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every running row; finished ones leave `running`."""
        last = [[row.tokens[-1]] for row in self.running]
        at = [[len(row.prompt) + len(row.tokens) - 1] for row in self.running]
        logits = self._forward(self._cache, last, at, keep=[0])
        self._emit(self.running, logits[:, 0])
        for slot in reversed(range(len(self.running))):
            if self.running[slot].done:
                self._leave(slot)

    def _leave(self, slot: int) -> None:
        last = self.running.pop()
        if slot < len(self.running):
            self._cache.move(len(self.running), slot, len(last.prompt) + len(last.tokens))
            self.running[slot] = last

    def _forward(
        self, cache: SlotCache, tokens: Sequence[Sequence[int]], at: Sequence[Sequence[int]], keep: list[int]
    ) -> torch.Tensor:
        """Logits [B, len(keep), V] at the columns `keep` of tokens [B, S] that stand at the positions `at` [B, S]."""
        device = self.model.device
        cache.at = torch.tensor(at, device=device)
        cache.width = max(map(max, at)) + 1
        mask = torch.arange(cache.width, device=device) <= cache.at[:, None, :, None]
        out = self.model(
            input_ids=torch.tensor(tokens, device=device),
            attention_mask=mask,
            position_ids=cache.at,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(keep, device=device),
        )
        logits: torch.Tensor = out.logits
        return logits

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The state of each prompt and the logits [V] after it; beginnings that were kept are not read again."""
        cache = SlotCache()
        starts = []
        for row, prompt in enumerate(prompts):
            prefix = self._longest_kept(prompt)
            starts.append(len(prefix))
            if prefix:
                self._prefixes[prefix] = state = self._prefixes.pop(prefix)
                cache.load(row, state)
        news = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
        new = max(news)
        tokens = [[*p[s:], *[0] * (new - len(p) + s)] for p, s in zip(prompts, starts, strict=True)]
        keep = sorted({n - 1 for n in news})
        logits = self._forward(cache, tokens, [list(range(s, s + new)) for s in starts], keep)
        return [
            (cache.state(row, len(prompt)), logits[row, keep.index(n - 1)].clone())
            for row, (prompt, n) in enumerate(zip(prompts, news, strict=True))
        ]

    def _chunks(self, prompts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Prompts of similar unread length together, at most `prefill_tokens` of them in one pass."""
        unread = {prompt: len(prompt) - len(self._longest_kept(prompt)) for prompt in prompts}
        chunks: list[list[tuple[int, ...]]] = []
        for prompt in sorted(prompts, key=unread.__getitem__):
            if not chunks or (len(chunks[-1]) + 1) * unread[prompt] > self.prefill_tokens:
                chunks.append([])
            chunks[-1].append(prompt)
        return chunks

    def _longest_kept(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """The longest kept prefix; at least one token stays unread, for its logits."""
        for size in range((len(prompt) - 1) // BLOCK * BLOCK, 0, -BLOCK):
            if prompt[:size] in self._prefixes:
                return prompt[:size]
        return ()

    def _worth_keeping(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Beginnings that two prompts share and that nothing longer covers, shortest first."""
        known = dict.fromkeys((*self._recent, *prompts))
        self._recent = dict.fromkeys(list(known)[-2 * self.max_rows :])
        found = set()
        in_order = sorted(known)
        for first, second in itertools.pairwise(in_order):
            size = min(_common(first, second), len(first) - 1, len(second) - 1) // BLOCK * BLOCK
            if size:
                found.add(first[:size])
        wanted = {p[:size] for p in prompts for size in range(BLOCK, len(p), BLOCK)}
        return sorted((found & wanted) - self._prefixes.keys(), key=len)

    def _emit(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Draws one token for each row from logits [B, V] and marks the rows that end with it."""
        tokens, logps = draw(logits, rows)
        for row, token, logp in zip(rows, tokens, logps, strict=True):
            row.tokens.append(token)
            if row.logprobs:
                row.logps.append(logp)
            over = token in self.stop_ids or len(row.tokens) >= row.max_tokens
            row.done = row.done or over or row.finished(row)


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """One token per row of logits [B, V], and its log-probability at the row's `heat` (0.0 where not asked for).

    The token is the one at which the cumulative probability passes a uniform number of the row's own generator, so
    what a row draws does not depend on its neighbours.
    """
    logits = logits.float()
    heat = torch.tensor([[max(row.temperature, 1e-6)] for row in rows], device=logits.device)
    tokens = _inverse_cdf(torch.softmax(logits / heat, -1), rows)
    greedy = [i for i, row in enumerate(rows) if row.temperature <= 0]
    if greedy:
        tokens[greedy] = logits[greedy].argmax(-1)
    logps = [0.0] * len(rows)
    asked = [i for i, row in enumerate(rows) if row.logprobs]
    if asked:
        told = torch.tensor([[rows[i].heat] for i in asked], device=logits.device)
        chosen = torch.log_softmax(logits[asked] / told, -1).gather(1, tokens[asked, None])[:, 0]
        for i, logp in zip(asked, chosen.tolist(), strict=True):
            logps[i] = logp
    return tokens.tolist(), logps


def _inverse_cdf(probabilities: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Inverse-transform sampling from [B, V], within the nucleus (arXiv 1904.09751) where top_p < 1."""
    device = probabilities.device
    uniform = torch.tensor([[row.rng.random()] for row in rows], device=device)
    picked = _pass(probabilities, uniform)
    narrow = [i for i, row in enumerate(rows) if row.top_p < 1]
    if narrow:
        top_p = torch.tensor([[rows[i].top_p] for i in narrow], device=device)
        ordered, index = probabilities[narrow].sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0  # keeps the token that passes top_p
        picked[narrow] = index.gather(1, _pass(ordered, uniform[narrow])[:, None])[:, 0]
    return picked


def _pass(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first column at which the running sum of [B, V] is above `uniform` [B, 1] of its total."""
    total = weights.cumsum(-1)
    return torch.searchsorted(total, uniform * total[:, -1:], right=True).clamp_(max=weights.shape[-1] - 1)[:, 0]


def _trim(kept: dict[tuple[int, ...], _Kept], size: Callable[[_Kept], int]) -> None:
    """Forgets what was used longest ago, until the rest fits into KEPT_BYTES; the last stays in any case."""
    total = sum(map(size, kept.values()))
    while total > KEPT_BYTES and len(kept) > 1:
        total -= size(kept.pop(next(iter(kept))))


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, found too little memory: on a CPU torch's error has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many tokens two prompts share at their start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
