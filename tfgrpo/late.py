"""A model that a reward asks, named before there is a run through whose record and budget it could be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from tfgrpo.caller import Caller, CallKey
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Policy, Sampling
from tfgrpo.types import Completion, Message

OWN = "the solver's own model"


class LateCaller:
    """Stands in for a `Caller` until a run binds it; what it asks is then recorded and counts against the budget.

    List it in the task: `Task(models=(late,), reward=judge(late), ...)`. Runs side by side each bind their own.

    Example:
        >>> late = LateCaller(connect("openai/gpt-4.1-mini"))  # doctest: +SKIP
        >>> task = load_task("problems.jsonl", reward="judge", reward_options={"caller": late})  # doctest: +SKIP

    Args:
        policy: None for the model that is itself being learned with; a run then says so.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy

    @property
    def name(self) -> str:
        return OWN if self.policy is None else self.policy.name

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


class Asks(Protocol):
    """What a late caller asks through: a `Caller`, or the connection of one request."""

    async def complete(self, messages: Sequence[Message], key: CallKey, sampling: Sampling) -> Completion: ...


_BOUND: ContextVar[Mapping[LateCaller, Asks]] = ContextVar("bound", default={})  # noqa: B039 - never changed in place


@contextmanager
def bound(
    models: Iterable[LateCaller], caller_of: Callable[[Policy], Caller], own: Policy | None = None
) -> Iterator[None]:
    """Within the block, and the tasks that start in it, each of `models` asks through its own caller.

    Those without a policy ask `own`, the model that is learned with.
    """
    asked = {model: model.policy or own for model in models}
    with bound_to({model: caller_of(policy) for model, policy in asked.items() if policy is not None}):
        yield


@contextmanager
def bound_to(callers: Mapping[LateCaller, Asks]) -> Iterator[None]:
    """Within the block, and the tasks that start in it, each of these asks through what is given."""
    token = _BOUND.set({**_BOUND.get(), **callers})
    try:
        yield
    finally:
        _BOUND.reset(token)


def notices(models: Iterable[LateCaller]) -> list[str]:
    """What a reader of the results should know of the models that the reward asks."""
    if all(model.policy is not None for model in models):
        return []
    return ["the model judged its own answers, and likes its own style; give another judge before trusting a gain"]
