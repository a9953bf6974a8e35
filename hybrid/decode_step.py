"""One token for every row as one function of tensors: forward pass, sampling, log-probs; nothing asks the host.

Everything that a step reads or writes stands in a `Frame`: tensors at fixed addresses, so that a CUDA graph of the step
can be replayed. The host fills a frame, has it stepped several times, and reads what was written.

Legend: R rows, V vocabulary, K steps between two looks of the host, X and Y widths (hybrid.cascade), S words of a span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybrid.cascade import Cascade

ALMOST_ONE = 1 - 2**-24
"""The largest float32 below 1: so much of a sum is, rounded, less than the sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What makes frames differ, and with them graphs.

    Example:
        >>> Shape(rows=64, blocks=8, places=8, prompt=512, answer=128).read_tokens
        12288
    """

    rows: int  # R
    blocks: int  # P
    places: int  # M
    prompt: int  # X
    answer: int  # Y
    nucleus: bool = False  # whether a row has top_p < 1, which costs a sort of the vocabulary

    @property
    def read_tokens(self) -> int:
        """Tokens whose keys and values a step reads."""
        return self.blocks * self.prompt + self.rows * self.answer


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The tensors of steps of one shape."""

    shape: Shape
    ints: Tensor  # [4, R] last token, its number in the answer, length of the prompt, place in the blocks
    floats: Tensor  # [3, R] temperature, temperature that log-probs are told at, top_p
    members: Tensor  # [P, M] the row in each place of a block
    uniform: Tensor  # [K, R] numbers in [0, 1)
    column: Tensor  # [1] steps since the host filled the frame
    tokens: Tensor  # [K, R] written
    logps: Tensor  # [K, R] written
    prompts: tuple[tuple[Tensor, Tensor], ...]  # keys and values [P, H, X, D] of every layer
    answers: tuple[tuple[Tensor, Tensor], ...]  # [R, H, Y, D], written

    @staticmethod
    def of(
        shape: Shape,
        *,
        steps: int,
        prompts: tuple[tuple[Tensor, Tensor], ...],
        answers: tuple[tuple[Tensor, Tensor], ...],
    ) -> Frame:
        """An empty frame beside these keys and values."""
        device, whole = answers[0][0].device, torch.long
        return Frame(
            shape=shape,
            ints=torch.zeros(4, shape.rows, dtype=whole, device=device),
            floats=torch.ones(3, shape.rows, device=device),
            members=torch.zeros(shape.blocks, shape.places, dtype=whole, device=device),
            uniform=torch.zeros(steps, shape.rows, device=device),
            column=torch.zeros(1, dtype=whole, device=device),
            tokens=torch.zeros(steps, shape.rows, dtype=whole, device=device),
            logps=torch.zeros(steps, shape.rows, device=device),
            prompts=prompts,
            answers=answers,
        )


def decode_step(model: Any, frame: Frame) -> None:
    """Writes the next token of every row and its log-prob into the frame, which then stands one token further."""
    logits = next_logits(model, frame)
    token, at, _, _ = frame.ints.unbind(0)
    heat, told, top_p = frame.floats[:, :, None].unbind(0)
    uniform = frame.uniform.index_select(0, frame.column).T
    drawn = sample(logits, uniform, heat, top_p if frame.shape.nucleus else None)
    logp = log_prob(logits, drawn, told)
    frame.tokens.index_copy_(0, frame.column, drawn[None])
    frame.logps.index_copy_(0, frame.column, logp[None])
    token.copy_(drawn)
    at.add_(1)
    frame.column.add_(1)


def next_logits(model: Any, frame: Frame) -> Tensor:
    """Logits [R, V] after the last token of every row, in float32. Keys and values of that token are written."""
    token, at, lengths, place = frame.ints.unbind(0)
    widths = frame.prompts[0][0].shape[2], frame.answers[0][0].shape[2]
    cascade = Cascade(
        prompts=frame.prompts,
        answers=frame.answers,
        members=frame.members,
        place=place,
        at=at,
        visible=Cascade.seen(lengths, at, *widths),
    )
    out = model(input_ids=token[:, None], position_ids=(lengths + at)[:, None], use_cache=False, attend=cascade)
    logits: Tensor = out.logits[:, 0].float()
    return logits


def sample(logits: Tensor, uniform: Tensor, heat: Tensor, top_p: Tensor | None) -> Tensor:
    """Tokens [R] from logits [R, V] by inversion of the distribution function, as `local_engine.draw` does.

    Args:
        logits: [R, V].
        uniform: [R, 1] numbers in [0, 1).
        heat: [R, 1] temperatures; the best token where it is 0.
        top_p: [R, 1] the nucleus (arXiv 1904.09751); None: all of the distribution.

    Example:
        >>> even = torch.zeros(2, 4)
        >>> sample(even, torch.tensor([[0.2], [0.8]]), torch.ones(2, 1), None).tolist()
        [0, 3]
    """
    chances = torch.softmax(logits / heat.clamp(min=1e-6), -1)
    drawn = pick(chances, uniform)
    if top_p is not None:
        ordered, words = chances.sort(-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)  # keeps the one that passes top_p
        drawn = torch.where(top_p < 1, words.gather(1, pick(ordered, uniform)), drawn)
    return torch.where(heat > 0, drawn, logits.argmax(-1, keepdim=True))[:, 0]


def log_prob(logits: Tensor, tokens: Tensor, heat: Tensor) -> Tensor:
    """Log-probs [R] of tokens [R] under logits [R, V] at temperatures [R, 1]."""
    tempered = logits / heat
    return (tempered.gather(1, tokens[:, None]) - tempered.logsumexp(-1, keepdim=True))[:, 0]


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """The column [R, 1] at which the running sum of weights [R, V] passes `uniform` [R, 1] of the total.

    In two stages, the span and then the column in it: a running sum over a whole vocabulary is one long chain of
    additions, which a GPU does slowly for few rows.

    Example:
        >>> pick(torch.tensor([[1.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.25]])).tolist()
        [[2]]
    """
    rows, words = weights.shape
    span = 1 << (words.bit_length() // 2)
    spans = torch.nn.functional.pad(weights, (0, -words % span)).reshape(rows, -1, span)
    which, rest = _passed(spans.sum(-1), uniform)
    inside, _ = _passed(spans.gather(1, which[:, :, None].expand(-1, 1, span))[:, 0], rest)
    return which * span + inside


def _passed(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The column whose running sum passes `uniform` of the total, and how much of it lies before; both [R, 1]."""
    total = weights.cumsum(-1)
    aim = uniform.clamp(max=ALMOST_ONE) * total[:, -1:]
    column = torch.searchsorted(total, aim, right=True).clamp(max=weights.shape[1] - 1)
    here = weights.gather(1, column)
    return column, ((aim - total.gather(1, column)) / here + 1).clamp(0, 1)
