"""Ranking experiences for a question with the standard library only: BM25 over words, or cosines of given vectors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import mul

from experience_store.embed import unit
from experience_store.types import Experience

Vector = Sequence[float]
Embed = Callable[[str], Vector]
Rank = Callable[[str, Sequence[Experience]], Sequence[float]]
"""(question, experiences) -> one score each, higher is nearer."""

PLACES = 5
"""Decimals of a cosine that count: what differs by less is equal, and stands in the version's order."""

_WORD = re.compile(r"\w+", re.UNICODE)
_K1, _B = 1.2, 0.75


def matched_text(experience: Experience) -> str:
    """What a question is compared with: the problem of an example, else the text."""
    return experience.question or experience.text


def lexical(question: str, experiences: Sequence[Experience]) -> list[float]:
    r"""Okapi BM25: sum over words of idf(w) * f (k1 + 1) / (f + k1 (1 - b + b n / mean n)).

    idf(w) = log(1 + (N - n_w + 0.5) / (n_w + 0.5)), so that it is never negative.

    Example:
        >>> pool = [Experience(id="E1", text="red boats sail"), Experience(id="E2", text="green cars drive")]
        >>> a, b = lexical("which cars?", pool)
        >>> a < b
        True
    """
    index = _index(tuple(matched_text(e) for e in experiences))
    scores = [0.0] * len(experiences)
    for word in sorted(set(words(question))):
        for i, score in index.get(word, ()):
            scores[i] += score
    return scores


@lru_cache(maxsize=4)
def _index(texts: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """Word -> which of the texts hold it, and what it adds to the score of each."""
    documents = [Counter(words(text)) for text in texts]
    sizes = [sum(d.values()) for d in documents]
    mean = (sum(sizes) / len(sizes) if sizes else 0.0) or 1.0
    holders = Counter(word for d in documents for word in d)
    index: dict[str, list[tuple[int, float]]] = {}
    for i, document in enumerate(documents):
        for word, f in document.items():
            idf = math.log(1 + (len(documents) - holders[word] + 0.5) / (holders[word] + 0.5))
            score = idf * f * (_K1 + 1) / (f + _K1 * (1 - _B + _B * sizes[i] / mean))
            index.setdefault(word, []).append((i, score))
    return index


def by_vectors(embed: Embed, vectors: Callable[[Sequence[Experience]], Sequence[Vector]]) -> Rank:
    """Ranks by cosine similarity; every vector is asked for once, and every question is ranked once.

    Args:
        embed: a question to its vector.
        vectors: experiences to their vectors, in that order.
    """
    units: dict[str, list[float]] = {}

    @lru_cache(maxsize=4096)
    def ranked(question: str, keys: tuple[str, ...]) -> tuple[float, ...]:
        asked = unit(embed(question))
        return tuple(round(sum(map(mul, asked, units[key])), PLACES) for key in keys)

    def rank(question: str, experiences: Sequence[Experience]) -> Sequence[float]:
        unread = [e for e in experiences if (e.row or e.hash) not in units]
        if unread:
            units.update({e.row or e.hash: unit(v) for e, v in zip(unread, vectors(unread), strict=True)})
        return ranked(question, tuple(e.row or e.hash for e in experiences))

    return rank


def words(text: str) -> list[str]:
    """Lower-case words, with a plural s removed so that "boats" meets "boat"."""
    found = _WORD.findall(text.casefold())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found]
