"""One layout for everything that is trained on: rows without padding, the prompt of a group stored once.

    p0 p1 p2 | a0 a1 | b0 b1 b2 | q0 q1 | c0 ...        tokens of one row, under a token budget
    tree 0   |   0   |    0     | 1     | 1             whose prompt it stands on
    branch 0 |   1   |    2     | 0     | 1             0: the prompt itself, k: the k-th answer to it
    place 0 1 2  3 4     3 4 5     0 1    2             its position: every answer goes on where the prompt ended

A token sees what stands before it in the row, is of its own tree, and is prompt or of its own branch: outputs and
gradients are those of repeated prompts, and G (P + S) tokens become P + G S. Prefix Grouper (arXiv 2506.05433) shares
prompts by splitting the attention call in two, and its published form must not meet packing. An explicit mask has no
such limit, so here both are one thing. Attention that takes no mask (flash) is refused by `check_attention`.

Legend: S tokens of one row, B samples in it, T trained and other tokens of its longest answer, N trained tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfgrpo.errors import InputError
from tfgrpo.types import Completion

MASKABLE = frozenset({"sdpa", "tfgrpo_slots"})
"""Attention that obeys a boolean mask [1, 1, S, S] ("eager" would add it); the second is that of the decoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answer as tokens: the prompt, and what followed it. Of several turns, only the model's own are trained on."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    train: tuple[bool, ...]  # of `tokens`
    logps: tuple[float, ...]  # of `tokens`, as the sampler saw them; 0.0 where not trained
    segment: tuple[int, ...]  # of `tokens`: the number of the run of tokens it belongs to

    @staticmethod
    def of(completion: Completion) -> Sample:
        """The tokens of an answer whose policy told them.

        Raises:
            InputError: it has no token data, none to train on, or log-probs that do not fit its tokens.
        """
        parts = completion.segments
        first = next((n for n, s in enumerate(parts) if s.train), len(parts))
        if first in (0, len(parts)):
            raise InputError(
                f"an answer of {completion.policy!r} brings no tokens to train on (origin {completion.origin!r}); "
                f"answers that no policy wrote, such as reference solutions, cannot be trained on yet"
            )
        rest = parts[first:]
        if any(s.train and len(s.logps) != len(s.token_ids) for s in rest):
            raise InputError(f"an answer of {completion.policy!r} brings tokens without their log-probs")
        return Sample(
            prompt=tuple(i for s in parts[:first] for i in s.token_ids),
            tokens=tuple(i for s in rest for i in s.token_ids),
            train=tuple(s.train for s in rest for _ in s.token_ids),
            logps=tuple(p for s in rest for p in (s.logps if s.train else (0.0,) * len(s.token_ids))),
            segment=tuple(n for n, s in enumerate(rest) for _ in s.token_ids),
        )

    @property
    def trained(self) -> int:
        """Tokens that are trained on."""
        return sum(self.train)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Answers to one and the same prompt; `branches` are their numbers in the batch."""

    prompt: tuple[int, ...]
    branches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """One row: what the model reads, and where the scores of trained tokens go in tensors [B, T]."""

    samples: tuple[int, ...]  # B: their numbers in the batch
    ids: Tensor  # [S]
    place: Tensor  # [S] position ids
    tree: Tensor  # [S]
    branch: Tensor  # [S]
    source: Tensor  # [N] the token of the row whose hidden state predicts the trained token
    target: Tensor  # [N] the trained token
    row: Tensor  # [N] its place in [B, T]
    column: Tensor  # [N]
    width: int  # T

    @property
    def tokens(self) -> int:
        """S."""
        return len(self.ids)

    def mask(self) -> Tensor:
        """Who sees whom, [1, 1, S, S]: boolean, query by key."""
        at = torch.arange(self.tokens, device=self.ids.device)
        earlier = at[:, None] >= at
        same_tree = self.tree[:, None] == self.tree
        visible = (self.branch == 0) | (self.branch[:, None] == self.branch)
        return (earlier & same_tree & visible)[None, None]

    def added_mask(self, dtype: torch.dtype) -> Tensor:
        """The same as numbers that are added to scores, 0 and -inf, so that not every layer makes its own of them.

        Rows lie at multiples of 16 numbers, as kernels of a GPU want them.
        """
        wide = -(-self.tokens // 16) * 16
        made = torch.zeros(1, 1, self.tokens, wide, dtype=dtype, device=self.ids.device)[..., : self.tokens]
        return made.masked_fill_(~self.mask(), -torch.inf)

    def spread(self, values: Tensor) -> Tensor:
        """Values [N] of the trained tokens at their places in [B, T], 0 elsewhere; keeps the gradient."""
        return values.new_zeros(len(self.samples), self.width).index_put((self.row, self.column), values)

    def to(self, device: torch.device | str) -> Pack:
        """The same on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Pack(**{**vars(self), **moved})


def pack(
    samples: Sequence[Sample], *, budget: int, shared: bool = True, chosen: Iterable[int] | None = None
) -> list[Pack]:
    """Rows of at most `budget` tokens that hold all samples; one answer that is longer alone gets a row of its own.

    Equal prompts are stored once per row. The same samples always give the same rows.

    Args:
        samples: the whole batch.
        budget: tokens of one row.
        shared: False repeats the prompt for every answer.
        chosen: the numbers of the samples to pack; None: all.

    Example:
        >>> one = Sample(prompt=(5, 6, 7), tokens=(1, 2), train=(True, True), logps=(0.0, 0.0), segment=(0, 0))
        >>> (shared,), (repeated,) = pack([one, one], budget=16), pack([one, one], budget=16, shared=False)
        >>> shared.tokens, repeated.tokens
        (7, 10)
        >>> shared.mask()[0, 0, 6].int().tolist()
        [1, 1, 1, 0, 0, 1, 1]

    Raises:
        InputError: a budget below 2.
    """
    if budget < 2:
        raise InputError(f"a row holds at least a prompt and an answer; got a token budget of {budget}")
    numbers = range(len(samples)) if chosen is None else list(chosen)
    trees = _trees({n: samples[n] for n in numbers}, budget, shared)
    return [_row(row, samples) for row in _rows(trees, samples, budget)]


def row_budget(samples: Sequence[Sample], chosen: Sequence[int], least: int) -> int:
    """Tokens of a row where nobody chose: `least`, or more where two answers to the longest prompt need more.

    Rows shorter than that would repeat the prompt for every answer; longer ones cost memory for activations.

    Example:
        >>> one = Sample(prompt=(5,) * 90, tokens=(1,) * 60, train=(True,) * 60, logps=(0.0,) * 60, segment=(0,) * 60)
        >>> row_budget([one, one], [0, 1], 256), row_budget([one, one], [0, 1], 512)
        (300, 512)
    """
    return max(least, 2 * max(len(samples[n].prompt) + len(samples[n].tokens) for n in chosen))


def _trees(samples: Mapping[int, Sample], budget: int, shared: bool) -> list[Tree]:
    """Answers by prompt; a group that is too large for one row repeats its prompt in others, as full as the first."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, sample in samples.items():
        by_prompt.setdefault(sample.prompt, []).append(number)
    trees = []
    for prompt, numbers in by_prompt.items():
        sizes = [len(samples[number].tokens) for number in numbers]
        room = max(1, budget - len(prompt))
        fair = -(-sum(sizes) // -(-sum(sizes) // room))  # of as many rows as the group needs at least
        begun: list[int] = []
        filled = 0
        for number, size in zip(numbers, sizes, strict=True):
            if begun and (filled + size > room or filled >= fair or not shared):
                trees.append(Tree(prompt=prompt, branches=tuple(begun)))
                begun, filled = [], 0
            begun.append(number)
            filled += size
        trees.append(Tree(prompt=prompt, branches=tuple(begun)))
    return trees


def _rows(trees: Sequence[Tree], samples: Sequence[Sample], budget: int) -> list[list[Tree]]:
    """The largest tree first, each into the first row with room."""
    rows: list[list[Tree]] = []
    room: list[int] = []
    sizes = [len(tree.prompt) + sum(len(samples[n].tokens) for n in tree.branches) for tree in trees]
    for index in sorted(range(len(trees)), key=lambda i: -sizes[i]):
        fitting = next((r for r, left in enumerate(room) if left >= sizes[index]), None)
        if fitting is None:
            fitting = len(rows)
            rows.append([])
            room.append(budget)
        rows[fitting].append(trees[index])
        room[fitting] -= sizes[index]
    return rows


def _row(trees: Sequence[Tree], samples: Sequence[Sample]) -> Pack:
    ids: list[int] = []
    place: list[int] = []
    tree: list[int] = []
    branch: list[int] = []
    trained: list[tuple[int, int, int, int]] = []  # source, target, row, column
    numbers: list[int] = []
    for t, one in enumerate(trees):
        last, depth = len(ids) + len(one.prompt) - 1, len(one.prompt)
        ids += one.prompt
        place += range(depth)
        branch += [0] * depth
        for b, number in enumerate(one.branches, start=1):
            sample, begin, size = samples[number], len(ids), len(samples[number].tokens)
            ids += sample.tokens
            place += range(depth, depth + size)
            branch += [b] * size
            trained += [
                (begin + c - 1 if c else last, token, len(numbers), c)
                for c, (token, train) in enumerate(zip(sample.tokens, sample.train, strict=True))
                if train
            ]
            numbers.append(number)
        tree += [t] * (len(ids) - len(tree))
    source, target, row, column = torch.tensor(trained, dtype=torch.long).reshape(-1, 4).T.contiguous()
    return Pack(
        samples=tuple(numbers),
        ids=torch.tensor(ids),
        place=torch.tensor(place),
        tree=torch.tensor(tree),
        branch=torch.tensor(branch),
        source=source,
        target=target,
        row=row,
        column=column,
        width=max(len(samples[n].tokens) for n in numbers),
    )


def padded(packed: Pack, samples: Sequence[Sample], name: str) -> Tensor:
    """A column of the samples, such as "logps", as float32 [B, T] at the trained tokens and 0 elsewhere."""
    values = [
        float(value)
        for number in packed.samples
        for value, train in zip(getattr(samples[number], name), samples[number].train, strict=True)
        if train
    ]
    return packed.spread(torch.tensor(values, device=packed.ids.device))


def check_attention(model: Any) -> None:
    """Refuses a model whose attention would not obey the mask, before anything is computed.

    Raises:
        InputError: says which attention it has and which are fine.
    """
    config = model.config
    used = getattr(config, "_attn_implementation", None)
    if used not in MASKABLE:
        raise InputError(
            f"packed rows with shared prompts need attention that takes a boolean mask "
            f"({', '.join(sorted(MASKABLE))}); the model was loaded with {used!r}"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise InputError(f"packed rows need full attention in every layer; {type(model).__name__} has {sorted(kinds)}")
