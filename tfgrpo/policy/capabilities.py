"""What a model understands: learned from the first refusal that names a parameter, then remembered.

Servers that speak the same protocol refuse different parts of it. Nothing is probed in advance and no table of model
names is kept: a 400 that names a parameter degrades it once, the request is sent again, and a notice says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.wire import Failure
from tfgrpo.types import Message

SchemaMode = Literal["json_schema", "json_object", "words"]
NEXT_MODE: Mapping[SchemaMode, SchemaMode] = {"json_schema": "json_object", "json_object": "words"}
OTHER_LIMIT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
# In the order in which they are given up when a refusal names several, after those that stand at a neutral value.
DROPPABLE = ("seed", "top_p", "stop", "temperature")
NEUTRAL = {"top_p": 1.0, "temperature": 1.0}
REFUSED_STATUS = frozenset({400, 404, 405, 422, 501})
RESERVED = frozenset({"n", "stream", "messages", "model"})

_UNSUPPORTED = re.compile(
    r"unsupported|not\W+support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra inputs"
    r"|not available|unavailable|only the default|only \S+ is allowed|may only be|cannot both|deprecated"
    r"|not implemented",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"too (large|long|small|high|low)|maximum context|context.length|exceeds?\b|\bbetween\b|out of range"
    r"|must be (less|greater|at least|at most|in\b|within|positive|non-negative|<|>)",
    re.IGNORECASE,
)
_STRUCTURED = re.compile(r"response_format|json_schema|json_object|structured.output|grammar|schema", re.IGNORECASE)
SCHEMA_WORDS = (
    "Answer with one JSON object and nothing else: no code fence, no words around it. "
    "It must follow this JSON schema:\n{schema}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is sent, and the messages in it as they will stand in the completion's `prompt`."""

    body: Mapping[str, Any]
    messages: tuple[Message, ...]
    mode: SchemaMode | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Degraded:
    """What was given up and what stands in its place; "" is nothing."""

    parameter: str
    instead: str
    news: bool


@dataclass(slots=True)
class Dialect:
    """How to ask one model. `limit_field` is the name under which `max_tokens` is sent."""

    limit_field: str = "max_tokens"
    send_neutral: bool = True  # also what stands at 1.0: some servers have other defaults
    schema_mode: SchemaMode = "json_schema"
    dropped: set[str] = field(default_factory=set)
    _swapped: bool = False

    def request(self, model: str, messages: Sequence[Message], sampling: Sampling) -> Request:
        """The request body for one answer."""
        reserved = RESERVED & sampling.extra.keys()
        if reserved:
            raise InputError(f"Sampling.extra must not hold {', '.join(sorted(reserved))}: one call is one answer")
        mode = self.schema_mode if sampling.schema is not None else None
        sent = tuple(_outgoing(m) for m in messages)
        if sampling.schema is not None and mode != "json_schema":
            sent = with_schema_words(sent, sampling.schema)
        body: dict[str, Any] = {"model": model, "messages": sent, self.limit_field: sampling.max_tokens}
        for name, value in self._options(sampling):
            if name not in self.dropped and (self.send_neutral or NEUTRAL.get(name) != value):
                body[name] = value
        if sampling.schema is not None and mode is not None and mode != "words":
            body["response_format"] = response_format(mode, sampling.schema)
        body.update(sampling.extra)
        return Request(body=body, messages=sent, mode=mode)

    def learn(self, request: Request, failure: Failure) -> Degraded | None:
        """Give up what the failure names, if it names something that can be given up. None: sending again is no use."""
        if failure.kind != "request" or failure.status not in REFUSED_STATUS:
            return None
        if request.mode is not None and request.mode != "words" and _blames_structure(failure):
            return self._next_schema_mode(request.mode)
        if _OUT_OF_RANGE.search(failure.words) or not _UNSUPPORTED.search(f"{failure.words} {failure.code}"):
            return None
        limit = next((n for n in OTHER_LIMIT if n in request.body and _names(failure, n)), None)
        if limit is not None and not (self._swapped and limit == self.limit_field):
            news, self.limit_field, self._swapped = limit == self.limit_field, OTHER_LIMIT[limit], True
            return Degraded(parameter=limit, instead=self.limit_field, news=news)
        named = [n for n in DROPPABLE if n in request.body and _names(failure, n)]
        named.sort(key=lambda n: NEUTRAL.get(n) != request.body[n])
        if not named:
            return None
        news = named[0] not in self.dropped
        self.dropped.add(named[0])
        return Degraded(parameter=named[0], instead="", news=news)

    def _next_schema_mode(self, refused: SchemaMode) -> Degraded:
        news = self.schema_mode == refused
        if news:
            self.schema_mode = NEXT_MODE[refused]
        return Degraded(parameter=f"response_format {refused}", instead=self.schema_mode, news=news)

    @staticmethod
    def _options(sampling: Sampling) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [("temperature", sampling.temperature), ("top_p", sampling.top_p)]
        if sampling.seed is not None:
            options.append(("seed", sampling.seed))
        if sampling.stop:
            options.append(("stop", list(sampling.stop)))
        return options


def response_format(mode: SchemaMode, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter for structured output; `strict` only where the schema keeps the rules that strict mode has."""
    if mode == "json_object":
        return {"type": "json_object"}
    described: dict[str, Any] = {"name": "answer", "schema": schema}
    if is_strict(schema):
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}


def is_strict(schema: Any) -> bool:
    """Whether every object in the schema is closed and requires all its properties.

    Example:
        >>> is_strict({"type": "object", "properties": {}, "required": [], "additionalProperties": False})
        True
        >>> is_strict({"type": "object", "properties": {"a": {"type": "string"}}})
        False
    """
    if isinstance(schema, Mapping):
        if schema.get("type") == "object" or "properties" in schema:
            closed = schema.get("additionalProperties") is False
            if not closed or set(schema.get("required", ())) != set(schema.get("properties", ())):
                return False
        return "default" not in schema and all(is_strict(value) for value in schema.values())
    if isinstance(schema, list | tuple):
        return all(is_strict(value) for value in schema)
    return True


def with_schema_words(messages: tuple[Message, ...], schema: Mapping[str, Any]) -> tuple[Message, ...]:
    """The schema in words at the end of the last message where that is text, else as a message of its own."""
    words = SCHEMA_WORDS.format(schema=json.dumps(schema, ensure_ascii=False, default=_plain))
    last = messages[-1] if messages else {}
    if last.get("role") == "user" and isinstance(last.get("content"), str):
        return (*messages[:-1], {**last, "content": f"{last['content']}\n\n{words}"})
    return (*messages, {"role": "user", "content": words})


def _outgoing(message: Message) -> Message:
    """A message without what only replies have: a model's own reasoning is not sent back to it."""
    if "reasoning_content" not in message:
        return message
    return {name: value for name, value in message.items() if name != "reasoning_content"}


def _blames_structure(failure: Failure) -> bool:
    return failure.parameter.startswith("response_format") or bool(_STRUCTURED.search(failure.words))


def _names(failure: Failure, parameter: str) -> bool:
    if failure.parameter:
        return failure.parameter.split(".")[0] == parameter
    return re.search(rf"(?<![A-Za-z_]){parameter}(?![A-Za-z_])", failure.words) is not None


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else list(value)
