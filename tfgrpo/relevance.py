"""Which problems a text is about, from words alone, so that evidence for an entry is taken where it applies.

A *key* of a text is a word that also occurs in some of the learning problems, but not in many of them: a word of one
problem only is its name, not its subject. An entry *applies* to a problem that holds at least half of its keys by
weight (inverse document frequency). An entry without keys is general advice: it applies everywhere and its evidence
comes from every group.

Left out on purpose: embeddings. They blur exactly the words that tell two rules of the same form apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

MAX_SHARE_OF_PROBLEMS = 0.5
"""A key stands in fewer problems than this share: in at least as many it says nothing of the subject."""
MIN_SHARE_OF_KEYS = 0.5

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def words(text: str) -> frozenset[str]:
    """The different words of a text in lower case, numbers included."""
    return frozenset(_WORD.findall(text.lower()))


class Relevance:
    """Word statistics of the learning problems.

    Example:
        >>> relevance = Relevance(["sum of 2 primes", "a prime factor", "sum of angles", "an odd sum", "a right angle"])
        >>> sorted(relevance.keys("Every prime above 2 is odd."))
        []
        >>> relevance = Relevance(["area of a circle", "area of a square", "arc of a circle", "side of a kite"] * 2)
        >>> sorted(relevance.keys("A square has four equal sides."))
        ['square']
    """

    def __init__(self, problems: Iterable[str]) -> None:
        sets = [words(problem) for problem in problems]
        self._count = len(sets)
        self._in_problems = Counter(word for found in sets for word in found)

    def keys(self, text: str) -> Mapping[str, float]:
        """The distinctive words of a text with their weights, in nats; empty for general advice."""
        limit = MAX_SHARE_OF_PROBLEMS * self._count
        found = {word: self._in_problems[word] for word in words(text)}
        return {word: math.log(self._count / n) for word, n in sorted(found.items()) if 1 < n < limit}


def applies(keys: Mapping[str, float], problem_words: frozenset[str]) -> bool:
    """Whether a text with these keys is about a problem with these words.

    Example:
        >>> applies({"square": 1.4}, words("one square")), applies({"square": 1.4}, words("a kite"))
        (True, False)
    """
    if not keys:
        return True
    held = sum(weight for word, weight in keys.items() if word in problem_words)
    return held >= MIN_SHARE_OF_KEYS * sum(keys.values())
