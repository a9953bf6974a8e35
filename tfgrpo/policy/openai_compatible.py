"""The `openai` client on its aiohttp transport, for every server that speaks the OpenAI chat protocol.

The default transport of the client costs 10 ms of CPU per call at 64 in flight, the aiohttp one 1.6 ms. Replies are
taken as plain JSON: building the client's response models costs more than everything else we do to a call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from tfgrpo.policy.wire import Failure, Outcome, Secret, failure_of_status

if TYPE_CHECKING:
    import httpx
    import openai

MAX_CONNECTIONS = 4096
KEEPALIVE_S = 4.0  # below the 5 s after which uvicorn and others close an idle connection under our hands
CONNECT_TIMEOUT_S = 10.0
KEYLESS = "EMPTY"  # what servers without keys are usually given
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class OpenAIWire:
    """Sends with an `AsyncOpenAI` (or Azure) client; one client for each event loop that asks."""

    def __init__(self, make_client: Callable[[httpx.Timeout], openai.AsyncOpenAI], secret: Secret) -> None:
        self._make_client = make_client
        self._secret = secret
        self._client: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, body: Mapping[str, Any], timeout_s: float) -> Outcome:
        """The reply's JSON. Tries once."""
        return await self.call("/chat/completions", timeout_s, body=body)

    async def call(self, path: str, timeout_s: float, *, body: Mapping[str, Any] | None = None) -> Outcome:
        """What the server says to a POST with a body, or to a GET without one, as JSON. Tries once.

        Args:
            path: below the base URL, or a whole URL for what a server has beside it.
            timeout_s: for the whole reply.
            body: a JSON object.
        """
        import httpx  # noqa: PLC0415
        import openai  # noqa: PLC0415

        client = self._client_of_this_loop(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                if body is None:
                    response = await client.get(path, cast_to=httpx.Response)
                else:
                    response = await client.post(path, cast_to=httpx.Response, body=body)
        except TimeoutError:
            return Failure(kind="timeout", words=f"no complete reply within {timeout_s:g} s")
        except openai.APIStatusError as error:
            return self._of_status(error)
        except openai.APIConnectionError as error:
            return self._of_connection(error, timeout_s)
        return self._parsed(response.content)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    def _client_of_this_loop(self, timeout_s: float) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            import httpx  # noqa: PLC0415

            timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
            self._client, self._loop = self._make_client(timeout), loop
        return self._client

    def _parsed(self, content: bytes) -> Outcome:
        text = self._secret.redact(content.decode(errors="replace"))
        try:
            reply = json.loads(text)
        except ValueError:
            return Failure(kind="lost", words=f"the reply is no JSON: {text[:200]!r}")
        if not isinstance(reply, dict):
            return Failure(kind="lost", words=f"the reply is no JSON object: {text[:200]!r}")
        return reply

    def _of_status(self, error: openai.APIStatusError) -> Failure:
        text = self._secret.redact(error.response.text)
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        return failure_of_status(error.status_code, error.response.headers, text, body)

    def _of_connection(self, error: openai.APIConnectionError, timeout_s: float) -> Failure:
        """What lies beneath: the client calls a dropped connection a time-out, and a refused one only an error."""
        causes = _chain(error)
        words = self._secret.redact(str(causes[-1]) or type(causes[-1]).__name__)
        names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
        if names & {"ClientConnectorError", "ConnectError"}:
            return Failure(kind="connect", words=words)
        if names & {"TimeoutError", "ServerTimeoutError", "ReadTimeout"}:
            return Failure(kind="timeout", words=f"{words} (time-out {timeout_s:g} s)")
        return Failure(kind="lost", words=f"the connection broke: {words}")


def openai_wire(base_url: str | None, api_key: str | None, *, foreign: bool = False) -> OpenAIWire:
    """A wire to OpenAI or to any compatible server; a `foreign` one is not told OpenAI's organisation headers."""
    import openai  # noqa: PLC0415 - takes a second, which belongs to no call's latency

    key = api_key or KEYLESS

    def make(timeout: httpx.Timeout) -> openai.AsyncOpenAI:
        hidden: dict[str, Any] = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            default_headers=hidden if foreign else None,
            http_client=_http_client(timeout, base_url),
        )

    return OpenAIWire(make, Secret(key))


def azure_wire(endpoint: str, api_key: str, api_version: str) -> OpenAIWire:
    """A wire to an Azure-style endpoint; the deployment's name is the model."""
    import openai  # noqa: PLC0415

    def make(timeout: httpx.Timeout) -> openai.AsyncOpenAI:
        return openai.AsyncAzureOpenAI(
            api_key=api_key,
            azure_endpoint=endpoint,
            api_version=api_version,
            max_retries=0,
            timeout=timeout,
            http_client=_http_client(timeout, endpoint),
        )

    return OpenAIWire(make, Secret(api_key))


def shown_url(url: str) -> str:
    """A URL without user, password and query: what may stand in names, events and errors."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def is_loopback(url: str | None) -> bool:
    return url is not None and urlsplit(url).hostname in LOOPBACK


def _http_client(timeout: httpx.Timeout, base_url: str | None) -> httpx.AsyncClient:
    import httpx  # noqa: PLC0415
    import openai  # noqa: PLC0415

    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_S)
    return openai.DefaultAioHttpClient(timeout=timeout, limits=limits, trust_env=not is_loopback(base_url))


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    return chain
