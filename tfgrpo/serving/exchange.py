"""One request and its answer as logs, metrics and traces see it; what was said stands here only when asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

Route: TypeAlias = Literal["chat", "responses", "models", "other", "own"]

TAIL = 8_192
"""Bytes at the end of an answer in which its usage is looked for."""
CONTENT = 64_000
"""Bytes of a body that are kept when contents are wanted."""
MAX_MODEL = 200
"""Characters of a model's name; a client may send anything as one."""
_USAGE = b'"usage":'
_MODEL = re.compile(rb'"model":\s*"([^"\\]{1,200})"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What the server counted; cached ones are a part of the prompt's."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(kw_only=True, slots=True)
class Exchange:
    """Filled in as it goes; times are seconds, `started` is of `time.perf_counter`."""

    id: str
    route: Route
    method: str
    path: str
    started: float
    namespace: str = ""
    model: str = ""  # as the client has it: of any length
    answered_by: str = ""  # the model's name in the answer
    stream: bool = False
    version: str = ""
    labels: tuple[str, ...] = ()
    status: int = 500
    error: str = ""  # a code of ours, or "client_gone"
    sent_at: float = 0.0  # when the request went to the server
    first_at: float = 0.0  # when the head of its answer was there
    last_at: float = 0.0  # when all of it was there
    ended: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    calls: int = 0  # of the server by a strategy, the judge's too and those that failed
    tokens: Tokens | None = None
    asked: bytes = b""  # the bodies, when contents are wanted
    answered: bytes = b""
    context: Any = None  # the tracer's own

    @property
    def total_s(self) -> float:
        return max(0.0, self.ended - self.started)

    @property
    def upstream_s(self) -> float:
        """How long the server took."""
        return max(0.0, (self.last_at or self.ended) - self.sent_at) if self.sent_at else 0.0

    @property
    def added_s(self) -> float:
        """How long the proxy took beside it."""
        return max(0.0, self.total_s - self.upstream_s)


class Observer(Protocol):
    """Is told of every exchange."""

    def sending(self, exchange: Exchange, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Before it is sent; headers to send beside the client's."""
        ...

    def ended(self, exchange: Exchange) -> None:
        """When it is over, whatever became of it."""
        ...


@dataclass(slots=True)
class Tail:
    """The first and the last bytes of an answer that passes by."""

    keep: int = TAIL  # of the first ones
    bytes_seen: int = 0
    head: bytearray = field(default_factory=bytearray)
    _parts: list[bytes] = field(default_factory=list)
    _held: int = 0

    @staticmethod
    def of(*, contents: bool) -> Tail:
        """A tail that keeps as much of the beginning as is shown when contents are wanted."""
        return Tail(keep=CONTENT if contents else TAIL)

    def add(self, part: bytes) -> None:
        """The next bytes."""
        self.bytes_seen += len(part)
        if len(self.head) < self.keep:
            self.head += part[: self.keep - len(self.head)]
        self._parts.append(part[-TAIL:])
        self._held += len(self._parts[-1])
        if self._held > 4 * TAIL:
            self._parts = [self.end]
            self._held = len(self._parts[0])

    @property
    def end(self) -> bytes:
        return b"".join(self._parts)[-TAIL:]


def tokens_of(end: bytes) -> Tokens | None:
    """The usage in the last bytes of an answer of either API, streamed or not; None where it tells none.

    Example:
        >>> tokens_of(b'..., "usage": {"prompt_tokens": 9, "completion_tokens": 2}}')
        Tokens(prompt=9, completion=2, cached=0)
    """
    start = end.rfind(_USAGE)
    while start >= 0:
        found = _object(end[start + len(_USAGE) :])
        prompt, completion = (
            _count(found, "prompt_tokens", "input_tokens"),
            _count(found, "completion_tokens", "output_tokens"),
        )
        if prompt or completion:
            details = found.get("prompt_tokens_details") or found.get("input_tokens_details")
            cached = _count(details, "cached_tokens") or _count(found, "prompt_cache_hit_tokens")
            return Tokens(prompt=prompt, completion=completion, cached=min(cached, prompt))
        start = end.rfind(_USAGE, 0, start)
    return None


def model_of(head: bytes) -> str:
    """The model's name in the first bytes of an answer, "" where there is none."""
    found = _MODEL.search(head)
    return found[1].decode("utf-8", "replace") if found else ""


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text.decode("utf-8", "replace").lstrip())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(raw: Any, *names: str) -> int:
    values = (raw.get(name) for name in names) if isinstance(raw, Mapping) else ()
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)
