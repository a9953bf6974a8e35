"""Tool-call accuracy: are the right functions called, with the right parameters and values?

The calls are read from the `tool_calls` of the produced messages, or else from JSON in the answer's text: <tool_call>
tags, a fenced block, or a bare object or list. A call is `{"name": ..., "arguments": {...}}`; OpenAI's wrapping in
"function" and arguments that are a JSON text are read too.

Example:
    >>> right = [{"name": "f", "arguments": {"x": 1, "y": 2}}]
    >>> round(tool_call_score(right, [{"name": "f", "arguments": {"x": 1, "z": 9}}]), 4)
    0.5
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfgrpo.errors import RewardError
from tfgrpo.rewards.base import Reward, reward
from tfgrpo.rewards.text import MAX_CHARS, without_echo
from tfgrpo.types import Completion, Problem, Score

_TAG = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_TOP = 3.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function by name with named arguments."""

    name: str
    arguments: Mapping[str, Any]


def tool_calls(*, unit: bool = True, explicit: bool = False) -> Reward:
    """The agreement of the made calls with the problem's answer, a list of calls (or one, or their JSON text).

    R = 6 score / max - 3 in [-3, 3], see `tool_call_score`; by default as (R + 3) / 6 in [0, 1]. Calls that cannot be
    read give the lowest value. Solved is only an exact agreement. Where the answer is an empty list, no call must be
    made; with `explicit` that has to be said by an empty list, and words without JSON are unreadable.

    Source: the tool reward of GDPO's code (arXiv 2601.05242), which is ToolRL's.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer=[{"name": "f", "arguments": {"x": 1, "y": 2}}])
        >>> text = '{"name": "f", "arguments": {"x": 1, "z": 9}}'
        >>> answer = Completion(prompt=(), messages=(), text=text, policy="any")
        >>> [round(asyncio.run(tool_calls(unit=unit)(problem, [answer]))[0].value, 4) for unit in (False, True)]
        [0.5, 0.5833]

    Raises:
        RewardError: (as outcome) the problem's answer is no list of calls.
    """

    def score(problem: Problem, completion: Completion) -> Score:
        wanted = _reference(problem)
        made, complaint = calls_of(completion, problem, explicit=explicit)
        if made is None:
            lowest = 0.0 if unit else -_TOP
            return Score(value=lowest, parts={"calls": lowest, "format": 0.0}, feedback=complaint, solved=False)
        raw = tool_call_score(wanted, made)
        value = (raw + _TOP) / (2 * _TOP) if unit else raw
        right = _same_calls(wanted, made)
        words = "" if right else f"Expected the calls {_shown(wanted)}, got {_shown(made)}."
        return Score(value=value, parts={"calls": value, "format": 1.0}, feedback=words, solved=right)

    return reward(score, name="tool_calls")


def tool_call_score(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """How well calls agree with the reference, in [-3, 3].

    score = J(names) + sum over gold calls of the best, among unused predictions of the same name, of
    [J(parameter names) + number of equal values]; max = 1 + sum over gold calls of (1 + number of parameters);
    R = 6 score / max - 3, and 3 for exact equality. J is the multiset Jaccard index, 1 where both are equal.

    Example:
        >>> tool_call_score([{"name": "f", "arguments": {"x": 1}}], [])
        -3.0
        >>> tool_call_score([], [])
        3.0
    """
    wanted, made = [as_call(c) for c in gold], [as_call(c) for c in predicted]
    if _same_calls(wanted, made):
        return _TOP
    unused = list(made)
    score = _jaccard([c.name for c in wanted], [c.name for c in made])
    for call in wanted:
        fitting = [c for c in unused if c.name == call.name]
        if fitting:
            best = max(fitting, key=lambda c: _agreement(call, c))
            unused.remove(best)
            score += _agreement(call, best)
    top = 1.0 + sum(1 + len(c.arguments) for c in wanted)
    return 2 * _TOP * score / top - _TOP


def _agreement(gold: Call, made: Call) -> float:
    equal = sum(same_json(value, made.arguments[k]) for k, value in gold.arguments.items() if k in made.arguments)
    return _jaccard(list(gold.arguments), list(made.arguments)) + equal


def _jaccard(a: list[str], b: list[str]) -> float:
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    shared = (Counter(a) & Counter(b)).total()
    return shared / (len(a) + len(b) - shared)


def _same_calls(a: Sequence[Call], b: Sequence[Call]) -> bool:
    return len(a) == len(b) and all(
        x.name == y.name and same_json(x.arguments, y.arguments) for x, y in zip(a, b, strict=True)
    )


def same_json(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same; true is not 1, but 1 is 1.0.

    Example:
        >>> same_json({"a": [1, True]}, {"a": [1.0, True]}), same_json(True, 1), same_json("1", 1)
        (True, False, False)
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return (type(a) is type(b) and a == b) or (_is_number(a) and _is_number(b) and a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


# -------------------------------------------------------------------------------------------------------- reading


def as_call(value: Any) -> Call:
    """A call in any of the accepted forms.

    Raises:
        ValueError: it is none; the message says why.
    """
    if isinstance(value, Call):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"expected an object with 'name' and 'arguments', got {_cut(value)}")
    arguments: Any = next((value[key] for key in ("arguments", "parameters", "args") if value.get(key) is not None), {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"expected the arguments of {value['name']!r} to be an object, got {_cut(arguments)}")
    return Call(value["name"], arguments)


def calls_of(
    completion: Completion, problem: Problem | None = None, *, explicit: bool = False
) -> tuple[list[Call] | None, str]:
    """The calls of an answer in their order, or None and what is wrong with them.

    Plain words without any JSON are an answer without a call, an empty list; unreadable where it must be `explicit`.
    """
    structured = [c for m in completion.messages if m.get("role") == "assistant" for c in m.get("tool_calls") or ()]
    try:
        if structured:
            return [as_call(c) for c in structured], ""
        text = completion.text if problem is None else without_echo(completion.text, problem)
        return [as_call(c) for c in _values(text[-MAX_CHARS:], explicit)], ""
    except (ValueError, RecursionError) as error:
        return None, f"The calls cannot be read: {str(error)[:300]}"


def _values(text: str, explicit: bool) -> Iterable[Any]:
    """The JSON values that stand for calls in a text."""
    pieces = _TAG.findall(text) or _FENCE.findall(text)
    if not pieces:
        start = min((k for k in (text.find("["), text.find("{")) if k >= 0), default=-1)
        if start < 0 and explicit:
            raise ValueError("the answer holds no JSON")
        pieces = [] if start < 0 else [text[start:]]
    found: list[Any] = []
    for piece in pieces:
        found += _several(piece.strip())
    return found


def _several(text: str) -> list[Any]:
    """JSON values one after another, lists opened; words after the last one are ignored."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    while text[:1] in ("{", "["):
        value, end = decoder.raw_decode(text)
        found += value if isinstance(value, list) else [value]
        text = text[end:].lstrip(" \t\r\n,;")
    if not found and text:
        raise ValueError(f"expected JSON, got {_cut(text)}")
    return found


def _reference(problem: Problem) -> list[Call]:
    given = problem.answer
    try:
        if isinstance(given, str):
            given = json.loads(given)
        given = [given] if isinstance(given, Mapping) else given
        if not isinstance(given, list | tuple):
            raise ValueError(f"got {_cut(given)}")
        return [as_call(c) for c in given]
    except ValueError as error:
        raise RewardError(
            f"reward 'tool_calls' needs a list of calls as the answer of problem {problem.id!r}: {error}"
        ) from error


def _shown(calls: Sequence[Call]) -> str:
    return _cut([{"name": c.name, "arguments": c.arguments} for c in calls], 300) if calls else "none"


def _cut(value: Any, length: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= length else text[: length - 3] + "..."
