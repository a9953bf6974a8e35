"""A store as the pages read it: its entries with their measured effect, how often they stood in prompts, their cost.

An effect is what the latest version that measured this very revision knew, so that it survives a rollback and later
runs on other problems.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import experience_store
from experience_store import Edit, Experience, ExperienceStore, Layout, Snapshot, StoreError, Version
from experience_store.errors import UnavailableError
from experience_store.render import CHARS_PER_TOKEN, cost

LOOK_BACK = 200
"""Versions in which a measured effect is looked for."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An experience with what is known of it; `belief` is the record of its effect, {} where none was measured."""

    experience: Experience
    place: int  # in the prompt
    on_trial: bool
    layout: Layout
    belief: Mapping[str, Any]

    @cached_property
    def tokens(self) -> int:
        """Estimated, in a prompt that shows it; reckoned when it is first asked for."""
        return -(-cost(self.experience, self.layout) // CHARS_PER_TOKEN)

    @property
    def effect(self) -> float | None:
        return float(self.belief["effect"]) if "effect" in self.belief else None

    @property
    def verdict(self) -> str:
        return str(self.belief.get("verdict", "not measured"))

    @property
    def shown(self) -> int | None:
        """Prompts it stood in while its effect was measured."""
        return int(self.belief["shown"]) if "shown" in self.belief else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A version with all its entries, in prompt order."""

    version: Version
    entries: tuple[Entry, ...]

    def entry(self, id: str) -> Entry | None:
        """The entry of an id."""
        return next((e for e in self.entries if e.experience.id == id), None)


class Catalog:
    """Opens the store when it is first asked for, so that a page can be there before anything was learned."""

    def __init__(self, location: str, *, namespace: str = "default", token: str | None = None) -> None:
        self.location, self.namespace = location, namespace
        self._token = token
        self._store: ExperienceStore | None = None
        self._listing: Listing | None = None
        self._lock = threading.RLock()

    def store(self) -> ExperienceStore:
        """The store.

        Raises:
            UnavailableError: there is none at that place, or its server does not answer.
        """
        with self._lock:
            if self._store is None:
                self._store = experience_store.open(
                    self.location, namespace=self.namespace, create=False, token=self._token
                )
            return self._store

    def close(self) -> None:
        """Gives back files and sockets."""
        with self._lock:
            if self._store is not None:
                self._store.close()
            self._store = self._listing = None

    def warm(self) -> None:
        """Reads all that is shown first, where it can be read: ten thousand entries take seconds, once."""
        with contextlib.suppress(StoreError):
            self.listing()

    def missing(self) -> str:
        """Why there is no store, or ""."""
        try:
            self.store()
        except UnavailableError as error:
            return str(error)
        return ""

    def listing(self) -> Listing:
        """The head with its entries; the same object until the head moves."""
        with self._lock:
            store = self.store()
            version = store.head()
            if self._listing is None or self._listing.version is not version:
                self._listing = listed(store, store.at(version.number))
            return self._listing

    def entry(self, id: str, ref: str = "") -> Entry | None:
        """One entry of the head, or of another version.

        Raises:
            RefError: there is no such version.
        """
        if not ref:
            return self.listing().entry(id)
        snapshot = self.store().at(ref)
        entries = listed(self.store(), snapshot, only=id).entries
        return entries[0] if entries else None

    def history(self, id: str, most: int) -> list[tuple[Version, Edit]]:
        """The latest edits of one experience, the newest first."""
        found = ((v, edit) for v in self.store().log() for edit in v.edits if edit.id == id)
        return [pair for pair, _ in zip(found, range(most), strict=False)]


def listed(store: ExperienceStore, snapshot: Snapshot, only: str | None = None) -> Listing:
    """A version's entries, or one of them, with what is known of them."""
    version, trial = snapshot.version, set(snapshot.version.trial)
    chosen = [(n, e) for n, e in enumerate(snapshot.experiences) if only in (None, e.id)]
    beliefs = beliefs_of(store, version, [e for _, e in chosen])
    entries = tuple(
        Entry(
            experience=e,
            place=n,
            on_trial=e.id in trial,
            layout=snapshot.layout,
            belief=beliefs.get(e.id, {}),
        )
        for n, e in chosen
    )
    return Listing(version=version, entries=entries)


def axis(beliefs: Iterable[Mapping[str, Any]]) -> float:
    """The end of an axis on which all intervals can be compared, at most 1.

    Example:
        >>> axis([{"low": -0.1, "high": 0.4}, {}]), axis([])
        (0.44, 0.11)
    """
    ends = [abs(float(b[side])) for b in beliefs for side in ("low", "high") if side in b]
    return min(1.0, round(1.1 * max([0.1, *ends]), 3))


def beliefs_of(
    store: ExperienceStore, version: Version, experiences: Sequence[Experience]
) -> dict[str, Mapping[str, Any]]:
    """The latest measured effect of each revision, by id."""
    wanted, found = {e.id: e.row for e in experiences}, {}
    skipped = store.head().number - version.number
    for earlier in store.log(skipped + LOOK_BACK)[skipped:]:
        effects = earlier.evidence.get("effects") or {}
        if not wanted:
            break
        if not effects:
            continue
        rows = set(earlier.rows)
        for id in [id for id in effects if wanted.get(id) in rows]:
            found[id] = effects[id]
            del wanted[id]
    return found
