"""Replays a step as a CUDA graph; on every other device the step is called as it is.

Launching the kernels of one step one by one takes longer than the kernels themselves do; a graph launches all of them
at once. *Untested on a GPU*: what is recorded is tested on a CPU, the recording follows PyTorch's documentation of
`torch.cuda.graph`.

A graph keeps the addresses of all tensors it saw, those of the model's weights too: weights that are updated in place
are seen by the next replay, weights in other tensors never (`Replay.forget_moved`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

F = TypeVar("F")
KEPT = 32
"""Shapes whose tensors and graphs are kept; the one that was used longest ago goes first."""


@dataclass(slots=True)
class _Slot(Generic[F]):
    frame: F
    warm: bool = False  # has been stepped: libraries and kernels of this shape are loaded
    graph: Any = None


class Replay(Generic[F]):
    """Steps frames of tensors, each by its own graph.

    Args:
        step: changes the tensors of a frame in place, and never asks the host for anything.
        device: where they are.
        kept: how many frames to keep.

    Example:
        >>> replay = Replay(lambda frame: frame.add_(1), torch.device("cpu"))
        >>> total = replay.frame("one", lambda: torch.zeros(2))
        >>> replay("one", times=3)
        >>> total.tolist()
        [3.0, 3.0]
    """

    def __init__(self, step: Callable[[F], object], device: torch.device, *, kept: int = KEPT) -> None:
        self._step = step
        self._kept = kept
        self._slots: OrderedDict[Hashable, _Slot[F]] = OrderedDict()  # oldest use first
        self._weights: tuple[int, ...] = ()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pool: Any = None  # one for all graphs: they never run at the same time, and keep nothing in it in between

    def frame(self, key: Hashable, make: Callable[[], F]) -> F:
        """The frame of this key, made now if there is none."""
        if key not in self._slots:
            self._slots[key] = _Slot(make())
            while len(self._slots) > self._kept:
                self._slots.popitem(last=False)
        self._slots.move_to_end(key)
        return self._slots[key].frame

    def clear(self) -> None:
        """Drops all frames: the tensors that they are beside of were allocated anew."""
        self._slots.clear()
        self._pool = None

    def forget_moved(self, model: torch.nn.Module) -> None:
        """Drops all frames if a weight of the model is no longer where it was."""
        found = tuple(p.data_ptr() for p in model.parameters())
        if found != self._weights:
            self.clear()
            self._weights = found

    def __call__(self, key: Hashable, *, times: int) -> None:
        """Steps the frame of a key."""
        slot = self._slots[key]
        for _ in range(times):
            if self._stream is None:
                self._step(slot.frame)
            elif slot.warm:
                self._replayed(slot, self._stream)
            else:
                self._eager(slot, self._stream)

    def _eager(self, slot: _Slot[F], stream: torch.cuda.Stream) -> None:
        """The first step of a shape warms up: a real one, on the stream that is recorded later."""
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            self._step(slot.frame)
        torch.cuda.current_stream(stream.device).wait_stream(stream)
        slot.warm = True

    def _replayed(self, slot: _Slot[F], stream: torch.cuda.Stream) -> None:
        if slot.graph is None:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads of the process may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                self._step(slot.frame)  # recorded, not done
            slot.graph = graph
        slot.graph.replay()
