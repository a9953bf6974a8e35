"""Where the served library comes from, and how a new version takes the place of the old one while requests run.

    library.json            an exported file; read again when it is replaced
    ./experience@v7         a pinned version
    ./experience@best       a tag, followed as it moves
    ./experience            the head, followed with every commit (what is on trial is never served)

The place may be a folder or the URL of a Chroma server. A new version is made ready beside the one that is served and
then takes its place in one assignment, so that a request sees either. While a store cannot be read, the last good
version goes on being served and `Status` says so. Even a pinned version is looked at again: what was erased from a
store must not be served any longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import experience_store
from experience_store import ExperienceStore, Library, Snapshot, StoreError
from experience_store.embed import HashingEmbedder
from experience_store.errors import LibraryError
from experience_store.rank import Rank, matched_text
from experience_store.types import Experience
from tfgrpo.serving.apply import Served

if TYPE_CHECKING:
    from experience_store.nearest import Vectors

POLL_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What is served, and what kept it from being newer."""

    version: str
    place: str
    problem: str = ""  # the last look's error; "" when it succeeded
    unseen_s: float = 0.0  # seconds since the last look that succeeded


class Reader(Protocol):
    """Reads one library."""

    place: str

    def read(self) -> Snapshot:
        """What is there now; the same object as before when nothing changed. Raises StoreError."""
        ...

    def close(self) -> None: ...


class LibrarySource:
    """One namespace's library. `current` costs nothing; `look` reads the store and may take its time.

    Example:
        >>> import tempfile
        >>> from experience_store import Edit
        >>> place = tempfile.mkdtemp()
        >>> with experience_store.open(place, embedder="hashing") as store:
        ...     number = store.commit([Edit(op="add", text="Check the units.")]).number
        ...     source = open_source(place)
        ...     before = source.current().version
        ...     version = store.commit([Edit(op="add", text="Check the sign.")])
        ...     before, source.look(), source.current().version
        ('v1', True, 'v2')
        >>> source.close()
    """

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader, self._clock = reader, clock
        self._snapshot = reader.read()
        self._served = _ready(self._snapshot)
        self._seen, self._problem = clock(), ""

    def current(self) -> Served:
        """The version that is served now."""
        return self._served

    def look(self) -> bool:
        """Reads again; whether something else is served from now on. What cannot be read changes nothing."""
        try:
            snapshot = self._reader.read()
            changed = snapshot is not self._snapshot
            if changed:
                self._served = _ready(snapshot)
        except StoreError as error:
            self._problem = str(error)
            return False
        self._snapshot, self._seen, self._problem = snapshot, self._clock(), ""
        return changed

    def lost(self, why: str) -> None:
        """Nobody looks any more."""
        self._problem = why

    def status(self) -> Status:
        """What is served and how sure that is."""
        return Status(
            version=self._served.version,
            place=self._reader.place,
            problem=self._problem,
            unseen_s=self._clock() - self._seen,
        )

    def close(self) -> None:
        """Give back what the store holds; the current version stays usable."""
        self._reader.close()


def open_source(place: str, *, namespace: str = "default", token: str | None = None) -> LibrarySource:
    """Opens a library by its place, as written above.

    Args:
        place: an exported file, or a store with the version or tag behind "@".
        namespace: of the store.
        token: for a Chroma server that wants one.

    Raises:
        StoreError: there is no such file, store, namespace, version or tag.
    """
    return LibrarySource(reader_of(place, namespace=namespace, token=token))


def reader_of(place: str, *, namespace: str = "default", token: str | None = None) -> Reader:
    """The reader for a place."""
    if Path(place).is_file():
        if namespace != "default":
            raise LibraryError(
                f"{place} is one exported library and holds no namespace {namespace!r}; "
                f"give that namespace a file of its own: {namespace}=FILE."
            )
        return FileReader(place)
    where, ref = experience_store.parse_ref(place)
    return StoreReader(where, ref, namespace, token)


class FileReader:
    """An exported file; another file under its name is read when it is complete and matches its hashes."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._stamp: tuple[int, ...] = ()
        self._snapshot: Snapshot | None = None

    def read(self) -> Snapshot:
        try:
            found = Path(self.place).stat()
        except OSError as error:
            raise LibraryError(f"cannot read {self.place}: {error}.") from error
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._snapshot is None or stamp != self._stamp:
            library = Library.load(self.place)
            self._snapshot, self._stamp = with_arrays(library), stamp
        return self._snapshot

    def close(self) -> None:
        return None


class SnapshotReader:
    """A version that is in memory already, and stays."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.place, self._snapshot = snapshot.version.name, snapshot

    def read(self) -> Snapshot:
        return self._snapshot

    def close(self) -> None:
        return None


class StoreReader:
    """A version or tag of a store."""

    def __init__(self, location: str, ref: str, namespace: str, token: str | None) -> None:
        self.place = f"{location}@{ref}" if namespace == "default" else f"{location}@{ref}, namespace {namespace}"
        self._ref = ref
        self._store: ExperienceStore = experience_store.open(location, namespace=namespace, create=False, token=token)

    def read(self) -> Snapshot:
        return self._store.at(self._ref)

    def close(self) -> None:
        self._store.close()


class Follower:
    """Looks at sources from time to time, in a thread of its own that ends with the process.

    `tell(namespace, status)` is called there when another version is served, and when a store cannot be read or can be
    again.
    """

    def __init__(
        self,
        sources: Mapping[str, LibrarySource],
        *,
        every_s: float = POLL_S,
        tell: Callable[[str, Status], None] = lambda namespace, status: None,
    ) -> None:
        self._sources, self._every_s, self._tell = sources, every_s, tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tfgrpo-follower", daemon=True)

    def start(self) -> Follower:
        """Begin to look."""
        self._thread.start()
        return self

    def stop(self, wait_s: float = 2.0) -> None:
        """Look no more; a look under way is waited for, but not for long."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(wait_s)

    def _follow(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                for namespace, source in self._sources.items():
                    if not self._stop.is_set():
                        self._look(namespace, source)
        finally:  # a bug in a look: its traceback is printed, and nobody may believe that the store is still read
            if not self._stop.is_set():
                for source in self._sources.values():
                    source.lost("the thread that follows the store ended; restart the program")

    def _look(self, namespace: str, source: LibrarySource) -> None:
        before = bool(source.status().problem)
        changed = source.look()
        status = source.status()
        if changed or bool(status.problem) != before:
            self._tell(namespace, status)


def _ready(snapshot: Snapshot) -> Served:
    """The version with all that its first request would wait for: vectors read, an embedding model loaded."""
    served = Served.of(snapshot)
    served.prepared.picked("ready")
    return served


def with_arrays(library: Library) -> Snapshot:
    """The library, ranking as it does by itself and a hundred times faster, where numpy may be loaded."""
    if library.embedder != HashingEmbedder.name:
        return library.snapshot
    return replace(library.snapshot, rank=_hashing_rank())


def _hashing_rank() -> Rank:
    embed = HashingEmbedder().embed

    def read(experiences: Sequence[Experience]) -> dict[str, Sequence[float]]:
        from experience_store.nearest import key  # noqa: PLC0415 - numpy

        vectors = embed([matched_text(e) for e in experiences])
        return {key(e): vector for e, vector in zip(experiences, vectors, strict=True)}

    @cache
    def vectors() -> Vectors:
        from experience_store.nearest import Vectors  # noqa: PLC0415 - numpy, which a library that fits needs not

        return Vectors(read)

    def rank(question: str, experiences: Sequence[Experience]) -> Sequence[float]:
        if not experiences:
            return []
        scores: list[float] = vectors().similarities(embed([question])[0], experiences).tolist()
        return scores

    return rank
