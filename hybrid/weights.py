"""The weights that are trained: float32 masters behind a model that computes in the faster type, and AdamW on them.

With a learning rate of 1e-5 one step moves a weight by about 1e-5, and the spacing of bfloat16 numbers near 0.1 is
5e-4: rounded after every step, nothing would ever change. So the step is made in float32 and rounded into the model,
where small steps show as soon as they have added up. On a CPU with AVX512-bf16 the model computes 1.5 times as fast in
bfloat16; a model that computes in float32 is its own master and costs no copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tfgrpo.errors import InputError, RunStateError

MOMENTS = ("exp_avg", "exp_avg_sq")


class Weights:
    """All trainable parameters of a model, with AdamW (arXiv 1711.05101) and gradient clipping.

    Gradients of a narrower type are added into float32 as soon as a backward pass has made them, and freed: any number
    of micro-batches adds up without rounding, and never two sets of narrow gradients exist.
    """

    def __init__(self, model: Any, *, lr: float, betas: tuple[float, float], decay: float) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise InputError(f"{type(model).__name__} has no parameter that can be trained")
        self.masters = {name: p if p.dtype == torch.float32 else _master(p) for name, p in self.parameters.items()}
        self._hooks = [
            p.register_post_accumulate_grad_hook(lambda narrow, name=name: self._take(name, narrow))
            for name, p in self.parameters.items()
            if self.masters[name] is not p
        ]
        self.optimizer = torch.optim.AdamW(
            list(self.masters.values()), lr=lr, betas=betas, weight_decay=decay, fused=True
        )

    def _take(self, name: str, narrow: Tensor) -> None:
        master, grad = self.masters[name], narrow.grad
        if grad is None:
            return
        if master.grad is None:
            master.grad = grad.to(master.dtype)
        else:
            master.grad += grad
        narrow.grad = None

    def step(self, *, clip: float, lr: float) -> float:
        """One update; the norm of the gradient before clipping.

        Raises:
            RunStateError: a gradient is not finite; the weights are as they were.
        """
        grads = [m.grad for m in self.masters.values() if m.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0
        if not norm < float("inf"):
            self.clear()
            raise RunStateError(
                f"the gradient is not finite (its norm is {norm}), so the weights were not changed; lower the learning "
                f"rate, or look at the rewards and advantages of this step in the run's events"
            )
        torch.nn.utils.clip_grads_with_norm_(list(self.masters.values()), clip, torch.tensor(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.clear()
        with torch.no_grad():
            for name, p in self.parameters.items():
                if self.masters[name] is not p:
                    p.copy_(self.masters[name])
        return norm

    def clear(self) -> None:
        """Drops the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Leaves the model alone."""
        for hook in self._hooks:
            hook.remove()

    # -- what a checkpoint keeps --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Masters, moments and the step counts of AdamW by name, for safetensors."""
        state = {f"master/{name}": master.detach() for name, master in self.masters.items()}
        for kind, name, tensor in self._moments():
            state[f"{kind}/{name}"] = tensor
        return {name: tensor.contiguous() for name, tensor in state.items()}

    def _moments(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, master in self.masters.items():
            for kind, value in self.optimizer.state.get(master, {}).items():
                yield kind, name, value

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The opposite of `state`, for the same model.

        Raises:
            RunStateError: it is of another model.
        """
        wanted = {f"master/{name}": tuple(m.shape) for name, m in self.masters.items()}
        found = {name: tuple(t.shape) for name, t in state.items() if name.startswith("master/")}
        if wanted != found:
            odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            raise RunStateError(
                f"the checkpoint is of another model: {len(odd)} weights differ in name or shape, such as "
                f"{odd[0].removeprefix('master/')!r}; start a new run, or give the model it was made of"
            )
        for name, master in self.masters.items():
            master.copy_(state[f"master/{name}"])
            if master is not self.parameters[name]:
                self.parameters[name].copy_(master)
            if f"step/{name}" in state:
                kept = {kind: state[f"{kind}/{name}"] for kind in MOMENTS}
                moved = {kind: tensor.to(master.device).clone() for kind, tensor in kept.items()}
                self.optimizer.state[master] = {"step": state[f"step/{name}"].to(master.device).clone(), **moved}


def _master(p: Tensor) -> Tensor:
    return p.detach().to(torch.float32).clone()
