"""What a transport says: the reply as JSON, or a `Failure` as a value, so that no foreign exception (whose text or
request headers may hold a key) is ever chained to an error of ours."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tfgrpo.errors import AuthError, PolicyError, RequestError, TransportError

FailureKind = Literal["connect", "timeout", "lost", "server", "rate", "auth", "request"]
RETRIED: frozenset[FailureKind] = frozenset({"connect", "timeout", "lost", "server", "rate"})
RETRIED_STATUS = frozenset({408, 409, 425})
MAX_WORDS = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why there is no reply. `words` are the server's or the system's, without keys, cut to a readable length."""

    kind: FailureKind
    words: str
    status: int = 0
    parameter: str = ""  # the request parameter that the server blames
    code: str = ""
    retry_after_s: float | None = None

    @property
    def retried(self) -> bool:
        return self.kind in RETRIED


Outcome = Mapping[str, Any] | Failure


class Wire(Protocol):
    """One way to send a chat request. Tries once; retries are not its business."""

    async def send(self, body: Mapping[str, Any], timeout_s: float) -> Outcome: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Secret:
    """A key that does not show in a repr and can be taken out of a text."""

    value: str = field(repr=False)

    def redact(self, text: str) -> str:
        """The text with the key replaced. A short placeholder such as "EMPTY" is no secret."""
        return text.replace(self.value, "[key]") if len(self.value) >= 8 else text

    def __str__(self) -> str:
        return "[key]"


def failure_of_status(status: int, headers: Mapping[str, str], text: str, error: Any) -> Failure:
    """What an HTTP status means; `error` is the parsed body where it is JSON."""
    details = _details(error)
    code = str(details.get("code") or "")
    kind = _kind_of_status(status, code, headers)
    return Failure(
        kind=kind,
        words=_short(str(details.get("message") or text or f"HTTP {status}")),
        status=status,
        code=code,
        parameter=str(details.get("param") or ""),
        retry_after_s=retry_after_s(headers) if kind in ("rate", "server") else None,
    )


def _kind_of_status(status: int, code: str, headers: Mapping[str, str]) -> FailureKind:
    if status in (401, 403) or code == "insufficient_quota":
        return "auth"
    if status == 429:
        return "rate"
    transient = (status >= 500 and status != 501) or status in RETRIED_STATUS
    return "server" if transient and headers.get("x-should-retry") != "false" else "request"


def _details(error: Any) -> Mapping[str, Any]:
    """The part of an error body that says what is wrong: OpenAI's `error`, FastAPI's `detail`, or the body itself."""
    if not isinstance(error, Mapping):
        return {}
    inner = error.get("error", error.get("detail", error))
    if isinstance(inner, Mapping):
        return inner
    return {"message": inner if isinstance(inner, str) else repr(inner)}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server said: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.

    Example:
        >>> retry_after_s({"retry-after": "1.5"})
        1.5
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            return float(value) * unit_s
    parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if parsed is None else max(0.0, email.utils.mktime_tz(parsed) - time.time())


def error_of(failure: Failure, model: str, where: str, tries: int) -> PolicyError:
    """The error for the caller: what happened, what the server said, what to do next."""
    said = f" (HTTP {failure.status})" if failure.status else ""
    words = f"{failure.words}{said}"
    if failure.kind == "auth":
        return AuthError(_auth_words(failure, model, where, words))
    if failure.kind == "request":
        hint = (
            "check the model's name and the base URL" if failure.status == 404 else "change the request or the options"
        )
        return RequestError(f"{where} refuses the request to {model!r}: {words}; {hint}")
    hints = {
        "connect": "is the server running, and is the URL right?",
        "timeout": "raise timeout_s, lower max_tokens, or lower the concurrency",
        "rate": "lower the concurrency or ask for a higher limit",
    }
    hint = hints.get(failure.kind, "try again later")
    count = "1 try" if tries == 1 else f"{tries} tries"
    return TransportError(f"no reply from {model!r} at {where} after {count}: {words}; {hint}")


def _auth_words(failure: Failure, model: str, where: str, words: str) -> str:
    if failure.code == "insufficient_quota":
        return f"the account at {where} has no credit left for {model!r}: {words}; add credit, then run the same again"
    return f"{where} refuses the key for {model!r}: {words}; set a valid key and run the same command again"


def _short(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]} ..."
