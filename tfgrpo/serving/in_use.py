"""One library behind one client: where a request becomes an answer, whichever client sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tfgrpo.serving.apply import Api, Augmented, Body, atry_augment, try_augment
from tfgrpo.serving.following import FollowedLibrary, Use

if TYPE_CHECKING:  # only a client with a strategy needs what chooses
    from tfgrpo.serving.reply import Reply
    from tfgrpo.serving.strategy import Several

T = TypeVar("T")
R = TypeVar("R")
THREADS = 64  # of one request at once, on a client without an event loop


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples(Generic[T, R]):
    """How a client is asked several times in place of one request; on an event loop both functions are awaited.

    `one` sends another body, and gives the whole answer of the server (a Reply); it raises Unsent where there is none.
    `shown` is an answer as the client would have given it: an object, a stream, an error. `headers` are the request's.
    """

    one: Callable[[bytes], R]
    shown: Callable[[Reply], T]
    headers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked(Generic[T, R]):
    """A request of a client: its whole body, its API, and how it is sent."""

    body: Body
    api: Api
    send: Callable[[Body], T]
    samples: Samples[T, R] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InUse:
    """What a wrapped client and its copies share."""

    library: FollowedLibrary
    on_use: Callable[[Use], None] | None = None
    owned: bool = False  # whether the library was opened for this client and is closed with it
    several: Several | None = None

    def ask(self, asked: Asked[T, Reply]) -> T:
        """Puts the experiences in and sends; a strategy asks several times and chooses."""
        done = try_augment(asked.body, asked.api, self.library)
        use = self._told(done, asked.api)
        several, samples = self._strategy(done.body, asked), asked.samples
        if several is None or samples is None:
            return asked.send(done.body)
        one = samples.one
        with ThreadPoolExecutor(min(several.strategy.max_calls, THREADS)) as threads:

            async def send(data: bytes) -> Reply:
                running = asyncio.get_running_loop()
                return await running.run_in_executor(threads, copy_context().run, one, data)

            reply = completed(several.told(done.body, send))
        self._chosen(use, reply)
        return samples.shown(reply)

    async def aask(self, asked: Asked[Awaitable[T], Awaitable[Reply]]) -> T:
        """`ask` on an event loop."""
        done = await atry_augment(asked.body, asked.api, self.library)
        use = self._told(done, asked.api)
        several, samples = self._strategy(done.body, asked), asked.samples
        if several is None or samples is None:
            return await asked.send(done.body)
        reply = await several.told(done.body, samples.one)
        self._chosen(use, reply)
        return await samples.shown(reply)

    def _strategy(self, body: Body, asked: Asked[Any, Any]) -> Several | None:
        """What chooses, where it takes this request."""
        if self.several is None or asked.samples is None or asked.api != "chat":
            return None
        return self.several if self.several.takes(body, asked.samples.headers) else None

    def _told(self, done: Augmented, api: Api) -> Use:
        model = str(done.body.get("model") or "")
        use = Use(version=done.version, labels=done.labels, api=api, model=model, problem=done.problem)
        self.library.note(use)
        if self.on_use is not None:
            self.on_use(use)
        return use

    def _chosen(self, use: Use, reply: Reply) -> None:
        """Adds what the answer cost; an error of the server chose nothing."""
        if reply.strategy:
            self.library.note(replace(use, strategy=reply.strategy, calls=reply.calls, why=reply.why))

    def close(self) -> None:
        """Closes the library, unless it was opened by someone else."""
        if self.owned:
            self.library.close()


def completed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end, also in a thread whose event loop runs: a call without `await` blocks that one anyway."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(copy_context().run, asyncio.run, coroutine).result()
