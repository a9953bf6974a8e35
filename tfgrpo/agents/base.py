"""What an agent is: any coroutine that answers a problem through a chat client, and the limits of one rollout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tfgrpo.errors import InputError
from tfgrpo.types import Message, Problem

if TYPE_CHECKING:
    from tfgrpo.agents.client import RecordedClient

Answer: TypeAlias = str | Sequence[Message] | None
"""The final words, or the whole trajectory, or None: the last reply's words are the answer."""
Run: TypeAlias = "Callable[[Problem, RecordedClient], Awaitable[Any]]"
"""`async def agent(problem, client) -> Answer`; anything else that it returns is refused by name."""

DEFAULT_CALLS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """A coroutine and its limits. A rollout that reaches one is scored with what it has; `finish_reason` is "length".

    Agents of the same name are the same to a resumed run: change the name when you change what the agent does.

    Args:
        run: `async def agent(problem, client)`. The problem comes without its answer and without `meta`.
        name: "" is the function's own name.
        max_calls: calls of one rollout at most; a budget of calls is divided by it.
        max_tokens: prompt and completion tokens of all calls; no call is begun once they are used up.
        seconds: wall time of one rollout, waiting for a free slot included.
        sees: keys of `problem.meta` that the agent may see, such as the tables of a question.
        outside: whether its tools bring in text that others may have written. Lessons from rollouts with results of
            such tools are marked as untrusted and ship only when they were shown to help.

    Example:
        >>> async def twice(problem, client):
        ...     draft = await client.complete(problem.messages)
        ...     return await client.complete([*problem.messages, {"role": "user", "content": f"Check: {draft}"}])
        >>> Agent(run=twice, max_calls=2).label
        'twice'
    """

    run: Run
    name: str = ""
    max_calls: int = DEFAULT_CALLS
    max_tokens: int | None = None
    seconds: float | None = None
    sees: tuple[str, ...] = ()
    outside: bool = True

    def __post_init__(self) -> None:
        if not callable(self.run):
            raise InputError(f"an agent is `async def agent(problem, client)`, got {self.run!r}")
        given = [limit for limit in (self.max_calls, self.max_tokens, self.seconds) if limit is not None]
        if min(given) <= 0:
            raise InputError(
                f"the limits of an agent must be positive, got max_calls={self.max_calls}, "
                f"max_tokens={self.max_tokens}, seconds={self.seconds}"
            )

    @property
    def label(self) -> str:
        """What runs and records know it by."""
        return self.name or str(getattr(self.run, "__qualname__", type(self.run).__name__))

    @property
    def fingerprint(self) -> list[object]:
        """What decides how it answers, as far as that can be told."""
        return [self.label, self.max_calls, self.max_tokens, self.seconds, list(self.sees)]


def as_agent(agent: Agent | Run) -> Agent:
    """The agent itself, or a bare coroutine function with the usual limits.

    Raises:
        InputError: it cannot be called.
    """
    return agent if isinstance(agent, Agent) else Agent(run=agent)
