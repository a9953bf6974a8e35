"""Log-probabilities and entropies of chosen tokens without ever holding all logits.

A row of logits is as long as the vocabulary: of 8 x 512 tokens and 150,000 words they are 2.3 GiB in float32, and a
backward pass keeps three of their kind. Here they exist for a few rows at a time, forward and backward; what is kept
in between is one log-sum-exp and one entropy per token.

Legend: N trained tokens, D hidden size, V vocabulary, R rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfgrpo.errors import InputError

CHUNK_BYTES = 32 * 2**20
"""Of one chunk of float32 logits [R, V]; a few such chunks exist at once."""
PRODUCT_WORDS = 8192
"""Rows of the weight's gradient that exist in a narrow type before they are added."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """How hidden states become logits: `z = cap tanh(scale (W h + b) / cap) / temperature`, without a cap just linear.

    `weight` is the output embedding itself, tied to the input embedding or not, so that its gradient goes where it
    belongs.
    """

    weight: Tensor  # [V, D]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None

    @staticmethod
    def of(model: Any) -> Head:
        """The head of a transformers causal language model, as its config describes it.

        Raises:
            InputError: it has no output embedding.
        """
        output = model.get_output_embeddings()
        if output is None or not isinstance(getattr(output, "weight", None), Tensor):
            raise InputError(f"{type(model).__name__} has no output embedding; only causal language models are trained")
        config = model.config
        divided = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides, Cohere multiplies
        return Head(
            weight=output.weight,
            bias=getattr(output, "bias", None),
            scale=float(getattr(config, "logit_scale", None) or 1.0) / divided,
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Whole logits [R, V] of hidden states [R, D], in float32 and before the temperature."""
        return self._finished(torch.nn.functional.linear(hidden, self.weight, self.bias))

    def logits_at(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Those of a few tokens `ids` [R, k] each: as many products as there are tokens, not as there are words."""
        z = torch.bmm(torch.nn.functional.embedding(ids, self.weight), hidden[:, :, None])[:, :, 0]
        return self._finished(z if self.bias is None else z + self.bias[ids])

    def _finished(self, z: Tensor) -> Tensor:
        z = z.to(_wide(z.dtype))
        z = z if self.scale == 1 else z * self.scale
        return z if self.softcap is None else torch.tanh(z / self.softcap) * self.softcap


def token_scores(
    hidden: Tensor, targets: Tensor, head: Head, *, temperature: float = 1.0, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""`log softmax(z)_y` of the tokens y and the entropy `-sum_v p_v log p_v` of the distributions they came from.

    Args:
        hidden: [N, D] hidden states at the places whose next token is scored.
        targets: [N] those next tokens.
        head: what makes logits of hidden states.
        temperature: the logits are divided by it; the one the tokens were sampled at.
        rows: R of one chunk; None: as many as CHUNK_BYTES holds.

    Returns:
        log-probs [N] and entropies [N] in nats, float32 (float64 for a float64 model), both with gradient to `hidden`
        and the head.

    Example:
        >>> head = Head(weight=torch.zeros(4, 2))
        >>> logp, entropy = token_scores(torch.ones(1, 2), torch.tensor([3]), head)
        >>> round(logp.item(), 4), round(entropy.item(), 4)
        (-1.3863, 1.3863)

    Raises:
        InputError: a temperature that is not above 0.
    """
    size = chunk_rows(head, temperature, rows)
    inputs = hidden, head.weight, head.bias, targets, head.scale, head.softcap, temperature, size
    scored = _TokenScores.apply(*inputs)  # type: ignore[no-untyped-call]
    logp, entropy = scored
    return logp, entropy


def chunk_rows(head: Head, temperature: float, rows: int | None = None) -> int:
    """R: as many rows of logits as CHUNK_BYTES holds, unless told.

    Raises:
        InputError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise InputError(
            f"tokens sampled at temperature {temperature} have no probabilities to learn; give one above 0"
        )
    return rows or max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _TokenScores(torch.autograd.Function):
    """Chunks of logits, made once in the forward pass and once more in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        temperature: float,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        logp = hidden.new_empty(len(hidden), dtype=_wide(hidden.dtype))
        lse, entropy = torch.empty_like(logp), torch.empty_like(logp)
        head = Head(weight=weight, bias=bias, scale=scale, softcap=softcap)
        for part in _cuts(range(len(hidden)), rows):
            z = _tempered(head.logits(hidden[part]), temperature)
            chosen = z.gather(-1, targets[part, None])[:, 0]
            log_p = torch.log_softmax(z, -1)
            del z  # two chunks at once are enough
            logp[part] = log_p.gather(-1, targets[part, None])[:, 0]
            lse[part] = chosen - logp[part]
            entropy[part] = -torch.linalg.vecdot(torch.exp(log_p), log_p)
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy)
        ctx.options = scale, softcap, temperature, rows
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """`dz = g_logp (onehot - p) - g_entropy p (log p + H)`, then through the cap to hidden states and weight."""
        hidden, weight, bias, targets, lse, entropy = ctx.saved_tensors
        scale, softcap, temperature, rows = ctx.options
        head = Head(weight=weight, bias=bias, scale=scale, softcap=softcap)
        d_logp, d_entropy = grads

        def d_logits(z: Tensor, part: slice) -> Tensor:
            return logits_gradient(z, targets[part], lse[part], entropy[part], cut(d_logp, part), cut(d_entropy, part))

        needs = ctx.needs_input_grad[:3]
        return (*pulled_back(hidden, head, d_logits, needs, temperature=temperature, rows=rows), *(None,) * 5)


def pulled_back(
    hidden: Tensor,
    head: Head,
    d_logits: Callable[[Tensor, slice], Tensor],
    needs: Sequence[bool],
    *,
    temperature: float,
    rows: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden states, weight and bias from those of tempered logits, chunk by chunk, sums in the wide type.

    Where the weight has a tensor `main_grad` (as Megatron calls it), its gradient is added to that instead: nothing of
    the size of the weight is made then.

    Args:
        hidden: [N, D] that the logits are made of, once more.
        head: what makes them.
        d_logits: the gradient [R, V] of the tempered logits [R, V] of a slice of N; it may overwrite them.
        needs: which of the three gradients are wanted.
        temperature: the logits are divided by it.
        rows: R of one chunk.
    """
    weight, bias, wide = head.weight, head.bias, _wide(hidden.dtype)
    d_hidden = torch.empty_like(hidden) if needs[0] else None
    d_weight: Tensor | None = getattr(weight, "main_grad", None)
    apart = d_weight is None
    if needs[1] and apart and not len(hidden):
        d_weight = torch.zeros_like(weight)
    d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needs[2] else None

    def of_raw(part: slice) -> Tensor:
        raw = head.logits(hidden[part])
        dz = d_logits(_tempered(raw if head.softcap is None else raw.clone(), temperature), part)
        if head.softcap is not None:
            dz.mul_(1 - (raw / head.softcap).square())
        return (dz if head.scale == temperature else dz.mul_(head.scale / temperature)).to(hidden.dtype)

    slab_rows = rows * (wide.itemsize // hidden.dtype.itemsize)  # of the narrow type: as many bytes as a chunk
    for slab in _cuts(range(len(hidden)), slab_rows):
        dz = _joined(of_raw, slab, rows)
        if d_hidden is not None:
            d_hidden[slab] = dz @ weight
        if needs[1]:
            d_weight = _added(d_weight, dz, hidden[slab])
        if d_bias is not None:
            d_bias += dz.sum(0, dtype=wide)
    return (
        d_hidden,
        d_weight.to(weight.dtype) if d_weight is not None and apart else None,
        None if d_bias is None or bias is None else d_bias.to(bias.dtype),
    )


def _cuts(whole: range, most: int) -> list[slice]:
    """A range in as few parts of at most `most` as will do, all of one size but the last."""
    size = max(1, -(-len(whole) // max(1, -(-len(whole) // most))))
    return [slice(at, min(at + size, whole.stop)) for at in range(whole.start, whole.stop, size)]


def _joined(made: Callable[[slice], Tensor], slab: slice, rows: int) -> Tensor:
    """A slab [.., V] made in chunks, one of them at a time."""
    first, *others = _cuts(range(slab.start, slab.stop), rows)
    chunk = made(first)
    if not others:
        return chunk
    whole = chunk.new_empty(slab.stop - slab.start, chunk.shape[1])
    whole[: len(chunk)] = chunk
    del chunk
    for part in others:
        whole[part.start - slab.start : part.stop - slab.start] = made(part)
    return whole


def _tempered(z: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature, in place."""
    return z if temperature == 1 else z.div_(temperature)


def cut(grad: Tensor | None, part: slice) -> Tensor | None:
    """A slice of a gradient that may not be there."""
    return None if grad is None else grad[part]


def logits_gradient(
    z: Tensor,
    targets: Tensor,
    lse: Tensor,
    entropy: Tensor,
    d_logp: Tensor | None,
    d_entropy: Tensor | None,
    drag: Tensor | None = None,
) -> Tensor:
    """The gradient [R, V] of tempered logits `z`, which are overwritten; `drag` [R] times p is added to it."""
    log_p = z.sub_(lse[:, None])
    p = torch.exp(log_p)
    weight = torch.zeros_like(lse)[:, None] if d_logp is None else d_logp[:, None].to(p.dtype)
    pull = weight if drag is None else weight - drag[:, None]
    if d_entropy is None:
        dz = p.mul_(-pull)
    else:
        dz = p.mul_(log_p.add_(entropy[:, None]).mul_(-d_entropy[:, None].to(p.dtype)).sub_(pull))
    return dz.scatter_add_(1, targets[:, None], weight.expand(-1, 1))


def _added(total: Tensor | None, dz: Tensor, hidden: Tensor) -> Tensor:
    """`total + dz^T hidden`, summed in the wide type; a first product stays as it is."""
    if total is None:
        return dz.T @ hidden
    if total.dtype == dz.dtype == _wide(dz.dtype):
        return total.addmm_(dz.T, hidden)
    total = total.to(_wide(dz.dtype))
    for words in _cuts(range(len(total)), PRODUCT_WORDS):
        total[words] += dz[:, words].T @ hidden
    return total
