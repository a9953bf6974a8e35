"""The durable memory of one run: every reply that was paid for, the loop's state, and the events, in one SQLite file.

A reply is in the file (the write-ahead log, synchronous=NORMAL) before anyone sees it. It survives a `kill -9` of the
process at any moment; the same command then asks only for what never arrived. One process at a time may write: a lock
that the kernel drops with the process says so to the second one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfgrpo.budget import Spend
from tfgrpo.errors import RunStateError
from tfgrpo.events import Event
from tfgrpo.runlock import RunLock
from tfgrpo.types import Completion, Segment, Usage

FILE_NAME = "run.sqlite"
APPLICATION_ID = 0x74666772  # "tfgr"
SCHEMA_VERSION = 1
SCHEMA = """
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CallKey:
    """Which call this is. Equal requests under different keys are different calls and get their own samples."""

    purpose: str  # "solve", "evaluate", "gate", "critic", "judge", "paraphrase"
    epoch: int = 0
    problem: str = ""
    sample: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCall:
    """One reply on disk."""

    key: CallKey
    solver: bool
    completion: Completion


class RunRecord:
    """Open with `RunRecord.open(folder)`; use as a context manager or call `close`.

    Example:
        >>> import tempfile
        >>> with RunRecord.open(tempfile.mkdtemp()) as record:
        ...     record.put_state("epoch", {"done": 3})
        ...     record.get_state("epoch")
        {'done': 3}
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: RunLock | None) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._guard = partial(_explained, path)
        self._recent_prompts: dict[bytes, None] = {}
        with self._guard("read"):
            self._last_old = int(self._db.execute("SELECT coalesce(max(id), 0) FROM calls").fetchone()[0])
        self._claimed = bytearray(self._last_old // 8 + 1)

    @staticmethod
    def open(path: str | os.PathLike[str], *, read_only: bool = False) -> RunRecord:
        """Open or create the record in a run folder (or at a path that ends in .sqlite).

        Raises:
            RunStateError: in use by another process, written by a newer version, damaged, or the disk is full.
        """
        target = Path(path)
        file = target if target.suffix == ".sqlite" else target / FILE_NAME
        if read_only and not file.exists():
            raise RunStateError(f"there is no run record at {file}; give the folder of a run")
        lock = None if read_only else RunLock.take(file)
        try:
            with _explained(file, "open"):
                connection = _connect(file, read_only)
            return RunRecord(file, connection, lock)
        except RunStateError:
            if lock is not None:
                lock.release()
            raise

    def close(self) -> None:
        """Close the file and let another process in. Closing twice is harmless."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- calls --------------------------------------------------------------------------------------------------

    def get_call(self, digest: bytes) -> Completion | None:
        """The reply recorded under the call's digest, or None."""
        with self._guard("read"):
            row = self._db.execute(
                "SELECT c.reply, p.messages FROM calls c LEFT JOIN prompts p ON p.hash = c.prompt WHERE c.key = ?",
                (digest,),
            ).fetchone()
            return None if row is None else decode_completion(row[0], row[1])

    def claim(self, digest: bytes) -> bool:
        """Whether the reply was paid for by an earlier process and is asked for the first time in this one."""
        with self._guard("read"):
            row = self._db.execute("SELECT id FROM calls WHERE key = ?", (digest,)).fetchone()
        if row is None or row[0] > self._last_old:
            return False
        byte, bit = divmod(int(row[0]), 8)
        fresh = not self._claimed[byte] >> bit & 1
        self._claimed[byte] |= 1 << bit
        return fresh

    def put_call(self, digest: bytes, key: CallKey, completion: Completion, *, solver: bool, prompt: bytes) -> None:
        """Write one reply. `prompt` is the hash of its messages, which are stored once for all replies to them.

        Raises:
            RunStateError: it could not be written; everything written before is safe.
        """
        usage = completion.usage
        row = (
            digest, key.purpose, key.epoch, key.problem, key.sample, solver, prompt, encode_completion(completion),
            usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens,
            completion.cost_usd,
        )  # fmt: skip
        with self._guard("write"):
            self._put_prompt(prompt, completion)
            self._db.execute(
                "INSERT OR IGNORE INTO calls (key, purpose, epoch, problem, sample, solver, prompt, reply,"
                " prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )

    def _put_prompt(self, prompt: bytes, completion: Completion) -> None:
        if prompt in self._recent_prompts:
            return
        messages = _text(completion.prompt)
        self._db.execute("INSERT OR IGNORE INTO prompts (hash, messages) VALUES (?, ?)", (prompt, messages))
        self._recent_prompts[prompt] = None
        if len(self._recent_prompts) > 512:
            del self._recent_prompts[next(iter(self._recent_prompts))]

    def calls(self, purpose: str | None = None) -> Iterator[RecordedCall]:
        """Every recorded reply in the order of arrival, one at a time."""
        with self._guard("read"):
            cursor = self._db.execute(
                "SELECT c.purpose, c.epoch, c.problem, c.sample, c.solver, c.reply, p.messages FROM calls c"
                " LEFT JOIN prompts p ON p.hash = c.prompt"
                " WHERE c.reply IS NOT NULL AND (?1 IS NULL OR c.purpose = ?1) ORDER BY c.id",
                (purpose,),
            )
            for found, epoch, problem, sample, solver, reply, messages in cursor:
                key = CallKey(purpose=found, epoch=epoch, problem=problem, sample=sample)
                yield RecordedCall(key=key, solver=bool(solver), completion=decode_completion(reply, messages))

    def spend(self) -> dict[str, Spend]:
        """What the recorded replies cost, by purpose; erased ones stay in the sum."""
        with self._guard("read"):
            rows = self._db.execute(
                "SELECT purpose, count(*), sum(solver), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens),"
                " sum(reasoning_tokens), coalesce(sum(cost_usd), 0.0), sum(cost_usd IS NULL)"
                " FROM calls GROUP BY purpose"
            ).fetchall()
        names = ("calls", "solver_calls", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        return {
            row[0]: Spend(**dict(zip(names, row[1:7], strict=True)), usd=row[7], unpriced_calls=row[8]) for row in rows
        }

    # -- state and events ---------------------------------------------------------------------------------------

    def put_state(self, name: str, value: Any) -> None:
        """Replace the JSON value kept under `name`."""
        with self._guard("write"):
            self._db.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (name, _text(value)))

    def get_state(self, name: str) -> Any:
        """The JSON value kept under `name`, or None."""
        with self._guard("read"):
            row = self._db.execute("SELECT json FROM states WHERE name = ?", (name,)).fetchone()
            return None if row is None else json.loads(row[0])

    def add_event(self, event: Event) -> None:
        data = _text(dict(event.data), default=str)
        with self._guard("write"):
            self._db.execute("INSERT INTO events (time, name, data) VALUES (?, ?, ?)", (event.time, event.name, data))

    def events(self, name: str | None = None) -> Iterator[Event]:
        """Every event in order, one at a time."""
        with self._guard("read"):
            cursor = self._db.execute(
                "SELECT time, name, data FROM events WHERE ?1 IS NULL OR name = ?1 ORDER BY id", (name,)
            )
            for time, found, data in cursor:
                yield Event(name=found, data=json.loads(data), time=time)

    # -- a person's right to be forgotten -----------------------------------------------------------------------

    def erase(self, *, problem: str | None = None, containing: str | None = None) -> int:
        """Remove the words of the calls of a problem, or of everything that contains a text; how many calls were hit.

        Prompts, replies, states and events go; the numbers of what was spent stay. The freed bytes are overwritten.
        """
        with self._guard("write"):
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                hits = self._erase_calls(problem, containing)
                self._erase_words(filter(None, (problem, containing)))
            except sqlite3.DatabaseError:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._recent_prompts.clear()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return hits

    def _erase_words(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._db.execute("DELETE FROM events WHERE instr(data, ?)", (_json_words(text),))
            self._db.execute("DELETE FROM states WHERE instr(json, ?)", (_json_words(text),))

    def _erase_calls(self, problem: str | None, containing: str | None) -> int:
        hits = 0
        forget = "UPDATE calls SET key = NULL, prompt = NULL, reply = NULL, problem = '' WHERE reply IS NOT NULL AND "
        if problem is not None:
            hits += self._db.execute(forget + "problem = ?", (problem,)).rowcount
        if containing:
            words = _json_words(containing)
            of_prompt = "prompt IN (SELECT hash FROM prompts WHERE instr(messages, ?))"
            hits += self._db.execute(forget + f"(instr(reply, ?) OR {of_prompt})", (words, words)).rowcount
        self._db.execute("DELETE FROM prompts WHERE hash NOT IN (SELECT prompt FROM calls WHERE prompt IS NOT NULL)")
        return hits


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
    return _text(data)


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


def _text(value: Any, default: Callable[[Any], Any] = plain) -> str:
    """JSON that SQLite can keep: readable, but escaped where it holds a lone surrogate."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=default)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=default)
    return text


def _is_only_content(completion: Completion) -> bool:
    return bool(completion.messages) and completion.messages[-1].get("content") == completion.text


def _json_words(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _connect(file: Path, read_only: bool) -> sqlite3.Connection:
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
    if not tables and not read_only:
        connection.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        return
    if application != APPLICATION_ID:
        raise RunStateError(f"{file} is an SQLite file, but no run record of tfgrpo; give another run folder")
    if version > SCHEMA_VERSION:
        raise RunStateError(
            f"{file} was written by a newer version of tfgrpo (record format {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade tfgrpo, or start a new run"
        )


@contextmanager
def _explained(file: Path, action: str) -> Iterator[None]:
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
