"""How different the answers of a group are: 1 for answers that share nothing, 0 for equal ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

ORDERS = 3
SMOOTHING = 0.1
"""Matches that are counted where there are none, so that one missing order does not make the whole score 0."""


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Different runs of `n` words as a share of all; a text of fewer words has none. 0 where there is no run at all.

    Source: distinct-n, arXiv 1510.03055.

    Example:
        >>> distinct(["a b c", "a b d"])
        0.75
    """
    runs = [run for text in texts for run in _runs(text.split(), n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def unlike(texts: Sequence[str]) -> float:
    """1 - self-BLEU: one less the mean BLEU of each text against all others, over runs of 1 to 3 words.

    Self-BLEU itself is high for answers that are alike, so that it must be turned round before it may reward
    diversity. Fewer than two texts give 0.
    Source: self-BLEU, arXiv 1802.01886; used as diversity by MMR1, arXiv 2509.21268.

    Example:
        >>> unlike(["the cat sat", "the cat sat"])
        0.0
        >>> unlike(["the cat sat", "a dog ran"]) > 0.9
        True
    """
    if len(texts) < 2:
        return 0.0
    words = [text.split() for text in texts]
    scores = [_bleu(own, [*words[:i], *words[i + 1 :]]) for i, own in enumerate(words)]
    return 1.0 - math.fsum(scores) / len(scores)


DIVERSITIES: dict[str, Callable[[Sequence[str]], float]] = {"self_bleu": unlike, "distinct": distinct}


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _bleu(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of one text against several, over as many orders as the text has words for. Two empty texts are equal."""
    if not words:
        return float(any(not r for r in references))
    logs = [math.log(_precision(words, references, n)) for n in range(1, min(ORDERS, len(words)) + 1)]
    nearest = min((abs(len(r) - len(words)), len(r)) for r in references)[1]
    brevity = min(0.0, 1 - nearest / len(words))
    return math.exp(brevity + math.fsum(logs) / len(logs))


def _precision(words: Sequence[str], references: Sequence[Sequence[str]], n: int) -> float:
    own = Counter(_runs(words, n))
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= Counter(_runs(reference, n))
    return max(sum((own & most).values()), SMOOTHING) / sum(own.values())
