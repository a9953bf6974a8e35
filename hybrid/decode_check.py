"""Whether the static decoder can decode a model, found out by trying it on a few tokens."""

from __future__ import annotations

from typing import Any

import torch

from hybrid.cascade import Geometry, Store
from hybrid.decode_step import Frame, Shape, next_logits
from tfgrpo.errors import InputError
from tfgrpo.policy.local_attention import SlotCache, forward

MOVING_ROPE = frozenset({"dynamic", "longrope"})
"""Position embeddings that depend on who else is in the batch."""
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Mean |difference| in nats allowed over the log-probs of all words after one token; two ways to compute the same in
bfloat16 were seen 0.08 apart."""


@torch.inference_mode()
def check_model(model: Any) -> Geometry:
    """Tries the decoder on a few tokens, against the model by itself; what its keys look like.

    Raises:
        InputError: its positions depend on who else is in the batch, or its attention cannot be replaced.
    """
    name = type(model).__name__
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & MOVING_ROPE:
        raise InputError(
            f"the static decoder needs position embeddings that depend on the position alone; {name} has "
            f"{sorted(kinds & MOVING_ROPE)}. Set decoder to 'slots'"
        )
    cache, ids = SlotCache(), [n % model.config.vocab_size for n in range(3, 27)]
    before = len(ids) - 1
    forward(model, cache, [ids[:-1]], [list(range(before))], keep=[0])
    state = cache.state(0, before)
    own = forward(model, cache, [ids[-1:]], [[before]], keep=[0])[:, 0]
    geometry = Geometry(
        layers=state.shape[0], heads=state.shape[2], size=state.shape[4], dtype=state.dtype, device=state.device
    )
    prompts, answers = Store(geometry), Store(geometry)
    prompts.allocate(1, before, keep=0)
    answers.allocate(1, 1, keep=0)
    prompts.load(0, state)
    shape = Shape(rows=1, blocks=1, places=1, prompt=before, answer=1)
    frame = Frame.of(shape, steps=1, prompts=prompts.views(1, before), answers=answers.views(1, 1))
    frame.ints.copy_(torch.tensor([[ids[-1]], [0], [before], [0]]))
    try:
        ours = next_logits(model, frame)
    except (TypeError, ValueError) as error:
        raise InputError(f"the attention of {name} cannot be replaced ({error}); set decoder to 'slots'") from error
    apart = (torch.log_softmax(own.float(), -1) - torch.log_softmax(ours, -1)).abs().mean().item()
    if not apart < AGREEMENT.get(model.dtype, 1e-3):
        raise InputError(
            f"the static decoder and {name} itself disagree about log-probs by {apart:.3g} nats on average; set "
            f"decoder to 'slots'"
        )
    return geometry
