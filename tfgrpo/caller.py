"""A policy that is recorded, budgeted and bounded: the only way in which the rest of the package asks a model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Protocol, runtime_checkable

from tfgrpo.budget import Ledger
from tfgrpo.errors import PolicyError, TransportError
from tfgrpo.events import Event
from tfgrpo.policy.base import Policy, Sampling
from tfgrpo.policy.tokens import estimate_tokens
from tfgrpo.record import CallKey, RunRecord, plain
from tfgrpo.types import Completion, Message, Problem, Prompt

__all__ = ["CallKey", "Caller", "Solver", "call_digest", "prompt_digest"]


@runtime_checkable
class Notifying(Protocol):
    """A policy that has things to tell: a parameter the model refused, a pause the server asked for."""

    def on_notice(self, listener: Callable[[Event], None]) -> None: ...


class Solver(Protocol):
    """What obtains the answer of a rollout, a gate pair or a test sample: a `Caller`, or an agent before one."""

    @property
    def policy(self) -> Policy: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def concurrency(self) -> int:
        """Requests in flight at most."""
        ...

    def busy_share(self) -> float:
        """Mean share of the slots that were busy."""
        ...

    async def answer(self, problem: Problem, prompt: Prompt, key: CallKey, sampling: Sampling) -> Completion:
        """One answer to a problem; the errors are those of `Caller.complete`."""
        ...


def _ignore(_: Event) -> None:
    return None


def prompt_digest(messages: Sequence[Message]) -> bytes:
    """The identity of a prompt; replies to the same one share its text on disk."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True, default=plain).encode()).digest()


def call_digest(policy: str, prompt: bytes, sampling: Sampling, key: CallKey) -> bytes:
    """The durable identity of a call: what is asked, of whom, how, and which call it is."""
    turn = (key.turn,) if key.turn else ()  # absent at 0, as in records that know no turns
    parts = (policy, prompt.hex(), _sampling_values(sampling), key.purpose, key.epoch, key.problem, key.sample, *turn)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=plain).encode()).digest()


def _sampling_values(s: Sampling) -> tuple[object, ...]:
    return (s.temperature, s.max_tokens, s.top_p, s.seed, s.schema, s.stop, s.extra)


class Caller:
    """Ask a policy, through the run's record, budget and concurrency limit.

    Equal messages under different keys are different calls; the same call asked twice is answered from the record.
    Callers that are given the same `slots` share one limit of requests in flight.
    With `seed`, a call that has none gets its own, derived from the key, so that a server that honours seeds makes the
    run repeatable.

    Example:
        >>> caller = Caller(policy, record=None, ledger=Ledger(Budget(calls=100)))      # doctest: +SKIP
        >>> await caller.complete(messages, CallKey(purpose="solve", problem="p1"), Sampling())  # doctest: +SKIP
    """

    def __init__(
        self,
        policy: Policy,
        *,
        record: RunRecord | None,
        ledger: Ledger,
        concurrency: int = 64,
        slots: asyncio.Semaphore | None = None,
        emit: Callable[[Event], None] = _ignore,
        solver: bool = True,
        seed: int | None = None,
    ) -> None:
        ledger.require_price(policy.name, policy.price)
        if record is not None:
            ledger.adopt(record, record.spend())
        if isinstance(policy, Notifying):
            policy.on_notice(emit)
        self.policy, self.record, self.ledger = policy, record, ledger
        self.concurrency, self.solver, self.seed = concurrency, solver, seed
        self.replayed_calls = 0
        self.emit = emit
        self._slots = slots or asyncio.Semaphore(concurrency)
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        self._busy = BusyClock(concurrency)
        self._token_factor = 1.0  # largest usage / estimate seen: the estimate learns the model's tokeniser

    @property
    def in_flight(self) -> int:
        return self._busy.in_flight

    def busy_share(self) -> float:
        """Mean share of the slots that were busy, from the first call's start to the last one's end."""
        return self._busy.share()

    async def complete(self, messages: Sequence[Message], key: CallKey, sampling: Sampling) -> Completion:
        """The recorded reply if there is one, else a new one, on disk before it is returned.

        Raises:
            TransportError: no reply after all retries; missing data, told in the event "call_failed".
            BudgetExhausted: the call could cross the budget.
            AuthError, RequestError: asking again cannot help.
            RunStateError: the reply could not be recorded.
        """
        prompt = prompt_digest(messages)
        digest = call_digest(self.policy.name, prompt, sampling, key)
        while digest in self._asked:  # the same call is in flight: its reply will be on disk
            await asyncio.wait((self._asked[digest],))
        known = self.replayed(digest, key)
        if known is not None:
            return known
        done = self._asked[digest] = asyncio.get_running_loop().create_future()
        try:
            async with self._slots:
                return await self._ask(messages, key, self._seeded(sampling, digest), prompt, digest)
        finally:
            del self._asked[digest]
            done.set_result(None)

    async def answer(self, problem: Problem, prompt: Prompt, key: CallKey, sampling: Sampling) -> Completion:
        """One answer to a problem: here one call; `tfgrpo.agents.solver` puts an agent behind the same method."""
        return (await self.complete(prompt.messages, key, sampling)).answering(prompt)

    async def aclose(self) -> None:
        """Close the policy; the record and the ledger belong to who made them."""
        await self.policy.aclose()

    def replayed(self, digest: bytes, key: CallKey) -> Completion | None:
        """The reply on record, if there is one; what an earlier process paid for it becomes spend of this one."""
        if self.record is None:
            return None
        known = self.record.get_call(digest)
        if known is not None:
            self.replayed_calls += 1
            if self.record.claim(digest):
                self.ledger.settle_paid(key.purpose, known, solver=self.solver)
        return known

    async def _ask(
        self, messages: Sequence[Message], key: CallKey, sampling: Sampling, prompt: bytes, digest: bytes
    ) -> Completion:
        estimate = estimate_tokens(messages, sampling)
        room = await self.ledger.reserve_or_wait(
            key.purpose,
            -int(-estimate * self._token_factor // 1),
            sampling.max_tokens,
            self.policy.price,
            solver=self.solver,
        )
        self._busy.start()
        try:
            completion = await self.policy.complete(messages, sampling)
        except TransportError as error:
            self.ledger.release(room, failed=True)
            self._tell("call_failed", key, error)
            raise
        except BaseException:
            self.ledger.release(room)
            raise
        finally:
            self._busy.stop()
        self.ledger.settle(room, completion)
        if not completion.usage.estimated:
            self._token_factor = max(self._token_factor, completion.usage.prompt_tokens / estimate)
        if self.record is not None:
            self.record.put_call(
                digest, key, completion, solver=self.solver, prompt=self._stored(prompt, messages, completion)
            )
        return completion

    def _stored(self, prompt: bytes, messages: Sequence[Message], completion: Completion) -> bytes:
        """The hash of the messages that were really sent, which differ where a schema was put into words."""
        same = len(messages) == len(completion.prompt) and all(
            a is b for a, b in zip(messages, completion.prompt, strict=True)
        )
        return prompt if same else prompt_digest(completion.prompt)

    def _seeded(self, sampling: Sampling, digest: bytes) -> Sampling:
        if self.seed is None or sampling.seed is not None:
            return sampling
        mixed = hashlib.sha256(digest + str(self.seed).encode()).digest()
        return replace(sampling, seed=int.from_bytes(mixed[:4], "big") >> 1)

    def _tell(self, name: str, key: CallKey, error: PolicyError) -> None:
        self.emit(Event(name=name, data={**asdict(key), "error": str(error)}))


class BusyClock:
    """Integrates how many slots are busy over time."""

    def __init__(self, slots: int) -> None:
        self.in_flight = 0
        self._slots = slots
        self._first: float | None = None
        self._last = 0.0
        self._busy_s = 0.0

    def start(self) -> None:
        now = self._advance()
        if self._first is None:
            self._first = now
        self.in_flight += 1

    def stop(self) -> None:
        self._advance()
        self.in_flight -= 1

    def share(self) -> float:
        if self._first is None or self._last <= self._first:
            return 0.0
        return self._busy_s / (self._slots * (self._last - self._first))

    def _advance(self) -> float:
        now = time.monotonic()
        self._busy_s += self.in_flight * (now - self._last)
        self._last = now
        return now
