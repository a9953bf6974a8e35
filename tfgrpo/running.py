"""What the public verbs share: their sync form, a clean end on an interrupt, models opened by name."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tfgrpo.errors import InputError, Interrupted
from tfgrpo.policy import Policy, connect

P = ParamSpec("P")
T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T], instead: str) -> T:
    """Runs an async verb to its end.

    Raises:
        InputError: called inside a running loop; `instead` is what to await there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    coroutine.close()
    raise InputError(f"this runs inside an event loop (a notebook or a web application); use: await {instead}(...)")


def synchronous(verb: Callable[P, Coroutine[Any, Any, T]], name: str) -> Callable[P, T]:
    """The sync form of an async verb: same arguments, same documentation, for programs without an event loop."""

    @functools.wraps(verb)
    def run(*args: P.args, **options: P.kwargs) -> T:
        return run_sync(verb(*args, **options), f"{verb.__module__.partition('.')[0]}.{verb.__name__}")

    run.__name__ = run.__qualname__ = name
    return run


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs all jobs to their end and then raises the first error: replies in flight are paid for and are recorded."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    failed = next((r for r in results if isinstance(r, BaseException)), None)
    if failed is not None:
        raise failed
    return [r for r in results if not isinstance(r, BaseException)]


async def interruptible(work: Coroutine[Any, Any, T], folder: Path) -> T:
    """The result, or `Interrupted` with words on how to go on when the work is cancelled (Ctrl-C)."""
    try:
        return await work
    except asyncio.CancelledError:
        raise Interrupted(
            f"stopped; every finished call is kept in {folder}; the same command goes on from there"
        ) from None


async def opened(stack: AsyncExitStack, model: Policy | str) -> Policy:
    """A policy by its name, closed with the stack; one that was given stays its owner's."""
    if not isinstance(model, str):
        return model
    policy = connect(model)
    stack.push_async_callback(policy.aclose)
    return policy
