"""litellm with experiences in its requests: `completion`, `acompletion`, `responses` and `aresponses`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfgrpo.serving.apply import Api, Body
from tfgrpo.serving.following import FollowedLibrary, as_mappings
from tfgrpo.serving.in_use import Asked, InUse

POSITIONAL: Mapping[Api, tuple[str, ...]] = {"chat": ("model", "messages"), "responses": ("input", "model")}
MESSAGES: Mapping[Api, str] = {"chat": "messages", "responses": "input"}


class WrappedLiteLLM:
    """Stands for the module, or for a Router; everything but the four functions is the given one's own.

    Functions of litellm that call these four by themselves (`batch_completion`, `completion_with_retries`) call the
    bare ones.
    """

    __slots__ = ("_in_use", "_litellm")
    _litellm: Any
    _in_use: InUse

    def __init__(self, litellm: Any, in_use: InUse) -> None:
        object.__setattr__(self, "_litellm", litellm)
        object.__setattr__(self, "_in_use", in_use)

    @property
    def experience(self) -> FollowedLibrary:
        """The library: its version, and what was put into the last request."""
        return self._in_use.library

    def completion(self, *args: Any, **kwargs: Any) -> Any:
        """`litellm.completion`."""
        return self._in_use.ask(_asked("chat", self._litellm.completion, args, kwargs))

    async def acompletion(self, *args: Any, **kwargs: Any) -> Any:
        """`litellm.acompletion`."""
        return await self._in_use.aask(_asked("chat", self._litellm.acompletion, args, kwargs))

    def responses(self, *args: Any, **kwargs: Any) -> Any:
        """`litellm.responses`."""
        return self._in_use.ask(_asked("responses", self._litellm.responses, args, kwargs))

    async def aresponses(self, *args: Any, **kwargs: Any) -> Any:
        """`litellm.aresponses`."""
        return await self._in_use.aask(_asked("responses", self._litellm.aresponses, args, kwargs))

    def close(self) -> None:
        """Closes the library that was opened for it."""
        self._in_use.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._litellm, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._litellm, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._litellm), "experience", "close"})


def _asked(api: Api, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asked[Any, Any]:
    """The arguments as a body."""
    names = POSITIONAL[api][: len(args)]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    rest = args[len(names) :]
    items = given.get(MESSAGES[api])
    if isinstance(items, Sequence) and not isinstance(items, str):
        given[MESSAGES[api]] = as_mappings(items)

    def send(body: Body) -> Any:
        if not rest:
            return function(**body)
        return function(*(body[name] for name in names), *rest, **{k: v for k, v in body.items() if k not in names})

    return Asked(body=given, api=api, send=send)


def is_litellm(client: object) -> bool:
    """Whether it is the module or something of it that asks by the same names."""
    home = getattr(client, "__name__", None) if not isinstance(client, type) else None
    own = home == "litellm" or type(client).__module__.partition(".")[0] == "litellm"
    return own and all(callable(getattr(client, name, None)) for name in ("completion", "acompletion"))
