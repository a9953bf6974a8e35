"""Math with a code interpreter: whole-number problems that a few lines of Python solve and mental arithmetic does not.

The setting of Training-Free GRPO (arXiv 2510.08191): a ReAct agent with a Python tool. The problems are our own.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

from tasks._generated import generate, problem
from tfgrpo.agents.python_runner import PythonLimits, python_tool
from tfgrpo.agents.react_loop import Protocol, react
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.math_equal import math_equal
from tfgrpo.task import Task
from tfgrpo.types import Problem

INSTRUCTIONS = (
    "Solve the problem by programs whose output you read; a program that prints nothing tells nothing. "
    "End with the final whole number in \\boxed{}."
)
Drawn = tuple[str, int]


def task(
    *,
    learn: int = 60,
    gate: int = 30,
    test: int = 60,
    seed: int = 0,
    protocol: Protocol = "auto",
    max_turns: int = 5,
    code_seconds: float = 10.0,
) -> Task:
    """Counting, digits, remainders, divisors, change and sequences. `protocol` and `max_turns` are those of `react`."""
    learning, gating, testing = generate(_make, (learn, gate, test), seed)
    tool = python_tool(limits=PythonLimits(seconds=code_seconds))
    return Task(
        name="math_code",
        learn=learning,
        gate=gating,
        test=testing,
        reward=math_equal(),
        objective="Solve the problem by running Python programs, and state the right final number.",
        sampling=Sampling(temperature=1.0, max_tokens=768),
        agent=react([tool], instructions=INSTRUCTIONS, protocol=protocol, max_turns=max_turns, outside=False),
        grader_only=True,
    )


def _make(draw: random.Random) -> Problem:
    while True:
        question, answer = draw.choice(KINDS)(draw)
        if str(answer) not in re.findall(r"\d+", question) and answer > 0:  # to repeat the question is no solution
            return problem(question, str(answer))


def primes_between(draw: random.Random) -> Drawn:
    """Count primes in a range."""
    low = draw.randint(100, 5_000)
    high = low + draw.randint(200, 3_000)
    count = sum(_is_prime(n) for n in range(low, high + 1))
    return f"How many prime numbers p satisfy {low} <= p <= {high}?", count


def digits_of_power(draw: random.Random) -> Drawn:
    """Sum of decimal digits."""
    base, exponent = draw.randint(3, 99), draw.randint(20, 200)
    return f"What is the sum of the decimal digits of {base}^{exponent}?", sum(map(int, str(base**exponent)))


def power_remainder(draw: random.Random) -> Drawn:
    """A sum of powers modulo m."""
    count, exponent, modulus = draw.randint(50, 900), draw.randint(3, 60), draw.randint(97, 9_973)
    total = sum(pow(k, exponent, modulus) for k in range(1, count + 1)) % modulus
    powers = f"1^{exponent} + 2^{exponent} + ... + {count}^{exponent}"
    return f"What is the remainder when {powers} is divided by {modulus}?", total


def divisible(draw: random.Random) -> Drawn:
    """Multiples of a or b, not of c."""
    top = draw.randint(1_000, 50_000)
    a, b, c = draw.sample(range(3, 40), 3)
    count = sum((n % a == 0 or n % b == 0) and n % c != 0 for n in range(1, top + 1))
    return f"How many whole numbers from 1 to {top} are divisible by {a} or by {b}, but not by {c}?", count


def divisor_sum(draw: random.Random) -> Drawn:
    """Divisors of a product."""
    n = math.prod(draw.choice((2, 3, 5, 7, 11, 13, 17)) for _ in range(draw.randint(4, 8)))
    total = sum(d + n // d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    total -= n + (math.isqrt(n) if math.isqrt(n) ** 2 == n else 0)
    return f"What is the sum of all positive divisors of {n} that are smaller than {n}?", total


def change(draw: random.Random) -> Drawn:
    """Ways to pay an amount."""
    coins = sorted(draw.sample(range(2, 30), 4))
    amount = draw.randint(80, 400)
    paid = f"In how many ways can {amount} be paid with coins of {', '.join(map(str, coins))}"
    return f"{paid}, the order not mattering?", _ways(coins, amount)


def sequence(draw: random.Random) -> Drawn:
    """A recurrence modulo m."""
    first, second, factor = draw.randint(1, 9), draw.randint(1, 9), draw.randint(2, 9)
    modulus, index = draw.randint(100, 999), draw.randint(60, 900)
    a, b = first, second
    for _ in range(index - 1):
        a, b = b, (factor * b + a) % modulus
    told = f"a(1) = {first}, a(2) = {second} and a(n) = {factor} a(n-1) + a(n-2)"
    return f"A sequence has {told}. What is the remainder of a({index}) divided by {modulus}?", a % modulus


KINDS: Sequence[Callable[[random.Random], Drawn]] = (
    primes_between,
    digits_of_power,
    power_remainder,
    divisible,
    divisor_sum,
    change,
    sequence,
)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _ways(coins: Sequence[int], amount: int) -> int:
    ways = [1] + [0] * amount
    for coin in coins:
        for total in range(coin, amount + 1):
            ways[total] += ways[total - coin]
    return ways[amount]
