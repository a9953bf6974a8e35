"""The durable memory of one run: every reply that was paid for, the loop's state, and the events, in one SQLite file.

A reply is in the file (the write-ahead log, synchronous=NORMAL) before anyone sees it. It survives a `kill -9` of the
process at any moment; the same command then asks only for what never arrived. One process at a time may write: a lock
that the kernel drops with the process says so to the second one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfgrpo.budget import Spend
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.events import Event
from tfgrpo.record_format import (
    FILE_NAME,
    connect,
    decode_completion,
    encode_completion,
    explained,
    json_text,
    knows_agents,
    plain,
)
from tfgrpo.runlock import RunLock
from tfgrpo.types import Completion

__all__ = ["FILE_NAME", "CallKey", "RecordedCall", "RunRecord", "decode_completion", "encode_completion", "plain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallKey:
    """Which call this is. Equal requests under different keys are different calls and get their own samples."""

    purpose: str  # "solve", "evaluate", "gate", "critic", "judge", "paraphrase"
    epoch: int = 0
    problem: str = ""
    sample: int = 0
    turn: int = 0  # within one agent's rollout: how often this very request was asked before


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
        self._guard = partial(explained, path)
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
            with explained(file, "open"):
                connection = connect(file, read_only)
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
            completion.cost_usd, key.turn,
        )  # fmt: skip
        with self._guard("write"):
            self._put_prompt(prompt, completion)
            self._db.execute(
                "INSERT OR IGNORE INTO calls (key, purpose, epoch, problem, sample, solver, prompt, reply,"
                " prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd, turn)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )

    def _put_prompt(self, prompt: bytes, completion: Completion) -> None:
        if prompt in self._recent_prompts:
            return
        messages = json_text(completion.prompt)
        self._db.execute("INSERT OR IGNORE INTO prompts (hash, messages) VALUES (?, ?)", (prompt, messages))
        self._recent_prompts[prompt] = None
        if len(self._recent_prompts) > 512:
            del self._recent_prompts[next(iter(self._recent_prompts))]

    def calls(
        self, purpose: str | None = None, *, epoch: int | None = None, problem: str | None = None
    ) -> Iterator[RecordedCall]:
        """Every recorded reply in the order of arrival, one at a time; of one epoch or problem where it is given."""
        with self._guard("read"):
            turns = "c.turn" if knows_agents(self._db) else "0"
            cursor = self._db.execute(
                f"SELECT c.purpose, c.epoch, c.problem, c.sample, {turns}, c.solver, c.reply, p.messages FROM calls c"
                " LEFT JOIN prompts p ON p.hash = c.prompt"
                " WHERE c.reply IS NOT NULL AND (?1 IS NULL OR c.purpose = ?1) AND (?2 IS NULL OR c.epoch = ?2)"
                " AND (?3 IS NULL OR c.problem = ?3) ORDER BY c.id",
                (purpose, epoch, problem),
            )
            for found, epoch, problem, sample, turn, solver, reply, messages in cursor:
                key = CallKey(purpose=found, epoch=epoch, problem=problem, sample=sample, turn=turn)
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

    # -- the answers of agents ----------------------------------------------------------------------------------

    def put_answer(self, digest: bytes, problem: str, completion: Completion, calls: Sequence[bytes]) -> None:
        """Keep an agent's finished answer whole, with the digests of the calls it was made of."""
        made = json_text([call.hex() for call in calls])
        row = (digest, problem, json_text(completion.prompt), encode_completion(completion), made)
        with self._guard("write"):
            self._db.execute(
                "INSERT OR IGNORE INTO answers (key, problem, prompt, reply, calls) VALUES (?,?,?,?,?)", row
            )

    def get_answer(self, digest: bytes) -> tuple[Completion, tuple[bytes, ...]] | None:
        """The agent's answer kept under the digest with its calls, or None."""
        with self._guard("read"):
            row = self._db.execute("SELECT reply, prompt, calls FROM answers WHERE key = ?", (digest,)).fetchone()
            if row is None:
                return None
            return decode_completion(row[0], row[1]), tuple(bytes.fromhex(call) for call in json.loads(row[2]))

    def answers(self) -> Iterator[Completion]:
        """Every agent's answer, one at a time."""
        with self._guard("read"):
            if knows_agents(self._db):
                for reply, prompt in self._db.execute("SELECT reply, prompt FROM answers ORDER BY id"):
                    yield decode_completion(reply, prompt)

    # -- state and events ---------------------------------------------------------------------------------------

    def put_state(self, name: str, value: Any) -> None:
        """Replace the JSON value kept under `name`."""
        with self._guard("write"):
            self._db.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (name, json_text(value)))

    def get_state(self, name: str) -> Any:
        """The JSON value kept under `name`, or None."""
        with self._guard("read"):
            row = self._db.execute("SELECT json FROM states WHERE name = ?", (name,)).fetchone()
            return None if row is None else json.loads(row[0])

    def add_event(self, event: Event) -> None:
        data = json_text(dict(event.data), default=str)
        with self._guard("write"):
            self._db.execute("INSERT INTO events (time, name, data) VALUES (?, ?, ?)", (event.time, event.name, data))

    def events(self, name: str | None = None, *, first: int = 0, most: int = -1) -> Iterator[Event]:
        """Events in order, one at a time: from number `first` of that name on, at most `most`; all of them for -1."""
        with self._guard("read"):
            cursor = self._db.execute(
                "SELECT time, name, data FROM events WHERE ?1 IS NULL OR name = ?1 ORDER BY id LIMIT ?2 OFFSET ?3",
                (name, most, first),
            )
            for time, found, data in cursor:
                yield Event(name=found, data=json.loads(data), time=time)

    def last_event(self, name: str, field: str, value: str | int) -> Event | None:
        """The latest event of a name whose data hold `value` under `field`, or None."""
        with self._guard("read"):
            row = self._db.execute(
                "SELECT time, data FROM events WHERE name = ?1 AND json_extract(data, ?2) = ?3"
                " ORDER BY id DESC LIMIT 1",
                (name, f"$.{field}", value),
            ).fetchone()
            return None if row is None else Event(name=name, data=json.loads(row[1]), time=row[0])

    def count_events(self, name: str) -> int:
        """How many events of a name there are."""
        with self._guard("read"):
            return int(self._db.execute("SELECT count(*) FROM events WHERE name = ?", (name,)).fetchone()[0])

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

    def _erase_answers(self, problem: str | None, containing: str | None) -> None:
        """An agent's answer repeats its calls' words, so it is no hit of its own."""
        if problem is not None:
            self._db.execute("DELETE FROM answers WHERE problem = ?", (problem,))
        if containing:
            words = _json_words(containing)
            self._db.execute("DELETE FROM answers WHERE instr(prompt, ?) OR instr(reply, ?)", (words, words))

    def _erase_calls(self, problem: str | None, containing: str | None) -> int:
        hits = 0
        self._erase_answers(problem, containing)
        forget = "UPDATE calls SET key = NULL, prompt = NULL, reply = NULL, problem = '' WHERE reply IS NOT NULL AND "
        if problem is not None:
            hits += self._db.execute(forget + "problem = ?", (problem,)).rowcount
        if containing:
            words = _json_words(containing)
            of_prompt = "prompt IN (SELECT hash FROM prompts WHERE instr(messages, ?))"
            hits += self._db.execute(forget + f"(instr(reply, ?) OR {of_prompt})", (words, words)).rowcount
        self._db.execute("DELETE FROM prompts WHERE hash NOT IN (SELECT prompt FROM calls WHERE prompt IS NOT NULL)")
        return hits


def result_of(folder: Path, state: str) -> Any:
    """What a run kept under a name at its end.

    Raises:
        InputError: it has not finished.
        RunStateError: there is no run record in the folder, or it cannot be read.
    """
    with RunRecord.open(folder, read_only=True) as record:
        known = record.get_state(state)
    if known is None:
        raise InputError(f"{folder} has not finished; the command that started it goes on from there")
    return known


def _json_words(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
