"""One question to a model inside a reward, answered in JSON: repaired once, and missing when it stays unreadable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tfgrpo.errors import RequestError, TransportError
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.rewards.json_schema import first_json
from tfgrpo.rewards.judge import Asks, quoted
from tfgrpo.types import Message, Problem

T = TypeVar("T")
REPAIR = "That was not what was asked for: {problem} Reply with the JSON object only."


class UnreadableError(ValueError):
    """What is wrong with a verdict; the model is told once."""


async def asked(
    caller: Asks,
    problem: Problem,
    messages: Sequence[Message],
    *,
    schema: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], T],
    max_tokens: int = 400,
) -> T | None:
    """What `read` makes of the model's JSON; None when it could not be asked or stays unreadable after one repair.

    Equal questions about one problem are one call: the record answers the second. What stops a run (budget, key) is
    passed on.
    """
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, schema=schema)
    said = list(messages)
    for attempt in range(2):
        key = CallKey(purpose="judge", problem=problem.id, sample=attempt)
        try:
            reply = await caller.complete(said, key, sampling)
        except (TransportError, RequestError):
            return None  # missing data; told by the caller
        try:
            return read(_object(reply.text))
        except UnreadableError as error:
            answered: Message = {"role": "assistant", "content": reply.text[:2000] or "(nothing)"}
            said += [answered, {"role": "user", "content": REPAIR.format(problem=error)}]
    return None


def _object(text: str) -> Mapping[str, Any]:
    found = first_json(text)
    if found is None:
        raise UnreadableError("it holds no JSON object.")
    return found


def number(found: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """An entry that must be a number from `low` to `high`; digits in quotes are read too.

    Raises:
        UnreadableError: it is missing, no number, or outside.
    """
    value = found.get(name)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UnreadableError(f"{name!r} must be a number from {low:g} to {high:g}, got {found.get(name)!r:.80}.")
    return float(value)


def fenced(problem: Problem, **texts: str) -> tuple[dict[str, str], dict[str, str]]:
    """Foreign texts between tags that they cannot guess: the tag of each, and the fenced text of each."""
    content = "\x1f".join((problem.id, *texts.values()))
    mark = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    tags = {name: f"{name}-{mark}" for name in texts}
    return tags, {name: quoted(text, tags[name]) for name, text in texts.items()}
