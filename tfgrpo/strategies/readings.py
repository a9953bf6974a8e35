"""What an answer says, in the form in which two answers are the same: the ballots of a vote.

    text            the whole answer in normal form, without case and punctuation
    number          its last number; 0.50, 1/2 and 5e-1 are one
    numbers         the set of all numbers in it
    math            its final answer (boxed, after "the answer is" or ####), as a number or expression
    choice          its last option letter, (B) or "B."
    json            its first JSON object; json:FIELD.SUB one field of it
    regex:PATTERN   the last match of the pattern, or of its first group
    calls           the tools it calls, with their arguments
    auto            calls, JSON alone, a marked final answer, else the text

None is an answer that says nothing of that form; it votes for nobody. They read an answer as the rewards of the same
names do, and need no reference answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.rewards.json_schema import first_json
from tfgrpo.rewards.math_equal import MAX_EXPRESSION_CHARS, final_answer, final_form
from tfgrpo.rewards.text import Number, answer_text, last_number, normal, numbers, plain_number
from tfgrpo.types import Completion, Message, Problem

Reading: TypeAlias = Callable[[Problem, Completion], str | None]

MAX_READ = 4_000
_CHOICE = re.compile(r"\(([A-Za-z])\)|\b([A-Z])\b(?=[.):,]|\s*$)")


def read_text(problem: Problem, completion: Completion) -> str | None:
    """The whole answer, without thought, echo of the question, case and punctuation."""
    return normal(answer_text(problem, completion), ignore_punctuation=True) or None


def read_number(problem: Problem, completion: Completion) -> str | None:
    """The last number."""
    found = last_number(answer_text(problem, completion))
    return None if found is None else _said(found)


def read_numbers(problem: Problem, completion: Completion) -> str | None:
    """All different numbers, whatever their order."""
    found = {_said(number) for number in numbers(answer_text(problem, completion))}
    return " ".join(sorted(found)) or None


def read_math(problem: Problem, completion: Completion) -> str | None:
    """The final answer as a number, else as an expression without spacing; unmarked, the last number of the text."""
    answer, marked = final_answer(answer_text(problem, completion))
    plain = plain_number(answer)
    if plain is not None:
        return str(plain)
    number = None if marked else last_number(answer)
    if number is not None:
        return _said(number)
    return final_form(answer[-MAX_EXPRESSION_CHARS:]) or None


def read_choice(problem: Problem, completion: Completion) -> str | None:
    """The last option letter."""
    found = list(_CHOICE.finditer(answer_text(problem, completion)[-MAX_READ:]))
    return (found[-1][1] or found[-1][2]).upper() if found else None


def read_calls(problem: Problem, completion: Completion) -> str | None:
    """The tool calls of the last message, arguments in any order."""
    found = [message.get("tool_calls") for message in completion.messages[-1:]]
    made = [call for calls in found if isinstance(calls, list | tuple) for call in calls if isinstance(call, Mapping)]
    return _canonical([_call(call) for call in made]) if made else None


def read_auto(problem: Problem, completion: Completion) -> str | None:
    """Whatever form the answer has."""
    calls = read_calls(problem, completion)
    if calls is not None:
        return calls
    text = answer_text(problem, completion)
    bare = text.strip()
    if bare.startswith("{") and bare.endswith("}") and (found := first_json(bare)) is not None:
        return _canonical(found)
    return read_math(problem, completion) if final_answer(text)[1] else read_text(problem, completion)


def json_field(path: str = "") -> Reading:
    """The first JSON object of an answer, or the field at a dotted path of it."""
    names = path.split(".") if path else []

    def read(problem: Problem, completion: Completion) -> str | None:
        found: Any = first_json(answer_text(problem, completion))
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return None if found is None else _canonical(found)

    return read


def matching(pattern: str) -> Reading:
    """The last match of a pattern, or of its first group, in normal form.

    Raises:
        InputError: it is no pattern.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the reading regex:{pattern} is not a regular expression: {error}") from error

    def read(problem: Problem, completion: Completion) -> str | None:
        found = list(expression.finditer(answer_text(problem, completion)))
        return normal(found[-1][1 if expression.groups else 0] or "") if found else None

    return read


READINGS: dict[str, Reading] = {
    "auto": read_auto,
    "calls": read_calls,
    "choice": read_choice,
    "json": json_field(),
    "math": read_math,
    "number": read_number,
    "numbers": read_numbers,
    "text": read_text,
}
MADE: dict[str, Callable[[str], Reading]] = {"json": json_field, "regex": matching}

OF_REWARD: dict[str, str] = {
    "exact": "text",
    "contains": "text",
    "numeric": "number",
    "math_equal": "math",
    "json_schema": "json",
    "tool_calls": "calls",
}
"""The reading that fits what a reward compares; `auto` for all others."""


def resolve_reading(spec: Reading | str) -> Reading:
    """The reading of that name, such as "number", "json:answer" or "regex:(yes|no)", or the given function.

    Example:
        >>> answer = Completion(prompt=(), messages=(), text="So it is 1,250.0 in all", policy="any")
        >>> resolve_reading("number")(Problem(id="p", messages=()), answer)
        '1250'

    Raises:
        InputError: an unknown name (near ones are listed) or a wrong pattern.
    """
    if not isinstance(spec, str):
        return spec
    name, colon, rest = spec.partition(":")
    if colon and name in MADE:
        return MADE[name](rest)
    if spec not in READINGS:
        raise unknown_name("reading of answers", spec, [*READINGS, *(f"{made}:..." for made in MADE)])
    return READINGS[spec]


def reading_of(reward: str) -> str:
    """The reading for the answers to a task with this reward.

    Example:
        >>> reading_of("numeric(tolerance=0.01)"), reading_of("my_module:score")
        ('number', 'auto')
    """
    return OF_REWARD.get(reward.partition("(")[0], "auto")


def reading_name(spec: Reading | str) -> str:
    """How a reading is told in names of runs."""
    return spec if isinstance(spec, str) else str(getattr(spec, "__name__", type(spec).__name__))


def _said(number: Number) -> str:
    return f"{number.value}{'%' if number.percent else ''}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _call(call: Message) -> list[Any]:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return [function, None]
    arguments = function.get("arguments")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        parsed = arguments
    return [function.get("name"), parsed]
