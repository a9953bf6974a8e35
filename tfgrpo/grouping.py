"""Which prompts make up a group: the same question several times, or several wordings of it.

A grouping is a function `(problem, group_number) -> prompts`; whatever it returns is compared as one group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.types import Message, Problem, Prompt

if TYPE_CHECKING:
    from tfgrpo.caller import Caller

Grouping: TypeAlias = Callable[[Problem, int], tuple[Prompt, ...]]

PARAPHRASE = """Write {n} other wordings of the question below. Each must ask for exactly the same answer, keep every \
number, name, list of choices and demand on the form of the answer, and must not answer it or hint at the answer.

<question>
{question}
</question>

Reply with JSON only: {{"wordings": ["...", "..."]}}"""

_WORDINGS = {
    "type": "object",
    "properties": {"wordings": {"type": "array", "items": {"type": "string"}}},
    "required": ["wordings"],
    "additionalProperties": False,
}


def repeat(n: int) -> Grouping:
    """The problem as it is, `n` times.

    Example:
        >>> len(repeat(5)(Problem(id="p", messages=({"role": "user", "content": "?"},)), 0))
        5
    """
    _check_size(n)

    def grouping(problem: Problem, number: int) -> tuple[Prompt, ...]:
        return (Prompt(messages=problem.messages),) * n

    return grouping


def paraphrases(n_each: int) -> Grouping:
    """Every wording of the problem, its own one first, `n_each` times."""
    _check_size(n_each)

    def grouping(problem: Problem, number: int) -> tuple[Prompt, ...]:
        wordings = range(len(problem.variants) + 1)
        return tuple(p for v in wordings for p in (Prompt(messages=worded(problem, v), variant=v),) * n_each)

    return grouping


def _check_size(n: int) -> None:
    if n < 1:
        raise InputError(f"a group needs at least one rollout per wording, got {n}")


def worded(problem: Problem, variant: int) -> tuple[Message, ...]:
    """The messages of one wording: 0 is the problem's own, v the v-th of its variants in the last user message."""
    if variant == 0:
        return problem.messages
    if not 0 < variant <= len(problem.variants):
        raise InputError(f"problem {problem.id!r} has wordings 0..{len(problem.variants)}, not {variant}")
    last = max(i for i, m in enumerate(problem.messages) if m.get("role") == "user")
    changed = {**problem.messages[last], "content": problem.variants[variant - 1]}
    return (*problem.messages[:last], changed, *problem.messages[last + 1 :])


async def make_paraphrases(problem: Problem, caller: Caller, n: int) -> Problem:
    """The problem with up to `n` more wordings by a model that is never shown the answer.

    A wording is kept when it is new, keeps all numbers of the question and does not give the answer away; so there
    may be fewer than `n`, or none when the reply is no JSON.
    """
    from tfgrpo.caller import CallKey  # noqa: PLC0415

    _check_size(n)
    request: Message = {"role": "user", "content": PARAPHRASE.format(n=n, question=problem.question)}
    sampling = Sampling(temperature=1.0, max_tokens=200 + n * (100 + len(problem.question) // 2), schema=_WORDINGS)
    reply = await caller.complete([request], CallKey(purpose="paraphrase", problem=problem.id), sampling)
    usable = [w for w in _wordings(reply.text) if _same_task(problem, w)]
    return replace(problem, variants=tuple(dict.fromkeys((*problem.variants, *usable)))[: len(problem.variants) + n])


def _wordings(text: str) -> list[str]:
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        listed = json.loads(found[0])["wordings"] if found else []
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        return []
    return [w.strip() for w in listed if isinstance(w, str)] if isinstance(listed, list) else []


def _same_task(problem: Problem, wording: str) -> bool:
    question, answer = problem.question, str(problem.answer or "").strip().casefold()
    numbers_kept = sorted(re.findall(r"\d+", wording)) == sorted(re.findall(r"\d+", question))
    told = bool(answer) and answer in wording.casefold() and answer not in question.casefold()
    return bool(wording) and wording != question and numbers_kept and not told
