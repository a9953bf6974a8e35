"""Limits of size, time and concurrency, so that no client can take the server from the others."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from tfgrpo.serving.refusal import Refused

MIB = 2**20
ZIPPED = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request, one namespace and all together may take."""

    body_bytes: int = 32 * MIB
    held_bytes: int = 512 * MIB  # of all bodies that are read before they are sent
    in_flight: int = 1024  # of all namespaces
    in_flight_each: int = 0  # of one namespace; 0: as many as of all
    timeout_s: float = 600.0  # for the server's whole answer, or between two pieces of a stream
    connect_s: float = 10.0
    upload_s: float = 60.0  # for the client's request to arrive, or between two pieces of an upload


class Slots:
    """Counts what is in flight."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._each: Counter[str] = Counter()
        self.in_flight = 0
        self.held = 0  # bytes of bodies

    @contextmanager
    def taken(self, namespace: str) -> Iterator[Slot]:
        """One slot.

        Raises:
            Refused: all slots are taken (429); clients wait and try again.
        """
        each = self._limits.in_flight_each or self._limits.in_flight
        if self.in_flight >= self._limits.in_flight or self._each[namespace] >= each:
            raise Refused(429, "too_many_requests", "too many requests in flight; try again", {"retry-after": "1"})
        self.in_flight += 1
        self._each[namespace] += 1
        slot = Slot(slots=self, limit=max(self._limits.held_bytes, self._limits.body_bytes))
        try:
            yield slot
        finally:
            self.in_flight -= 1
            self._each[namespace] -= 1
            self.held -= slot.held


@dataclass(kw_only=True, slots=True)
class Slot:
    """What one request takes."""

    slots: Slots
    limit: int  # bytes of all
    held: int = 0

    def hold(self, size: int) -> None:
        """So many bytes more, until the request is over.

        Raises:
            Refused: all requests together hold too much (429); clients wait and try again.
        """
        if self.slots.held + size > self.limit:
            raise Refused(429, "too_many_requests", "too many bytes in flight; try again", {"retry-after": "1"})
        self.slots.held += size
        self.held += size


async def whole_body(request: web.Request, limits: Limits, slot: Slot) -> bytes:
    """The request's body as it came.

    Raises:
        Refused: it is too large (413), came too slowly (408), was cut off (400), or must wait for others (429).
    """
    _fits(request.content_length or 0, limits)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.upload_s):
            async for part in request.content.iter_any():
                size += len(part)
                _fits(size, limits)
                slot.hold(len(part))
                parts.append(part)
    except TimeoutError:
        raise Refused(408, "slow_request", f"the request did not arrive within {limits.upload_s:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Refused(400, "broken_request", "the request was cut off") from None
    return b"".join(parts)


class Upload:
    """A body that is handed on piece by piece, unread."""

    def __init__(self, request: web.Request, limits: Limits) -> None:
        _fits(request.content_length or 0, limits)
        self._request, self._limits = request, limits
        self.size = 0
        self.refused: Refused | None = None  # why it was not handed on whole

    async def parts(self) -> AsyncIterator[bytes]:
        """Its pieces as they arrive."""
        try:
            while part := await self._next():
                self.size += len(part)
                _fits(self.size, self._limits)
                yield part
        except Refused as refused:
            self.refused = refused
            raise
        except (web.RequestPayloadError, ConnectionError):
            self.refused = Refused(400, "broken_request", "the request was cut off")
            raise self.refused from None

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.upload_s):
                return await self._request.content.readany()
        except TimeoutError:
            raise Refused(408, "slow_request", f"nothing came within {self._limits.upload_s:g} s") from None


def unzipped(body: bytes, encoding: str, limits: Limits) -> bytes | None:
    """The body as JSON, None for an encoding that is not known here.

    Raises:
        Refused: it grows beyond the limit (413), or is not what it says (400).
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ZIPPED:
        return None
    inflate = zlib.decompressobj(ZIPPED[encoding])
    try:
        plain = inflate.decompress(body, limits.body_bytes + 1)
    except zlib.error:
        raise Refused(400, "broken_request", f"the body is not {encoding}") from None
    _fits(len(plain), limits)
    return plain


def _fits(size: int, limits: Limits) -> None:
    if size > limits.body_bytes:
        raise Refused(413, "too_large", f"the request is larger than {limits.body_bytes} bytes")
