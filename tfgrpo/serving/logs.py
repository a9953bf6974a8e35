"""One JSON line for every request. Headers, keys and queries never stand in it; what was said only when asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tfgrpo.errors import InputError
from tfgrpo.serving.exchange import CONTENT, MAX_MODEL, Exchange
from tfgrpo.serving.library_source import Status

FLUSH_S = 0.5
MAX_WAITING = 10_000
"""Lines that wait for a slow disk or reader; what is above is dropped, counted and told."""
MAX_LABELS = 32


class Log:
    """Collects lines and writes them twice a second in a thread, so that no request waits for a disk or a pipe.

    A `kill -9` loses the lines of the last half second.
    """

    def __init__(self, out: TextIO, *, contents: bool = False) -> None:
        self._out, self.contents = out, contents
        self._waiting: deque[str] = deque()  # other threads write too
        self._dropped = 0
        self._writing = threading.Lock()  # the last flush may meet one that is under way

    def sending(self, exchange: Exchange, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Logged at its end."""
        return {}

    def ended(self, exchange: Exchange) -> None:
        """One line."""
        self.write(entry(exchange, contents=self.contents))

    def write(self, data: Mapping[str, Any]) -> None:
        """Any line; the time stands first."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._waiting.append(json.dumps({"time": time, **data}, ensure_ascii=True, default=str))

    def library(self, namespace: str, status: Status) -> None:
        """Another version is served, or a store cannot be read or can be again."""
        data = {"event": "library", "namespace": namespace, "version": status.version, "place": status.place}
        self.write({**data, **({"problem": status.problem} if status.problem else {})})

    async def flush_forever(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Writes what waits. A reader that went away ends the log, not the server."""
        with self._writing:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if self._dropped:
                lines.append(json.dumps({"event": "log_lines_dropped", "count": self._dropped}))
                self._dropped = 0
            if lines:
                with contextlib.suppress(OSError, ValueError):
                    self._out.write("\n".join(lines) + "\n")
                    self._out.flush()


class Faults(logging.Handler):
    """Errors of the HTTP server as lines: what kind and where, never their texts, which quote headers."""

    def __init__(self, log: Log | None) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        error = record.exc_info[1] if record.exc_info else None
        data: dict[str, Any] = {"event": "server_error", "error": type(error).__name__ if error else record.levelname}
        frames = traceback.extract_tb(error.__traceback__) if error else []
        if frames:
            data["at"] = f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}"
        if self._log is not None:
            self._log.write(data)


def fault_logger(log: Log | None) -> logging.Logger:
    """What the HTTP server logs to, instead of a logger that shows requests and tracebacks."""
    logger = logging.Logger("tfgrpo.serving", logging.WARNING)
    logger.addHandler(Faults(log))
    return logger


def entry(exchange: Exchange, *, contents: bool = False) -> dict[str, Any]:
    """What a line says of an exchange."""
    e = exchange
    data: dict[str, Any] = {
        "event": "request",
        "id": e.id,
        "namespace": e.namespace,
        "method": e.method,
        "path": e.path[:200],
        "status": e.status,
        "ms": round(1e3 * e.total_s, 2),
        "upstream_ms": round(1e3 * e.upstream_s, 2),
        "bytes_in": e.bytes_in,
        "bytes_out": e.bytes_out,
    }
    if e.error:
        data["error"] = e.error
    if e.route in ("chat", "responses"):
        data |= {"model": e.model[:MAX_MODEL], "stream": e.stream, "version": e.version}
        data["experiences"] = list(e.labels[:MAX_LABELS])
        if len(e.labels) > MAX_LABELS:
            data["more_experiences"] = len(e.labels) - MAX_LABELS
    if e.calls:
        data["calls"] = e.calls
    if e.tokens is not None:
        data |= {
            "prompt_tokens": e.tokens.prompt,
            "cached_tokens": e.tokens.cached,
            "completion_tokens": e.tokens.completion,
        }
    if contents:
        data |= {"request": _content(e.asked), "answer": _content(e.answered)}
    return data


def _content(body: bytes) -> str:
    return body[:CONTENT].decode("utf-8", "replace")


def opened(place: str) -> TextIO:
    """Standard error for "-", else a file that lines are appended to and that others may not read.

    Raises:
        InputError: it cannot be written.
    """
    if place == "-":
        return sys.stderr
    path = Path(place)
    try:
        new = not path.exists()
        file = path.open("a", encoding="utf-8")
        if new:
            path.chmod(0o600)
    except OSError as error:
        raise InputError(f"cannot write the log {place}: {error}") from error
    return file
