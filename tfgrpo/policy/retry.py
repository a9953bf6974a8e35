"""Try again, but politely: jittered back-off for each call, and one brake that all calls to a server share."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from tfgrpo.policy.wire import Failure

T = TypeVar("T")

MAX_BACKOFFS = 60  # the longest pause of one call, in units of the first one: 30 s by default
MAX_PAUSE_S = 300.0  # a longer Retry-After is a daily quota: the call is given up sooner than a day is slept away
RATE_LIMITED_TRIES = 5  # times max_retries: a storm of 429 passes, and the brake has slowed everybody down
UNSEEN_SERVER_RETRIES = 2  # a server that never answered is rather down than busy


class Pacer:
    """A shared pause after `Retry-After`, and a limit on calls in flight that falls on 429 and rises on replies (AIMD).

    Costs nothing while the server has never said 429.
    """

    def __init__(self) -> None:
        self.limit = math.inf
        self.in_flight = 0
        self.resume_at = 0.0
        self._last_cut = -math.inf
        self._queue: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> float:
        """Wait for a turn; returns when it began (monotonic seconds)."""
        while True:
            now = time.monotonic()
            if now < self.resume_at:
                await asyncio.sleep((self.resume_at - now) * random.uniform(1.0, 1.1))
            elif self.in_flight >= max(1, math.floor(self.limit) if self.limit < math.inf else self.in_flight + 1):
                await self._wait_for_room()
            else:
                self.in_flight += 1
                return now

    def leave(self) -> None:
        self.in_flight -= 1
        self._wake()

    def slow_down(self, started_at: float, retry_after_s: float | None) -> bool:
        """The server said 429 to a call that began at `started_at`; true when this is news."""
        now = time.monotonic()
        if retry_after_s:
            self.resume_at = max(self.resume_at, now + min(retry_after_s, MAX_PAUSE_S))
        if started_at < self._last_cut:  # sent before the last cut: part of the same jam
            return False
        self._last_cut = now
        self.limit = max(1.0, 0.7 * min(self.limit, self.in_flight))
        return True

    def speed_up(self) -> None:
        """A reply arrived."""
        if self.limit < math.inf:
            self.limit += 1.0 / self.limit
            self._wake()

    async def _wait_for_room(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._wake()
            raise

    def _wake(self) -> None:
        room = self.limit - self.in_flight
        while room >= 1 and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1


@dataclass(slots=True)
class Tries:
    """What happened to one call so far."""

    made: int = 0
    rate_limited: int = 0


class Retries:
    """Runs attempts until there is a reply, a refusal, or no patience left. Failures are values, not exceptions."""

    def __init__(self, *, max_retries: int, backoff_s: float = 0.5, on_slow: Callable[[Failure], None] | None = None):
        self.max_retries = max_retries
        self.pacer = Pacer()
        self._seen = False
        self._on_slow = on_slow
        self._jitter = tenacity.wait_random_exponential(multiplier=backoff_s, max=MAX_BACKOFFS * backoff_s)

    async def run(self, send: Callable[[], Awaitable[T | Failure]]) -> tuple[T | Failure, int]:
        """The outcome of the last attempt, and how many there were."""
        tries = Tries()
        retrying = tenacity.AsyncRetrying(
            wait=self._wait,
            stop=tenacity.stop_never,
            retry=tenacity.retry_if_result(lambda outcome: not self._done(outcome, tries)),
        )
        return await retrying(self._attempt, send, tries), tries.made

    async def _attempt(self, send: Callable[[], Awaitable[T | Failure]], tries: Tries) -> T | Failure:
        started = await self.pacer.enter()
        try:
            outcome = await send()
        finally:
            self.pacer.leave()
        tries.made += 1
        if not isinstance(outcome, Failure):
            self._seen = True
            self.pacer.speed_up()
        elif outcome.kind == "rate":
            tries.rate_limited += 1
            if self.pacer.slow_down(started, outcome.retry_after_s) and self._on_slow is not None:
                self._on_slow(outcome)
        return outcome

    def _done(self, outcome: object, tries: Tries) -> bool:
        if not isinstance(outcome, Failure) or not outcome.retried:
            return True
        others = tries.made - tries.rate_limited
        if outcome.kind == "connect" and not self._seen and others > UNSEEN_SERVER_RETRIES:
            return True
        return others > self.max_retries or tries.rate_limited > RATE_LIMITED_TRIES * self.max_retries

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Jittered exponential back-off, and at least what the server asked for."""
        outcome: Any = state.outcome.result() if state.outcome is not None else None
        asked = outcome.retry_after_s if isinstance(outcome, Failure) else None
        return max(min(asked or 0.0, MAX_PAUSE_S), self._jitter(state))
