"""What every model looks like to the rest of the package: one protocol and the options of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfgrpo.types import Completion, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The options of one call. `max_tokens` is always sent, because the budget is reserved on it.

    `schema` is a JSON schema that the answer should follow (structured output); a policy whose server refuses it
    degrades to words in the prompt and says so. `seed` is honoured where the backend has one.
    """

    temperature: float = 1.0
    max_tokens: int = 1024
    top_p: float = 1.0
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # handed to the server as it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Dollars per million tokens. `cached` is what a prompt token costs that was read from the provider's cache."""

    prompt_usd_per_mtok: float
    completion_usd_per_mtok: float
    cached_usd_per_mtok: float | None = None  # None: as prompt

    def cost_usd(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Dollars for one call; `cached_tokens` are a part of `prompt_tokens`."""
        cached_rate = self.prompt_usd_per_mtok if self.cached_usd_per_mtok is None else self.cached_usd_per_mtok
        fresh = prompt_tokens - cached_tokens
        micro = fresh * self.prompt_usd_per_mtok + cached_tokens * cached_rate
        return (micro + completion_tokens * self.completion_usd_per_mtok) / 1e6


class Policy(Protocol):
    """A model that can be asked. Retries, time-outs and provider quirks are its own business."""

    @property
    def name(self) -> str:
        """What the user wrote: "openai/gpt-4.1-mini"."""
        ...

    @property
    def price(self) -> Price | None:
        """None when unknown; a model that runs on the user's own machine costs 0."""
        ...

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One answer.

        Raises:
            TransportError: no reply after all retries.
            AuthError: no key, or a wrong one.
            RequestError: the server refuses the request itself.
        """
        ...

    async def aclose(self) -> None:
        """Give back connections, processes and memory."""
        ...
