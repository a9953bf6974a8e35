"""Keys and values in two parts: a prompt once for all of its answers, and what each answer adds to it.

    prompts  [P, H, X, D]   a block per prompt, with places for M answers
    answers  [R, H, Y, D]   a row per answer

A step reads P X + R Y tokens of keys and values, where a copy of the prompt in every row would be R (X + Y). For small
models that is most of what a step reads at all. An answer attends to both parts under one softmax: their scores stand
side by side, so that nothing needs to be merged afterwards. All of it is plain matrix products on tensors of fixed
places and sizes; the query heads of one key head, and in the first part all answers of a block, stand in the place of
the query length.

Also considered: flash attention in two calls, merged by their log-sum-exps. It wants unpadded lengths or pages, other
kernels on every device, and cannot be tested without a GPU.

Legend: R rows, P blocks, M places of a block, H key/value heads, g query heads of each, D head size, X and Y widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """What the keys of one token look like."""

    layers: int
    heads: int  # H
    size: int  # D
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers.

        Example:
            >>> Geometry(layers=28, heads=8, size=128, dtype=torch.bfloat16, device=torch.device("cpu")).token_bytes
            114688
        """
        return self.layers * 2 * self.heads * self.size * self.dtype.itemsize


class Store:
    """Keys and values [rows, H, width, D] of every layer, at fixed addresses until they are allocated anew."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.rows = self.width = 0
        self.buffers: list[tuple[Tensor, Tensor]] = [(self._made(0, 0), self._made(0, 0))] * geometry.layers

    def _made(self, rows: int, width: int) -> Tensor:
        g = self.geometry
        return torch.zeros(rows, g.heads, width, g.size, dtype=g.dtype, device=g.device)

    def allocate(self, rows: int, width: int, *, keep: int) -> None:
        """Buffers of another size; the first `keep` rows keep their content. One layer at a time, to need less."""
        kept = min(width, self.width)
        for layer, old in enumerate(self.buffers):
            new = (self._made(rows, width), self._made(rows, width))
            for source, target in zip(old, new, strict=True):
                target[:keep, :, :kept] = source[:keep, :, :kept]
            self.buffers[layer] = new
        self.rows, self.width = rows, width

    def load(self, row: int, state: Tensor) -> None:
        """Puts the state [layers, 2, H, n, D] of n tokens at the start of a row."""
        for (keys, values), (new_keys, new_values) in zip(self.buffers, state, strict=True):
            keys[row, :, : state.shape[3]] = new_keys
            values[row, :, : state.shape[3]] = new_values

    def move(self, sources: Sequence[int], targets: Sequence[int], width: int) -> None:
        """Copies the first tokens of rows over other rows."""
        to, of = (torch.tensor(list(rows), device=self.geometry.device) for rows in (targets, sources))
        for pair in self.buffers:
            for buffer in pair:
                buffer[to, :, :width] = buffer[of, :, :width]

    def views(self, rows: int, width: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """The first tokens of the first rows, in place: [rows, H, width, D] of every layer."""
        return tuple((keys[:rows, :, :width], values[:rows, :, :width]) for keys, values in self.buffers)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Attention of one new token per row over its prompt and its answer so far; tensors only, at fixed addresses."""

    prompts: tuple[tuple[Tensor, Tensor], ...]  # keys and values [P, H, X, D] of every layer
    answers: tuple[tuple[Tensor, Tensor], ...]  # [R, H, Y, D]
    members: Tensor  # [P, M] the row in each place of a block; 0 where there is none
    place: Tensor  # [R] the place of each row, counted through all blocks
    at: Tensor  # [R] where each row writes
    visible: Tensor  # [R, 1, 1, X + Y]

    @staticmethod
    def seen(lengths: Tensor, at: Tensor, prompt_width: int, answer_width: int) -> Tensor:
        """Who sees what, [R, 1, 1, X + Y]: the first tokens of its prompt, and its answer up to the new token.

        Example:
            >>> Cascade.seen(torch.tensor([1, 2]), torch.tensor([0, 1]), 3, 2)[:, 0, 0].int().tolist()
            [[1, 0, 0, 1, 0], [1, 1, 0, 1, 1]]
        """
        prompt = torch.arange(prompt_width, device=at.device) < lengths[:, None]
        answer = torch.arange(answer_width, device=at.device) <= at[:, None]
        return torch.cat((prompt, answer), -1)[:, None, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Queries [R, H g, 1, D] and the new token's keys and values [R, H, 1, D] to [R, 1, H g, D]."""
        rows, all_heads, _, size = query.shape
        heads = key.shape[1]
        prompt_keys, prompt_values = self.prompts[layer]
        keys, values = self.answers[layer]
        each = torch.arange(rows, device=query.device)
        keys[each, :, self.at] = key[:, :, 0]
        values[each, :, self.at] = value[:, :, 0]

        query = query.reshape(rows, heads, all_heads // heads, size)
        shared = torch.matmul(self._by_block(query), prompt_keys.transpose(2, 3))
        own = torch.matmul(query, keys.transpose(2, 3))
        scores = torch.cat((self._by_row(shared), own), -1).float() * scale
        weights = torch.softmax(scores.masked_fill(~self.visible, -torch.inf), -1).to(values.dtype)
        width = prompt_keys.shape[2]
        of_prompt = torch.matmul(self._by_block(weights[..., :width]), prompt_values)
        out = self._by_row(of_prompt) + torch.matmul(weights[..., width:], values)
        return out.reshape(rows, 1, all_heads, size)

    def _by_block(self, x: Tensor) -> Tensor:
        """[R, H, g, n] as [P, H, M g, n]."""
        blocks, places = self.members.shape
        _, heads, group, n = x.shape
        return x[self.members].transpose(1, 2).reshape(blocks, heads, places * group, n)

    def _by_row(self, x: Tensor) -> Tensor:
        """[P, H, M g, n] as [R, H, g, n]."""
        blocks, places = self.members.shape
        _, heads, all_queries, n = x.shape
        x = x.reshape(blocks, heads, places, all_queries // places, n).transpose(1, 2)
        return x.reshape(blocks * places, heads, all_queries // places, n)[self.place]
