"""Nearest experiences by cosine similarity: computed here exactly, or by a server's index where all vectors are far."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from experience_store.chroma import GoneError, StaleIndexError
from experience_store.codec import is_erased
from experience_store.embed import cosine
from experience_store.errors import DamagedError
from experience_store.shelf import Shelf
from experience_store.snapshot import Snapshot
from experience_store.types import Experience

if TYPE_CHECKING:
    from experience_store.nearest import Vectors

Vector = Sequence[float]
_REMEMBERED = 2_000  # characters of a question whose vector is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One found experience; `similarity` is a cosine, 1 for the same direction."""

    experience: Experience
    similarity: float


class Searcher:
    """Asks one shelf; reads every stored vector once, and embeds a question once."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._embed_short = lru_cache(maxsize=1024)(self._embed)

    def search(self, query: str, snapshot: Snapshot, k: int) -> list[Hit]:
        """The `k` nearest of a version, those on trial included, best first; equal ones in prompt order."""
        return self.search_vector(self.embed(query), snapshot, k)

    def search_vector(self, vector: Vector, snapshot: Snapshot, k: int) -> list[Hit]:
        """The same for a vector that is at hand."""
        return self._nearest(vector, _readable(snapshot), k)

    def similar(self, text: str, snapshot: Snapshot, k: int) -> list[Hit]:
        """Compares whole texts (an example's answer, not its problem), which is what makes two entries duplicates."""
        pool = _readable(snapshot)
        if not pool or k < 1:
            return []
        examples = [e for e in pool if e.question]
        vector = self._shelf.vectors_of([text])[0]
        hits = self._nearest(vector, tuple(e for e in pool if not e.question), k)
        for e, v in zip(examples, self._shelf.vectors_of([e.text for e in examples]), strict=True):
            hits.append(Hit(experience=e, similarity=cosine(vector, v)))
        return sorted(hits, key=lambda h: -h.similarity)[:k]

    def rank(self, question: str, experiences: Sequence[Experience]) -> Sequence[float]:
        """A `Rank` for rendering: exact cosines over the stored vectors."""
        if not experiences:
            return []
        scores: list[float] = self._vectors.similarities(self.embed(question), experiences).tolist()
        return scores

    def embed(self, question: str) -> Vector:
        """The vector of a question; those of short ones are remembered."""
        return self._embed_short(question) if len(question) <= _REMEMBERED else self._embed(question)

    def _embed(self, text: str) -> tuple[float, ...]:
        return tuple(self._shelf.embedder.embed([text])[0])

    def _nearest(self, vector: Vector, pool: Sequence[Experience], k: int) -> list[Hit]:
        if not pool or k < 1:
            return []
        found = self._from_server(vector, pool, k)
        if found is None:
            scores = self._vectors.similarities(vector, pool)
            return [Hit(experience=pool[i], similarity=float(scores[i])) for i in (-scores).argsort(kind="stable")[:k]]
        hits = [Hit(experience=e, similarity=found[e.row]) for e in pool if e.row in found]
        return sorted(hits, key=lambda h: -h.similarity)

    def _from_server(self, vector: Vector, pool: Sequence[Experience], k: int) -> Mapping[str, float] | None:
        """Row id -> similarity of the nearest; None where there is no server, or its index does not know them all."""
        if not self._shelf.connection.remote:
            return None
        rows, wanted = [e.row for e in pool], min(k, len(pool))
        try:
            found = self._shelf.steady(lambda: self._shelf.rows.nearest(vector, rows, wanted))
        except DamagedError:
            return None
        return dict(found) if len(found) == wanted else None

    @cached_property
    def _vectors(self) -> Vectors:
        from experience_store.nearest import Vectors  # noqa: PLC0415 - numpy, which comes with Chroma

        return Vectors(self._stored)

    def _stored(self, experiences: Sequence[Experience]) -> Mapping[str, Any]:
        """Vectors by row as they are stored, and computed anew where the index does not have them."""
        ids = [e.row for e in experiences]
        found: dict[str, Any] = {}
        with contextlib.suppress(DamagedError, GoneError, StaleIndexError):
            found = self._shelf.steady(lambda: self._shelf.rows.vectors(ids))
        lost = [e for e in experiences if e.row not in found]
        return found | dict(zip((e.row for e in lost), self._shelf.embed_experiences(lost), strict=True))


def _readable(snapshot: Snapshot) -> tuple[Experience, ...]:
    """The snapshot's own tuple where nothing in it was erased, so that its vectors are at hand."""
    entries = snapshot.experiences
    return tuple(e for e in entries if not is_erased(e)) if any(map(is_erased, entries)) else entries
