"""The proxy itself: every request in, what the server behind it says out.

    POST .../chat/completions, .../responses     experiences are put in; the answer is handed on as it is
    GET /healthz, /readyz, /metrics, /openapi.json     the proxy's own
    all else                                      handed on unread, both ways

A body that needs no change is sent byte for byte. A stream is passed on piece by piece, unparsed, and ends when the
client goes away; an answer that breaks off never looks like a whole one.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientResponse, web

from tfgrpo.serving.access import Access, Admitted
from tfgrpo.serving.apply import Api, Served, api_of_path, atry_augment
from tfgrpo.serving.exchange import Exchange, Observer, Route, Tail, model_of, tokens_of
from tfgrpo.serving.library_source import LibrarySource
from tfgrpo.serving.limits import MIB, Limits, Slots, Upload, unzipped, whole_body
from tfgrpo.serving.refusal import Refused
from tfgrpo.serving.reply import Reply
from tfgrpo.serving.strategy import Several
from tfgrpo.serving.upstream import Upstream, answer_headers, failures_told

WHOLE_BYTES = MIB  # of an answer that is read before it is handed on, so that a broken one can be told as an error
MAX_LABELS = 32
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """All that answering needs; `handle` is the whole of it."""

    upstream: Upstream
    sources: Mapping[str, LibrarySource]
    access: Access
    limits: Limits
    slots: Slots
    observers: Sequence[Observer] = ()
    contents: bool = False  # whether observers want what was said
    several: Several | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request; observers are told of it whatever becomes of it."""
        api = api_of(request)
        path = request.rel_url.raw_path
        route: Route = api or ("models" if path.startswith("/v1/models") else "other")
        exchange = Exchange(
            id=secrets.token_hex(8), route=route, method=request.method, path=path, started=time.perf_counter()
        )
        try:
            response = await self._answer(request, api, exchange)
        except Refused as refused:
            exchange.error, exchange.status = refused.code, refused.status
            response = refusal(refused)
            self._mark(response.headers, exchange)
        except (asyncio.CancelledError, ConnectionError):
            exchange.error, exchange.status = "client_gone", 499
            raise
        except BaseException:
            exchange.error, exchange.status = "bug", 500
            raise
        finally:
            exchange.ended = time.perf_counter()
            for observer in self.observers:
                observer.ended(exchange)
        return response

    async def _answer(self, request: web.Request, api: Api | None, exchange: Exchange) -> web.StreamResponse:
        if request.method not in METHODS:
            raise Refused(405, "bad_method", "this method is not handed on")
        admitted = self.access.admit(request)
        exchange.namespace = admitted.namespace
        source = self.sources.get(admitted.namespace)
        if source is None:
            raise Refused(403, "no_library", "this token reads the proxy's own pages only")
        exchange.version = source.current().version
        with self.slots.taken(admitted.namespace) as slot:
            if api is None:
                return await self._pass_on(request, exchange, admitted)
            raw = await whole_body(request, self.limits, slot)
            return await self._ask(request, raw, api, exchange, admitted, source)

    # -- requests to a model ------------------------------------------------------------------------------------------

    async def _ask(
        self, request: web.Request, raw: bytes, api: Api, exchange: Exchange, admitted: Admitted, source: LibrarySource
    ) -> web.StreamResponse:
        plain = unzipped(raw, request.headers.get("content-encoding", "").lower(), self.limits)
        headers = self.upstream.headers(request, admitted.spent)
        sent = await self._augmented(plain, api, exchange, source.current())
        if sent is None:
            sent = raw
        else:
            headers.popall("content-encoding", None)
        if exchange.stream:
            headers["Accept-Encoding"] = "identity"  # a stream that waits for a compressor's block is none
        exchange.bytes_in = len(raw)
        if self.contents:
            exchange.asked = sent
        if self.several is not None and api == "chat" and self.several.takes(body := read_json(sent), request.headers):
            return await self._several(request, exchange, headers, self.several, body)
        return await self._forward(request, exchange, headers, sent)

    async def _augmented(self, plain: bytes | None, api: Api, exchange: Exchange, served: Served) -> bytes | None:
        """The body to send instead; None where nothing is to be changed, or it is none that could be."""
        body = read_json(plain)
        if not isinstance(body, dict):
            return None
        exchange.model, exchange.stream = str(body.get("model") or ""), body.get("stream") is True
        done = await atry_augment(body, api, served)
        exchange.version, exchange.labels = done.version, done.labels
        if done.problem:
            exchange.error = "retrieval_failed"
        return None if done.body is body else _dumped(done.body)

    async def _several(
        self,
        request: web.Request,
        exchange: Exchange,
        headers: MutableMapping[str, str],
        several: Several,
        body: Mapping[str, Any],
    ) -> web.StreamResponse:
        """One of several answers; each is asked for as the client's request would be."""
        url = self.upstream.url(request)
        for observer in self.observers:
            headers.update(observer.sending(exchange, request.headers))
        headers["Accept-Encoding"] = "identity"
        exchange.sent_at = time.perf_counter()

        async def send(data: bytes) -> Reply:
            exchange.calls += 1
            with failures_told(self.limits):
                response = await self.upstream.send(request.method, url, headers, data)
            async with response:
                body, ended = await self._beginning(response)
                if not ended:
                    raise Refused(502, "upstream_broke", f"an answer of more than {WHOLE_BYTES} bytes cannot be chosen")
                plain = unzipped(body, response.headers.get("content-encoding", "").lower(), self.limits)
                return Reply(status=response.status, headers=answer_headers(response), body=body, plain=plain)

        reply = await several.answer(body, send, exchange.id)
        exchange.status, exchange.first_at = reply.status, time.perf_counter()
        exchange.last_at = exchange.first_at
        self._mark(reply.headers, exchange)
        self._note(exchange, reply.body, reply.body, len(reply.body))
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)

    # -- everything else ----------------------------------------------------------------------------------------------

    async def _pass_on(self, request: web.Request, exchange: Exchange, admitted: Admitted) -> web.StreamResponse:
        headers = self.upstream.headers(request, admitted.spent)
        upload = Upload(request, self.limits) if request.body_exists else None
        if upload is not None and (length := request.headers.get("content-length")) is not None:
            headers["Content-Length"] = length
        try:
            return await self._forward(request, exchange, headers, None if upload is None else upload.parts())
        except Refused:
            if upload is not None and upload.refused is not None:
                raise upload.refused from None
            raise
        finally:
            exchange.bytes_in = 0 if upload is None else upload.size

    # -- there and back -----------------------------------------------------------------------------------------------

    async def _forward(
        self,
        request: web.Request,
        exchange: Exchange,
        headers: MutableMapping[str, str],
        data: bytes | AsyncIterator[bytes] | None,
    ) -> web.StreamResponse:
        url = self.upstream.url(request)
        for observer in self.observers:
            headers.update(observer.sending(exchange, request.headers))
        exchange.sent_at = time.perf_counter()
        with failures_told(self.limits):
            response = await self.upstream.send(request.method, url, headers, data)
        async with response:  # leaving it before its end closes the connection, which is how a server is told
            exchange.status, exchange.first_at = response.status, time.perf_counter()
            return await self._hand_on(request, response, exchange)

    async def _hand_on(self, request: web.Request, response: ClientResponse, exchange: Exchange) -> web.StreamResponse:
        headers = answer_headers(response)
        self._mark(headers, exchange)
        begun, ended = b"", False
        if not _comes_in_pieces(response, exchange):
            begun, ended = await self._beginning(response)
        if not ended:
            return await self._pipe(request, response, exchange, headers, begun)
        exchange.last_at = time.perf_counter()
        self._note(exchange, begun, begun, len(begun))
        if request.method == "HEAD" and (length := response.headers.get("content-length")):
            headers["Content-Length"] = length
            return web.Response(status=response.status, headers=headers)
        return web.Response(status=response.status, headers=headers, body=begun)

    async def _beginning(self, response: ClientResponse) -> tuple[bytes, bool]:
        """As much as is read before anything is handed on, and whether that was all."""
        parts: list[bytes] = []
        size = 0
        with failures_told(self.limits):
            async with asyncio.timeout(self.limits.timeout_s):
                async for part in response.content.iter_any():
                    parts.append(part)
                    size += len(part)
                    if size > WHOLE_BYTES:
                        return b"".join(parts), False
        return b"".join(parts), True

    async def _pipe(
        self,
        request: web.Request,
        response: ClientResponse,
        exchange: Exchange,
        headers: MutableMapping[str, str],
        begun: bytes,
    ) -> web.StreamResponse:
        out = web.StreamResponse(status=response.status, headers=headers)
        if (length := response.headers.get("content-length", "")).isdigit():
            out.content_length = int(length)
        tail = Tail.of(contents=self.contents)
        await out.prepare(request)
        try:
            async for part in self._parts(response, begun):
                tail.add(part)
                await self._written(out, part)
        except Refused as refused:
            exchange.error = refused.code
            await _broken_off(request, out, refused, tail if _is_stream(response) else None)
            return out
        finally:
            exchange.last_at = time.perf_counter()
            self._note(exchange, bytes(tail.head), tail.end, tail.bytes_seen)
        await out.write_eof()
        return out

    async def _written(self, out: web.StreamResponse, part: bytes) -> None:
        """A client that does not read holds up nobody for ever."""
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                await out.write(part)
        except TimeoutError:
            raise Refused(408, "slow_client", "the client does not read its answer") from None

    async def _parts(self, response: ClientResponse, begun: bytes) -> AsyncIterator[bytes]:
        if begun:
            yield begun
        with failures_told(self.limits):
            async for part in response.content.iter_any():
                yield part

    # -- what is told -------------------------------------------------------------------------------------------------

    def _mark(self, headers: MutableMapping[str, str], exchange: Exchange) -> None:
        """Which version and which experiences were used, and whether the store could be read lately."""
        headers["x-tfgrpo-request"] = exchange.id
        if not exchange.version:
            return
        headers["x-tfgrpo-version"] = exchange.version
        if exchange.labels:
            more = len(exchange.labels) - MAX_LABELS
            shown = ",".join(exchange.labels[:MAX_LABELS])
            headers["x-tfgrpo-experiences"] = shown + (f",+{more}" if more > 0 else "")
        status = self.sources[exchange.namespace].status()
        if status.problem:
            headers["x-tfgrpo-store"] = f"stale; unseen={status.unseen_s:.0f}"

    def _note(self, exchange: Exchange, head: bytes, end: bytes, size: int) -> None:
        exchange.bytes_out = size
        if exchange.route in ("chat", "responses"):
            exchange.tokens, exchange.answered_by = tokens_of(end[-16_384:]), model_of(head[:8_192])
        if self.contents:
            exchange.answered = head


def api_of(request: web.Request) -> Api | None:
    """The API of a request to a model, None for all others."""
    return api_of_path(request.rel_url.raw_path) if request.method == "POST" else None


def refusal(refused: Refused) -> web.Response:
    """An answer of ours."""
    return web.Response(
        status=refused.status,
        body=refused.body(),
        content_type="application/json",
        headers={"Server": "tfgrpo", **refused.headers},
    )


async def _broken_off(request: web.Request, out: web.StreamResponse, refused: Refused, stream: Tail | None) -> None:
    """Ends an answer whose head is out, so that no other status can be sent: it must not look whole."""
    transport = request.transport
    if transport is None:
        return
    if refused.code == "slow_client":
        transport.abort()
        return
    if stream is not None and (not stream.bytes_seen or stream.end.endswith((b"\n\n", b"\r\n\r\n"))):
        await out.write(refused.event())  # between two events there is room for one that says why
    transport.close()


def read_json(data: bytes | None) -> Any:
    """What a body says, None where it is no JSON: the server says so in its own words."""
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None


def _dumped(body: Any) -> bytes | None:
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
        return json.dumps(body, separators=(",", ":")).encode()
    except RecursionError:
        return None


def _comes_in_pieces(response: ClientResponse, exchange: Exchange) -> bool:
    """Streams, and what may be one: speech, lines of JSON. What is one JSON is read first: half of it is of no use."""
    asked_whole = exchange.route in ("chat", "responses") and not exchange.stream
    empty = response.method == "HEAD" or response.status in (204, 304)
    if asked_whole or empty or "content-length" in response.headers:
        return _is_stream(response)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind != "application/json" and not kind.endswith("+json")


def _is_stream(response: ClientResponse) -> bool:
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")
