"""math_equal: golds of several formats, hostile expressions, echoes, threads and loops."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.rewards.base import score_answers
from tfgrpo.rewards.math_equal import decided, final_answer, math_equal
from tfgrpo.types import Completion, Problem, Score

QUESTION = "How much is it altogether if she buys 3 for 6 dollars each?"


async def value(gold: object, text: str, question: str = QUESTION, timeout_s: float = 20.0) -> float:
    problem = Problem(id="p1", messages=({"role": "user", "content": question},), answer=gold)
    completion = Completion(prompt=(), messages=(), text=text, policy="scripted")
    (score,) = await score_answers(math_equal(timeout_s=timeout_s), problem, [completion])
    assert isinstance(score, Score), score
    return score.value


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("She makes 9 * 2 = $18.\n#### 18", "16 - 3 = 13 ... so it is $18.", True),
        ("#### 18", r"\boxed{18}", True),
        ("#### 1,800", "1800 dollars", True),
        ("18", r"\boxed{18\text{ dollars}}", True),
        ("18", r"\boxed{17} no wait, \boxed{18}", True),
        ("18", r"\boxed{17}. Compare 18.", False),
        ("18", "The answer is 18. This took 3 steps.", True),
        ("18", "The answer is 9 * 2 = 18", True),
        ("18", "**Answer:** 18 for 2 people", True),
        ("18", "#### 19\nor perhaps 18?", False),
        ("18", "", False),
        ("18", "It costs $17 + $1, so $18", True),
        ("3", "We find $y = 2x + 3$.", False),
        ("(B)", r"Hence $\text{(B)}$", True),
        ("50%", r"\boxed{0.5}", True),
        (r"10\%", r"\boxed{10}", True),
        (r"90^\circ", r"\boxed{90}", True),
        (r"\text{Evelyn}", r"It is \boxed{\text{Evelyn}}.", True),
        ("Evelyn", "The winner is Evelyn", True),
        ("Evelyn", "Evelyn lost to Carl", False),
        (r"\text{(B)}", r"\boxed{B}", True),
        ("(B)", "The answer is (C)", False),
        (r"\frac{1}{2}", r"\boxed{\dfrac{1}{2}}", True),
        (["4", "-4"], r"\boxed{-4}", True),
    ],
)
async def test_decided_without_algebra(gold: object, text: str, right: bool) -> None:
    assert await value(gold, text) == float(right)


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi)}", False),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", True),
        ("x^2+2x+1", r"\boxed{(x+1)^3}", False),
        (r"3\sqrt{13}", r"so the length is $\sqrt{117}$", True),
        ("18", r"\boxed{\frac{36}{2}}", True),
        ("18", r"\boxed{17 or 18}", False),
        (r"[2,5)", r"\boxed{[2,5)}", True),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{", False),
    ],
)
async def test_compared_by_algebra(gold: str, text: str, right: bool) -> None:
    assert await value(gold, text) == float(right)


async def test_a_hostile_expression_is_wrong_and_the_next_one_is_scored() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    heart = asyncio.create_task(tick())
    started = time.perf_counter()
    assert await value(r"\frac{1}{3}", r"\boxed{9^{9^{9^{9}}}+\frac{1}{3}}", timeout_s=1.0) == 0.0
    assert await value("x+1", r"\boxed{" + "(" * 900 + "1" + ")" * 900 + "}", timeout_s=1.0) == 0.0
    assert await value(r"\frac{1}{2}", r"\boxed{\frac{2}{4}}") == 1.0
    heart.cancel()
    assert time.perf_counter() - started < 60
    assert ticks > 20


async def test_overlong_expressions_are_wrong() -> None:
    assert await value("x+1", r"\boxed{" + "x+" * 5000 + "1}") == 0.0


def test_works_in_a_thread_with_its_own_loop() -> None:
    seen: list[float] = []
    thread = threading.Thread(target=lambda: seen.append(asyncio.run(value(r"\frac{1}{2}", r"\boxed{\frac{3}{6}}"))))
    thread.start()
    thread.join(60)
    assert seen == [1.0]


@pytest.mark.parametrize(
    ("question", "gold"),
    [("What is the largest of 3, 14, 15?", "15"), (r"Is $\frac{1}{2}$ the value of $\frac{1}{2}$", r"\frac{1}{2}")],
)
async def test_an_echo_of_the_question_is_no_answer(question: str, gold: str) -> None:
    assert await value(gold, question, question) == 0.0
    assert await value(gold, f"Problem: {question} Solution:", question) == 0.0
    assert await value(gold, rf"{question} It is \boxed{{{gold}}}", question) == 1.0


@given(
    st.integers(-(10**9), 10**9), st.sampled_from([r"\boxed{{{}}}", "#### {}", "The answer is {}.", "so {}", "= ${}$"])
)
def test_whole_numbers_are_decided_both_ways(number: int, form: str) -> None:
    assert decided(str(number), form.format(number)) is True
    assert decided(str(number), form.format(number + 1)) is False


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    final_answer(text)
    assert decided("18", text) in (True, False, None)
    assert decided(r"\frac{1}{2}", text) in (True, False, None)


@pytest.mark.parametrize("piece", ["$1", "1" * 50, "#### ", "answer is ", "\\text{", "{", " \n", "$ ", "x=", "1/2 "])
def test_hostile_texts_are_read_quickly(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    started = time.process_time()
    for gold in ("18", r"\frac{1}{2}", "Evelyn"):
        decided(gold, "$" + text)
    assert time.process_time() - started < 2.0
