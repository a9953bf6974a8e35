"""A chat model behind a wire: dialect, retries and bookkeeping, the same for every transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from tfgrpo.events import Event
from tfgrpo.policy.base import Price, Sampling
from tfgrpo.policy.capabilities import Degraded, Dialect, Request
from tfgrpo.policy.replies import Asked, completion_of
from tfgrpo.policy.retry import Retries
from tfgrpo.policy.wire import Failure, Wire, error_of
from tfgrpo.types import Completion, Message

MAX_REFUSALS = 12  # every parameter can be refused once; more is a server that contradicts itself


class ChatPolicy:
    """What `connect` returns for every model that is reached through a server or a provider's API."""

    def __init__(
        self,
        wire: Wire,
        *,
        name: str,
        model: str,
        where: str,
        price: Price | None,
        timeout_s: float = 120.0,
        max_retries: int = 6,
        backoff_s: float = 0.5,
        dialect: Dialect | None = None,
    ) -> None:
        self.name, self.price = name, price
        self._wire, self._model, self._where, self._timeout_s = wire, model, where, timeout_s
        self._dialect = dialect or Dialect()
        self._retries = Retries(max_retries=max_retries, backoff_s=backoff_s, on_slow=self._tell_slow)
        self._listeners: list[Callable[[Event], None]] = []
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"ChatPolicy({self.name!r} at {self._where})"

    def on_notice(self, listener: Callable[[Event], None]) -> None:
        """Tell `listener` what the caller should know: refused parameters, rate limits, missing usage."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One answer; see `Policy.complete` for the errors."""
        refusals = 0
        while True:
            request = self._dialect.request(self._model, messages, sampling)
            outcome, tries = await self._retries.run(partial(self._send, request))
            if not isinstance(outcome, Failure):
                return outcome
            degraded = self._dialect.learn(request, outcome)
            refusals += 1
            if degraded is None or refusals == MAX_REFUSALS:
                raise error_of(outcome, self._model, self._where, tries)
            self._tell_degraded(degraded, outcome)

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def _send(self, request: Request) -> Completion | Failure:
        started = time.monotonic()
        reply = await self._wire.send(request.body, self._timeout_s)
        if isinstance(reply, Failure):
            return reply
        latency_s = time.monotonic() - started
        asked = Asked(policy=self.name, prompt=request.messages, price=self.price, latency_s=latency_s)
        completion = completion_of(reply, asked)
        if isinstance(completion, Completion) and completion.usage.estimated:
            self._tell_once("usage_missing", note="the server tells no token usage; it is estimated from now on")
        return completion

    def _tell_degraded(self, degraded: Degraded, failure: Failure) -> None:
        if degraded.news:
            instead = degraded.instead or "nothing"
            self._tell("parameter_refused", parameter=degraded.parameter, instead=instead, said=failure.words)

    def _tell_slow(self, failure: Failure) -> None:
        limit = int(self._retries.pacer.limit)
        self._tell("rate_limited", in_flight_limit=limit, retry_after_s=failure.retry_after_s, said=failure.words)

    def _tell_once(self, name: str, **data: object) -> None:
        if name not in self._told:
            self._told.add(name)
            self._tell(name, **data)

    def _tell(self, name: str, **data: object) -> None:
        for listener in self._listeners:
            listener(Event(name=name, data={"model": self.name, **data}))
