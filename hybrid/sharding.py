"""Weights cut over the ranks (FSDP2, `fully_shard`): each rank keeps a part in float32, its moments and its gradients.

For a forward pass the weights of one layer after the other are put together in the type that computes, for sampling
all of them: answers are written by whole weights in place, so that there is no second copy that could grow stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hybrid.parallel import Ranks
from tfgrpo.errors import InputError


def shard(scorer: torch.nn.Module, ranks: Ranks, row: Any) -> None:
    """Cuts the model of a scorer in place. Every rank must have the same weights.

    Args:
        scorer: a module with the `model` in it, whose layers stand in `base_model.layers`.
        ranks: among which it is cut.
        row: something to score once: the first pass must go through the scorer, and answers may be asked for earlier.

    Raises:
        InputError: a model whose layers cannot be told apart.
    """
    model: Any = scorer.model
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise InputError(
            f"{type(model).__name__} has no list of layers under base_model.layers, by which weights are cut; train "
            f"it with parallel='ddp'"
        )
    computed = model.dtype
    model.float()
    mesh = init_device_mesh(model.device.type, (ranks.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if computed == torch.float32 else computed, reduce_dtype=torch.float32
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(scorer, mesh=mesh, mp_policy=policy)
    for part in _parts(scorer):
        part.set_gradient_divide_factor(1.0)  # losses are shares of the whole batch: gradients add up
        part.set_force_sum_reduction_for_comms(True)
    _say_what_comes_next(list(_parts(scorer)))
    with torch.no_grad():
        scorer(row)
    cut_again(scorer)


@contextmanager
def gathered(scorer: torch.nn.Module) -> Iterator[None]:
    """Within, all weights are whole on every rank; for a model that is not cut, nothing happens."""
    parts = list(_parts(scorer))
    layers = parts[1:]  # the scorer itself is the first
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        cut_again(scorer)
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)


def cut_again(scorer: torch.nn.Module) -> None:
    """Gives back what a pass without gradient left whole: parameters are then what the optimiser knows."""
    for part in _parts(scorer):
        part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be cut, as a plain one; all ranks must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _say_what_comes_next(parts: Sequence[FSDPModule]) -> None:
    """In a backward pass each part asks for the one before it, the first for itself, which it has.

    Otherwise that is read off the passes since the last backward one. Of those that need no other rank (writing
    answers, a teacher's reading) a rank may have had none: it would then ask for fewer parts than the others do.
    """
    root, *layers = parts
    for part, before in zip((*layers, root), (layers[0], *layers), strict=True):
        part.set_modules_to_backward_prefetch([before])


def _parts(scorer: torch.nn.Module) -> Iterator[FSDPModule]:
    return (module for module in scorer.modules() if isinstance(module, FSDPModule))
