"""A library in use inside a program: opened once, followed as its tag or head moves, shared by any number of clients.

    library = tfgrpo.follow("./experience@production")
    reply = any_client(messages=library(messages))

The same source, rule and poller as the proxy's. An exported file needs the standard library only.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from experience_store import Library, Snapshot
from experience_store.render import Applied, Message
from tfgrpo.errors import InputError
from tfgrpo.serving.apply import Api, Served
from tfgrpo.serving.library_source import (
    POLL_S,
    Follower,
    LibrarySource,
    SnapshotReader,
    Status,
    open_source,
    with_arrays,
)

Place: TypeAlias = str | Path | Library | Snapshot
"""Where a library is: as `tfgrpo serve --store` has it, or one that is loaded already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What was put into one request."""

    version: str  # "v7"
    labels: tuple[str, ...] = ()  # of the experiences, in their order: "E17@3"
    api: Api = "chat"
    model: str = ""
    problem: str = ""  # why nothing was put in: the question could not be searched with
    strategy: str = ""  # what chose the answer: "vote(n=5, reading=auto)"
    calls: int = 1  # of the model, and of a judge
    why: str = ""  # "3 of 5 agree"


_LAST: ContextVar[Mapping[object, Use] | None] = ContextVar("tfgrpo_last_use", default=None)
"""The last use of each library in this thread or task; copied, never changed: tasks share it with their parents."""


class FollowedLibrary:
    """Call it with messages; `follow` makes it. Any number of threads and tasks may use it.

    A process that is forked keeps the version of that moment and `status()` says so: open a library in each worker.
    """

    def __init__(self, source: LibrarySource, *, poll_s: float | None = POLL_S) -> None:
        self._source, self._pid, self._key = source, os.getpid(), object()
        self._follower = None if poll_s is None else Follower({"": source}, every_s=poll_s).start()
        # One that is forgotten ends its thread; what its store holds goes with the store.
        self._forgotten = weakref.finalize(self, _nothing if self._follower is None else self._follower.stop, 0.0)
        self._forgotten.atexit = False

    @property
    def version(self) -> str:
        """The version that is used now, such as "v7"."""
        return self._source.current().version

    @property
    def last(self) -> Use | None:
        """What was put into the last request of this thread or asyncio task; None before the first."""
        return (_LAST.get() or {}).get(self._key)

    def status(self) -> Status:
        """What is used, where it comes from, and what kept it from being newer."""
        status = self._source.status()
        if self._pid != os.getpid() and self._follower is not None:
            return replace(status, problem="this process was forked and follows nothing; open the library in it")
        return status

    def current(self) -> Served:
        """The version that applies now, for `augment` (`tfgrpo.serving.apply`)."""
        return self._source.current()

    def apply(self, messages: Sequence[Message]) -> Applied:
        """The messages with the experiences in them, and which these are.

        Args:
            messages: of chat completions, as mappings or as objects of a client; they are never changed.

        Raises:
            StoreError: the question picks the experiences and cannot be searched with.
        """
        served = self._source.current()
        applied = served.prepared.apply(as_mappings(messages))
        self.note(Use(version=served.version, labels=applied.labels))
        return applied if applied.labels else Applied(messages=messages)

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """The messages to send."""
        return list(self.apply(messages).messages)

    def note(self, use: Use) -> None:
        """Makes this the `last` use."""
        _LAST.set({**(_LAST.get() or {}), self._key: use})

    def close(self) -> None:
        """Follows no more and gives the store back; the current version stays usable."""
        if self._forgotten.detach() is None:
            return
        if self._follower is not None:
            self._follower.stop()
        self._source.close()

    def __enter__(self) -> FollowedLibrary:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FollowedLibrary {self.version} of {self._source.status().place}>"


def follow(
    store: Place, *, namespace: str = "default", token: str | None = None, poll_s: float = POLL_S
) -> FollowedLibrary:
    """Opens a library for the requests of this program.

    Args:
        store: an exported file, or a store with a version ("@v7", pinned) or tag behind it; a tag, or the head without
            either, is followed. Or a `Library` or `Snapshot` that is loaded already.
        namespace: of the store.
        token: for a Chroma server that wants one.
        poll_s: seconds between two looks at the store.

    Raises:
        StoreError: there is no such file, store, namespace, version or tag.
        InputError: something else than a place was given.

    Example:
        >>> from experience_store import Experience, Version
        >>> entry = Experience(id="E1", text="Check units.")
        >>> snapshot = Snapshot(version=Version(number=1, parent=0, rows=("E1@1-a",)), experiences=(entry,))
        >>> library = follow(snapshot)
        >>> [message["role"] for message in library([{"role": "user", "content": "5 km in m?"}])]
        ['system', 'user']
        >>> library.version, library.last.labels
        ('v1', ('E1@1',))
    """
    if isinstance(store, Library):
        store = with_arrays(store)
    if isinstance(store, Snapshot):
        return FollowedLibrary(LibrarySource(SnapshotReader(store)), poll_s=None)
    if not isinstance(store, str | Path):
        raise InputError(
            f"a library is given as the path of an exported file, as a store such as './experience@production', or as "
            f"a Snapshot, got {type(store).__name__}; of an open store give store.at('head')"
        )
    if not poll_s > 0:
        raise InputError(f"poll_s is seconds between two looks at the store, above 0; got {poll_s!r}")
    return FollowedLibrary(open_source(str(store), namespace=namespace, token=token), poll_s=poll_s)


def as_mappings(items: Sequence[Any]) -> Sequence[Any]:
    """Messages and other items as mappings where they are objects of a client; the same sequence where none is."""
    found = [_as_mapping(item) for item in items]
    return items if all(new is old for new, old in zip(found, items, strict=True)) else found


def _as_mapping(item: Any) -> Any:
    dump = None if isinstance(item, Mapping) else getattr(item, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else item


def _nothing(wait_s: float) -> None:
    return None
