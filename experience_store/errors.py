"""Every error of the store. Each says what happened, what was got, and what to do next.

StoreError
├── RefError(LookupError)          no such version, tag or experience id
├── EditError(ValueError)          an edit that cannot be applied; nothing was written
├── Conflict(RuntimeError)         another writer changed what the edits speak about; names both writers
├── LibraryError(ValueError)       an exported file that cannot be read or was changed by hand
├── EmbedderError(ValueError)      another embedder than the store was built with, or one that is not installed
├── UnavailableError(ConnectionError)   no store at that place, or its server does not answer
├── WriteError(OSError)            the disk is full or not writable; nothing that was committed is lost
├── NewerSchemaError(RuntimeError) written by a newer release; it was not touched
└── DamagedError(RuntimeError)     a record or row is missing or unreadable
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StoreError(Exception):
    """Base of all errors raised on purpose by this package."""


class RefError(StoreError, LookupError):
    """No such version, tag or experience id."""


class EditError(StoreError, ValueError):
    """An edit cannot be applied. Nothing was written."""


class Conflict(StoreError, RuntimeError):
    """Another writer changed what the edits speak about. Nothing of this commit can be seen."""


class LibraryError(StoreError, ValueError):
    """An exported library cannot be read, or its content does not match its hashes."""


class EmbedderError(StoreError, ValueError):
    """The store was built with another embedder, or the one it needs is not installed."""


class UnavailableError(StoreError, ConnectionError):
    """There is no store at that place, or its server does not answer."""


class WriteError(StoreError, OSError):
    """The store could not be written: disk full, read-only, locked. What was committed before is kept."""


class NewerSchemaError(StoreError, RuntimeError):
    """The store was written by a newer release of this package and was not touched."""


class DamagedError(StoreError, RuntimeError):
    """A record or row is missing or unreadable."""


def near_names(name: str, known: Iterable[str], *, most: int = 12) -> str:
    """A sentence that lists the near names, or the known ones when none is near."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    if not names:
        return "there is none yet."
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"known: {', '.join(names[:most])}{more}."
