"""The one module that imports chromadb: a connection and its tables, with Chroma's failures told in our words.

Every table is created with a very high sync threshold, because the vector index of the embedded client does not
survive several writing processes past it; vectors are a cache that `Connection.rewrite` builds anew from the text.
Each store has a Chroma system of its own, so that a reader is refreshed without touching other clients.
"""

from __future__ import annotations

import contextlib
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from experience_store.errors import DamagedError, StoreError, UnavailableError, WriteError

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

T = TypeVar("T")
Vector = Sequence[float]

_SYNC = 1_000_000_000  # rows before the index is written to disk: never
_BATCH = 1_000  # rows in one request
_BUSY_S = 30.0  # how long to wait for another process's lock
_ANSWER_S = 120.0  # how long to wait for a server's answer
_THIN = {"ef_construction": 4, "max_neighbors": 4}  # an index that nobody asks: 0.2 s of CPU per 10,000 rows, not 6

_FULL = ("disk is full", "no space left", "disk i/o error", "(code: 13)", "(code: 10)", "file too large", "(code: 778)")
_READONLY = ("readonly database", "read-only", "permission denied", "unable to open database", "file exists")
_DAMAGED = ("malformed", "not a database", "corrupt", "error finding id", "no such table", "no such column")
_BUSY = ("database is locked", "(code: 5)", "(code: 517)", "(code: 6)")
_AWAY = ("could not connect", "connection", "timed out", "connect call failed")


@dataclass(frozen=True, slots=True)
class Row:
    """One stored record."""

    id: str
    text: str
    meta: Mapping[str, Any]
    vector: tuple[float, ...] = ()


class StaleIndexError(Exception):
    """The vector index in this process does not know rows that another process wrote: reopen, or compute directly."""


class GoneError(Exception):
    """The collection was replaced by another process's maintenance: reopen and look it up again."""


class Connection:
    """One Chroma database, embedded (a folder) or behind a URL."""

    def __init__(self, location: str, *, token: str | None = None) -> None:
        self.location = location
        self.remote = location.startswith(("http://", "https://"))
        self._token = token
        self._stop: Callable[[], None] | None = None
        self.server: Any = None
        self.reopen()

    @property
    def path(self) -> Path | None:
        return None if self.remote else Path(self.location)

    def reopen(self) -> None:
        """Starts a fresh client, which reads the index from disk."""
        self.close()
        from chromadb.api import ServerAPI  # noqa: PLC0415
        from chromadb.config import System  # noqa: PLC0415

        with told(self.location, "open"):
            system = System(self._settings())
            self.server = system.instance(ServerAPI)  # type: ignore[type-abstract]
            system.start()
            if self.remote:
                self.server._session.timeout = _ANSWER_S  # chromadb waits for ever
            self._stop = weakref.finalize(self, _stopped, system, self.server)
            self.server.heartbeat()

    def _settings(self) -> Any:
        from chromadb.config import Settings  # noqa: PLC0415

        if not self.remote:
            return Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=self.location)
        url = urlsplit(self.location)
        return Settings(
            anonymized_telemetry=False,
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host=url.hostname,
            chroma_server_http_port=url.port or (443 if url.scheme == "https" else 80),
            chroma_server_ssl_enabled=url.scheme == "https",
            chroma_server_headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
        )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Lets local processes write one after the other, which is many times faster than racing for SQLite's lock.

        Only a courtesy: correctness never depends on it, so a system without file locks goes on without it. The lock
        goes with the process that holds it.
        """
        if self.path is None:
            yield
            return
        with (self.path / "turn.lock").open("a") as file:
            end = time.monotonic() + _BUSY_S
            while not _locked(file) and time.monotonic() < end:
                time.sleep(0.002 + 0.008 * random.random())
            yield

    def close(self) -> None:
        """Gives back files and sockets. The object can be reopened."""
        if self._stop is not None:
            self._stop()
            self._stop = self.server = None

    def names(self) -> set[str]:
        """Names of all collections there are."""
        return {c.name for c in self._do("list", lambda: self.server.list_collections())}

    def meta(self, name: str) -> dict[str, Any] | None:
        """The metadata of a collection, or None when there is no such collection."""
        if name not in self.names():
            return None
        return dict(self._do("look up", lambda: self.server.get_collection(name=name)).metadata or {})

    def existing(self, name: str) -> Table:
        """The collection of that name, or GoneError."""
        return self._table(self._do("look up", lambda: self.server.get_collection(name=name)))

    def table(self, name: str, meta: Mapping[str, Any], *, searched: bool = True) -> Table:
        """The collection of that name, created when missing; `meta` and `searched` count only when it is created.

        The index of a folder is built anew in every process, at its first read. A table that is not `searched` through
        it gets one that costs next to nothing; a server keeps its index, so there every table gets a good one.
        """
        thin = {} if searched or self.remote else _THIN
        model = self._do(
            "create",
            lambda: self.server.get_or_create_collection(
                name=name,
                metadata={**meta, "hnsw:batch_size": _SYNC - 1, "hnsw:sync_threshold": _SYNC},
                configuration={"hnsw": {"space": "cosine", "sync_threshold": _SYNC, "batch_size": _SYNC - 1, **thin}},
            ),
        )
        return self._table(model)

    def _table(self, model: Any) -> Table:
        from chromadb.api.models.Collection import Collection  # noqa: PLC0415

        return Table(self, Collection(client=self.server, model=model, embedding_function=None, data_loader=None))

    def rewrite(self, name: str, meta: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Replaces a collection by one that holds exactly `rows`, so that nothing of the old one is left in it.

        The new one is complete before the old one goes; `recover` ends what a crash interrupted.
        """
        spare = f"{name}.rewrite"
        if spare in self.names():
            self._do("clean", lambda: self.server.delete_collection(spare))
        table = self.table(spare, {**meta, "complete": 0}, searched=False)
        table.add(rows)
        table.modify(metadata={**meta, "complete": 1})
        if name in self.names():
            self._do("replace", lambda: self.server.delete_collection(name))
        table.modify(name=name)

    def recover(self, name: str) -> None:
        """Finishes a `rewrite` that was killed between its two last steps. Another process may do the same at once."""
        spare = f"{name}.rewrite"
        names = self.names()
        if name in names or spare not in names:
            return
        with contextlib.suppress(GoneError):
            table = self.existing(spare)
            if table.meta.get("complete"):
                table.modify(name=name)

    def _do(self, what: str, call: Callable[[], T]) -> T:
        return patiently(self.location, what, call)


def _stopped(system: Any, server: Any) -> None:
    """Gives back files and sockets; chromadb leaves the sockets of its HTTP client open."""
    session = getattr(server, "_session", None)
    if session is not None:
        session.close()
    system.stop()


class Table:
    """A Chroma collection; vectors are always given, so no embedding function is ever called or downloaded."""

    def __init__(self, connection: Connection, collection: Collection) -> None:
        self._connection = connection
        self._collection: Any = collection

    @property
    def meta(self) -> dict[str, Any]:
        return dict(self._collection.metadata or {})

    @property
    def name(self) -> str:
        return str(self._collection.name)

    def modify(self, **changes: Any) -> None:
        if "metadata" in changes:
            changes["metadata"] = {k: v for k, v in changes["metadata"].items() if not k.startswith("hnsw:")}
        self._do("rename", lambda: self._collection.modify(**changes))

    def add(self, rows: Sequence[Row]) -> None:
        """Adds rows. An id that exists keeps its first content, and nothing is raised."""
        self._put("add", rows)

    def upsert(self, rows: Sequence[Row]) -> None:
        self._put("upsert", rows)

    def _put(self, verb: str, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            data = {
                "ids": [r.id for r in part],
                "documents": [r.text for r in part],
                "metadatas": [dict(r.meta) for r in part],
                "embeddings": [list(r.vector) for r in part],
            }
            self._do("write", lambda data=data: getattr(self._collection, verb)(**data))  # type: ignore[misc]

    def get(self, ids: Sequence[str] | None = None, *, vectors: bool = False) -> dict[str, Row]:
        """Rows by id, those that exist; all of them when `ids` is None."""
        if ids is None:
            return self._get(None, vectors)
        found: dict[str, Row] = {}
        for start in range(0, len(ids), _BATCH):
            found |= self._get(list(ids[start : start + _BATCH]), vectors)
        return found

    def _get(self, ids: list[str] | None, vectors: bool) -> dict[str, Row]:
        include = ["documents", "metadatas", *(["embeddings"] if vectors else [])]
        got = self._do("read", lambda: self._collection.get(ids=ids, include=include))
        embedded = got["embeddings"] if vectors else [()] * len(got["ids"])
        return {
            name: Row(name, text or "", meta or {}, tuple(map(float, vector)))
            for name, text, meta, vector in zip(got["ids"], got["documents"], got["metadatas"], embedded, strict=True)
        }

    def ids(self) -> list[str]:
        return list(self._do("read", lambda: self._collection.get(include=[]))["ids"])

    def count(self) -> int:
        return int(self._do("read", lambda: self._collection.count()))

    def vectors(self, ids: Sequence[str]) -> dict[str, Any]:
        """Vectors by row id as arrays, of those that have one; the texts are not read."""
        found: dict[str, Any] = {}
        for start in range(0, len(ids), _BATCH):
            part = list(ids[start : start + _BATCH])
            got = self._do("read", lambda part=part: self._collection.get(ids=part, include=["embeddings"]))  # type: ignore[misc]
            found |= {name: vector for name, vector in zip(got["ids"], got["embeddings"], strict=True) if len(vector)}
        return found

    def nearest(self, vector: Vector, ids: Sequence[str], k: int) -> list[tuple[str, float]]:
        """The `k` rows among `ids` with the highest cosine similarity, best first."""
        got = self._do(
            "search",
            lambda: self._collection.query(
                query_embeddings=[list(vector)], ids=list(ids), n_results=k, include=["distances"]
            ),
        )
        return [(row, 1.0 - float(d)) for row, d in zip(got["ids"][0], got["distances"][0], strict=True)]

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), _BATCH):
            part = list(ids[start : start + _BATCH])
            self._do("delete", lambda part=part: self._collection.delete(ids=part))  # type: ignore[misc]

    def _do(self, what: str, call: Callable[[], T]) -> T:
        return patiently(self._connection.location, what, call)


def patiently(location: str, what: str, call: Callable[[], T]) -> T:
    """Calls, and waits while another process holds the database's lock."""
    end, pause = time.monotonic() + _BUSY_S, 0.01
    while True:
        try:
            with told(location, what):
                return call()
        except _BusyError as busy:
            if time.monotonic() > end:
                raise WriteError(
                    f"the store at {location} stayed locked by another process for {_BUSY_S:.0f} s; nothing was "
                    "changed. Try again, or run `chroma run` and open its URL when several processes write."
                ) from busy
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, 0.5)


def _locked(file: IO[str]) -> bool:
    """Takes an exclusive lock if it is free; True also where there are no file locks to take."""
    try:
        import fcntl  # noqa: PLC0415

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


class _BusyError(Exception):
    """Another process holds the lock; `patiently` waits."""


@contextlib.contextmanager
def told(location: str, what: str) -> Iterator[None]:
    """Turns what chromadb, its HTTP client or the file system raise into one of our errors."""
    import httpx  # noqa: PLC0415
    from chromadb.errors import ChromaError, NotFoundError  # noqa: PLC0415

    try:
        yield
    except NotFoundError as error:
        raise GoneError(str(error)) from error
    except httpx.HTTPError as error:
        raise _away(location, error) from error
    except (ChromaError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, StoreError):
            raise
        raise _explained(location, what, error) from error


def _explained(location: str, what: str, error: Exception) -> Exception:
    words = f"{type(error).__name__}: {error}"
    low = words.lower()
    if any(w in low for w in _BUSY):
        return _BusyError(words)
    if "error finding id" in low:
        return StaleIndexError(words)
    if any(w in low for w in _FULL):
        return WriteError(
            f"cannot {what} in the store at {location}: the disk is full ({words}). What was committed before is kept; "
            "free some space and commit again."
        )
    if any(w in low for w in _DAMAGED):
        return DamagedError(
            f"the store at {location} is damaged ({words}). Move the folder aside, do not delete it; restore a copy, "
            "or import the last exported library into a new store."
        )
    if any(w in low for w in _READONLY):
        return WriteError(f"cannot {what} the store at {location}: it is not writable or no folder ({words}).")
    if any(w in low for w in _AWAY):
        return _away(location, error)
    return StoreError(f"cannot {what} in the store at {location}: {words}")


def _away(location: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the Chroma server at {location} does not answer ({type(error).__name__}: {error}). Start one with "
        "`chroma run --path DIR`, or check the address; nothing was changed."
    )
