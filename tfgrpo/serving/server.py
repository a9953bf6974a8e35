"""The running server: opened in order, stopped without dropping a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tfgrpo.errors import InputError
from tfgrpo.serving import metrics as counting
from tfgrpo.serving import tracing
from tfgrpo.serving.access import Access, is_loopback
from tfgrpo.serving.exchange import Observer
from tfgrpo.serving.library_source import POLL_S, Follower, LibrarySource
from tfgrpo.serving.limits import Limits, Slots
from tfgrpo.serving.logs import Log, fault_logger
from tfgrpo.serving.metrics import Metrics
from tfgrpo.serving.pages import Pages
from tfgrpo.serving.proxy import Proxy
from tfgrpo.serving.strategy import Several
from tfgrpo.serving.upstream import Upstream

HEADER_BYTES = 32_768
BACKLOG = 2_048
KEEPALIVE_S = 75.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to serve; the libraries are opened already.

    `tokens` maps a token to its namespace; without any, `host` must be a loopback address.
    """

    upstream: str
    sources: Mapping[str, LibrarySource]
    key: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 8100
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    namespace: str = "default"
    limits: Limits = field(default_factory=Limits)
    poll_s: float = POLL_S
    drain_s: float = 30.0
    trace: bool = False
    several: Several | None = None  # a strategy for chat completions


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A server that answers."""

    url: str  # for a client's `base_url`, without /v1
    pages: Pages
    proxy: Proxy

    @property
    def in_flight(self) -> int:
        """Requests that are not over."""
        return self.proxy.slots.in_flight


@asynccontextmanager
async def running(settings: Settings, log: Log | None = None) -> AsyncIterator[Running]:
    """Serves until it is left; then requests in flight are finished, for `drain_s` at most.

    Raises:
        InputError: an address that is not loopback without tokens, an upstream that is no URL, a port in use.
        MissingExtraError: tracing without its package.
    """
    access = Access(settings.tokens, namespace=settings.namespace)
    if access.open and not is_loopback(settings.host):
        raise InputError(
            f"{settings.host!r} can be reached from other machines, so requests need tokens: give --tokens FILE with "
            "one 'TOKEN NAMESPACE' a line, or listen on 127.0.0.1"
        )
    upstream = Upstream(settings.upstream, key=settings.key, limits=settings.limits)
    slots = Slots(settings.limits)
    metrics = Metrics(settings.sources, slots) if counting.available() else None
    async with AsyncExitStack() as stack:
        observers: list[Observer] = [observer for observer in (metrics, log) if observer is not None]
        if settings.trace:
            provider, shut_down = tracing.otlp()
            stack.push_async_callback(asyncio.to_thread, shut_down)
            host, port = upstream.base.host or "", upstream.base.port or 0
            observers.append(tracing.Tracing(provider, host=host, port=port))
        if settings.several is not None:
            await settings.several.check()
        await upstream.open()
        stack.push_async_callback(upstream.close)
        if log is not None:
            await stack.enter_async_context(_flushed(log))
        told = {} if log is None else {"tell": log.library}
        follower = Follower(settings.sources, every_s=settings.poll_s, **told).start()
        stack.push_async_callback(asyncio.to_thread, follower.stop)
        proxy = Proxy(
            upstream=upstream,
            sources=settings.sources,
            access=access,
            limits=settings.limits,
            slots=slots,
            observers=observers,
            contents=log is not None and log.contents,
            several=settings.several,
        )
        pages = Pages(sources=settings.sources, access=access, metrics=metrics)
        port = await _listen(stack, settings, pages, proxy, log)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield Running(url=f"http://{host}:{port}", pages=pages, proxy=proxy)
        pages.draining = True


async def _listen(stack: AsyncExitStack, settings: Settings, pages: Pages, proxy: Proxy, log: Log | None) -> int:
    """The port that is listened on, which is a free one for 0."""
    app = web.Application()
    app.add_routes(pages.routes())
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=fault_logger(log),
        handler_cancellation=True,
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE_S,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        shutdown_timeout=settings.drain_s,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
    try:
        await site.start()
    except OSError as error:
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port} ({error}); choose another --port"
        ) from error
    return int(runner.addresses[0][1])


@asynccontextmanager
async def _flushed(log: Log) -> AsyncIterator[None]:
    task = asyncio.create_task(log.flush_forever(), name="log")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        log.flush()
