"""`tfgrpo.wrap`: a client of an application with what was learned in its requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tfgrpo.errors import InputError
from tfgrpo.serving.following import FollowedLibrary, Place, Use, follow
from tfgrpo.serving.in_use import InUse, completed
from tfgrpo.serving.library_source import POLL_S
from tfgrpo.serving.litellm_client import WrappedLiteLLM, is_litellm
from tfgrpo.serving.openai_client import kind_of, wrapped_client

if TYPE_CHECKING:
    from tfgrpo.serving.strategy import Several
    from tfgrpo.strategies.base import Strategy

C = TypeVar("C")


@overload
def wrap(
    client: ModuleType,
    store: Place | FollowedLibrary,
    *,
    namespace: str = ...,
    token: str | None = ...,
    poll_s: float = ...,
    on_use: Callable[[Use], None] | None = ...,
    strategy: Strategy | str | None = ...,
    strategy_judge: str = ...,
) -> WrappedLiteLLM: ...
@overload
def wrap(
    client: C,
    store: Place | FollowedLibrary,
    *,
    namespace: str = ...,
    token: str | None = ...,
    poll_s: float = ...,
    on_use: Callable[[Use], None] | None = ...,
    strategy: Strategy | str | None = ...,
    strategy_judge: str = ...,
) -> C: ...
def wrap(
    client: Any,
    store: Place | FollowedLibrary,
    *,
    namespace: str = "default",
    token: str | None = None,
    poll_s: float = POLL_S,
    on_use: Callable[[Use], None] | None = None,
    strategy: Strategy | str | None = None,
    strategy_judge: str = "",
) -> Any:
    """The client, with experiences in its chat completions and responses. Everything else of it stays as it is.

    The given client is not changed and shares its connections with the wrapped one. `client.experience` is the library:
    `.version`, `.status()`, and `.last`, which is what was put into the last request of this thread or task. Closing
    the client closes the library, unless the library was opened by `follow`.

    Args:
        client: an `openai.OpenAI` or `openai.AsyncOpenAI` (or one of their kinds, such as Azure's), or the litellm
            module or a Router of it.
        store: as for `follow`, or a library that `follow` opened, which several clients may share.
        namespace: of the store.
        token: for a Chroma server that wants one.
        poll_s: seconds between two looks at the store.
        on_use: is called before each request is sent, in its thread or task, with what was put in; what it raises
            reaches the caller, and the request is not sent.
        strategy: asks several times for each chat completion and returns one answer: "vote:5", or an object such as
            `tfgrpo.strategies.vote(5, reading="number")`; for clients of the openai package. None asks once.
        strategy_judge: the model that chooses for `best` and `tournament`, at the same server; "" is the request's own.

    Raises:
        InputError: another kind of client, or one that is wrapped already; a strategy that needs a task to choose.
        StoreError: there is no such file, store, namespace, version or tag.

    Example:
        >>> from openai import OpenAI
        >>> from experience_store import Snapshot, Version
        >>> empty = Snapshot(version=Version(number=0, parent=0, rows=()), experiences=())
        >>> client = wrap(OpenAI(api_key="sk-..."), empty)
        >>> isinstance(client, OpenAI), client.experience.version
        (True, 'v0')
        >>> client.close()
    """
    kind = None if is_litellm(client) else kind_of(client)
    if isinstance(getattr(client, "_in_use", None), InUse):
        raise InputError(
            f"this client is wrapped already, with {client.experience!r}; wrap the client that it was made from"
        )
    if kind is None and not is_litellm(client):
        raise InputError(
            f"wrap takes an openai.OpenAI or AsyncOpenAI, or the litellm module, got {_named(client)}; for any other "
            "client: library = tfgrpo.follow(store), then send library(messages)"
        )
    if inspect.iscoroutinefunction(on_use):
        raise InputError("on_use is called and not awaited: give a plain function")
    several = _several(strategy, strategy_judge)
    if several is not None and kind is None:
        raise InputError("strategy= is for clients of the openai package; for litellm use `tfgrpo serve --strategy`")
    if isinstance(store, FollowedLibrary):
        if namespace != "default" or token is not None or poll_s != POLL_S:
            raise InputError("namespace, token and poll_s belong to follow(...), which opened this library")
        in_use = InUse(library=store, on_use=on_use, several=several)
    else:
        library = follow(store, namespace=namespace, token=token, poll_s=poll_s)
        in_use = InUse(library=library, on_use=on_use, several=several, owned=True)
    return WrappedLiteLLM(client, in_use) if kind is None else wrapped_client(client, kind, in_use)


def _several(strategy: Strategy | str | None, judge: str) -> Several | None:
    """The strategy, tried on an empty answer."""
    if strategy is None:
        if judge:
            raise InputError('strategy_judge needs strategy=, such as strategy="best:5"')
        return None
    from tfgrpo.serving.strategy import Several  # noqa: PLC0415 - a client without one loads no rewards and judges
    from tfgrpo.strategies.named import resolve_strategy  # noqa: PLC0415

    several = Several(resolve_strategy(strategy), judge=judge)
    completed(several.check())
    return several


def _named(client: object) -> str:
    if isinstance(client, ModuleType):
        return f"the module {client.__name__}"
    if isinstance(client, type):
        return f"the class {client.__name__}; make an object of it first"
    return f"{type(client).__module__}.{type(client).__name__}"
