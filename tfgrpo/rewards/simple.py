"""Rewards that compare texts and numbers: exact, contains, numeric, regex."""

from __future__ import annotations

import re
from fractions import Fraction

from tfgrpo.errors import InputError, RewardError, TfgrpoError
from tfgrpo.rewards.base import Reward, reward
from tfgrpo.rewards.text import Number, answer_text, gold_text, golds, last_number, normal, plain_number
from tfgrpo.types import Completion, Problem, Score

_SHOWN = 80


def exact(*, ignore_case: bool = True, ignore_space: bool = True, ignore_punctuation: bool = False) -> Reward:
    """1 when the whole answer is the reference (or one of them), in normal form.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer="Paris")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in ("paris ", "It is Paris.")]
        >>> [score.value for score in asyncio.run(exact()(problem, said))]
        [1.0, 0.0]
    """

    def form(text: str) -> str:
        return normal(text, ignore_case=ignore_case, ignore_space=ignore_space, ignore_punctuation=ignore_punctuation)

    def score(problem: Problem, completion: Completion) -> Score:
        accepted = golds(problem, "exact")
        return verdict(form(completion.text) in {form(gold) for gold in accepted}, completion.text, accepted[0])

    return reward(score, name="exact")


def contains(*, ignore_case: bool = True, whole_words: bool = True, every: bool = False) -> Reward:
    """1 when the reference stands in the answer, as whole words; of several references one is enough, or `every`.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer="Paris")
        >>> texts = ("It is Paris.", "Comparison")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [score.value for score in asyncio.run(contains()(problem, said))]
        [1.0, 0.0]
    """

    def found(gold: str, text: str) -> bool:
        wanted = normal(gold, ignore_case=ignore_case)
        if not wanted:
            return False
        border = (r"(?<!\w)" if wanted[0].isalnum() else "", r"(?!\w)" if wanted[-1].isalnum() else "")
        pattern = border[0] + re.escape(wanted) + border[1] if whole_words else re.escape(wanted)
        return re.search(pattern, text) is not None

    def score(problem: Problem, completion: Completion) -> Score:
        text = normal(answer_text(problem, completion), ignore_case=ignore_case)
        accepted = golds(problem, "contains")
        hits = [found(gold, text) for gold in accepted]
        return verdict(all(hits) if every else any(hits), completion.text, accepted[0])

    return reward(score, name="contains")


def numeric(*, tolerance: float = 1e-6, relative: float = 0.0) -> Reward:
    """1 when the last number of the answer is the reference within `tolerance` or `relative` x reference.

    Reads thousands separators, fractions, currency signs, exponents; 50 % stands for both 50 and 0.5.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer="1250")
        >>> texts = ("5 x 250 = $1,250", "1250 - 1")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [score.value for score in asyncio.run(numeric()(problem, said))]
        [1.0, 0.0]

    Raises:
        InputError: a tolerance that is negative or no finite number.
    """
    absolute, share = _margin("tolerance", tolerance), _margin("relative", relative)

    def near(gold: Number, got: Number) -> bool:
        return any(abs(g - a) <= max(absolute, share * abs(g)) for g in gold.readings for a in got.readings)

    def score(problem: Problem, completion: Completion) -> Score:
        accepted = [_reference(gold, problem) for gold in golds(problem, "numeric")]
        got = last_number(answer_text(problem, completion))
        if got is None:
            return Score(value=0.0, feedback="The answer holds no number.")
        return verdict(any(near(gold, got) for gold in accepted), completion.text, golds(problem, "numeric")[0])

    return reward(score, name="numeric")


def _margin(name: str, size: float) -> Fraction:
    try:
        margin = Fraction(str(size))
    except (ValueError, ZeroDivisionError):
        margin = Fraction(-1)
    if margin < 0:
        raise InputError(f"numeric: {name} must be a finite number of at least 0, got {size!r}")
    return margin


def _reference(gold: str, problem: Problem) -> Number:
    plain = plain_number(gold)
    number = last_number(gold) if plain is None else Number(plain)
    if number is None:
        raise RewardError(f"reward 'numeric' needs a number to compare with; problem {problem.id!r} has {gold!r}")
    return number


def regex(*, pattern: str | None = None, ignore_case: bool = False, full: bool = False) -> Reward:
    """1 when a pattern is found in the answer: the option, or each problem's own answer when there is none.

    A pattern option with a capturing group extracts: its last match must equal the problem's answer, if it has one.
    `full` demands that the whole answer matches.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer="B")
        >>> texts = ("I choose (B).", "(A) or (C)")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [score.value for score in asyncio.run(regex(pattern="[(]([A-D])[)]")(problem, said))]
        [1.0, 0.0]
    """
    flags = re.IGNORECASE if ignore_case else re.NOFLAG
    fixed = None if pattern is None else _compiled(pattern, flags)

    def score(problem: Problem, completion: Completion) -> Score:
        text = completion.text.strip() if full else answer_text(problem, completion)
        expressions = [fixed] if fixed else [_compiled(gold, flags, RewardError) for gold in golds(problem, "regex")]
        matches = [m for e in expressions for m in ([e.fullmatch(text)] if full else e.finditer(text)) if m]
        if not matches:
            return Score(value=0.0, feedback=f"Nothing in the answer matches /{expressions[0].pattern}/.")
        if fixed is None or not fixed.groups or problem.answer is None:
            return Score(value=1.0)
        accepted = golds(problem, "regex")
        extracted = matches[-1][1] or ""
        return verdict(normal(extracted) in map(normal, accepted), extracted, accepted[0])

    return reward(score, name="regex")


def _compiled(pattern: str, flags: re.RegexFlag, kind: type[TfgrpoError] = InputError) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise kind(f"{pattern!r} is not a regular expression: {error}") from error


def verdict(right: bool, got: str, gold: object) -> Score:
    """1 or 0; a wrong answer carries words for the critic."""
    if right:
        return Score(value=1.0)
    words = " ".join(got.split())
    shown = words if len(words) <= _SHOWN else f"...{words[-_SHOWN:]}"
    return Score(value=0.0, feedback=f"Expected {gold_text(gold)!r}, got {shown!r}.")
