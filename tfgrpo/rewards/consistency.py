"""Consistency over the wordings of one question: PS-GRPO's group similarity, and information consistency.

A group holds the rollouts of several wordings; `completion.variant` says which wording each answers. A rollout is
compared with the rollouts of *other* wordings only.

N rollouts in the group, n wordings, g rollouts of each; r [N].
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from tfgrpo.errors import InputError
from tfgrpo.rewards.base import Outcome, Reward, compares_wordings, score_answers
from tfgrpo.rewards.similarity import Similarity, resolve_similarity, words
from tfgrpo.rewards.text import answer_text
from tfgrpo.types import Completion, Problem, Score

References: TypeAlias = list[list[int]]
"""For one rollout: for each other wording that has some, the rollouts it is compared with."""

ALONE = (
    "ps_grpo cannot be the only reward: a model that answers every wording with 'I don't know' is perfectly consistent "
    "and would score 1.0 everywhere. Give what the answers must also be, with a weight above 0: "
    "ps_grpo(with_=contains(), weights=(0.5, 0.5)), or a judge of grounding where there is no reference answer"
)

KAPPA, PER_WORDING = 3, 1  # the sample of a costly similarity: wordings, and rollouts of each (arXiv 2510.04392)


def references(
    variants: Sequence[int],
    usable: Sequence[bool],
    *,
    kappa: int | None = None,
    per_wording: int | None = None,
    seed: str = "",
) -> list[References]:
    """Whom each rollout is compared with: all usable rollouts of the other wordings, or a uniform sample of them.

    Args:
        variants: [N] the wording that each rollout answers.
        usable: [N] False for rollouts that are no reference, such as truncated ones.
        kappa: other wordings drawn for each rollout; None for all.
        per_wording: rollouts drawn of each drawn wording; None for all.
        seed: decides the draws; equal seeds draw the same.

    Example:
        >>> references([0, 0, 1, 2], [True] * 4)[0]
        [[2], [3]]
    """
    members: dict[int, list[int]] = {}
    for i, (variant, ok) in enumerate(zip(variants, usable, strict=True)):
        if ok:
            members.setdefault(variant, []).append(i)
    found = []
    for i, own in enumerate(variants):
        others = [group for variant, group in sorted(members.items()) if variant != own]
        if kappa is not None or per_wording is not None:
            draw = random.Random(f"{seed}\x1f{i}")
            others = draw.sample(others, min(kappa or len(others), len(others)))
            others = [sorted(draw.sample(group, min(per_wording or len(group), len(group)))) for group in others]
        found.append(others)
    return found


def group_similarity(compared: Sequence[References], sim: Callable[[int, int], float | None]) -> list[float | None]:
    """r_i = mean over other wordings u of mean over their rollouts m of sim(o_i, o_m); None without any.

    With g rollouts of each of n wordings this is PS-GRPO's 1/((n-1) g) double sum; where some rollouts are missing,
    each wording still weighs the same. A sample of the references has it as its expectation (arXiv 2510.04392).

    Args:
        compared: [N] from `references`.
        sim: likeness of rollout i (hypothesis) to rollout m (reference); None where it could not be had.

    Example:
        >>> group_similarity([[[1], [2, 3]], []], lambda i, m: float(m == 2))
        [0.25, None]
    """
    found = []
    for i, wordings in enumerate(compared):
        known = [[s for m in members if (s := sim(i, m)) is not None] for members in wordings]
        means = [math.fsum(values) / len(values) for values in known if values]
        found.append(math.fsum(means) / len(means) if means else None)
    return found


def ps_grpo(
    *,
    with_: Reward | None = None,
    weights: tuple[float, float] = (0.5, 0.5),
    similarity: str | Similarity | Callable[[str, str], float] = "bleu2",
    kappa: int | None = None,
    per_wording: int | None = None,
) -> Reward:
    """PS-GRPO's group similarity joined with what the answers must also be (arXiv 2510.04392; a reconstruction).

    value = (w_1 r + w_2 with_) / (w_1 + w_2), parts "consistency" and the name of `with_`; solved as `with_` says. An
    empty answer is like nothing; a truncated one has a value of its own and is no reference for others. In a group of
    one wording there is nothing to compare: the part is missing and the value is that of `with_`. Where `with_` does
    not apply, neither does the whole.

    Normalise per wording, `resolve_advantage("grpo", by="variant")`: the paper compares rollouts of the same wording.
    An echo of the question is no part of an answer.

    Args:
        with_: accuracy or grounding.
        weights: of consistency and of `with_`.
        similarity: "bleu2", "token_f1", "exact", "embedding", one from `tfgrpo.rewards.similarity`, or a function of
            two texts.
        kappa: other wordings each rollout is compared with; by default all, and 3 for a similarity that asks a model.
        per_wording: rollouts of each of them; by default all, and 1 for a similarity that asks a model. Spend on
            `kappa` first.

    Example:
        >>> from tfgrpo.rewards.simple import contains
        >>> problem, said = Problem(id="p", messages=(), answer="Paris"), enumerate(("Paris", "Paris", "Lyon"))
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any", variant=v) for v, text in said]
        >>> [score.value for score in asyncio.run(ps_grpo(with_=contains(), similarity="exact")(problem, said))]
        [0.75, 0.75, 0.0]

    Raises:
        InputError: no partner, or no weight for it.
    """
    if with_ is None or not weights[1] > 0:
        raise InputError(ALONE)
    if not weights[0] > 0 or not all(map(math.isfinite, weights)):
        raise InputError(f"ps_grpo: both weights must be above 0, got {weights}")
    if any(size is not None and size < 1 for size in (kappa, per_wording)):
        raise InputError(f"ps_grpo: kappa and per_wording are at least 1, got {kappa} and {per_wording}")
    chosen = resolve_similarity(similarity)
    return _GroupSimilarity(
        partner=with_,
        weights=weights,
        similarity=chosen,
        kappa=kappa or (KAPPA if chosen.costly else None),
        per_wording=per_wording or (PER_WORDING if chosen.costly else None),
        name="ps_grpo",
    )


def consistent(reward: Reward, **options: Any) -> Reward:
    """`ps_grpo` with a task's own reward as its partner; the reward itself where it compares wordings already.

    What a way to train by name does to any task, with options as for `ps_grpo`.

    Example:
        >>> from tfgrpo.rewards.simple import exact
        >>> consistent(exact()).name, consistent(consistent(exact())).name
        ('ps_grpo(exact)', 'ps_grpo(exact)')
    """
    if compares_wordings(reward):
        return reward
    made = ps_grpo(with_=reward, **options)
    said = [reward.name, *(f"{name}={getattr(value, 'name', value)}" for name, value in options.items())]
    return replace(made, name=f"ps_grpo({', '.join(said)})") if isinstance(made, _GroupSimilarity) else made


@dataclass(frozen=True, kw_only=True)
class _GroupSimilarity:
    partner: Reward
    weights: tuple[float, float]
    similarity: Similarity
    kappa: int | None
    per_wording: int | None
    name: str
    over_wordings: ClassVar[bool] = True

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        partly, likeness = await asyncio.gather(
            score_answers(self.partner, problem, completions), self._likeness(problem, completions)
        )
        return [self._joined(score, alike) for score, alike in zip(partly, likeness, strict=True)]

    async def _likeness(self, problem: Problem, completions: Sequence[Completion]) -> list[float | None]:
        compared = references(
            [c.variant for c in completions],
            [c.finish_reason != "length" for c in completions],
            kappa=self.kappa,
            per_wording=self.per_wording,
            seed=problem.id,
        )
        texts = [answer_text(problem, c) for c in completions]
        wanted = [(i, m) for i, wordings in enumerate(compared) for members in wordings for m in members]
        values = await self.similarity(problem, [(texts[i], texts[m]) for i, m in wanted])
        known = dict(zip(wanted, values, strict=True))
        return group_similarity(compared, lambda i, m: known[i, m])

    def _joined(self, score: Outcome, alike: float | None) -> Outcome:
        if not isinstance(score, Score):
            return score
        if alike is None:
            return Score(
                value=score.value,
                parts={self.partner.name: score.value},
                feedback=score.feedback,
                solved=score.success,
            )
        first, second = self.weights
        said = f"Answers to other wordings of the question agree with this one to {alike:.2f}."
        return Score(
            value=(first * alike + second * score.value) / (first + second),
            parts={"consistency": alike, self.partner.name: score.value},
            feedback="\n".join(filter(None, (score.feedback, said))),
            solved=score.success,
        )


# -- information consistency ------------------------------------------------------------------------------------------


def word_entropy(text: str, *, first: int | None = None) -> float:
    """H = -sum_v p(v) log p(v) in nats over the shares of the different words; `first` bounds how many words count.

    Example:
        >>> round(word_entropy("buy index funds"), 4)
        1.0986
    """
    tokens = words(text)[:first]
    return math.fsum(-count / len(tokens) * math.log(count / len(tokens)) for count in Counter(tokens).values())


def stability(entropies: Sequence[float], variants: Sequence[int], usable: Sequence[bool]) -> list[float | None]:
    """F_i = 1 - mean over usable rollouts j of other wordings of |H_i - H_j| / max gap; None without any.

    Leave-one-out, because the published F is one number for the whole group: centring by the group's mean removes it,
    so that it would change no advantage. max gap = max H - min H over the group; F = 1 where that is 0.

    Args:
        entropies: [N] nats.
        variants: [N] the wording that each rollout answers.
        usable: [N] False for rollouts that are no reference.

    Example:
        >>> [round(f, 4) for f in stability([1.0986, 0.6931, 1.6094, 1.0986], [0, 0, 1, 1], [True] * 4)]
        [0.7213, 0.2787, 0.2213, 0.7787]
    """
    widest = max(entropies) - min(entropies)
    found: list[float | None] = []
    for own, h in zip(variants, entropies, strict=True):
        others = zip(variants, entropies, usable, strict=True)
        gaps = [abs(h - other) for variant, other, ok in others if ok and variant != own]
        mean = math.fsum(gaps) / len(gaps) if gaps else 0.0
        found.append((1.0 - mean / widest if widest > 0 else 1.0) if gaps else None)
    return found


def information_consistency(*, weights: tuple[float, float] = (0.5, 0.5), first: int | None = None) -> Reward:
    """(w_1 H_norm + w_2 F) / (w_1 + w_2): as informative as the best answer, and as informative as other wordings.

    H is `word_entropy`, H_norm its place between the group's lowest and highest (0.5 where they are equal), F is
    `stability`. A reconstruction of arXiv 2512.12858 with F made per rollout. Equal entropy is not equal information,
    and entropy grows with length: join it with a reward of what is said, and bound the words with `first`. In a group
    of one wording it does not apply.

    Example:
        >>> texts = ("buy index funds", "buy bonds buy bonds", "buy index funds and bonds", "buy index funds")
        >>> rows = zip((0, 0, 1, 1), texts)
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any", variant=v) for v, text in rows]
        >>> scores = asyncio.run(information_consistency()(Problem(id="p", messages=()), said))
        >>> [round(score.value, 4) for score in scores]
        [0.5819, 0.1394, 0.6106, 0.6106]

    Raises:
        InputError: negative weights, or none.
    """
    if min(weights) < 0 or not sum(weights) > 0:
        raise InputError(f"information_consistency needs weights >= 0 with a positive sum, got {weights}")
    return _Information(weights=weights, first=first, name="information_consistency")


@dataclass(frozen=True, kw_only=True)
class _Information:
    weights: tuple[float, float]
    first: int | None
    name: str
    over_wordings: ClassVar[bool] = True

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        entropies = [word_entropy(answer_text(problem, c), first=self.first) for c in completions]
        usable = [c.finish_reason != "length" for c in completions]
        low, widest = min(entropies), max(entropies) - min(entropies)
        stable = stability(entropies, [c.variant for c in completions], usable)
        informed = [(h - low) / widest if widest > 0 else 0.5 for h in entropies]
        return [None if f is None else self._score(h, f) for h, f in zip(informed, stable, strict=True)]

    def _score(self, informed: float, stable: float) -> Score:
        first, second = self.weights
        value = (first * informed + second * stable) / (first + second)
        return Score(value=value, parts={"informativeness": informed, "stability": stable}, solved=True)


# -- measuring --------------------------------------------------------------------------------------------------------


def retriever_consistency(retrieved: Sequence[Collection[str]]) -> float | None:
    """Mean over pairs of wordings of |A ∩ B| / |A ∪ B| of what was retrieved; None for fewer than two wordings.

    Example:
        >>> round(retriever_consistency(["1234", "3456", "1234"]), 4)
        0.5556
    """
    pairs = list(itertools.combinations([set(r) for r in retrieved], 2))
    if not pairs:
        return None
    return math.fsum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) / len(pairs)


async def answer_consistency(problem: Problem, answers: Sequence[str], similarity: Similarity) -> float | None:
    """Mean likeness over ordered pairs of one answer per wording; None for fewer than two, or when none was compared.

    End to end when each wording retrieved for itself; the generator's own when all were given the same documents.
    """
    values = await similarity(problem, list(itertools.permutations(answers, 2)))
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def entropy_gap(answers: Sequence[str]) -> float | None:
    """Mean over pairs of answers of |H_a - H_b| in nats; None for fewer than two. 0: all are equally informative.

    What information consistency is measured by (arXiv 2512.12858). Two empty answers have no gap either.

    Example:
        >>> round(entropy_gap(["buy index funds", "buy bonds buy bonds"]), 4)
        0.4055
    """
    pairs = list(itertools.combinations(map(word_entropy, answers), 2))
    return math.fsum(abs(a - b) for a, b in pairs) / len(pairs) if pairs else None
