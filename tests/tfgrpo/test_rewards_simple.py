"""exact, contains, numeric, regex, and the reading of texts below them."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Outcome, Reward, score_answers
from tfgrpo.rewards.simple import contains, exact, numeric, regex
from tfgrpo.rewards.text import boxed, last_number, numbers, plain_number, without_echo
from tfgrpo.types import Completion, Problem, Score


def problem(answer: Any, question: str = "How many are there in all?") -> Problem:
    return Problem(id="p1", messages=({"role": "user", "content": question},), answer=answer)


async def outcome(given: Reward, answer: Any, text: str, question: str = "How many are there in all?") -> Outcome:
    completion = Completion(prompt=(), messages=(), text=text, policy="scripted")
    return (await score_answers(given, problem(answer, question), [completion]))[0]


async def value(given: Reward, answer: Any, text: str, question: str = "How many are there in all?") -> float:
    score = await outcome(given, answer, text, question)
    assert isinstance(score, Score), score
    return score.value


@pytest.mark.parametrize(
    ("options", "gold", "text", "right"),
    [
        ({}, "New York", " new\n york ", True),
        ({}, "Yes", "Yes.", False),
        ({"ignore_punctuation": True}, "Yes", "Yes.", True),
        ({"ignore_case": False}, "Yes", "yes", False),
        ({"ignore_space": False}, "a b", "a  b", False),
        ({}, ["red", "blue"], "Blue", True),
        ({}, 14.0, "14", True),
    ],
)
async def test_exact(options: dict[str, bool], gold: Any, text: str, right: bool) -> None:
    assert await value(exact(**options), gold, text) == float(right)


@pytest.mark.parametrize(
    ("options", "gold", "text", "right"),
    [
        ({}, "5", "It is 15.", False),
        ({}, "5", "It is 5.", True),
        ({"whole_words": False}, "5", "It is 15.", True),
        ({}, "(B)", "so (b) it is", True),
        ({}, ["red", "blue"], "a blue one", True),
        ({"every": True}, ["red", "blue"], "a blue one", False),
        ({}, "", "anything", False),
    ],
)
async def test_contains(options: dict[str, bool], gold: Any, text: str, right: bool) -> None:
    assert await value(contains(**options), gold, text) == float(right)


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("18", "16 - 3 - 4 = 9, so 9 * 2 = $18.", True),
        ("#### 1,234", "The total is 1234", True),
        ("1234", "It comes to $1,234.00 in all", True),
        ("4", "one of 3,4", True),
        ("0.75", "about 3/4", True),
        ("1.5", "1 1/2 cups", True),
        ("3/4", r"\frac{3}{4}", True),
        ("-3", "x = −3", True),
        ("3", "5-3", True),
        ("3", "- 3 apples", True),
        ("50", "50%", True),
        ("0.5", "50 %", True),
        ("50%", "0.5", True),
        ("0.5", "50", False),
        ("18", "no idea", False),
        ("18", "180", False),
        ("5", "$5/hour", True),
        ("2024", "on 3/4/2024", False),
        (0.001, "1e-3", True),
        ("7", "7.", True),
        ("10000", "10{,}000", True),
    ],
)
async def test_numeric(gold: Any, text: str, right: bool) -> None:
    assert await value(numeric(), gold, text) == float(right)


async def test_numeric_tolerances() -> None:
    assert await value(numeric(), "1/3", "0.333") == 0.0
    assert await value(numeric(tolerance=0.01), "1/3", "0.333") == 1.0
    assert await value(numeric(relative=0.01), "1000", "1009") == 1.0
    assert await value(numeric(relative=0.01), "1000", "1011") == 0.0


async def test_wrong_answers_carry_words_and_missing_golds_are_errors() -> None:
    wrong = await outcome(numeric(), "18", "It is 17")
    assert wrong == Score(value=0.0, feedback="Expected '18', got 'It is 17'.")
    assert isinstance(await outcome(numeric(), "eighteen", "18"), RewardError)
    assert isinstance(await outcome(exact(), None, "18"), RewardError)


@pytest.mark.parametrize(
    ("options", "gold", "text", "right"),
    [
        ({}, r"\b5\b", "it is 5", True),
        ({}, r"\b5\b", "it is 15", False),
        ({"pattern": r"answer: (\w+)"}, "blue", "answer: red ... answer: Blue", True),
        ({"pattern": r"answer: (\w+)"}, "red", "answer: red ... answer: Blue", False),
        ({"pattern": r"^\d+$", "full": True}, None, "17", True),
        ({"pattern": r"\d+", "full": True}, None, "17 of them", False),
        ({"pattern": "YES", "ignore_case": True}, None, "yes", True),
    ],
)
async def test_regex(options: dict[str, Any], gold: Any, text: str, right: bool) -> None:
    assert await value(regex(**options), gold, text) == float(right)


@pytest.mark.parametrize("options", [{"tolerance": -1}, {"tolerance": math.nan}, {"relative": math.inf}])
def test_margins_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="finite number of at least 0"):
        numeric(**options)


async def test_bad_patterns() -> None:
    with pytest.raises(InputError, match="not a regular expression"):
        regex(pattern="(")
    assert isinstance(await outcome(regex(), "(", "x"), RewardError)


ECHO = "Which number is the largest: 12, 7, 90?"


@pytest.mark.parametrize("given", [contains(), numeric(), regex(pattern=r"(\d+)")], ids=lambda r: r.name)
@pytest.mark.parametrize("text", [ECHO, f"Question: {ECHO.upper()}\n", "  ".join(ECHO.split()), f"{ECHO} {ECHO}"])
async def test_an_echoed_question_is_no_answer(given: Reward, text: str) -> None:
    assert await value(given, "90", text, ECHO) == 0.0
    assert await value(given, "90", f"{text} It is 90", ECHO) == 1.0


def test_short_questions_and_contained_ones_stay() -> None:
    assert without_echo("So Rome it is", problem("Rome", "Rome")) == "So Rome it is"
    assert without_echo("say it again and again", problem("say it again and again", "say it again")) != ""


@pytest.mark.parametrize(
    ("text", "expected"), [("1,234.5", Fraction(2469, 2)), ("-3/4", Fraction(-3, 4)), ("5 kg", None), ("1/0", None)]
)
def test_plain_numbers(text: str, expected: Fraction | None) -> None:
    assert plain_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{1} \boxed{ 2 }", "2"), (r"\boxed{1", None), ("1", None)],
)
def test_boxed(text: str, expected: str | None) -> None:
    assert boxed(text) == expected


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    numbers(text)
    boxed(text)
    plain_number(text)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:d}", "{:,d}", "The answer is {:d}.", "**{:,d}**", "${:,d}"]))
def test_written_integers_are_read_back(number: int, form: str) -> None:
    found = last_number(form.format(number))
    assert found is not None and found.value == number


@pytest.mark.parametrize("text", ["1" * 10**6, "1," * 10**6, "1,234" + ",234" * 10**5 + "/1", "1 " * 10**6, "9e9999"])
def test_hostile_numbers_are_quick(text: str) -> None:
    started = time.process_time()
    last_number(text)
    assert time.process_time() - started < 1.0
