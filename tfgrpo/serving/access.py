"""Who may ask, and which namespace is theirs.

Without tokens the proxy listens on loopback only, and answers only what was meant for it: a web page in the user's
browser can send requests to any port of the machine, so a foreign `Host` (DNS rebinding) or `Origin` is refused.
With tokens every request needs one, as `Authorization: Bearer TOKEN` where the proxy has the server's key, or as
`x-tfgrpo-token: TOKEN` beside the client's own key for the server. A token is never handed on.

    TFGRPO_SERVE_TOKENS="TOKEN=NAMESPACE,TOKEN=NAMESPACE"      or a file with one "TOKEN NAMESPACE" a line

The namespace "*" is the operator's: it reads /metrics and the details of /readyz, and no library.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from experience_store.location import checked_namespace
from tfgrpo.errors import InputError
from tfgrpo.serving.refusal import Refused

OPERATOR = "*"
TOKEN_HEADER = "x-tfgrpo-token"
TOKENS_VARIABLE = "TFGRPO_SERVE_TOKENS"
CREDENTIALS = ("authorization", "api-key", "x-api-key")
MIN_TOKEN = 16  # characters


class Asking(Protocol):
    """The headers of a request, without regard to case."""

    @property
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """Who asks. `spent` are the headers that were meant for the proxy and are not handed on."""

    namespace: str
    spent: frozenset[str] = frozenset()

    @property
    def operator(self) -> bool:
        return self.namespace == OPERATOR


class Access:
    """Checks every request.

    Example:
        >>> access = Access({"0123456789abcdef": "alice"})
        >>> access.namespaces, access.of_token("0123456789abcdef"), access.of_token("0123456789abcdeF")
        (('alice',), 'alice', None)
    """

    def __init__(self, tokens: Mapping[str, str], *, namespace: str = "default") -> None:
        self._tokens = [(_digest(token), space) for token, space in tokens.items()]
        self._namespace = namespace

    @property
    def open(self) -> bool:
        """Whether no token is needed, which is for loopback only."""
        return not self._tokens

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All that have a library."""
        if self.open:
            return (self._namespace,)
        return tuple(sorted({space for _, space in self._tokens} - {OPERATOR}))

    def of_token(self, token: str) -> str | None:
        """The token's namespace. Takes as long for a near miss as for any other."""
        given, found = _digest(token), None
        for digest, namespace in self._tokens:
            if hmac.compare_digest(digest, given):
                found = namespace
        return found

    def admit(self, request: Asking) -> Admitted:
        """Who asks.

        Raises:
            Refused: no token or a wrong one (401); a request that a foreign web page sent to loopback (403).
        """
        headers = request.headers
        if self.open:
            _only_from_here(headers)
            return Admitted(namespace=self._namespace)
        if (token := headers.get(TOKEN_HEADER)) is None:
            token = _bearer(headers.get("authorization", ""))
        namespace = self.of_token(token)
        if namespace is None:
            raise Refused(
                401,
                "invalid_token",
                f"this proxy needs a token of its own: send it as the API key, or as the header {TOKEN_HEADER} beside "
                "the key of the server behind it",
                {"www-authenticate": "Bearer"},
            )
        given = {name: _bearer(headers[name]) for name in CREDENTIALS if name in headers}
        tokens = {
            name for name, value in given.items() if self.of_token(value) is not None
        }  # a client may send it twice
        return Admitted(namespace=namespace, spent=frozenset({TOKEN_HEADER, *tokens}))


def _bearer(value: str) -> str:
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else value.strip()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _only_from_here(headers: Mapping[str, str]) -> None:
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_loopback(_host_of(f"//{host}")):
        raise Refused(403, "foreign_host", "without tokens only requests for loopback addresses are answered")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise Refused(403, "foreign_origin", "without tokens no web page of another origin is answered")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def tokens_of(text: str | None, file: str | None) -> tuple[dict[str, str], list[str]]:
    """The tokens of the environment variable and of the file, and what is worth a warning.

    Raises:
        InputError: a line that is none, a token that is too short or stands twice.
    """
    rows = [_row(part.rpartition("=")[::2], TOKENS_VARIABLE, n) for n, part in enumerate(_listed(text), 1)]
    warnings: list[str] = []
    if file is not None:
        rows += [_row(_pair(line), file, n) for n, line in enumerate(_lines(Path(file)), 1) if line]
        if Path(file).stat().st_mode & (stat.S_IROTH | stat.S_IRGRP):
            warnings.append(f"others on this machine can read the tokens in {file}; chmod 600 it")
    tokens = dict(rows)
    if len(tokens) < len(rows):
        raise InputError("one token stands for two namespaces; give each a token of its own")
    return tokens, warnings


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the tokens in {path}: {error}") from error
    return ["" if line.lstrip().startswith("#") else line.strip() for line in text.splitlines()]


def _pair(line: str) -> Sequence[str]:
    token, _, namespace = line.partition(" ")
    return token, namespace.strip() or "default"


def _row(pair: Sequence[str], where: str, number: int) -> tuple[str, str]:
    """One token with its namespace; no message shows a token."""
    token, namespace = pair[0].strip(), pair[1].strip()
    if not token:  # a lone token in the variable
        token, namespace = namespace, "default"
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"token {number} in {where} has {len(token)} characters; use at least {MIN_TOKEN} letters and digits, "
            "such as: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return token, namespace if namespace == OPERATOR else checked_namespace(namespace)
