"""The weights that are trained: float32 masters behind a model that computes in the faster type, and AdamW on them.

With a learning rate of 1e-5 one step moves a weight by about 1e-5, and the spacing of bfloat16 numbers near 0.1 is
5e-4: rounded after every step, nothing would ever change. So the step is made in float32 and rounded into the model,
where small steps show as soon as they have added up. On a CPU with AVX512-bf16 the model computes 1.5 times as fast in
bfloat16; a model that computes in float32 is its own master and costs no copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from hybrid.parallel import Ranks
from hybrid.sharding import whole
from tfgrpo.errors import InputError, RunStateError

MOMENTS = ("exp_avg", "exp_avg_sq")


class Weights:
    """All trainable parameters of a model, with AdamW (arXiv 1711.05101) and gradient clipping.

    Gradients of a narrower type are added into float32 as soon as a backward pass has made them, and freed: any number
    of micro-batches adds up without rounding, and never two sets of narrow gradients exist. Of several ranks each adds
    up its own; `step` sums them. Where the model is cut (`hybrid.sharding`), its parameters are the masters.
    """

    def __init__(
        self, model: Any, *, lr: float, betas: tuple[float, float], decay: float, ranks: Ranks | None = None
    ) -> None:
        self._ranks = ranks or Ranks()
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise InputError(f"{type(model).__name__} has no parameter that can be trained")
        output = getattr(model.get_output_embeddings(), "weight", None)
        self._output = next((name for name, p in self.parameters.items() if p is output), None)
        self.masters = {name: p if p.dtype == torch.float32 else _master(p) for name, p in self.parameters.items()}
        self._hooks = [
            p.register_post_accumulate_grad_hook(partial(_take, self.masters[name]))
            for name, p in self.parameters.items()
            if self.masters[name] is not p
        ]
        self.optimizer = torch.optim.AdamW(
            list(self.masters.values()), lr=lr, betas=betas, weight_decay=decay, fused=True
        )

    def ready(self) -> None:
        """Gradients of 0, before activations are made; those of a cut model are FSDP's to make.

        Made in between, they would stand in the holes that freed activations leave, where the activations of the next
        row then find no room. That of the output embedding is the largest: `hybrid.head` adds to it in place.
        """
        for master in self.masters.values():
            if not isinstance(master, DTensor):
                master.grad = torch.zeros_like(master)
        if self._output is not None:
            self.parameters[self._output].main_grad = self.masters[self._output].grad

    def step(self, *, clip: float, lr: float) -> float:
        """One update; the norm of the gradient before clipping.

        Raises:
            RunStateError: a gradient is not finite; the weights are as they were.
        """
        self._sum()
        grads = [m.grad for m in self.masters.values() if m.grad is not None]
        norm = float(whole(torch.nn.utils.get_total_norm(grads))) if grads else 0.0
        if not norm < float("inf"):
            self.clear()
            raise RunStateError(
                f"the gradient is not finite (its norm is {norm}), so the weights were not changed; lower the learning "
                f"rate, or look at the rewards and advantages of this step in the run's events"
            )
        if norm > clip:
            torch._foreach_mul_(grads, clip / (norm + 1e-6))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.clear()
        with torch.no_grad():
            for name, p in self.parameters.items():
                if self.masters[name] is not p:
                    p.copy_(self.masters[name])
        return norm

    def _sum(self) -> None:
        """Gradients of all ranks; FSDP has summed those of a cut model already."""
        masters = list(self.masters.values())
        if not any(isinstance(master, DTensor) for master in masters):
            self._ranks.sum_gradients(masters)

    def clear(self) -> None:
        """Drops the gradients."""
        if self._output is not None:
            vars(self.parameters[self._output]).pop("main_grad", None)
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Leaves the model alone."""
        for hook in self._hooks:
            hook.remove()

    # -- what a checkpoint keeps --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Masters, moments and the step counts of AdamW by name, cut as they are."""
        state = {f"master/{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            state |= {f"{kind}/{name}": value for kind, value in self.optimizer.state.get(master, {}).items()}
        return state

    def empty_state(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Room for a state with these names and shapes, to be filled and given to `restore`.

        Raises:
            RunStateError: they are those of another model.
        """
        wanted = {f"master/{name}": tuple(master.shape) for name, master in self.masters.items()}
        found = {name: tuple(shape) for name, shape in shapes.items() if name.startswith("master/")}
        if wanted != found:
            odd = [n.removeprefix("master/") for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n)]
            raise RunStateError(
                f"the checkpoint is of another model: {len(odd)} weights differ in name or shape, such as "
                f"{min(odd)!r}; start a new run, or give the model it was made of"
            )
        room = {}
        for name, master in self.masters.items():
            room[f"master/{name}"] = torch.empty_like(master)
            if f"step/{name}" in shapes:
                room |= {f"{kind}/{name}": torch.empty_like(master) for kind in MOMENTS}
                room[f"step/{name}"] = torch.zeros((), dtype=torch.float32)
        return {name: tensor.detach() for name, tensor in room.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The opposite of `state`, for the same model."""
        for name, master in self.masters.items():
            master.copy_(state[f"master/{name}"])
            if master is not self.parameters[name]:
                self.parameters[name].copy_(master)
            if f"step/{name}" in state:
                kept = {kind: state[f"{kind}/{name}"].clone() for kind in (*MOMENTS, "step")}
                self.optimizer.state[master] = {kind: tensor.to(master.device) for kind, tensor in kept.items()}


def _take(master: Tensor, narrow: Tensor) -> None:
    """Adds a gradient to the master's and drops it. Knows nothing else: a hook that knew more would close a cycle."""
    grad = narrow.grad
    if grad is None:
        return
    if master.grad is None:
        master.grad = grad.to(master.dtype)
    else:
        master.grad += grad
    narrow.grad = None


def _master(p: Tensor) -> Tensor:
    return p.detach().to(torch.float32).clone()
