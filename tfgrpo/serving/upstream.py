"""The server behind the proxy: where a request goes, with which headers, and what its failures are called.

/v1/X  ->  {upstream}/X, where the upstream's path stands for /v1        /Y  ->  the upstream's host, /Y
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
    web,
)
from multidict import CIMultiDict
from yarl import URL

from tfgrpo.errors import InputError
from tfgrpo.policy.openai_compatible import shown_url
from tfgrpo.serving.access import is_loopback
from tfgrpo.serving.limits import Limits
from tfgrpo.serving.refusal import Refused

KEEPALIVE_S = 4.0  # below the 5 s after which uvicorn and others close an idle connection under our hands
OURS = "x-tfgrpo-"
HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "content-length")
)  # fmt: skip
NOT_SENT = HOP | {"host", "expect", "cookie", "origin", "referer"}
"""Of the connection, or of the client's browser, and none of the server's business."""
KEYS = frozenset({"authorization", "api-key", "x-api-key"})


class Upstream:
    """One server; `open` and `close` belong to the event loop."""

    def __init__(self, url: str, *, key: str | None, limits: Limits) -> None:
        self.base = checked_url(url)
        self._key, self._limits = key, limits
        self._session: ClientSession | None = None

    async def open(self) -> None:
        """Makes the connection pool."""
        timeout = ClientTimeout(
            total=None, connect=None, sock_connect=self._limits.connect_s, sock_read=self._limits.timeout_s
        )
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            timeout=timeout,
            proxy=proxy_of_environment(self.base),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()

    def url(self, request: web.Request) -> URL:
        """Where a request goes, its path and query as they came.

        Raises:
            Refused: the path leads out of the upstream's (400).
        """
        path = request.rel_url.raw_path
        if not path.startswith("/") or any(unquote(part) in (".", "..") for part in path.split("/")):
            raise Refused(400, "bad_path", "the path of a request must be plain")
        base = self.base.raw_path.rstrip("/")
        target = base + path[3:] if path == "/v1" or path.startswith("/v1/") else path
        query = request.rel_url.raw_query_string
        return URL(f"{self.base.origin()}{target}{'?' if query else ''}{query}", encoded=True)

    def headers(self, request: web.Request, spent: frozenset[str]) -> CIMultiDict[str]:
        """The client's headers, with the proxy's key where it has one."""
        named = {name.strip().lower() for name in request.headers.get("connection", "").split(",")}
        left_out = NOT_SENT | named | spent | (KEYS if self._key else frozenset())
        sent = CIMultiDict[str]()
        for name, value in request.headers.items():
            low = name.lower()
            if low not in left_out and not low.startswith(OURS):
                sent.add(name, _sendable(value))
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"
        return sent

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes | AsyncIterable[bytes] | None
    ) -> ClientResponse:
        """The server's answer as soon as its head has arrived."""
        assert self._session is not None, "Upstream.open() was not awaited"
        return await self._session.request(method, url, headers=headers, data=data, allow_redirects=False)


def proxy_of_environment(base: URL) -> str | None:
    """The HTTP proxy that the environment names for a server (HTTPS_PROXY, NO_PROXY), asked for once.

    aiohttp's `trust_env` would ask for it in a thread at every request, and add passwords of ~/.netrc to them: those
    are not the client's.
    """
    host = base.host or ""
    found = None if is_loopback(host) or proxy_bypass(host) else getproxies().get(base.scheme)
    return found if not found or "://" in found else f"http://{found}"


def answer_headers(response: ClientResponse) -> CIMultiDict[str]:
    """What is handed on of the server's headers."""
    named = {name.strip().lower() for name in response.headers.get("connection", "").split(",")}
    left_out = HOP | named
    found = CIMultiDict[str]()
    for name, value in response.headers.items():
        low = name.lower()
        if low not in left_out and not low.startswith(OURS):
            found.add(name, value)
    found.setdefault("Server", "tfgrpo")
    return found


@contextmanager
def failures_told(limits: Limits) -> Iterator[None]:
    """Turns what a dead, silent or confused server causes into an answer of ours; its address stays here."""
    try:
        yield
    except ClientConnectorError as error:
        why = type(error.os_error).__name__
        raise Refused(502, "upstream_unreachable", f"the server behind this proxy cannot be reached ({why})") from None
    except ConnectionTimeoutError:
        raise Refused(
            504, "upstream_timeout", f"the server behind this proxy took no connection within {limits.connect_s:g} s"
        ) from None
    except TimeoutError:
        raise Refused(
            504, "upstream_timeout", f"the server behind this proxy was silent for {limits.timeout_s:g} s"
        ) from None
    except InvalidURL:
        raise Refused(400, "bad_path", "the path of a request must be plain") from None
    except (ClientError, OSError) as error:
        raise Refused(
            502, "upstream_broke", f"the server behind this proxy gave no whole answer ({type(error).__name__})"
        ) from None


def checked_url(url: str) -> URL:
    """The upstream as a URL; one without a path gets /v1.

    Example:
        >>> str(checked_url("http://127.0.0.1:8000")), str(checked_url("https://host/openai/v1/"))
        ('http://127.0.0.1:8000/v1', 'https://host/openai/v1')

    Raises:
        InputError: no http(s) URL, or one that holds a password or query.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--upstream must be a URL such as https://api.openai.com/v1, got {shown_url(url)!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError("--upstream must hold no user, password, query or fragment; give a key by --upstream-key-env")
    return URL(url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1").with_path(
        parts.path.rstrip("/") or "/v1", encoded=True
    )


def _sendable(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(400, "bad_header", "a header of the request is no UTF-8") from None
    return value
