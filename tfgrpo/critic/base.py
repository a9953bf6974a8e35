"""What every critic does, and the reading of its replies: from a scored group to proposed edits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from experience_store import Edit, Experience
from tfgrpo.advantage import Values
from tfgrpo.caller import Caller
from tfgrpo.errors import TfgrpoError
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Group, Message

Reply = TypeVar("Reply", bound=BaseModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A group as a critic gets it: its values are the advantages [N] of its rollouts."""

    group: Group
    values: Values
    known: tuple[Experience, ...]  # all live experiences, those on trial too
    objective: str = ""


class Critic(Protocol):
    """Proposes edits. What it thinks of an entry is no evidence; the gate decides."""

    async def read(self, reading: Reading) -> tuple[Edit, ...]:
        """Edits from one group; their `source` names the group. Raises MalformedReply when no reply could be read."""
        ...

    async def merge(self, step: int, proposals: Sequence[Edit], known: Sequence[Experience]) -> tuple[Edit, ...]:
        """The proposals of all groups of a step made into one consistent list."""
        ...


class MalformedReply(TfgrpoError, ValueError):
    """A critic's reply could not be read, and neither could its repair. Only this group's lesson is lost."""


async def ask(
    caller: Caller, messages: Sequence[Message], key: CallKey, sampling: Sampling, shape: type[Reply]
) -> Reply:
    """A structured reply, with one repair: a malformed one is shown to the model again together with the error."""
    completion = await caller.complete(messages, key, sampling)
    try:
        return parse(completion.text, shape)
    except ValueError as first:
        again: list[Message] = [
            *messages,
            {"role": "assistant", "content": completion.text},
            {"role": "user", "content": f"That could not be read: {_short(first)}. Reply with the JSON object only."},
        ]
    repaired = await caller.complete(again, CallKey(**{**_fields(key), "sample": key.sample + 1}), sampling)
    try:
        return parse(repaired.text, shape)
    except ValueError as second:
        raise MalformedReply(f"the reply was malformed twice: {_short(second)}; got {repaired.text[:200]!r}") from None


def _fields(key: CallKey) -> dict[str, Any]:
    return {"purpose": key.purpose, "epoch": key.epoch, "problem": key.problem, "sample": key.sample}


def _short(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return str(error)[:200]


def parse(text: str, shape: type[Reply]) -> Reply:
    """The first JSON value of the wanted shape in a reply that may hold words or a fence around it.

    A bare list is taken for the shape's only field, since small models often leave out the outer object.
    """
    decoder = json.JSONDecoder()
    problem: ValueError = ValueError(f"no JSON found in {text[:80]!r}")
    for start in (m.start() for m in re.finditer(r"[\[{]", text)):
        try:
            value, _ = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(value, list) and len(shape.model_fields) == 1:
            value = {next(iter(shape.model_fields)): value}
        try:
            return shape.model_validate(value)
        except ValidationError as error:
            problem = error
    raise problem
