"""Nearest experiences by cosine similarity: through Chroma's index, or computed here when the index cannot help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experience_store.chroma import GoneError, StaleIndexError
from experience_store.codec import is_erased
from experience_store.embed import cosine
from experience_store.errors import DamagedError
from experience_store.rank import Rank, by_vectors
from experience_store.shelf import Shelf
from experience_store.snapshot import Snapshot
from experience_store.types import Experience

Vector = Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One found experience; `similarity` is a cosine, 1 for the same direction."""

    experience: Experience
    similarity: float


def search(shelf: Shelf, vector: Vector, snapshot: Snapshot, k: int) -> list[Hit]:
    """The `k` nearest of a version, those on trial included, best first; equal ones in prompt order."""
    pool = [e for e in snapshot.experiences if not is_erased(e)]
    if not pool or k < 1:
        return []
    scores = similarities(shelf, vector, pool, k)
    found = [Hit(experience=e, similarity=scores[e.row]) for e in pool if e.row in scores]
    return sorted(found, key=lambda h: -h.similarity)[:k]


def similarities(shelf: Shelf, vector: Vector, pool: Sequence[Experience], k: int) -> dict[str, float]:
    """Row id -> similarity of the nearest; the index is a cache, so what it cannot tell is computed from the text."""
    rows = [e.row for e in pool]
    try:
        found = shelf.steady(lambda: shelf.rows.nearest(vector, rows, min(k, len(rows))))
    except DamagedError:
        found = []
    if len(found) == min(k, len(rows)):
        return dict(found)
    return {e.row: cosine(vector, v) for e, v in zip(pool, shelf.embed_experiences(pool), strict=True)}


def similar(shelf: Shelf, text: str, snapshot: Snapshot, k: int) -> list[Hit]:
    """Compares whole texts (an example's answer, not its problem), which is what makes two entries duplicates."""
    pool = [e for e in snapshot.experiences if not is_erased(e)]
    if not pool or k < 1:
        return []
    lessons = [e for e in pool if not e.question]
    examples = [e for e in pool if e.question]
    vector = shelf.vectors_of([text])[0]
    hits: list[Hit] = []
    if lessons:
        scores = similarities(shelf, vector, lessons, k)
        hits += [Hit(experience=e, similarity=scores[e.row]) for e in lessons if e.row in scores]
    for e, v in zip(examples, shelf.vectors_of([e.text for e in examples]), strict=True):
        hits.append(Hit(experience=e, similarity=cosine(vector, v)))
    return sorted(hits, key=lambda h: -h.similarity)[:k]


def ranker(shelf: Shelf, embed: Callable[[str], Vector]) -> Rank:
    """A `Rank` for rendering: exact cosines over the stored vectors."""

    def vectors(experiences: Sequence[Experience]) -> list[Vector]:
        found = stored_vectors(shelf, experiences)
        return [found[e.row] for e in experiences]

    return by_vectors(embed, vectors)


def stored_vectors(shelf: Shelf, experiences: Sequence[Experience]) -> dict[str, Vector]:
    """Vectors as they are stored, and computed anew where the index does not have them."""
    ids = [e.row for e in experiences]
    try:
        rows = shelf.steady(lambda: shelf.rows.get(ids, vectors=True))
    except (DamagedError, GoneError, StaleIndexError):
        rows = {}
    found: dict[str, Vector] = {i: r.vector for i, r in rows.items() if r.vector}
    lost = [e for e in experiences if e.row not in found]
    return found | dict(zip((e.row for e in lost), shelf.embed_experiences(lost), strict=True))
