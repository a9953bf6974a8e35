"""A model that a reward asks, named before there is a run through whose record and budget it could be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from tfgrpo.caller import Caller, CallKey
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Policy, Sampling
from tfgrpo.types import Completion, Message


class LateCaller:
    """Stands in for a `Caller` until a run binds it; what it asks is then recorded and counts against the budget.

    List it in the task: `Task(models=(late,), reward=judge(late), ...)`. Runs side by side each bind their own.

    Example:
        >>> late = LateCaller(connect("openai/gpt-4.1-mini"))  # doctest: +SKIP
        >>> task = load_task("problems.jsonl", reward="judge", reward_options={"caller": late})  # doctest: +SKIP
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def name(self) -> str:
        return self.policy.name

    async def complete(self, messages: Sequence[Message], key: CallKey, sampling: Sampling) -> Completion:
        """As `Caller.complete`, through the run in which this is called.

        Raises:
            InputError: no run has bound it.
        """
        caller = _BOUND.get().get(self)
        if caller is None:
            raise InputError(
                f"the model {self.name!r} of a reward was asked by a run that does not know it; "
                f"list it in the task: Task(models=(...,))"
            )
        return await caller.complete(messages, key, sampling)


_BOUND: ContextVar[Mapping[LateCaller, Caller]] = ContextVar("bound", default={})  # noqa: B039 - never changed in place


@contextmanager
def bound(models: Iterable[LateCaller], caller_of: Callable[[Policy], Caller]) -> Iterator[None]:
    """Within the block, and the tasks that start in it, each of `models` asks through its own caller."""
    token = _BOUND.set({**_BOUND.get(), **{model: caller_of(model.policy) for model in models}})
    try:
        yield
    finally:
        _BOUND.reset(token)
