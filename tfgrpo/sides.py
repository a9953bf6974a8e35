"""What a measurement compares: a version of a store, an exported library, or the bare prompt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import experience_store
from experience_store import ExperienceStore, Library, Snapshot
from tfgrpo.errors import InputError
from tfgrpo.evaluation import bare
from tfgrpo.practice import served
from tfgrpo.types import Problem, Prompt

T = TypeVar("T")

NOTHING = "no experiences"


class Stack(Protocol):
    """What keeps stores open: an `ExitStack` of either kind."""

    def enter_context(self, cm: AbstractContextManager[T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a measurement; `identity` is equal for equal prompts."""

    label: str
    identity: str
    apply: Callable[[Problem], Prompt]


def sides_of(
    stack: Stack, store: ExperienceStore | Snapshot | str | None, against: Snapshot | str | None
) -> tuple[Side, ...]:
    """What is measured, after what it is compared with where there is something.

    Raises:
        InputError, StoreError: no such store, version or file.
    """
    source, label, snapshot = _found(stack, store)
    main = _side(label, snapshot)
    if against is None:
        return (main,)
    if snapshot is None:
        raise InputError(f"comparing with {against!r} needs a store to compare: store=..., --store FOLDER")
    other = _other(stack, source, label, against)
    if other.identity == main.identity:
        raise InputError(f"{main.label} and {other.label} put the same into every prompt; there is nothing to compare")
    return other, main


def _other(stack: Stack, source: ExperienceStore | None, label: str, against: Snapshot | str) -> Side:
    if against == "none":
        return Side(NOTHING, NOTHING, bare)
    is_place = isinstance(against, Snapshot) or "/" in against or Path(against).exists()
    if source is None or is_place:
        _, name, snapshot = _found(stack, against)
    else:
        assert isinstance(against, str)
        snapshot = source.at(against)
        name = f"{source.location}@{snapshot.version.name}"
    return _side(name, snapshot)


def side_of(stack: Stack, store: ExperienceStore | Snapshot | str | None) -> Side:
    """One side: a version of a store, an exported library, or the bare prompt for None.

    Raises:
        InputError, StoreError: no such store, version or file.
    """
    _, label, snapshot = _found(stack, store)
    return _side(label, snapshot)


def snapshot_of(stack: Stack, store: ExperienceStore | Snapshot | str) -> tuple[str, Snapshot]:
    """A version of a store or an exported library, with its label.

    Raises:
        InputError, StoreError: no such store, version or file.
    """
    _, label, snapshot = _found(stack, store)
    assert snapshot is not None  # only None has none
    return label, snapshot


def _side(label: str, snapshot: Snapshot | None) -> Side:
    return Side(NOTHING, NOTHING, bare) if snapshot is None else Side(label, _identity(snapshot), served(snapshot))


def _found(
    stack: Stack, given: ExperienceStore | Snapshot | str | None
) -> tuple[ExperienceStore | None, str, Snapshot | None]:
    """The open store if there is one, a label, and the snapshot."""
    if given is None:
        return None, "", None
    if isinstance(given, Snapshot):
        return None, given.version.name, given
    if isinstance(given, str):
        place, ref = experience_store.parse_ref(given)
        if Path(place).is_file():
            library = Library.load(place)
            return None, place, library.snapshot
        book = stack.enter_context(experience_store.open(place, create=False))
    else:
        book, ref = given, "head"
    snapshot = book.at(ref)
    return book, f"{book.location}@{snapshot.version.name}", snapshot


def _identity(snapshot: Snapshot | None) -> str:
    if snapshot is None or not snapshot.served:
        return NOTHING
    parts: list[Any] = [[e.hash for e in snapshot.served], dataclasses.asdict(snapshot.layout)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
