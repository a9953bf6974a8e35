"""Clients of the openai package that put experiences into their requests.

The wrapped client is an object of a subclass of its own class, with the state of the given one and one method more:
`post`. Every chat completion and response goes through it, whether it is asked for by `create`, `parse` or `stream`, on
`with_raw_response`, `with_streaming_response` or a copy made by `with_options`. Why there:

- `post` is public (the package documents it for endpoints it does not know), while wrapping each resource's methods
  would follow every new one, and their signatures, from release to release.
- The body is plain JSON data by then: messages given as objects are dumped, a pydantic class has become a schema.
  Behind it, in httpx (or httpx2, or aiohttp: the package now has three transports), it would be bytes that are signed,
  counted and maybe compressed.
- The package's own retries happen below it: all tries of one request are of one version.
- A subclass is an `openai.OpenAI` for `isinstance`, and `copy` makes another of its own class by itself.

A strategy's samples are posts too, whose answers are wanted as httpx gives them; the one that is chosen is read by a
client of the package that gets nothing else, and comes out as whatever the application asked for.

Web sockets (`responses.connect`, `realtime`) are not touched, as in the proxy.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from tfgrpo.serving.apply import Api, Body, api_of_path
from tfgrpo.serving.following import FollowedLibrary
from tfgrpo.serving.in_use import Asked, InUse, Samples
from tfgrpo.serving.reply import Reply, Unsent

C = TypeVar("C")
_OURS = frozenset({"x-tfgrpo-strategy"})  # "none" in `extra_headers` asks once
_OF_THE_PACKAGE = frozenset({"x-stainless-raw-response", "____stainless_override_cast_to"})  # the form of an answer
_OF_THE_BYTES = ("content-encoding", "content-length", "transfer-encoding")


class _Wrapped:
    """What both kinds have."""

    _in_use: InUse

    @property
    def experience(self) -> FollowedLibrary:
        """The library: its version, and what was put into the last request."""
        return self._in_use.library


class _Sync(_Wrapped):
    def post(self, path: str, *, body: object = None, options: Mapping[str, Any] | None = None, **rest: Any) -> Any:
        """As the client's own, with experiences in the body."""
        post = partial(super().post, path)  # type: ignore[misc]
        request = _Request.of(path, body, options or {}, rest)
        if request is None:
            return post(body=body, options=options or {}, **rest)

        def send(done: Body) -> Any:
            return post(**request.with_body(done))

        def one(data: bytes) -> Reply:
            with _unsent():
                try:
                    return _reply(post(**request.of_sample(data)))
                except _openai().APIStatusError as error:
                    return _reply(error.response)

        def shown(reply: Reply) -> Any:
            return _answered(self, reply).post(path, **request.shown())

        return self._in_use.ask(request.asked(send, one, shown))

    def close(self) -> None:
        """Closes the client, and the library that was opened for it."""
        try:
            super().close()  # type: ignore[misc]
        finally:
            self._in_use.close()


class _Async(_Wrapped):
    async def post(
        self, path: str, *, body: object = None, options: Mapping[str, Any] | None = None, **rest: Any
    ) -> Any:
        """As the client's own, with experiences in the body."""
        post = partial(super().post, path)  # type: ignore[misc]
        request = _Request.of(path, body, options or {}, rest)
        if request is None:
            return await post(body=body, options=options or {}, **rest)

        async def send(done: Body) -> Any:
            return await post(**request.with_body(done))

        async def one(data: bytes) -> Reply:
            with _unsent():
                try:
                    return _reply(await post(**request.of_sample(data)))
                except _openai().APIStatusError as error:
                    return _reply(error.response)

        async def shown(reply: Reply) -> Any:
            return await _answered(self, reply).post(path, **request.shown())

        return await self._in_use.aask(request.asked(send, one, shown))

    async def close(self) -> None:
        """Closes the client, and the library that was opened for it."""
        try:
            await super().close()  # type: ignore[misc]
        finally:
            await asyncio.to_thread(self._in_use.close)  # a look at the store that is under way is waited for


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """What `post` was called with, for a model.

    `extra_body` is merged over the body by the package, later: what is changed in it has to be changed where it stands.
    """

    api: Api
    body: Mapping[str, Any]
    extra: Mapping[str, Any]
    whole: Body  # both
    headers: Mapping[str, str]
    options: Mapping[str, Any]
    rest: Mapping[str, Any]  # what becomes of the answer

    @staticmethod
    def of(path: str, body: object, options: Mapping[str, Any], rest: Mapping[str, Any]) -> _Request | None:
        """None for a request that is none of a model's."""
        api = api_of_path(path)
        if api is None or not isinstance(body, Mapping):
            return None
        extra, headers = (_mapping(options.get(name)) for name in ("extra_json", "headers"))
        if len(sent := _without(headers, _OURS)) < len(headers):
            options = {**options, "headers": sent}
        return _Request(
            api=api, body=body, extra=extra, whole={**body, **extra}, headers=headers, options=options, rest=rest
        )

    def asked(self, send: Callable[[Body], Any], one: Callable[[bytes], Any], shown: Callable[[Reply], Any]) -> Any:
        headers = {str(name).lower(): value for name, value in self.headers.items() if isinstance(value, str)}
        samples = Samples(one=one, shown=shown, headers=headers)
        return Asked(body=self.whole, api=self.api, send=send, samples=samples)

    def with_body(self, done: Body) -> dict[str, Any]:
        """The request with experiences."""
        if done is self.whole:
            return {"body": self.body, "options": self.options, **self.rest}
        new = {name: value for name, value in done.items() if self.whole.get(name) is not value}
        over = {name: new[name] for name in new if name in self.extra}
        options = {**self.options, "extra_json": {**self.extra, **over}} if over else self.options
        return {"body": {**self.body, **new}, "options": options, **self.rest}

    def of_sample(self, data: bytes) -> dict[str, Any]:
        """Another body in its place, whose answer is wanted as the server gave it."""
        response = sys.modules["httpx"].Response
        headers = _without(self.headers, _OURS | _OF_THE_PACKAGE)
        left_out = ("extra_json", "post_parser", "idempotency_key")
        options = {name: value for name, value in self.options.items() if name not in left_out}
        rest = {name: value for name, value in self.rest.items() if name not in ("stream", "stream_cls")}
        return {**rest, "body": json.loads(data), "options": {**options, "headers": headers}, "cast_to": response}

    def shown(self) -> dict[str, Any]:
        """The request as one whose answer is there."""
        return {"body": self.body, "options": {**self.options, "max_retries": 0}, **self.rest}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _without(headers: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if str(name).lower() not in names}


def _openai() -> Any:
    return sys.modules["openai"]  # who has a client has loaded it


@contextmanager
def _unsent() -> Iterator[None]:
    """What keeps a client from having an answer costs one sample."""
    try:
        yield
    except _openai().APIError as error:
        raise Unsent(error) from error


def _reply(response: Any) -> Reply:
    """A response of httpx or its successor, unzipped by it."""
    from multidict import CIMultiDict  # noqa: PLC0415 - a client without a strategy needs it not

    headers = CIMultiDict(response.headers.multi_items())
    for name in _OF_THE_BYTES:
        headers.popall(name, None)
    content: bytes = response.content
    return Reply(status=response.status_code, headers=headers, body=content, plain=content)


def _answered(client: Any, reply: Reply) -> Any:
    """A client of the package, of the same kind, to which everything is answered with this reply."""
    openai, httpx = _openai(), sys.modules["httpx"]
    waits = isinstance(client, openai.AsyncOpenAI)
    make, transport = (openai.AsyncOpenAI, httpx.AsyncClient) if waits else (openai.OpenAI, httpx.Client)

    def answer(request: Any) -> Any:
        return httpx.Response(reply.status, headers=list(reply.headers.items()), content=reply.body, request=request)

    # the public transport of httpx that answers by a function; its name says what most use it for
    own = transport(transport=httpx.MockTransport(answer))
    return make(api_key="none", base_url=client.base_url, http_client=own, max_retries=0)


def kind_of(client: object) -> type[_Sync] | type[_Async] | None:
    """What makes of a client a wrapped one; None when it is none of the openai package's."""
    openai = sys.modules.get("openai")
    if openai is None:
        return None
    if isinstance(client, openai.OpenAI):
        return _Sync
    return _Async if isinstance(client, openai.AsyncOpenAI) else None


def wrapped_client(client: C, kind: type[_Sync] | type[_Async], in_use: InUse) -> C:
    """The client with a library; the one that was given stays as it is, and shares its connections."""
    own: Any = type(client)
    attributes = {
        "_in_use": in_use,
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
    }
    made: C = object.__new__(type(own.__name__, (kind, own), attributes))
    vars(made).update({name: value for name, value in vars(client).items() if not _is_bound(own, name)})
    return made


def _is_bound(own: type, name: str) -> bool:
    """Resources (`client.chat`) are made when first asked for, and would go on to send by the given client."""
    return isinstance(getattr(own, name, None), cached_property)
