"""What the generated tasks share: seeded problems that never repeat a question, dealt into disjoint splits."""

from __future__ import annotations

import random
from collections.abc import Callable

from tfgrpo.errors import InputError
from tfgrpo.problems import content_id
from tfgrpo.task import question_key
from tfgrpo.types import Message, Problem

Maker = Callable[[random.Random], Problem]
Splits = tuple[tuple[Problem, ...], tuple[Problem, ...], tuple[Problem, ...]]

_TRIES = 200


def problem(question: str, answer: object, *, system: str = "", **meta: object) -> Problem:
    """A problem with a content id from a question, an optional system message, and the reference."""
    asked: Message = {"role": "user", "content": question}
    messages: tuple[Message, ...] = ({"role": "system", "content": system}, asked) if system else (asked,)
    return Problem(id=content_id(messages, answer), messages=messages, answer=answer, meta=meta)


def generate(make: Maker | tuple[Maker, Maker, Maker], sizes: tuple[int, int, int], seed: int) -> Splits:
    """Problems for learn, gate and test by one maker, or by one each; no question occurs twice.

    The test split is drawn first, so that it stays the same when the others grow.

    Raises:
        InputError: there are too few different questions for the sizes asked for.
    """
    if min(sizes) < 0 or sizes[0] < 1:
        raise InputError(f"sizes must be at least 0, with at least 1 problem to learn from; got {sizes}")
    makers = make if isinstance(make, tuple) else (make, make, make)
    seen: set[str] = set()
    tested = _fresh(makers[2], sizes[2], random.Random(f"{seed}/test"), seen)
    gated = _fresh(makers[1], sizes[1], random.Random(f"{seed}/gate"), seen)
    return _fresh(makers[0], sizes[0], random.Random(f"{seed}/learn"), seen), gated, tested


def _fresh(make: Maker, size: int, draw: random.Random, seen: set[str]) -> tuple[Problem, ...]:
    found: list[Problem] = []
    for _ in range(_TRIES * size):
        if len(found) == size:
            break
        candidate = make(draw)
        key = question_key(candidate)
        if key not in seen:
            seen.add(key)
            found.append(candidate)
    if len(found) < size:
        raise InputError(f"only {len(found)} new questions of this kind could be made, {size} were asked for")
    return tuple(found)
