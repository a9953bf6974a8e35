"""Erasing what was learned from a person or a problem, in the store and in the records of the runs that saw it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experience_store import Experience, ExperienceStore
from tfgrpo.record import FILE_NAME, RunRecord

_ID = re.compile(r"E[0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """What was erased: counts of the store, calls per run that held some of it, and report pages of those runs."""

    key: str
    store: dict[str, int]
    calls: dict[str, int] = field(default_factory=dict)
    pages: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.store.items())
        lines = [f"store: {counts}"]
        lines += [f"{run}: {count} calls erased" for run, count in self.calls.items()]
        lines += [f"{page} removed" for page in self.pages]
        none = [] if self.calls else ["no run record held any of it"]
        return "\n".join([*lines, *none, "exported files and copies elsewhere were not touched"])


def forget(store: ExperienceStore, key: str, runs: str | Path, *, older_than_s: float = 86_400) -> Forgotten:
    """Erase an experience (by its id), or everything about a problem or person, for good.

    The run records go first, because only the store knows which words were learned. Run it again after a failure.

    Args:
        store: the store; stop other writers first.
        key: an experience id such as "E17", or a problem id or text that stands in the sources of experiences.
        runs: the folder of run folders.
        older_than_s: as `ExperienceStore.gc`.

    Raises:
        RunStateError: a run is in use or damaged; nothing was erased anywhere.
        StoreError: the store could not be rewritten.
    """
    texts = sorted({text for e in _about(store, key) for text in (e.text, e.question) if text})
    calls: dict[str, int] = {}
    with ExitStack() as stack:
        files = sorted(Path(runs).glob(f"*/{FILE_NAME}"))
        records = [stack.enter_context(RunRecord.open(file)) for file in files]
        for record in records:
            hits = _erase(record, key, texts)
            if hits:
                calls[str(record.path.parent)] = hits
    pages = [page for run in calls for page in sorted(Path(run).glob("*.html"))]
    for page in pages:
        page.unlink()
    return Forgotten(key=key, store=store.gc(older_than_s, erase=key), calls=calls, pages=[str(page) for page in pages])


def _erase(record: RunRecord, key: str, texts: Iterable[str]) -> int:
    """An experience's id is too short a word to search for; its texts, or the problem's id and name, are not."""
    own = 0 if _ID.fullmatch(key) else record.erase(problem=key, containing=key)
    return own + sum(record.erase(containing=text) for text in texts)


def _about(store: ExperienceStore, key: str) -> Iterator[Experience]:
    """The experiences of that id or with the key in their source, in every version."""
    for version in store.log():
        for experience in store.at(version.number).experiences:
            if experience.id == key or _mentions(experience.source, key):
                yield experience


def _mentions(value: Any, key: str) -> bool:
    if hasattr(value, "items"):
        return any(str(k) == key or _mentions(v, key) for k, v in value.items())
    if isinstance(value, list | tuple):
        return any(_mentions(v, key) for v in value)
    return str(value) == key
