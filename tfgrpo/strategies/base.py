"""What a strategy is: it asks for several answers to one question, and returns one of them with its bill.

    plain answer    sample(0)
    a strategy      (problem, sample) -> Chosen

`sample(number, words)` is the one way to the model: whoever runs the strategy (an evaluation, the proxy) pays, counts,
records and limits every call behind it. A strategy sees neither reference answers nor `meta`, so that what it reaches
in an evaluation it reaches in an application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.late import LateCaller
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.rewards.judge import Asks
from tfgrpo.types import Completion, Message, Problem, Usage

LOST = (TransportError, RequestError)
"""Failures of one sample, which cost nobody else an answer."""


class Sample(Protocol):
    """The metered way to the model for one question."""

    async def __call__(self, number: int, words: str = "") -> Completion:
        """Answer number `number` to the question, with `words` after it if there are any.

        Raises:
            TransportError, RequestError: this sample is lost; others may succeed.
            BudgetExhausted, AuthError: no further one can.
        """
        ...

    async def more(self, urgency: float, calls: int) -> bool:
        """Whether so many further calls are granted; of two questions the one of greater urgency comes first."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What calls cost; `cost_usd` is None as soon as the price of one is unknown."""

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0

    def __add__(self, other: Bill) -> Bill:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Bill(
            calls=self.calls + other.calls,
            usage=self.usage + other.usage,
            cost_usd=(self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
        )

    @staticmethod
    def of(replies: Iterable[Completion]) -> Bill:
        """The bill of these replies.

        Example:
            >>> reply = Completion(prompt=(), messages=(), text="5", policy="any", cost_usd=0.25)
            >>> Bill.of([reply, reply]).cost_usd
            0.5
        """
        bills = [Bill(calls=1, usage=reply.usage, cost_usd=reply.cost_usd) for reply in replies]
        return sum(bills, Bill())


class Meter:
    """A judge whose calls are added up, so that one question's choice can be told its price."""

    def __init__(self, asks: Asks) -> None:
        self.asks, self.bill = asks, Bill()

    async def complete(self, messages: list[Message], key: CallKey, sampling: Sampling) -> Completion:
        """As `Caller.complete`."""
        reply = await self.asks.complete(messages, key, sampling)
        self.bill += Bill.of([reply])
        return reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The answer that a strategy returns, and everything that was paid for it.

    `path[i]` is the number of the answer it would have returned after the first i + 1 of them; empty where that is not
    known without further calls. `readings` and `scores` are what its rule can be replayed on.
    """

    number: int
    answers: Mapping[int, Completion]
    why: str  # "3 of 5 agree"
    path: tuple[int, ...] = ()
    scores: Mapping[int, float] = field(default_factory=dict)
    readings: Mapping[int, str | None] = field(default_factory=dict)
    failed: int = 0  # samples that got no reply
    judge: Bill = field(default_factory=Bill)

    @property
    def completion(self) -> Completion:
        """The chosen answer, as it was paid for."""
        return self.answers[self.number]

    @property
    def bill(self) -> Bill:
        """All calls: of the model, and of the judge."""
        return Bill.of(self.answers.values()) + self.judge


class Strategy(Protocol):
    """One question in, one of several answers out.

    `always` is how many answers to the bare question it asks for whatever they are, under the numbers 0 to
    `always` - 1; `max_calls` the most calls of the model for one question. `models` are judges that a run has to bind.
    `oracle` says that it looks at the reference answer, so that it is a bound and no result.
    """

    @property
    def name(self) -> str: ...
    @property
    def always(self) -> int: ...
    @property
    def max_calls(self) -> int: ...
    @property
    def models(self) -> tuple[LateCaller, ...]: ...
    @property
    def oracle(self) -> bool: ...

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        """The chosen answer.

        Raises:
            TransportError, RequestError: not one sample got a reply.
            BudgetExhausted, AuthError: as they come, when all calls in flight are over.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The part of a strategy that asks for `n` answers, whatever they are."""

    n: int
    oracle: bool = field(default=False, init=False)

    @property
    def always(self) -> int:
        """All of them."""
        return self.n

    @property
    def max_calls(self) -> int:
        return self.n


@runtime_checkable
class Replayable(Protocol):
    """A strategy whose choice among any of its answers can be told without a new call.

    Only where it asks for the same number of answers whatever they are: then every order of them was as likely, and
    the mean over orders says without bias what fewer answers would have reached.
    """

    def pick(self, readings: Sequence[str | None], scores: Sequence[float]) -> int:
        """The place of the answer that it returns of these."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A strategy that can tell before anything is spent that it cannot work."""

    async def check(self, problem: Problem) -> None:
        """Raises InputError where it cannot choose among answers to such a problem."""
        ...


@runtime_checkable
class Averaged(Protocol):
    """A strategy that keeps to a mean number of calls over all questions; None: as many as each one takes."""

    @property
    def mean(self) -> float | None: ...


def hidden(problem: Problem, sees: Sequence[str] = ()) -> Problem:
    """The problem as a strategy may see it: no reference answer, and only the meta that was asked for.

    Example:
        >>> hidden(Problem(id="p", messages=(), answer="5", meta={"schema": {}, "gold": "5"}), ["schema"]).meta
        {'schema': {}}
    """
    return replace(problem, answer=None, meta={name: problem.meta[name] for name in sees if name in problem.meta})


@dataclass(frozen=True, slots=True)
class Drawn:
    """Answers by number, in order; `lost` are the failures of single samples."""

    answers: dict[int, Completion]
    lost: list[BaseException]


async def draw(sample: Sample, numbers: Iterable[int]) -> Drawn:
    """Asks for all of these at once and waits for all; a failed sample loses no other.

    Raises:
        BudgetExhausted, AuthError: as they come, when the replies in flight are there.
    """
    wanted = list(numbers)
    results = await asyncio.gather(*(sample(number) for number in wanted), return_exceptions=True)
    stop = next((r for r in results if isinstance(r, BaseException) and not isinstance(r, LOST)), None)
    if stop is not None:
        raise stop
    answers = {number: r for number, r in zip(wanted, results, strict=True) if isinstance(r, Completion)}
    return Drawn(answers, [r for r in results if isinstance(r, BaseException)])


async def drawn_or_raise(sample: Sample, count: int) -> Drawn:
    """The answers 0 to `count` - 1.

    Raises:
        TransportError, RequestError: the first failure, when not one sample got a reply.
    """
    drawn = await draw(sample, range(count))
    if not drawn.answers:
        raise drawn.lost[0]
    return drawn


def check_count(name: str, n: int, least: int) -> None:
    """Refuses a number of answers that is too small."""
    if n < least:
        raise InputError(f"{name} needs at least {least} answers to choose from, got {n}: {name}:{max(least, 5)}")
