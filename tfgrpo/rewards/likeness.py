"""Rewards for being like the reference answer: by words, by embedding, or word by word in an embedding space (BMAS)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experience_store.embed import Embedder, default_embedder, resolve_embedder
from tfgrpo.errors import InputError
from tfgrpo.rewards.base import Reward, reward
from tfgrpo.rewards.similarity import Similarity, resolve_similarity, words
from tfgrpo.rewards.text import answer_text, gold_text, golds
from tfgrpo.types import Completion, Problem, Score

MAX_WORDS = 300  # of each text; BMAS costs their product


def similar(
    *, similarity: str | Similarity | Callable[[str, str], float] = "token_f1", solved_at: float = 0.8
) -> Reward:
    """How alike the answer is to the best of its reference answers, 0..1; solved from `solved_at` on.

    Token-F1 is the accuracy that PS-GRPO joins with its consistency (arXiv 2510.04392).

    Example:
        >>> problem = Problem(id="p", messages=(), answer="Paris")
        >>> texts = ("paris", "Paris, France", "Lyon")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [round(score.value, 3) for score in asyncio.run(similar()(problem, said))]
        [1.0, 0.667, 0.0]

    Raises:
        InputError: unknown similarity, or a threshold outside 0..1.
    """
    chosen = resolve_similarity(similarity)
    _checked("similar", solved_at)

    async def score(problem: Problem, completion: Completion) -> Score | None:
        text, accepted = answer_text(problem, completion), golds(problem, "similar")
        found = [value for value in await chosen(problem, [(text, gold) for gold in accepted]) if value is not None]
        return _verdict(max(found), solved_at, accepted) if found else None

    return reward(score, name="similar")


def bmas_of(similarities: Sequence[Sequence[float]]) -> float:
    """(mean_i max_j S_ij + mean_j max_i S_ij) / 2, the bidirectional mean of best matches; 0 when a side is empty.

    After arXiv 2505.24164, whose formula was not read: a reconstruction.

    Args:
        similarities: S [words of the answer, words of the reference], cosines.

    Example:
        >>> round(bmas_of([[1, 0.2], [0.3, 0.6], [0.1, 0.9]]), 4)
        0.8917
    """
    if not len(similarities) or not len(similarities[0]):
        return 0.0
    rows = [max(row) for row in similarities]
    columns = [max(column) for column in zip(*similarities, strict=True)]
    return math.fsum((math.fsum(rows) / len(rows), math.fsum(columns) / len(columns))) / 2


def bmas(*, embedder: str | Embedder = "", solved_at: float = 0.9) -> Reward:
    """`bmas_of` the answer's words and those of its best reference answer, each embedded by itself.

    Words alone know no order and no negation, and an answer stuffed with the reference's words scores high: join it
    with a length reward. An empty answer is 0. A reconstruction of Mixed-R1 (arXiv 2505.24164) from its abstract.

    Args:
        embedder: "minilm", "hashing" or one of your own; the best one installed by default.

    Example:
        >>> problem = Problem(id="p", messages=(), answer="the dog bit the man")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in ("the man bit the dog", "")]
        >>> [score.value for score in asyncio.run(bmas(embedder="hashing")(problem, said))]
        [1.0, 0.0]

    Raises:
        InputError: a threshold outside 0..1.
    """
    chosen = resolve_embedder(embedder or default_embedder())
    _checked("bmas", solved_at)
    vectors = _Vectors(chosen)

    async def score(problem: Problem, completion: Completion) -> Score:
        accepted = golds(problem, "bmas")
        own = words(answer_text(problem, completion))[:MAX_WORDS]
        found = [await asyncio.to_thread(vectors.bmas, own, words(gold)[:MAX_WORDS]) for gold in accepted]
        return _verdict(max(found), solved_at, accepted)

    return reward(score, name="bmas")


@dataclass(frozen=True)
class _Vectors:
    """Unit vectors of words."""

    embedder: Embedder

    def bmas(self, own: Sequence[str], gold: Sequence[str]) -> float:
        import numpy as np  # noqa: PLC0415

        if not own or not gold:
            return 0.0
        every = list(dict.fromkeys((*own, *gold)))
        raw = np.asarray(self.embedder.embed(every), dtype=np.float64)
        matrix = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
        at = {word: i for i, word in enumerate(every)}
        table: list[list[float]] = (matrix[[at[w] for w in own]] @ matrix[[at[w] for w in gold]].T).tolist()
        return min(1.0, max(0.0, bmas_of(table)))


def _verdict(value: float, solved_at: float, accepted: Sequence[str]) -> Score:
    solved = value >= solved_at
    feedback = "" if solved else f"Like the reference answer {gold_text(accepted[0])!r} to {value:.2f} only."
    return Score(value=1.0 if value > 1 - 1e-9 else value, feedback=feedback, solved=solved)


def _checked(name: str, solved_at: float) -> None:
    if not 0 <= solved_at <= 1:
        raise InputError(f"{name}: solved_at lies in 0..1, got {solved_at}")
