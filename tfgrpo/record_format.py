"""How the record of a run lies on disk: the tables, their versions, one reply as JSON, and errors in words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfgrpo.errors import RunStateError
from tfgrpo.types import Completion, Segment, Usage

FILE_NAME = "run.sqlite"
APPLICATION_ID = 0x74666772  # "tfgr"
SCHEMA_VERSION = 2
CALLS = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, hash BLOB UNIQUE, messages TEXT NOT NULL);
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, key BLOB UNIQUE, purpose TEXT NOT NULL, epoch INTEGER NOT NULL, problem TEXT NOT NULL,
    sample INTEGER NOT NULL, solver INTEGER NOT NULL, prompt BLOB, reply TEXT,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, cost_usd REAL
);
CREATE INDEX calls_by_purpose ON calls (purpose, id);
CREATE TABLE states (name TEXT PRIMARY KEY, json TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, time REAL NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL);
"""
AGENTS = """
ALTER TABLE calls ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
CREATE TABLE answers (id INTEGER PRIMARY KEY, key BLOB UNIQUE, problem TEXT NOT NULL, prompt TEXT NOT NULL,
    reply TEXT NOT NULL, calls TEXT NOT NULL);
"""
STEPS = (CALLS, AGENTS)
"""What each version added: a new file gets all of it, an older one what it lacks when it is opened to write."""


def encode_completion(completion: Completion) -> str:
    """The reply without its prompt, as compact JSON."""
    usage = completion.usage
    data: dict[str, Any] = {
        "messages": completion.messages,
        "policy": completion.policy,
        "model": completion.model,
        "usage": (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens),
        "cost_usd": completion.cost_usd,
        "finish": completion.finish_reason,
        "latency_s": completion.latency_s,
    }
    if usage.estimated:
        data["estimated"] = True
    if not _is_only_content(completion):
        data["text"] = completion.text
    if completion.segments:
        data["segments"] = [(s.token_ids, s.train, s.logps) for s in completion.segments]
    return json_text(data)


def decode_completion(reply: str, prompt: str | None) -> Completion:
    """The inverse of `encode_completion`."""
    data: Mapping[str, Any] = json.loads(reply)
    messages = tuple(data["messages"])
    p, c, cached, reasoning = data["usage"]
    return Completion(
        prompt=tuple(json.loads(prompt)) if prompt else (),
        messages=messages,
        text=data["text"] if "text" in data else messages[-1]["content"],
        policy=data["policy"],
        model=data["model"],
        usage=Usage(
            prompt_tokens=p,
            completion_tokens=c,
            cached_tokens=cached,
            reasoning_tokens=reasoning,
            estimated=data.get("estimated", False),
        ),
        cost_usd=data["cost_usd"],
        finish_reason=data["finish"],
        latency_s=data["latency_s"],
        segments=tuple(
            Segment(token_ids=tuple(ids), train=train, logps=tuple(logps))
            for ids, train, logps in data.get("segments", ())
        ),
    )


def plain(value: Any) -> Any:
    """For `json.dumps(default=...)`: mappings and sequences of other types than dict and list."""
    return dict(value) if hasattr(value, "keys") else list(value)


def json_text(value: Any, default: Callable[[Any], Any] = plain) -> str:
    """JSON that SQLite can keep: readable, but escaped where it holds a lone surrogate."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=default)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=default)
    return text


def _is_only_content(completion: Completion) -> bool:
    return bool(completion.messages) and completion.messages[-1].get("content") == completion.text


def connect(file: Path, read_only: bool) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    if read_only:
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    else:
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 10000")
    try:
        _check_schema(file, connection, read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(file: Path, connection: sqlite3.Connection, read_only: bool) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    fresh = not tables and not read_only
    if not fresh and application != APPLICATION_ID:
        raise RunStateError(f"{file} is an SQLite file, but no run record of tfgrpo; give another run folder")
    if version > SCHEMA_VERSION:
        raise RunStateError(
            f"{file} was written by a newer version of tfgrpo (record format {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade tfgrpo, or start a new run"
        )
    if version < SCHEMA_VERSION and not read_only:
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        connection.executescript(f"BEGIN; {''.join(STEPS[0 if fresh else version :])} {marks} COMMIT;")


def knows_agents(connection: sqlite3.Connection) -> bool:
    """Whether the file has what version 2 added; one of version 1 that is only read has not."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) >= 2


@contextmanager
def explained(file: Path, action: str) -> Iterator[None]:
    """SQLite's and the system's errors in words that say what is safe and what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise RunStateError(_words(file, action, str(error), getattr(error, "sqlite_errorcode", 0))) from error
    except OSError as error:
        raise RunStateError(f"cannot {action} the run record {file}: {error.strerror or error}") from error
    except (json.JSONDecodeError, KeyError) as error:
        if action != "read":
            raise
        raise RunStateError(
            f"the run record {file} holds a row that cannot be read ({error}); start a new run"
        ) from error


def _words(file: Path, action: str, text: str, code: int) -> str:
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return (
            f"cannot {action} the run record {file}: {text} (is the disk full?). Every reply recorded before is safe; "
            f"make room and run the same command again, only the calls in flight are asked anew"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"the run record {file} is damaged: {text}. Restore it from a copy, or start a new run in another folder"
    return f"cannot {action} the run record {file}: {text}"
