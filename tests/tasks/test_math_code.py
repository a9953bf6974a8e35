"""Math with a code interpreter: every reference is checked by another program, run by the agent over real HTTP."""

import re
from dataclasses import replace

import pytest
from servers import tool_call

import tfgrpo
from tfgrpo import Sampling, aevaluate, load_task
from tfgrpo.rewards.base import score_answers
from tfgrpo.types import Completion, Score

PROGRAMS = {
    r"prime numbers p satisfy (\d+) <= p <= (\d+)": (
        "sum(1 for n in range({0}, {1} + 1) if not any(n % d == 0 for d in range(2, int(n**0.5) + 1)))"
    ),
    r"digits of (\d+)\^(\d+)": "total, n = 0, {0}**{1}\nwhile n: total, n = total + n % 10, n // 10\ntotal",
    r"1\^(\d+) \+ .* \+ (\d+)\^\d+ is divided by (\d+)": "sum(k**{0} for k in range(1, {1} + 1)) % {2}",
    r"from 1 to (\d+) are divisible by (\d+) or by (\d+), but not by (\d+)": (
        "n, a, b, c = {0}, {1}, {2}, {3}\nlen([x for x in set(range(a, n + 1, a)) | set(range(b, n + 1, b)) if x % c])"
    ),
    r"divisors of (\d+) that": (
        "n, left, total, p = {0}, {0}, 1, 2\n"
        "while left > 1:\n    term = 1\n    while left % p == 0: left, term = left // p, term * p + 1\n"
        "    total, p = total * term, p + 1\ntotal - n"
    ),
    r"can (\d+) be paid with coins of (\d+), (\d+), (\d+), (\d+),": (
        "from functools import cache\n@cache\ndef ways(n, coins):\n"
        "    return int(n == 0) if not coins else sum(ways(n - k, coins[1:]) for k in range(0, n + 1, coins[0]))\n"
        "ways({0}, ({1}, {2}, {3}, {4}))"
    ),
    r"a\(1\) = (\d+), a\(2\) = (\d+) and a\(n\) = (\d+) a.* a\((\d+)\) divided by (\d+)": (
        "a = [{0}, {1}]\nwhile len(a) < {3}: a.append({2} * a[-1] + a[-2])\na[{3} - 1] % {4}"
    ),
}


def program(question):
    """Another way to the answer than the task's own."""
    for pattern, code in PROGRAMS.items():
        found = re.search(pattern, question)
        if found:
            return code.format(*found.groups())
    raise AssertionError(question)


def question_of(body):
    return next(m["content"] for m in body["messages"] if m["role"] == "user")


def native(body):
    last = body["messages"][-1]
    if last["role"] == "tool":
        return rf"So it is \boxed{{{last['content'].splitlines()[0]}}}."
    return tool_call("python", {"code": program(question_of(body))})


def in_words(body):
    last = body["messages"][-1]["content"]
    if last.startswith("Observation: "):
        return f"Thought: read\nAnswer: \\boxed{{{last.removeprefix('Observation: ').splitlines()[0]}}}"
    return f"Thought: compute\n```python\n{program(question_of(body))}\n```"


@pytest.mark.parametrize(("protocol", "answer"), [("tools", native), ("text", in_words)])
async def test_an_agent_that_programs_is_always_right(chat_server, tmp_path, protocol, answer):
    task = load_task("tasks.math_code:task", test=24, protocol=protocol)
    kinds = {next(p for p in PROGRAMS if re.search(p, problem.question)) for problem in task.problems}
    assert len(kinds) == len(PROGRAMS) == 7
    chat_server.answer, events = answer, []
    policy = tfgrpo.connect(f"{chat_server.url}#m")
    result = await aevaluate(task, model=policy, runs=tmp_path, on_event=events.append)
    await policy.aclose()
    assert result.after.mean == 1.0 and result.after.missing == 0
    assert len(chat_server.requests) == 48
    assert not [e for e in events if e.name.endswith("failed")]
    assert not any(f'"{p.answer}"' in str(chat_server.requests[0]["messages"]) for p in task.test)


async def test_a_question_that_is_repeated_is_no_answer():
    task = load_task("tasks.math_code:task", learn=200, gate=0, test=0)
    for problem in task.learn:
        echo = Completion(prompt=(), messages=(), text=problem.question, policy="scripted")
        (score,) = await score_answers(task.reward, problem, [echo])
        assert isinstance(score, Score) and not score.success


@pytest.mark.slow
async def test_one_tiny_real_run_in_words(tmp_path):
    """A model of 135 M parameters hardly ever solves one; what counts is that every rollout ends in a score."""
    task = load_task("tasks.math_code:task", test=3, protocol="text", max_turns=2)
    task, events = replace(task, sampling=Sampling(max_tokens=64)), []
    result = await aevaluate(task, model="local/smollm2", runs=tmp_path, on_event=events.append)
    assert result.after.missing == 0 and 0.0 <= result.after.mean <= 1.0
    assert not [e for e in events if e.name.endswith("failed")]
