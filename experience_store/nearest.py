"""Exact cosine similarity over all vectors of a version, in one array; loaded with Chroma, which brings numpy.

N entries, D dimensions. Exact is also the fast way here: 10,000 x 384 take 2 ms, while an approximate index has to be
built anew whenever a folder is opened, for seconds, and finds 94 of 100 neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from experience_store.rank import PLACES, Vector
from experience_store.types import Experience

Array: TypeAlias = npt.NDArray[np.float32]
Read: TypeAlias = Callable[[Sequence[Experience]], Mapping[str, Any]]
"""Experiences -> their vectors by `key`."""


def key(experience: Experience) -> str:
    """What a vector is kept under: rows are immutable, and equal texts have equal vectors."""
    return experience.row or experience.hash


class Vectors:
    """Unit vectors of experiences, each read once.

    Example:
        >>> a, b = Experience(id="E1", text="a"), Experience(id="E2", text="b")
        >>> vectors = Vectors(lambda entries: {key(e): [3.0, 4.0] if e is a else [0.0, 2.0] for e in entries})
        >>> [round(float(s), 2) for s in vectors.similarities([0.0, 1.0], (a, b))]
        [0.8, 1.0]
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: dict[str, Array] = {}
        self._last: tuple[Sequence[Experience], Array] = ((), np.zeros((0, 0), dtype=np.float32))

    def similarities(self, vector: Vector, experiences: Sequence[Experience]) -> Array:
        """Cosines [N], rounded so that equal texts are equal."""
        asked = _units(np.asarray([vector], dtype=np.float32))[0]
        cosines: Array = np.round(self._matrix(experiences) @ asked, PLACES)
        return cosines

    def _matrix(self, experiences: Sequence[Experience]) -> Array:
        """[N, D]; made once for the version that is served, which asks with the same object every time."""
        last, matrix = self._last
        if last is experiences and len(last):
            return matrix
        unread = [e for e in experiences if key(e) not in self._known]
        if unread:
            found = self._read(unread)
            rows = _units(np.asarray([found[key(e)] for e in unread], dtype=np.float32))
            self._known.update({key(e): row for e, row in zip(unread, rows, strict=True)})
        matrix = np.stack([self._known[key(e)] for e in experiences])
        if isinstance(experiences, tuple):  # what cannot change
            self._last = (experiences, matrix)
        return matrix


def _units(rows: Array) -> Array:
    """Rows [N, D] scaled to length 1; a zero vector becomes the first axis, since cosine needs a direction."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directed = np.where(lengths > 0, rows, np.eye(1, rows.shape[1], dtype=np.float32))
    return (directed / np.where(lengths > 0, lengths, 1)).astype(np.float32)
