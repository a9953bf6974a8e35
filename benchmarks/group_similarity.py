"""What PS-GRPO's group similarity costs: every rollout against every rollout of the other wordings.

    python benchmarks/group_similarity.py                  # 1,000 sets of 6 wordings x 4 rollouts of 60 words
    python benchmarks/group_similarity.py --quick          # 50 sets
    python benchmarks/group_similarity.py --minilm 20      # and 20 sets by MiniLM embeddings

A set is 480 ordered pairs. Rollouts of a set share about 60 % of their words, so that nothing is known from a copy;
`equal` is the case of short answers, most of which are the same. Times are of one process on one core, with the reward
as the loop calls it. The target is 30 s for 1,000 sets by token-F1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

from tfgrpo.rewards.base import reward, score_answers
from tfgrpo.rewards.consistency import ps_grpo
from tfgrpo.rewards.similarity import by_embedding, resolve_similarity
from tfgrpo.types import Completion, Problem, Score

WORDINGS, ROLLOUTS, WORDS = 6, 4, 60
TARGET_S = 30.0
ASKED = ({"role": "user", "content": "What does the book of words say about the first of them? " * 3},)
WORDED = tuple(f"In wording {v}: what does the book of words say about the first of them? " * 3 for v in range(1, 6))
VOCABULARY = [f"word{i}" for i in range(400)]


@reward
def accuracy(problem, completion):
    return 1.0


def group(draw: random.Random, *, words: int, kept: float) -> list[Completion]:
    """The rollouts of one set: each keeps a share of the words of one answer."""
    base = draw.choices(VOCABULARY, k=words)
    texts = (
        " ".join(w if draw.random() < kept else draw.choice(VOCABULARY) for w in base)
        for _ in range(WORDINGS * ROLLOUTS)
    )
    return [
        Completion(prompt=(), messages=(), text=text, policy="none", variant=k // ROLLOUTS)
        for k, text in enumerate(texts)
    ]


async def seconds(similarity, sets: list[list[Completion]]) -> float:
    """CPU seconds of scoring all sets."""
    given = ps_grpo(with_=accuracy, similarity=similarity)
    start = time.process_time()
    for k, completions in enumerate(sets):
        outcomes = await score_answers(given, Problem(id=str(k), messages=ASKED, variants=WORDED), completions)
        assert all(isinstance(o, Score) for o in outcomes)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minilm", type=int, default=0, metavar="SETS")
    args = parser.parse_args()
    count = 50 if args.quick else args.sets
    draw = random.Random(0)
    long = [group(draw, words=WORDS, kept=0.6) for _ in range(count)]
    equal = [group(draw, words=2, kept=0.95) for _ in range(count)]
    print(f"{count} sets of {WORDINGS} x {ROLLOUTS}; {count * 480:,} ordered pairs; CPU seconds, and for 1,000 sets")
    for name in ("token_f1", "bleu1", "bleu2", "exact"):
        for kind, sets in (("60 words", long), ("equal", equal)):
            spent = asyncio.run(seconds(resolve_similarity(name), sets))
            per_thousand = spent * 1000 / count
            verdict = ("  ok" if per_thousand < TARGET_S else "  TOO SLOW") if name == "token_f1" else ""
            print(f"{name:<20}{kind:<10}{spent:8.2f}{per_thousand:8.2f}{verdict}")
    for name, some in (("hashing", max(1, count // 10)), ("minilm", args.minilm)):
        if some:
            spent = asyncio.run(seconds(by_embedding(embedder=name), long[:some]))
            print(f"{f'embedding({name})':<20}{'60 words':<10}{spent:8.2f}{spent * 1000 / some:8.2f}")


if __name__ == "__main__":
    main()
