"""Which library applies to a request, and how it is put into a request of either API. The one rule of serving.

    chat         {"messages": [...]}                      POST /v1/chat/completions
    responses    {"instructions": "...", "input": ...}    POST /v1/responses

The rendering is the store's, as it was while learning. A library that outgrew its token budget shows a core that is the
same in every prompt, so that a provider's prompt cache hits, and what the question needs of the rest at the end (the
layout's `select="core"`). Nothing else of a body is touched: tools, images, structured output, options. A body that is
no request of that API comes back as it is, for the server to judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from experience_store import Snapshot, StoreError
from experience_store.render import Applied, Prepared

Api: TypeAlias = Literal["chat", "responses"]
Body: TypeAlias = Mapping[str, Any]
APIS: Mapping[str, Api] = {"/chat/completions": "chat", "/responses": "responses"}


def api_of_path(path: str) -> Api | None:
    """The API that a POST to a path speaks, None for all that is handed on unread.

    Example:
        >>> api_of_path("/v1/chat/completions"), api_of_path("/responses/"), api_of_path("/v1/responses/compact")
        ('chat', 'responses', None)
    """
    return next((api for end, api in APIS.items() if path.rstrip("/").endswith(end)), None)


class Source(Protocol):
    """Where the library of a request comes from: a `Served`, or something that follows a store."""

    def current(self) -> Served:
        """The version that applies now. One request asks once, so that it never mixes two."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One version, ready for many requests."""

    version: str  # "v7"
    prepared: Prepared

    @staticmethod
    def of(snapshot: Snapshot) -> Served:
        """A version as it is served: like `snapshot.apply`, until the library outgrows its token budget."""
        layout = snapshot.layout
        if layout.select == "all":
            layout = replace(layout, select="core")
        return Served(version=snapshot.version.name, prepared=snapshot.prepare(layout=layout))

    def current(self) -> Served:
        """Itself: a pinned version is its own source."""
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmented:
    """The body to send; the very object that was given when no experience stands in it."""

    body: Body
    version: str
    labels: tuple[str, ...] = ()  # "E17@3"
    problem: str = ""  # why nothing could be put in


def augment(body: Body, api: Api, source: Source) -> Augmented:
    """Puts the experiences of a source into a request.

    Args:
        body: the request's JSON; it is never changed.
        api: which API it speaks.
        source: where the library comes from.

    Example:
        >>> from experience_store import Experience, Version
        >>> entry = Experience(id="E1", text="Check units.")
        >>> snapshot = Snapshot(version=Version(number=1, parent=0, rows=("E1@1-a",)), experiences=(entry,))
        >>> done = augment({"model": "m", "input": "5 km in m?"}, "responses", Served.of(snapshot))
        >>> done.version, done.labels, done.body["input"]
        ('v1', ('E1@1',), '5 km in m?')
        >>> print(done.body["instructions"])
        Notes from earlier problems (reference, use what applies):
        - Check units.
    """
    served = source.current()
    bare = Augmented(body=body, version=served.version)
    messages = _READ[api](body)
    if not messages or not all(map(_is_message, messages)):
        return bare
    applied = served.prepared.apply(messages)
    if not applied.labels:
        return bare
    return replace(bare, body={**body, **_WRITTEN[api](body, messages, applied)}, labels=applied.labels)


def try_augment(body: Body, api: Api, source: Source) -> Augmented:
    """`augment`, or the body as it is with the problem: an answer without notes is worth more than none."""
    served = source.current()
    try:
        return augment(body, api, served)
    except StoreError as error:
        return Augmented(body=body, version=served.version, problem=str(error))


async def atry_augment(body: Body, api: Api, source: Source) -> Augmented:
    """`try_augment` on an event loop: picking by the question may embed it, which must not hold up the others."""
    served = source.current()
    if served.prepared.asks:
        return await asyncio.to_thread(try_augment, body, api, served)
    return try_augment(body, api, served)


def _is_message(item: Any) -> bool:
    """Whether something can be said of it: content is words, parts or nothing."""
    if not isinstance(item, Mapping):
        return False
    content = item.get("content")
    return content is None or isinstance(content, str) or _is_parts(content)


def _is_parts(content: Any) -> bool:
    return isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content)


# -- chat completions -------------------------------------------------------------------------------------------------


def _chat_messages(body: Body) -> Sequence[Any]:
    messages = body.get("messages")
    return messages if isinstance(messages, list | tuple) else ()


def _chat_written(body: Body, bare: Sequence[Any], applied: Applied) -> Body:
    return {"messages": list(applied.messages)}


# -- responses: `instructions` is the system message, `input` the others ----------------------------------------------


def _response_messages(body: Body) -> Sequence[Any]:
    instructions, given = body.get("instructions"), body.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list | tuple) or not isinstance(instructions, str | None):
        return ()
    return [{"role": "system", "content": instructions}, *given] if instructions else given


def _response_written(body: Body, bare: Sequence[Any], applied: Applied) -> Body:
    messages = list(applied.messages)
    written: dict[str, Any] = {}
    added = len(bare) < len(messages) and messages[0].get("role") == "system" and bare[0].get("role") != "system"
    if body.get("instructions") or (added and "prompt" not in body):  # a stored prompt has instructions of its own
        written["instructions"] = messages.pop(0)["content"]
    known = {id(part) for message in bare for part in _parts(message)}
    given = [_with_input_parts(message, known) for message in messages]
    whole = isinstance(body["input"], str) and len(given) == 1
    return {**written, "input": given[0]["content"] if whole else given}


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return () if content is None or isinstance(content, str) else content


def _with_input_parts(message: Mapping[str, Any], known: set[int]) -> Mapping[str, Any]:
    """The part that the rendering added is called "text" in one API and "input_text" in the other."""
    if all(id(part) in known for part in _parts(message)):
        return message
    content = [part if id(part) in known else {**part, "type": "input_text"} for part in _parts(message)]
    return {**message, "content": content}


_READ = {"chat": _chat_messages, "responses": _response_messages}
_WRITTEN = {"chat": _chat_written, "responses": _response_written}
