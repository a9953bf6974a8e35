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
from typing import Protocol, TypeVar

from hybrid.allocator import keep_large_blocks_apart
from hybrid.writing import Ask, Writer
from tfgrpo.errors import InputError, TransportError
from tfgrpo.policy.base import Policy, Price, Sampling
from tfgrpo.policy.local import check_sampling, completion_of, row_of, with_schema
from tfgrpo.types import Completion, Message

T = TypeVar("T")
QUIET_TURNS = 16
"""Turns of the event loop without a new request after which a wave begins."""


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
        keep_large_blocks_apart()  # before the thread asks for memory
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
    ask: Ask
    answer: asyncio.Future[Completion]


class LiveRollouts:
    """`Rollouts` of a model in this process, and in those that train with it.

    Requests are answered in waves: all that are there when the event loop has gone quiet, in the order in which they
    came, and nobody joins in between. So the same requests make the same batches, and with them the same rounding and
    the same answers, whatever else the machine does.

    Example:
        >>> rollouts = LiveRollouts(Writer(loaded, Ranks(), nullcontext), Worker())         # doctest: +SKIP
        >>> answer = await rollouts.complete(messages, Sampling(extra={"segments": True}))  # doctest: +SKIP
    """

    def __init__(self, writer: Writer, worker: Worker, *, name: str = "") -> None:
        self._worker, self._loaded, self._ranks = worker, writer.loaded, writer.ranks
        self._name = name or f"local/{self._loaded.name}"
        self._step = 0
        self._waiting: list[_Request] = []
        self._pump: asyncio.Task[None] | None = None
        self.busy_s = 0.0

    @property
    def name(self) -> str:
        return self._name

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
        ask = Ask(prompt=self._loaded.prompt_ids(asked), sampling=sampling)
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(messages=asked, ask=ask, answer=answer))
        if self._pump is None:
            self._pump = asyncio.create_task(self._waves(), name="rollouts")
        return await answer

    async def renew(self, step: int) -> None:
        """Forget the states of prompts; answers are from now on marked with this step."""
        self._step = step
        await self._worker(lambda: self._ranks.lead("forget prompts"))

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
        asks = [request.ask for request in wave]
        gone = [request.answer.cancelled for request in wave] if self._ranks.size == 1 else []
        try:
            written = await self._worker(lambda: self._ranks.lead("write answers", wave=asks, gone=gone))
        except TransportError as lost:
            for request in wave:
                if not request.answer.done():
                    request.answer.set_exception(lost)
            return
        took = time.perf_counter() - begun
        self.busy_s += took
        for request, (tokens, logps) in zip(wave, written, strict=True):
            if not request.answer.done():
                row = row_of(self._loaded, request.ask.prompt, request.ask.sampling)
                row.tokens, row.logps = list(tokens), list(logps)
                done = completion_of(self._loaded, row, request.messages, request.ask.sampling)
                request.answer.set_result(replace(done, policy=f"{self.name}@step-{self._step}", latency_s=took))


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
