"""How different an answer is from its siblings, and how varied its own words are.

Every reward here differs between the answers of a group: one number for all of them would be removed by centring.
None of them says anything about right or wrong, so they count as solved and are to be joined with a reward that does.
The unlikeliness reward (arXiv 2506.02355) reads log-probabilities and is an advantage step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tfgrpo.errors import InputError
from tfgrpo.rewards.base import Outcome, Reward, score_answers
from tfgrpo.rewards.similarity import NGrams, bag, grams, words
from tfgrpo.types import Completion, Problem, Score

Metric: TypeAlias = Literal["self_bleu", "novel", "lexical"]


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams / all n-grams of the texts together; 0 when there are none (arXiv 1510.03055).

    Example:
        >>> distinct_n(["a b c", "a b d"])
        0.75
    """
    every = [gram for text in texts for gram in grams(words(text), n)]
    return len(set(every)) / len(every) if every else 0.0


def self_bleu(texts: Sequence[str], *, order: int = 3) -> list[float | None]:
    """BLEU of each text against all others as references; None for one without siblings (arXiv 1802.01886).

    n-grams are clipped by the reference that has most of them, and the brevity penalty takes the reference whose length
    is nearest. 1 means: nothing new. Unlike for two texts, an order without n-grams is left out and nothing is smoothed
    upwards: the first order without a match ends the product at 0.

    Example:
        >>> self_bleu(["a b c", "a b c", "x y z"])
        [1.0, 1.0, 0.0]
    """
    made = [NGrams.of(text, order) for text in texts]
    return [_against(own, [m for m in made if m is not own]) for own in made] if len(made) > 1 else [None] * len(made)


def _against(own: NGrams, others: Sequence[NGrams]) -> float:
    lengths = [other.length for other in others if other.length]
    if not own.length or not lengths:
        return 0.0
    logs, orders = 0.0, 0
    for n, grams_of_own in enumerate(own.bags):
        if not grams_of_own:
            break
        found = len(grams_of_own & frozenset().union(*(other.bags[n] for other in others)))
        if not found:
            return 0.0
        logs, orders = logs + math.log(found / len(grams_of_own)), orders + 1
    nearest = min(lengths, key=lambda k: (abs(k - own.length), k))
    return math.exp(logs / orders + min(0.0, 1.0 - nearest / own.length))


def novel_n(texts: Sequence[str], n: int = 2) -> list[float | None]:
    """The share of each text's n-grams that no sibling has; None for one without siblings, 0 for one without n-grams.

    Example:
        >>> novel_n(["a b c", "a b d"])
        [0.5, 0.5]
    """
    if len(texts) < 2:
        return [None] * len(texts)
    made = [bag(grams(words(text), n)) for text in texts]
    holders = Counter(gram for own in made for gram in {g for g, _ in own})
    return [sum(holders[g] == 1 for g, _ in own) / len(own) if own else 0.0 for own in made]


def lexical_diversity(text: str) -> float:
    """Mean of four signs of varied words, 0..1: different words, their entropy, different bigrams, 1 / (1 + K / 100).

    Entropy is divided by its highest, ln of the number of words; K is Yule's, 10^4 (sum f^2 - N) / N^2. MultiRole-R1
    (arXiv 2507.20187) uses eight signs whose formulas were not read: a reconstruction. 0 for fewer than two words.

    Example:
        >>> lexical_diversity("one two three four"), lexical_diversity("no")
        (1.0, 0.0)
    """
    tokens = words(text)
    size = len(tokens)
    if size < 2:
        return 0.0
    counts = Counter(tokens).values()
    entropy = -math.fsum(c / size * math.log(c / size) for c in counts) / math.log(size)
    yule = 1e4 * (sum(c * c for c in counts) - size) / size**2
    signs = (len(counts) / size, max(0.0, entropy), distinct_n([text]), 1 / (1 + yule / 100))
    return math.fsum(signs) / len(signs)


def diversity(*, metric: Metric = "self_bleu", n: int = 0) -> Reward:
    """How new each answer is: 1 - self-BLEU against its siblings, its share of novel n-grams, or its own varied words.

    A single answer has no siblings: the first two do not apply to it. An empty answer is 0.

    Args:
        metric: "self_bleu" (order `n`, 3 by default), "novel" (`n` = 2 by default) or "lexical".

    Example:
        >>> import asyncio
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in ("a b c", "a b c", "x y z")]
        >>> [score.value for score in asyncio.run(diversity()(Problem(id="p", messages=()), said))]
        [0.0, 0.0, 1.0]

    Raises:
        InputError: unknown metric, or negative `n`.
    """
    measures: dict[str, Callable[[Sequence[str]], Sequence[float | None]]] = {
        "self_bleu": lambda texts: [None if b is None else 1.0 - b for b in self_bleu(texts, order=n or 3)],
        "novel": lambda texts: novel_n(texts, n or 2),
        "lexical": lambda texts: [lexical_diversity(text) for text in texts],
    }
    if metric not in measures or n < 0:
        raise InputError(f"diversity: metric is {', '.join(measures)} and n >= 0, got {metric!r} and {n}")
    return _Diversity(measure=measures[metric], name="diversity")


@dataclass(frozen=True, kw_only=True)
class _Diversity:
    measure: Callable[[Sequence[str]], Sequence[float | None]]
    name: str

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        texts = [c.text for c in completions]
        found = zip(texts, self.measure(texts), strict=True)
        return [None if v is None else Score(value=v if words(t) else 0.0, solved=True) for t, v in found]


def multi_role(with_: Reward, *, diverse: Reward | None = None, delta: float = 0.9) -> Reward:
    """delta accuracy + (1 - delta) diversity (MultiRole-R1, arXiv 2507.20187); `lexical_diversity` unless told.

    In a group whose answers are all equally accurate the diversity would get the whole advantage; it is left out there
    (ours), and the diversity is a reconstruction. Solved as `with_` says.

    Example:
        >>> import asyncio
        >>> from tfgrpo.rewards.simple import contains
        >>> texts = ("it is four", "it is five", "no")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> scores = asyncio.run(multi_role(contains())(Problem(id="p", messages=(), answer="four"), said))
        >>> [round(score.value, 3) for score in scores]
        [1.0, 0.1, 0.0]

    Raises:
        InputError: `delta` is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise InputError(f"multi_role: delta lies between 0 and 1, got {delta}")
    return _MultiRole(with_=with_, diverse=diverse or diversity(metric="lexical"), delta=delta, name="multi_role")


@dataclass(frozen=True, kw_only=True)
class _MultiRole:
    with_: Reward
    diverse: Reward
    delta: float
    name: str

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        right = await score_answers(self.with_, problem, completions)
        new = await score_answers(self.diverse, problem, completions)
        varied = len({score.value for score in right if isinstance(score, Score)}) > 1
        return [self._joined(r, d if varied else None) for r, d in zip(right, new, strict=True)]

    def _joined(self, right: Outcome, new: Outcome) -> Outcome:
        if not isinstance(right, Score):
            return right
        value, parts = right.value, {self.with_.name: right.value}
        if isinstance(new, Score):
            value = self.delta * right.value + (1 - self.delta) * new.value
            parts["diversity"] = new.value
        return Score(value=value, parts=parts, feedback=right.feedback, solved=right.success)
