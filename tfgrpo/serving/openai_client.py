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

Web sockets (`responses.connect`, `realtime`) are not touched, as in the proxy.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, TypeVar

from tfgrpo.serving.apply import Api, Body, api_of_path
from tfgrpo.serving.following import FollowedLibrary
from tfgrpo.serving.in_use import InUse

C = TypeVar("C")


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
        post = partial(super().post, path, **rest)  # type: ignore[misc]
        asked = _asked(path, body, options or {}, post)
        if asked is None:
            return post(body=body, options=options or {})
        return self._in_use.ask(*asked)

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
        post = partial(super().post, path, **rest)  # type: ignore[misc]
        asked = _asked(path, body, options or {}, post)
        if asked is None:
            return await post(body=body, options=options or {})
        return await self._in_use.aask(*asked)

    async def close(self) -> None:
        """Closes the client, and the library that was opened for it."""
        try:
            await super().close()  # type: ignore[misc]
        finally:
            await asyncio.to_thread(self._in_use.close)  # a look at the store that is under way is waited for


def _asked(
    path: str, body: object, options: Mapping[str, Any], post: Callable[..., Any]
) -> tuple[Body, Api, Callable[[Body], Any]] | None:
    """The whole body, its API and how it is sent; None for a request that is none of a model's.

    `extra_body` is merged over the body by the package, later: what is changed in it has to be changed where it stands.
    """
    api = api_of_path(path)
    if api is None or not isinstance(body, Mapping):
        return None
    extra = options.get("extra_json")
    extra = extra if isinstance(extra, Mapping) else {}
    whole = {**body, **extra}

    def send(done: Body) -> Any:
        if done is whole:
            return post(body=body, options=options)
        new = {name: value for name, value in done.items() if whole.get(name) is not value}
        over = {name: new[name] for name in new if name in extra}
        return post(body={**body, **new}, options={**options, "extra_json": {**extra, **over}} if over else options)

    return whole, api, send


def kind_of(client: object) -> type[_Sync] | type[_Async] | None:
    """What makes of a client a wrapped one; None when it is none of the openai package's."""
    openai = sys.modules.get("openai")  # who has a client has loaded it
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
