"""Who may look at the page, and which request may change something.

On loopback nobody is asked for a token, and a foreign `Host` is refused (DNS rebinding). Elsewhere a token is needed:
as `Authorization: Bearer TOKEN`, or typed in once, which opens a session that a cookie holds. What changes the store
is a POST from a form of this very page: `Origin` or `Sec-Fetch-Site` must say so, and the form holds a secret of its
session that no other page can read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tfgrpo.serving.access import OPERATOR, Access, Asking
from tfgrpo.serving.refusal import Refused

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make the Origin of our own forms "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
SESSION_S = 12 * 3600
SESSIONS = 1000  # the oldest are forgotten


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Who was admitted; `secret` is what their forms hold."""

    secret: str
    session: str = ""  # "" without tokens, and with a token in the header


class Guard:
    """Checks every request.

    Example:
        >>> guard = Guard(Access({"0123456789abcdef": "default"}), namespace="default")
        >>> session = guard.log_in("0123456789abcdef")
        >>> guard.log_in("0123456789abcdeF") is None, guard.visitor({}, session) is None, guard.visitor({}, "x") is None
        (True, False, True)
    """

    def __init__(self, access: Access, *, namespace: str) -> None:
        self._access, self._namespace = access, namespace
        self._key = secrets.token_bytes(32)
        self._sessions: dict[bytes, float] = {}  # digest -> when it ends

    @property
    def open(self) -> bool:
        """Whether no token is needed."""
        return self._access.open

    def visitor(self, headers: Mapping[str, str], session: str) -> Visitor | None:
        """Who asks; None when a token is needed first.

        Raises:
            Refused: a request for a host that is not loopback, or from a page of another host, without tokens (403).
        """
        if self.open:
            self._access.admit(_Headers(headers))
            return Visitor(secret=self._secret(""))
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._opens(token.strip()):
            return Visitor(secret=self._secret(""))
        if self._sessions.get(_digest(session), 0.0) > time.time():
            return Visitor(secret=self._secret(session), session=session)
        return None

    def log_in(self, token: str) -> str | None:
        """A new session for a right token."""
        if not self._opens(token):
            return None
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = time.time() + SESSION_S
        while len(self._sessions) > SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def log_out(self, session: str) -> None:
        """Ends a session."""
        self._sessions.pop(_digest(session), None)

    def check_change(self, secret: str, given: str) -> None:
        """Whether a form that changes something is ours.

        Raises:
            Refused: its secret is another one (403).
        """
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode()):
            raise Refused(
                403,
                "wrong_secret",
                "this form is of an earlier start of the page; nothing was changed: go back, reload, and send it again",
            )

    def _opens(self, token: str) -> bool:
        return self._access.of_token(token) in (self._namespace, OPERATOR)

    def _secret(self, session: str) -> str:
        return hmac.new(self._key, session.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class _Headers(Asking):
    headers: Mapping[str, str]


def check_origin(headers: Mapping[str, str]) -> None:
    """Whether a POST comes from a page of this server itself.

    Raises:
        Refused: from another one, or from who knows where (403).

    Example:
        >>> check_origin({"Host": "127.0.0.1:8110", "Origin": "http://127.0.0.1:8110"})
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    same = origin is not None and _netloc(origin) == headers.get("Host", "")
    if site not in (None, "same-origin") or (origin is not None and not same) or (site is None and origin is None):
        raise Refused(403, "foreign_origin", "only this page itself may send this; nothing was changed")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
