"""What the whole story may spend, what it has spent, and how the rest is shared out. Survives a kill.

A dollar is spent on a provider's calls, which their records know, or on time of the user's own machine, which is priced
by `gpu_usd_per_hour` and known to the clock. Seconds are those of the story's processes, whatever they did.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from tfgrpo.budget import Budget, Spend
from tfgrpo.record import RunRecord

PAID = ("usd", "calls", "solver_calls", "prompt_tokens", "completion_tokens", "unpriced_calls")
TICK_S = 2.0
"""A killed process loses at most so many seconds of its clock."""


class Clock:
    """Seconds by label over all processes of a story, kept in its record."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._by: dict[str, float] = dict(record.get_state("clock") or {})
        self._label, self._since = "other", time.monotonic()

    def enter(self, label: str) -> None:
        """What follows is counted under `label`."""
        self._count()
        self._label = label
        self.save()

    def seconds(self, *labels: str) -> float:
        """Of the labels, or of all."""
        self._count()
        return sum(self._by.get(label, 0.0) for label in labels) if labels else sum(self._by.values())

    def by_label(self) -> dict[str, float]:
        """Seconds of each label, to a tenth."""
        self._count()
        return {label: round(seconds, 1) for label, seconds in self._by.items()}

    def save(self) -> None:
        """Write it down."""
        self._count()
        self._record.put_state("clock", self._by)

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Written down every few seconds, whatever else goes on."""
        ticks = asyncio.create_task(self._tick(), name="clock")
        try:
            yield
        finally:
            ticks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticks
            self.save()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.save()

    def _count(self) -> None:
        now = time.monotonic()
        self._by[self._label] = self._by.get(self._label, 0.0) + now - self._since
        self._since = now


@dataclass(frozen=True, kw_only=True, slots=True)
class Purse:
    """The account of a story. What its own record knows of calls is not in `elsewhere`."""

    total: Budget
    gpu_usd_per_hour: float | None
    record: RunRecord
    clock: Clock
    free: frozenset[str] = frozenset()  # purposes of answers that are no calls

    def pay(self, label: str, spend: Mapping[str, Mapping[str, Any]]) -> None:
        """Enter what the calls of another run cost, by purpose as in its report."""
        row = {name: sum(part.get(name, 0) for part in spend.values()) for name in PAID}
        self.record.put_state("paid", {**(self.record.get_state("paid") or {}), label: row})

    def on_machine(self, label: str) -> None:
        """Time under this label is time of the machine that costs `gpu_usd_per_hour`."""
        known = self.record.get_state("machine") or []
        if label not in known:
            self.record.put_state("machine", [*known, label])

    @property
    def machine_s(self) -> float:
        """Seconds of the machine."""
        labels = self.record.get_state("machine") or []
        return self.clock.seconds(*labels) if labels else 0.0

    @property
    def machine_usd(self) -> float:
        """What they cost; 0 where no price was given, which the report says."""
        return self.machine_s * (self.gpu_usd_per_hour or 0.0) / 3600

    @property
    def own(self) -> Spend:
        """What the calls in the story's own record cost; answers of trained weights are none."""
        return sum((spend for name, spend in self.record.spend().items() if name not in self.free), Spend())

    @property
    def elsewhere(self) -> dict[str, float]:
        """What the calls of other runs cost."""
        rows = (self.record.get_state("paid") or {}).values()
        return {name: sum(row[name] for row in rows) for name in PAID}

    @property
    def calls_usd(self) -> float:
        """Dollars of all priced calls."""
        return self.own.usd + self.elsewhere["usd"]

    def limits(self, *, machine: bool = False) -> Budget:
        """What the calls in the story's own record may come to in all, those before included; seconds from now.

        `machine`: they are computed on this machine, whose time dollars pay for.
        """
        other, total = self.elsewhere, self.total
        tokens = int(other["prompt_tokens"] + other["completion_tokens"])
        found = Budget(
            usd=None if total.usd is None else max(0.0, total.usd - other["usd"] - self.machine_usd),
            calls=None if total.calls is None else max(0, total.calls - int(other["solver_calls"])),
            tokens=None if total.tokens is None else max(0, total.tokens - tokens),
            seconds=None if total.seconds is None else max(0.0, total.seconds - self.clock.seconds()),
        )
        return replace(found, seconds=self.machine_seconds(found)) if machine else found

    def left(self) -> Budget:
        """What nobody has spent."""
        own = self.own
        return less(self.limits(), Outlay(usd=own.usd, calls=own.solver_calls, tokens=own.tokens))

    def machine_seconds(self, budget: Budget) -> float | None:
        """Seconds of the machine that a budget pays for; None: no limit."""
        limits = [budget.seconds] if budget.seconds is not None else []
        if budget.usd is not None and self.gpu_usd_per_hour:
            limits.append(budget.usd / self.gpu_usd_per_hour * 3600)
        return min(limits) if limits else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlay:
    """What something costs, or is expected to."""

    usd: float = 0.0
    seconds: float = 0.0
    calls: float = 0.0
    tokens: float = 0.0

    def times(self, factor: float) -> Outlay:
        """So many of them."""
        return Outlay(
            usd=self.usd * factor,
            seconds=self.seconds * factor,
            calls=self.calls * factor,
            tokens=self.tokens * factor,
        )

    def __add__(self, other: Outlay) -> Outlay:
        return Outlay(
            usd=self.usd + other.usd,
            seconds=self.seconds + other.seconds,
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
        )


def less(budget: Budget, outlay: Outlay) -> Budget:
    """A budget after something was taken; never below 0, and no limit stays none.

    Example:
        >>> less(Budget(usd=3.0, seconds=10.0), Outlay(usd=1.0, seconds=60.0, calls=5))
        Budget(usd=2.0, tokens=None, calls=None, seconds=0.0)
    """
    return Budget(
        usd=None if budget.usd is None else max(0.0, budget.usd - outlay.usd),
        tokens=None if budget.tokens is None else max(0, int(budget.tokens - outlay.tokens)),
        calls=None if budget.calls is None else max(0, int(budget.calls - outlay.calls)),
        seconds=None if budget.seconds is None else max(0.0, budget.seconds - outlay.seconds),
    )


def part(budget: Budget, share: float) -> Budget:
    """A share of every limit.

    Example:
        >>> part(Budget(usd=3.0, calls=25), 0.5)
        Budget(usd=1.5, tokens=None, calls=12, seconds=None)
    """
    return Budget(
        usd=None if budget.usd is None else budget.usd * share,
        tokens=None if budget.tokens is None else int(budget.tokens * share),
        calls=None if budget.calls is None else int(budget.calls * share),
        seconds=None if budget.seconds is None else budget.seconds * share,
    )


def times_in(budget: Budget, outlay: Outlay) -> float:
    """How often an outlay fits into a budget; infinity where nothing limits it.

    Example:
        >>> times_in(Budget(usd=3.0, calls=25), Outlay(usd=0.5, calls=2, seconds=9))
        6
    """
    limits = [
        limit / cost
        for limit, cost in (
            (budget.usd, outlay.usd),
            (budget.seconds, outlay.seconds),
            (budget.calls, outlay.calls),
            (budget.tokens, outlay.tokens),
        )
        if limit is not None and cost > 0
    ]
    fits = min(limits, default=math.inf)
    return math.floor(fits) if math.isfinite(fits) else math.inf
