"""Where answers come from during training: the decoder of `local/...` on the very weights that are being trained.

One model in memory writes and learns in turn. There is nothing to synchronise and nothing that could be forgotten but
the states of prompts that the decoder keeps; `renew` drops them after every update, and the parity gate of the trainer
compares what the sampler saw with what the trainer computes, at every step.

Two decoders write answers: slots that grow (`tfgrpo.policy.local_engine`), and steps on fixed tensors, replayed as CUDA
graphs (`hybrid.static_decoder`). Other engines, such as a vLLM server, implement `Rollouts`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from hybrid.static_decoder import StaticDecoder
from tfgrpo.errors import InputError, TransportError, unknown_name
from tfgrpo.policy.base import Policy, Price, Sampling
from tfgrpo.policy.local import check_sampling, completion_of, row_of, with_schema
from tfgrpo.policy.local_engine import Engine, Row
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.types import Completion, Message

T = TypeVar("T")
QUIET_TURNS = 16
"""Turns of the event loop without a new request after which a wave begins."""
MAX_ROWS = {"cpu": 64}
PREFILL_TOKENS = {"cpu": 512}


class Decoder(Protocol):
    """Writes many answers at the same time with one model. One thread owns it."""

    running: list[Row]
    max_rows: int

    @property
    def room(self) -> int:
        """How many more rows may be added."""
        ...

    def add(self, rows: Sequence[Row], /) -> None:
        """Takes in at most `room` rows."""
        ...

    def step(self) -> None:
        """At least one more token for rows that are being written; those that have ended leave `running`."""
        ...

    def forget(self) -> None:
        """The weights have changed: whatever is kept of the old ones is dropped. Nothing may be running."""
        ...


DECODERS: dict[str, Callable[..., Decoder]] = {
    "slots": Engine,
    "static": StaticDecoder,
    "compiled": partial(StaticDecoder, compiled=True),
}
"""By the setting `decoder`; each takes a model and its stop ids, max_rows and prefill_tokens."""
DEFAULT_DECODER = {"cuda": "static"}


def check_decoder(name: str | None) -> None:
    """Refuses a decoder that does not exist.

    Raises:
        InputError: says which there are.
    """
    if name is not None and name not in DECODERS:
        raise unknown_name("decoder", name, DECODERS)


class Rollouts(Policy, Protocol):
    """A `Policy` whose weights change. It tells tokens and log-probs when `Sampling.extra` asks for "segments"."""

    async def renew(self, step: int) -> None:
        """The weights are now those after `step` updates: whatever was computed with older ones is void.

        An engine with weights of its own gets them here.
        """
        ...


class Worker:
    """One thread that owns the model: it samples and updates in turn, and the event loop stays free."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tfgrpo-train")

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """The result of `work`, done on the thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def aclose(self) -> None:
        """Waits for what is running."""
        await asyncio.to_thread(self._thread.shutdown, wait=True)


@dataclass(kw_only=True, slots=True, eq=False)
class _Request:
    messages: tuple[Message, ...]
    sampling: Sampling
    row: Row
    answer: asyncio.Future[Completion]


class LiveRollouts:
    """`Rollouts` of a model in this process.

    Requests are answered in waves: all that are there when the event loop has gone quiet, in the order in which they
    came, and nobody joins in between. So the same requests make the same batches, and with them the same rounding and
    the same answers, whatever else the machine does.

    Args:
        loaded: the model, which stays its owner's.
        worker: the thread that it is used on.
        name: what answers are marked with; "" for the model's own.
        max_rows: answers written at the same time; None: 64 on a CPU, 256 on a GPU.
        decoder: one of DECODERS; None: "static" on a GPU if it can decode this model, otherwise "slots".

    Raises:
        InputError: there is no such decoder, or it cannot decode this model.

    Example:
        >>> rollouts = LiveRollouts(loaded, Worker())                                       # doctest: +SKIP
        >>> answer = await rollouts.complete(messages, Sampling(extra={"segments": True}))  # doctest: +SKIP
    """

    def __init__(
        self,
        loaded: LoadedModel,
        worker: Worker,
        *,
        name: str = "",
        max_rows: int | None = None,
        decoder: str | None = None,
    ) -> None:
        self._loaded, self._worker = loaded, worker
        self._name = name or f"local/{loaded.name}"
        self._step = 0
        self.decoder = decoder or DEFAULT_DECODER.get(loaded.device, "slots")
        try:
            self._engine = self._made(max_rows)
        except InputError:
            if decoder is not None:
                raise
            self.decoder = "slots"  # which decodes every model that can be loaded
            self._engine = self._made(max_rows)
        self._waiting: list[_Request] = []
        self._pump: asyncio.Task[None] | None = None
        self.busy_s = 0.0

    def _made(self, max_rows: int | None) -> Decoder:
        check_decoder(self.decoder)
        device = self._loaded.device
        return DECODERS[self.decoder](
            self._loaded.model,
            self._loaded.stop_ids,
            max_rows=max_rows or MAX_ROWS.get(device, 256),
            prefill_tokens=PREFILL_TOKENS.get(device, 8192),
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def setup(self) -> str:
        """What writes the answers: "bfloat16 on cpu, 1 thread, decoder slots"."""
        return f"{self._loaded.words}, decoder {self.decoder}"

    @property
    def price(self) -> Price:
        return Price(prompt_usd_per_mtok=0.0, completion_usd_per_mtok=0.0, cached_usd_per_mtok=0.0)

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One answer, written together with all that was asked at the same time.

        Raises:
            RequestError: the prompt is longer than the model's context, or an option is not known here.
            TransportError: the decoder failed (out of memory).
        """
        check_sampling(self.name, sampling)
        asked = with_schema(messages, sampling)
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        row = row_of(self._loaded, asked, sampling, gone=answer.cancelled)
        self._waiting.append(_Request(messages=asked, sampling=sampling, row=row, answer=answer))
        if self._pump is None:
            self._pump = asyncio.create_task(self._waves(), name="rollouts")
        return await answer

    async def renew(self, step: int) -> None:
        """Forget the states of prompts; answers are from now on marked with this step."""
        self._step = step
        await self._worker(self._engine.forget)

    async def aclose(self) -> None:
        """Ends what is being written. The model stays its owner's."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _waves(self) -> None:
        try:
            while self._waiting:
                await self._quiet()
                wave, self._waiting = self._waiting, []
                await self._wave(wave)
        finally:
            self._pump = None

    async def _quiet(self) -> None:
        seen, turns = 0, 0
        while turns < QUIET_TURNS:
            turns = turns + 1 if seen == len(self._waiting) else 0
            seen = len(self._waiting)
            await asyncio.sleep(0)

    async def _wave(self, wave: Sequence[_Request]) -> None:
        begun = time.perf_counter()
        try:
            await self._worker(lambda: self._write([request.row for request in wave]))
        except (RuntimeError, MemoryError) as error:  # torch's own errors are RuntimeErrors
            self._engine.running.clear()
            self._engine.forget()
            lost = TransportError(f"{self.name} failed: {error}")
            for request in wave:
                if not request.answer.done():
                    request.answer.set_exception(lost)
            return
        took = time.perf_counter() - begun
        self.busy_s += took
        for request in wave:
            if not request.answer.done():
                done = completion_of(self._loaded, request.row, request.messages, request.sampling)
                request.answer.set_result(replace(done, policy=f"{self.name}@step-{self._step}", latency_s=took))

    def _write(self, rows: Sequence[Row]) -> None:
        """On the worker: all rows to their ends, as many at once as there is room for."""
        left = list(rows)
        while left or self._engine.running:
            room = self._engine.room
            if left and room >= min(len(left), max(1, self._engine.max_rows // 4)):  # equal prompts arrive together
                self._engine.add(left[:room])
                del left[:room]
            if self._engine.running:
                self._engine.step()


def training_sampling(sampling: Sampling) -> Sampling:
    """A task's sampling as training needs it: with tokens and their log-probs at the sampling temperature.

    Raises:
        InputError: the answers would not come from a distribution whose log-probs are known.
    """
    if not sampling.temperature > 0 or sampling.top_p < 1:
        raise InputError(
            f"training learns from the whole distribution that answers are drawn from: give a temperature above 0 and "
            f"top_p 1, got temperature={sampling.temperature} and top_p={sampling.top_p}"
        )
    return replace(sampling, extra={**sampling.extra, "segments": True, "tempered": True})
