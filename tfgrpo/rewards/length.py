"""Rewards on the length of an answer, in tokens as the provider counted them unless told otherwise.

They say nothing about right or wrong. Those that stand alone count as solved and are to be joined with a reward that
does: `conditional({"right": (exact(), 1), "short": (band(budget=80), 0.5)}, only_if={"short": ("right", 1)})`, because
a wrong answer of the right length is paid too otherwise.

l is the length of the answer, L the budget or the longest length that counts, in the same unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Outcome, Reward, reward, score_answers, scores_alone
from tfgrpo.types import Completion, Problem, Score

Unit: TypeAlias = Literal["tokens", "words", "characters"]
UNITS = ("tokens", "words", "characters")

BUDGET_KEY = "token_budget"
"""Where `triangular` and `band` look for a problem's own budget: `problem.meta["token_budget"]`."""


# -- formulas ---------------------------------------------------------------------------------------------------------


def triangular_share(length: float, budget: float) -> float:
    """l/L up to L, 1 - (l - L)/L up to 2L, then 0: punishes being short, too (arXiv 2508.08940).

    Example:
        >>> [triangular_share(n, 128) for n in (0, 64, 128, 192, 256, 300)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    return min(length / budget, max(0.0, 2.0 - length / budget))


def band_share(length: float, budget: float) -> float:
    """1 up to L, 1 - (l - L)/L up to 2L, then 0: the flat variant of `triangular_share` (arXiv 2508.08940).

    Example:
        >>> [band_share(n, 128) for n in (0, 64, 128, 192, 256, 300)]
        [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    return min(1.0, max(0.0, 2.0 - length / budget))


def trapezoid_share(length: float, knots: tuple[float, float, float, float]) -> float:
    """0 up to a, rising to 1 at b, 1 up to c, falling to 0 at d, 0 beyond (with GDPO, arXiv 2601.05242).

    Example:
        >>> [trapezoid_share(n, (100, 200, 400, 800)) for n in (100, 150, 300, 600, 900)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    a, b, c, d = knots
    rising = 1.0 if length >= b else max(0.0, (length - a) / (b - a)) if b > a else 0.0
    falling = 1.0 if length <= c else max(0.0, (d - length) / (d - c)) if d > c else 0.0
    return min(rising, falling)


def cosine_share(length: float, longest: float, *, right: bool) -> float:
    """Right: 0.5 + 0.25 (1 + cos(pi l/L)); wrong: -0.5 - 0.25 (1 + cos(pi l/L)) (open-rs).

    Right answers fall from 1 to 0.5 with length, wrong ones rise from -1 to -0.5. Clamped at L: without the clamp a
    right answer of 2L would be paid 1.0 again.

    Example:
        >>> [round(cosine_share(n, 3584, right=ok), 4) for n, ok in ((500, True), (3000, True), (500, False))]
        [0.9764, 0.532, -0.9764]
    """
    turn = 1.0 + math.cos(math.pi * min(length / longest, 1.0))
    return 0.5 + 0.25 * turn if right else -0.5 - 0.25 * turn


def overlong_penalty(length: float, longest: float, cache: float) -> float:
    """0 up to L - c, linear to -1 at L, -1 beyond (DAPO, arXiv 2503.14476).

    Example:
        >>> [overlong_penalty(n, 20480, 4096) for n in (16000, 17408, 20480, 21000)]
        [0.0, -0.25, -1.0, -1.0]
    """
    return max(-1.0, min(0.0, (longest - cache - length) / cache))


def pixelthink_share(length: float, difficulty: float, uncertainty: float = 0.0) -> float:
    """clip(1 - (l - budget)/500, 0, 1); budget 256 + 25 u from difficulty 5 up, none from 3.5, 96 below (PixelThink).

    u = mean(1 - (p_top1 - p_top2)) over the answer's tokens, 0 where it is not known.

    Example:
        >>> [round(pixelthink_share(*row), 3) for row in ((300, 6, 0.4), (300, 4, 0.4), (300, 2), (700, 2))]
        [0.932, 1.0, 0.592, 0.0]
    """
    if 3.5 <= difficulty < 5:
        return 1.0
    budget = 256 + 25 * uncertainty if difficulty >= 5 else 96
    return min(1.0, max(0.0, 1.0 - (length - budget) / 500))


# -- rewards ----------------------------------------------------------------------------------------------------------


def length_of(completion: Completion, unit: Unit = "tokens") -> int:
    """Tokens that the call was charged for (reasoning included), or words or characters of the text.

    Raises:
        RewardError: tokens were asked for and the reply told no usage.
    """
    if unit == "words":
        return len(completion.text.split())
    if unit == "characters":
        return len(completion.text)
    if completion.usage.completion_tokens == 0 and completion.text:
        raise RewardError(
            f"the reply of {completion.policy!r} tells no token counts; give the reward unit='words' or "
            f"'characters', and a budget in that unit"
        )
    return completion.usage.completion_tokens


def triangular(*, budget: int | None = None, unit: Unit = "tokens") -> Reward:
    """`triangular_share` of the answer's length; the budget is the option or the problem's `meta["token_budget"]`.

    Example:
        >>> import asyncio
        >>> said = [Completion(prompt=(), messages=(), text="word " * n, policy="any") for n in (0, 64, 128, 192, 300)]
        >>> reward_of = triangular(budget=128, unit="words")
        >>> [score.value for score in asyncio.run(reward_of(Problem(id="p", messages=()), said))]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return _budgeted(triangular_share, budget, unit, "triangular")


def band(*, budget: int | None = None, unit: Unit = "tokens") -> Reward:
    """`band_share` of the answer's length; the budget is the option or the problem's `meta["token_budget"]`.

    Example:
        >>> import asyncio
        >>> said = [Completion(prompt=(), messages=(), text="word " * n, policy="any") for n in (0, 64, 128, 192, 300)]
        >>> problem = Problem(id="p", messages=(), meta={"token_budget": 128})
        >>> [score.value for score in asyncio.run(band(unit="words")(problem, said))]
        [1.0, 1.0, 1.0, 0.5, 0.0]
    """
    return _budgeted(band_share, budget, unit, "band")


def trapezoid(*, knots: Sequence[float], unit: Unit = "tokens") -> Reward:
    """`trapezoid_share` of the answer's length.

    Example:
        >>> import asyncio
        >>> lengths = (100, 150, 300, 600, 900)
        >>> said = [Completion(prompt=(), messages=(), text="word " * n, policy="any") for n in lengths]
        >>> chosen = trapezoid(knots=(100, 200, 400, 800), unit="words")
        >>> [score.value for score in asyncio.run(chosen(Problem(id="p", messages=()), said))]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Raises:
        InputError: the four knots do not rise.
    """
    if len(knots) != 4 or sorted(knots) != list(knots) or knots[0] < 0:
        raise InputError(f"trapezoid: four lengths that rise are needed, got {knots}")
    a, b, c, d = knots
    return _shaped(lambda length: trapezoid_share(length, (a, b, c, d)), unit, "trapezoid")


def soft_overlong(*, longest: int = 20480, cache: int = 4096, unit: Unit = "tokens") -> Reward:
    """`overlong_penalty`, from 0 to -1; to be added to another reward with `weighted`.

    Example:
        >>> import asyncio
        >>> lengths = (16000, 17408, 20480, 21000)
        >>> said = [Completion(prompt=(), messages=(), text="x" * n, policy="any") for n in lengths]
        >>> [score.value for score in asyncio.run(soft_overlong(unit="characters")(Problem(id="p", messages=()), said))]
        [0.0, -0.25, -1.0, -1.0]
    """
    if not 0 < cache <= longest:
        raise InputError(f"soft_overlong: 0 < cache <= longest is needed, got {cache} and {longest}")
    return _shaped(lambda length: overlong_penalty(length, longest, cache), unit, "soft_overlong")


def cosine_length(with_: Reward, *, longest: int = 3584, unit: Unit = "tokens") -> Reward:
    """`cosine_share` of the answer's length by whether `with_` calls it solved; applies where `with_` does.

    The released code counts characters; give `unit="characters"` and its default of 1000 to compare with it.

    Example:
        >>> import asyncio
        >>> from tfgrpo.rewards.simple import contains
        >>> said = [Completion(prompt=(), messages=(), text="yes " * n, policy="any") for n in (500, 3000)]
        >>> chosen, problem = cosine_length(contains(), unit="words"), Problem(id="p", messages=(), answer="yes")
        >>> [round(score.value, 4) for score in asyncio.run(chosen(problem, said))]
        [0.9764, 0.532]
    """
    _positive("cosine_length", longest)
    _known(unit)

    def value(score: Score, problem: Problem, completion: Completion) -> float:
        return cosine_share(length_of(completion, unit), longest, right=score.success)

    return _Joined(with_=with_, value=value, name="cosine_length")


def pixelthink(
    with_: Reward, *, unit: Unit = "words", uncertainty: Callable[[Completion], float] | None = None
) -> Reward:
    """R = `with_` x `pixelthink_share`: multiplied, so that a wrong answer gains nothing from its length (PixelThink).

    The difficulty (1 to 10) is the problem's `meta["difficulty"]`; without one the length does not count (the released
    code takes the easy branch instead). Its lengths are words.

    Args:
        uncertainty: u of an answer, from a policy that tells the two best probabilities of each token; 0 without.

    Example:
        >>> import asyncio
        >>> from tfgrpo.rewards.simple import contains
        >>> problem = Problem(id="p", messages=(), answer="yes", meta={"difficulty": 2})
        >>> said = [Completion(prompt=(), messages=(), text=word * 300, policy="any") for word in ("yes ", "no ")]
        >>> [round(score.value, 3) for score in asyncio.run(pixelthink(contains())(problem, said))]
        [0.592, 0.0]
    """
    _known(unit)

    def value(score: Score, problem: Problem, completion: Completion) -> float:
        difficulty = problem.meta.get("difficulty")
        if difficulty is None:
            return score.value
        unsure = uncertainty(completion) if uncertainty else 0.0
        return score.value * pixelthink_share(length_of(completion, unit), float(difficulty), unsure)

    return _Joined(with_=with_, value=value, name="pixelthink")


def _budgeted(share: Callable[[float, float], float], budget: int | None, unit: Unit, name: str) -> Reward:
    _known(unit)
    if budget is not None:
        _positive(name, budget)

    def score(problem: Problem, completion: Completion) -> Score:
        allowed = problem.meta.get(BUDGET_KEY) if budget is None else budget
        if isinstance(allowed, bool) or not isinstance(allowed, int | float) or not allowed > 0:
            raise RewardError(f"{name} needs a budget above 0: the option, or meta[{BUDGET_KEY!r}] of {problem.id!r}")
        length = length_of(completion, unit)
        told = f"{length} {unit}, the budget is {allowed:g}." if length > allowed else ""
        return Score(value=share(length, allowed), feedback=told, solved=True)

    return reward(score, name=name)


def _shaped(share: Callable[[float], float], unit: Unit, name: str) -> Reward:
    _known(unit)

    def score(problem: Problem, completion: Completion) -> Score:
        return Score(value=share(length_of(completion, unit)), solved=True)

    return reward(score, name=name)


@dataclass(frozen=True, kw_only=True)
class _Joined:
    with_: Reward
    value: Callable[[Score, Problem, Completion], float]
    name: str

    @property
    def alone(self) -> bool:
        return scores_alone(self.with_)

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        scored = await score_answers(self.with_, problem, completions)
        return [self._one(s, problem, c) for s, c in zip(scored, completions, strict=True)]

    def _one(self, score: Outcome, problem: Problem, completion: Completion) -> Outcome:
        if not isinstance(score, Score):
            return score
        try:
            value = self.value(score, problem, completion)
        except RewardError as error:
            return error
        return Score(value=value, feedback=score.feedback, solved=score.success)


def _known(unit: str) -> None:
    if unit not in UNITS:
        raise InputError(f"a length is counted in {', '.join(UNITS)}, got {unit!r}")


def _positive(name: str, size: float) -> None:
    if not size > 0:
        raise InputError(f"{name} needs a length above 0, got {size}")
