"""ExperienceStore: versioned experiences in Chroma, embedded or behind a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from experience_store import commit as commits
from experience_store import history, library, maintenance
from experience_store.chroma import Connection
from experience_store.diff import Diff, between
from experience_store.embed import Embedder
from experience_store.errors import UnavailableError
from experience_store.location import checked_namespace, checked_url
from experience_store.searching import Hit, Searcher
from experience_store.shelf import Shelf
from experience_store.snapshot import Snapshot
from experience_store.types import Edit, Layout, Version

Ref = int | str


def open_store(
    location: str | Path,
    *,
    namespace: str = "default",
    embedder: str | Embedder | None = None,
    create: bool = True,
    token: str | None = None,
) -> ExperienceStore:
    """Opens a store, and makes it when there is none.

    Args:
        location: a folder, or the URL of a Chroma server (`chroma run`), which is what several writers should use.
        namespace: stores of different tasks side by side; they share nothing.
        embedder: "minilm", "hashing", "sentence-transformers/FOLDER-OR-ID" or an object; None means the one the store
            was built with. A store never changes its embedder.
        create: False raises UnavailableError instead of making a store.
        token: sent to a server as `Authorization: Bearer`.

    Example:
        >>> import tempfile
        >>> store = open_store(tempfile.mkdtemp(), embedder="hashing")
        >>> store.commit([Edit(op="add", text="Check the units.")]).name
        'v1'
    """
    where, space = str(location), checked_namespace(namespace)
    local = not where.startswith(("http://", "https://"))
    if not local:
        checked_url(where)
    if not create and local and not (Path(where) / "chroma.sqlite3").is_file():
        raise UnavailableError(f"there is no store at {where}: no file chroma.sqlite3 in that folder.")
    connection = Connection(where, token=token)
    if not create and f"{space}.versions" not in connection.names():
        spaces = sorted({n.rpartition(".")[0] for n in connection.names() if n.endswith(".versions")})
        connection.close()
        raise UnavailableError(
            f"the store at {where} has no namespace {space!r}; there are: {', '.join(spaces) or 'none'}."
        )
    return ExperienceStore(Shelf(connection, space, embedder))


class ExperienceStore:
    """Versions of a library of experiences: commit, look back, compare, roll back, search, export.

    Every commit makes a new version and none is ever changed. Any number of processes may read and commit; with many
    writers use a Chroma server. `notice` holds a sentence worth showing to a user, or "".
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._searcher = Searcher(shelf)
        self._last: Snapshot | None = None

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def location(self) -> str:
        return self._shelf.connection.location

    @property
    def namespace(self) -> str:
        return self._shelf.namespace

    @property
    def embedder(self) -> Embedder:
        return self._shelf.embedder

    @property
    def notice(self) -> str:
        return self._shelf.notice

    def stats(self) -> dict[str, Any]:
        """Counts, estimated prompt tokens of what is served, bytes on disk, tags."""
        return history.stats(self._shelf)

    # -- versions -----------------------------------------------------------------------------------------------------

    def head(self) -> Version:
        """The last version; v0, empty, before the first commit."""
        return self.version("head")

    def version(self, ref: Ref = "head") -> Version:
        """A version given as 7, "v7", "head" or a tag, without loading its experiences.

        The same object as before, until the ref moves or another process erased something in it.
        """
        return self._shelf.record(self._shelf.resolve(ref)).version

    def at(self, ref: Ref = "head") -> Snapshot:
        """A version with its experiences, ready to be put into prompts."""
        version = self.version(ref)
        last = self._last  # another thread may ask for another version meanwhile
        if last is None or last.version is not version:  # another object: read anew, or erased meanwhile
            experiences = self._shelf.experiences(version.rows, version.name)
            last = self._last = Snapshot(version=version, experiences=experiences, rank=self._searcher.rank)
        return last

    def commit(
        self,
        edits: Sequence[Edit],
        *,
        parent: int | None = None,
        layout: Layout | None = None,
        note: str = "",
        evidence: Mapping[str, Any] | None = None,
        writer: str = "",
        on_conflict: commits.OnConflict = "rebase",
    ) -> Version:
        """Writes one new version.

        Args:
            edits: applied in order; an added experience gets its id in the returned version's `edits`.
            parent: the version the edits were made for; None means the head at this moment.
            layout: how the version is rendered; None keeps the parent's.
            note: one line for the log.
            evidence: plain JSON: scores, intervals, cost.
            writer: who commits; named in conflicts.
            on_conflict: when others committed since `parent`, "rebase" applies the edits to the new head.

        Raises:
            EditError: an unknown id, an empty text; nothing was written.
            Conflict: others changed what the edits speak about, or `on_conflict="fail"` and the head moved.
        """
        request = commits.Request(
            edits=tuple(edits),
            parent=parent,
            layout=layout,
            note=note,
            evidence=dict(evidence or {}),
            writer=writer,
            on_conflict=on_conflict,
        )
        return commits.commit(self._shelf, request)

    def log(self, limit: int | None = None) -> tuple[Version, ...]:
        """Versions, the newest first."""
        head = self._shelf.head_number()
        first = 1 if limit is None else max(1, head - limit + 1)
        return tuple(r.version for r in self._shelf.records(range(head, first - 1, -1)))

    def diff(self, before: Ref, after: Ref = "head") -> Diff:
        """What changed from one version to another; `print` it, or read its fields."""
        return between(self.at(before), self.at(after))

    def rollback(self, to: Ref, note: str = "", *, writer: str = "") -> Version:
        """A new version with the experiences, trials and layout of an earlier one; the history stays."""
        return history.rollback(self._shelf, self._shelf.resolve(to), note, writer)

    def tag(self, name: str, ref: Ref = "head") -> int:
        """Names a version, or moves the name to it; returns the version's number."""
        return history.tag(self._shelf, name, ref)

    def tags(self) -> dict[str, int]:
        """Tag -> version number."""
        return self._shelf.all_tags()

    # -- reading ------------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int = 5, ref: Ref = "head") -> list[Hit]:
        """The experiences of a version nearest to a question, by cosine similarity, best first."""
        return self._searcher.search(query, self.at(ref), k)

    def similar(self, text: str, k: int = 3, ref: Ref = "head") -> list[Hit]:
        """Like `search`, but compares whole texts: to find duplicates of a text that is to be added."""
        return self._searcher.similar(text, self.at(ref), k)

    def render(self, ref: Ref = "head", question: str | None = None) -> str:
        """The notes of a version as they stand in a prompt."""
        return self.at(ref).text(question)

    # -- moving -------------------------------------------------------------------------------------------------------

    def export(self, ref: Ref, file: str | Path) -> Path:
        """Writes a version to one readable JSON file, which `Library.load` renders without any dependency."""
        return library.save(self.at(ref), file, embedder=self.embedder.name)

    def import_(self, file: str | Path, *, note: str = "", writer: str = "") -> Version:
        """Commits the experiences of an exported file; those that are here already, word for word, are left out."""
        return history.import_library(self._shelf, library.Library.load(file), Path(file).name, note, writer)

    # -- upkeep -------------------------------------------------------------------------------------------------------

    def gc(self, older_than_s: float = 86_400, erase: str | None = None) -> dict[str, int]:
        """Drops rows that no version lists and that are older than a day; `erase` also removes content for good.

        Args:
            older_than_s: younger unlisted rows may belong to a commit that is being written.
            erase: an experience id, or any text (a problem id, a person) that stands as a value in an experience's
                source: every text of those experiences becomes "[erased]", in every version. Stop other writers first.

        Returns:
            Counts: rows dropped, experiences, rows and versions erased.
        """
        return maintenance.gc(self._shelf, older_than_s, erase)

    def rebuild_vectors(self) -> int:
        """Computes all vectors again from the texts; returns how many. Stop other writers first."""
        return maintenance.rebuild_vectors(self._shelf)

    def close(self) -> None:
        """Gives back files and sockets."""
        self._shelf.connection.close()

    def __enter__(self) -> ExperienceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ExperienceStore({self.location!r}, namespace={self.namespace!r})"
