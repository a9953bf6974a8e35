"""What a run may spend and what it has spent: every call is reserved at its worst case and settled on its usage.

A *call* is a reply that arrived. Retries of one request are not calls of their own, because no reply of theirs was
seen; a request that never got a reply is counted in `failed_calls` and gives its reservation back.

What stands against a budget at any time:

    committed = settled + reserved + sum over purposes p of max(held_p, unreplayed_p)

*settled*: replies of this process, or of an earlier one that were asked for again; *reserved*: calls in flight at
their worst case; *held*: kept aside on purpose (the final test); *unreplayed*: replies an earlier process of the same
run paid for and this one has not asked for yet. A call is admitted only if `committed` stays within the budget, so
that no interleaving of calls, kills and restarts crosses it as long as usage stays within its reservation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tfgrpo.errors import BudgetExhausted, InputError
from tfgrpo.policy.base import Price
from tfgrpo.types import Completion, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Limits of a run; None is unlimited. `calls` counts solver calls of every kind, the others count every call.

    Example:
        >>> Budget(usd=3.0).calls is None
        True
    """

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "tokens", "calls", "seconds"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise InputError(f"the budget for {name} must be 0 or more, got {limit!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """What calls have cost. `usd` is the sum over priced calls only; `unpriced_calls` says how many are not in it."""

    calls: int = 0
    solver_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usd: float = 0.0
    unpriced_calls: int = 0
    failed_calls: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            calls=self.calls + other.calls,
            solver_calls=self.solver_calls + other.solver_calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            usd=self.usd + other.usd,
            unpriced_calls=self.unpriced_calls + other.unpriced_calls,
            failed_calls=self.failed_calls + other.failed_calls,
        )

    @staticmethod
    def of(usage: Usage, cost_usd: float | None, *, solver: bool) -> Spend:
        """The spend of one reply."""
        return Spend(
            calls=1,
            solver_calls=int(solver),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usd=cost_usd or 0.0,
            unpriced_calls=int(cost_usd is None),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """A quantity of each budgeted thing."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(calls=self.calls + other.calls, tokens=self.tokens + other.tokens, usd=self.usd + other.usd)

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(calls=self.calls - other.calls, tokens=self.tokens - other.tokens, usd=self.usd - other.usd)

    def at_least(self, other: Amounts) -> Amounts:
        """The larger of both, thing by thing."""
        return Amounts(
            calls=max(self.calls, other.calls), tokens=max(self.tokens, other.tokens), usd=max(self.usd, other.usd)
        )

    @staticmethod
    def of(spend: Spend) -> Amounts:
        return Amounts(calls=spend.solver_calls, tokens=spend.tokens, usd=spend.usd)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remaining:
    """What is left to plan with; None is unlimited."""

    calls: int | None
    tokens: int | None
    usd: float | None
    seconds: float | None


@dataclass(frozen=True, eq=False, slots=True)
class Reservation:
    """Room kept for one call in flight. Give it back exactly once, with `settle` or `release`."""

    purpose: str
    amounts: Amounts
    solver: bool


@dataclass(frozen=True, eq=False, slots=True)
class Hold:
    """Room kept aside until `unhold`."""

    purpose: str
    amounts: Amounts


class Ledger:
    """The account of a run. Not thread-safe: it belongs to one event loop.

    Example:
        >>> ledger = Ledger(Budget(calls=1))
        >>> room = ledger.reserve("solve", 10, 100, None)
        >>> ledger.remaining.calls
        0
    """

    def __init__(self, budget: Budget | None = None, *, elapsed_s: float = 0.0) -> None:
        self.budget = budget or Budget()
        self.overrun = Amounts()  # usage above reservations, should an estimate ever have been too small
        self._started = time.monotonic() - elapsed_s
        self._spend: dict[str, Spend] = {}
        self._settled = Amounts()
        self._reserved = Amounts()
        self._held: dict[str, Amounts] = {}
        self._unreplayed: dict[str, Amounts] = {}
        self._adopted: list[object] = []
        self._waiters: list[asyncio.Future[None]] = []

    # -- what has been spent ------------------------------------------------------------------------------------

    @property
    def spend(self) -> Spend:
        """Everything together."""
        return sum(self._spend.values(), Spend())

    @property
    def spend_by_purpose(self) -> Mapping[str, Spend]:
        return dict(self._spend)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def remaining(self) -> Remaining:
        """Budget less settled, reserved and held: what a plan may count on, in a resumed run as in the first."""
        taken = self._settled + self._reserved + sum(self._held.values(), Amounts())
        limit = self.budget
        return Remaining(
            calls=None if limit.calls is None else max(0, limit.calls - taken.calls),
            tokens=None if limit.tokens is None else max(0, limit.tokens - taken.tokens),
            usd=None if limit.usd is None else max(0.0, limit.usd - taken.usd),
            seconds=None if limit.seconds is None else max(0.0, limit.seconds - self.elapsed_s),
        )

    # -- one call -----------------------------------------------------------------------------------------------

    def require_price(self, policy: str, price: Price | None) -> None:
        """Refuse a dollar budget for a model whose price nobody knows, before anything is spent."""
        if self.budget.usd is None or price is not None:
            return
        raise InputError(
            f"a dollar budget of {self.budget.usd:g} was set, but the price of {policy!r} is unknown; give one "
            f"(--price, --critic-price or --judge-price; in Python connect(..., price=...)) in dollars per million "
            f"prompt/completion tokens (0.40/1.60, or 0/0 for a model on your own machine), "
            f"or limit the run by calls or tokens"
        )

    def reserve(
        self, purpose: str, prompt_tokens: int, max_tokens: int, price: Price | None, *, solver: bool = True
    ) -> Reservation:
        """Keep room for one call at its worst case.

        Raises:
            BudgetExhausted: the call could cross the budget.
            InputError: a dollar budget and no price.
        """
        amounts = self._worst_case(purpose, prompt_tokens, max_tokens, price, solver)
        self._admit(amounts, "the next call")
        self._reserved += amounts
        return Reservation(purpose, amounts, solver)

    async def reserve_or_wait(
        self, purpose: str, prompt_tokens: int, max_tokens: int, price: Price | None, *, solver: bool = True
    ) -> Reservation:
        """As `reserve`, but waits while calls in flight may still give back tokens or dollars they did not use."""
        amounts = self._worst_case(purpose, prompt_tokens, max_tokens, price, solver)
        while self._crossed(amounts) and not self._crossed(amounts, back=replace(self._reserved, calls=0)):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self.reserve(purpose, prompt_tokens, max_tokens, price, solver=solver)

    def settle(self, reservation: Reservation, completion: Completion) -> None:
        """The reply arrived: what it really used replaces what was reserved."""
        used = Spend.of(completion.usage, completion.cost_usd, solver=reservation.solver)
        self._give_back(reservation)
        self._add(reservation.purpose, used)
        excess = (Amounts.of(used) - reservation.amounts).at_least(Amounts())
        self.overrun += excess

    def release(self, reservation: Reservation, *, failed: bool = False) -> None:
        """No reply: the room is free again. `failed` counts it as a call that was lost."""
        self._give_back(reservation)
        if failed:
            self._add(reservation.purpose, Spend(failed_calls=1))

    # -- kept aside, and paid before ----------------------------------------------------------------------------

    def hold(self, *, calls: int = 0, tokens: int = 0, usd: float = 0.0, purpose: str = "evaluate") -> Hold:
        """Keep amounts aside, usually for the final test; give them back with `unhold` when its turn comes.

        Raises:
            BudgetExhausted: there is not that much left.
        """
        amounts = Amounts(calls=calls, tokens=tokens, usd=usd)
        before, paid = self._held.get(purpose, Amounts()), self._unreplayed.get(purpose, Amounts())
        more = (before + amounts).at_least(paid) - before.at_least(paid)
        self._admit(more, f"what is to be kept aside for {purpose!r}")
        self._held[purpose] = before + amounts
        return Hold(purpose, amounts)

    def unhold(self, hold: Hold) -> None:
        """Free what `hold` kept aside."""
        self._held[hold.purpose] -= hold.amounts
        self._wake()

    def adopt(self, record: object, paid: Mapping[str, Spend]) -> None:
        """Count what an earlier process of the same run paid, once per record."""
        if any(known is record for known in self._adopted):
            return
        self._adopted.append(record)
        for purpose, spend in paid.items():
            self._unreplayed[purpose] = self._unreplayed.get(purpose, Amounts()) + Amounts.of(spend)

    def settle_paid(self, purpose: str, completion: Completion, *, solver: bool = True) -> None:
        """A reply an earlier process paid for was asked for again: it is spend of this run and costs nothing now."""
        used = Spend.of(completion.usage, completion.cost_usd, solver=solver)
        left = self._unreplayed.get(purpose, Amounts()) - Amounts.of(used)
        self._unreplayed[purpose] = left.at_least(Amounts())
        self._add(purpose, used)

    # -- inside -------------------------------------------------------------------------------------------------

    def _worst_case(
        self, purpose: str, prompt_tokens: int, max_tokens: int, price: Price | None, solver: bool
    ) -> Amounts:
        self.require_price(f"the model for {purpose}", price)
        usd = price.cost_usd(prompt_tokens, max_tokens) if price else 0.0
        return Amounts(calls=int(solver), tokens=prompt_tokens + max_tokens, usd=usd)

    def _committed(self) -> Amounts:
        total = self._settled + self._reserved
        for purpose in self._held.keys() | self._unreplayed.keys():
            held = self._held.get(purpose, Amounts())
            total += held.at_least(self._unreplayed.get(purpose, Amounts()))
        return total

    def _crossed(self, more: Amounts, *, back: Amounts | None = None) -> str:
        """The budget that `more` would cross (once `back` is given back), in words; empty when there is room."""
        limit, total = self.budget, self._committed() + more - (back or Amounts())
        if limit.calls is not None and more.calls > 0 and total.calls > limit.calls:
            return f"{limit.calls} solver calls"
        if limit.tokens is not None and more.tokens > 0 and total.tokens > limit.tokens:
            return f"{limit.tokens} tokens"
        if limit.usd is not None and more.usd > 0 and total.usd > limit.usd * (1 + 1e-12):
            return f"{limit.usd:g} dollars"
        return ""

    def _admit(self, amounts: Amounts, what: str) -> None:
        if self.budget.seconds is not None and self.elapsed_s >= self.budget.seconds:
            raise BudgetExhausted(f"the time budget of {self.budget.seconds:g} s is over; raise it to go on")
        crossed = self._crossed(amounts)
        if crossed:
            left = self.remaining
            raise BudgetExhausted(
                f"{what} could cross the budget of {crossed}: it needs up to {amounts.calls} calls, "
                f"{amounts.tokens} tokens, {amounts.usd:.6g} dollars; "
                f"left are {_words(left.calls)} calls, {_words(left.tokens)} tokens, "
                f"{_words(left.usd)} dollars. Nothing was sent; raise the budget to go on"
            )

    def _give_back(self, reservation: Reservation) -> None:
        self._reserved -= reservation.amounts
        self._wake()

    def _add(self, purpose: str, spend: Spend) -> None:
        self._spend[purpose] = self._spend.get(purpose, Spend()) + spend
        self._settled += Amounts.of(spend)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _words(left: float | None) -> str:
    return "unlimited" if left is None else f"{left:.6g}"
