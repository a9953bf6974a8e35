"""The loop of the training-free arm: a pipeline of steps, each a few groups, decided in order and run side by side.

    plan step s+d | sample and score step s+1 .. s+d | critic reads | update(step s) -> version
                                                                              \\-> plans step s+d

Step s is sampled under the version that step s-d left: a fixed lag, whatever the speed of the server, so that the
run is reproducible. `Schedule.open_groups` is the price of speed: that many groups are under way at once and cannot
learn from each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tfgrpo.advantage import Advantage, Table
from tfgrpo.collect import Collector
from tfgrpo.curriculum import Curriculum
from tfgrpo.errors import BudgetExhausted, TransportError
from tfgrpo.events import EventLog
from tfgrpo.grouping import Grouping
from tfgrpo.learner import ExperienceLearner, Finished, Plan
from tfgrpo.types import Group, Usage

OPEN_SHARE = 4
"""One in so many groups is open at once: more would be faster and learn less from each other."""
MAX_STEP_GROUPS = 8
SILENCE = 24
"""So many rollouts in a row without a scored answer mean that something is broken: the run stops and says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How many groups there will be, how many make a step, and how many steps are under way at once."""

    groups: int
    step_groups: int
    open_steps: int

    @property
    def open_groups(self) -> int:
        """Groups under way at once."""
        return self.step_groups * self.open_steps

    @staticmethod
    def of(groups: int, *, group_size: int, concurrency: int) -> Schedule:
        """About a quarter of the run is open at once, and no more than keeps the slots busy.

        Example:
            >>> Schedule.of(150, group_size=4, concurrency=64)
            Schedule(groups=150, step_groups=8, open_steps=4)
        """
        useful = max(1, -(-2 * concurrency // group_size))
        opened = max(1, min(useful, groups // OPEN_SHARE))
        step = max(1, min(MAX_STEP_GROUPS, opened // 4))
        return Schedule(groups=groups, step_groups=step, open_steps=max(1, round(opened / step)))


@dataclass(slots=True)
class Tally:
    """What the groups of a run were like; the learning curve has one point per step."""

    groups: int = 0
    rollouts: int = 0
    missing: int = 0
    mixed: int = 0
    informative: int = 0
    last_informative: int = 0  # number of groups up to the last informative one
    fresh_groups: int = 0  # groups sampled before anything was learned
    fresh_mixed: int = 0
    usage: Usage = field(default_factory=Usage)
    curve: list[dict[str, float]] = field(default_factory=list)
    silent: int = 0  # rollouts without a scored answer since the last scored one
    stopped: str = ""

    def add(self, step: int, finished: Sequence[Finished], version: int) -> None:
        """Count one step."""
        groups = [done.group for done in finished]
        self.groups += len(groups)
        self.missing += sum(g.missing for g in groups)
        self.mixed += sum(g.mixed for g in groups)
        self.informative += sum(done.informative for done in finished)
        if any(done.informative for done in finished):
            self.last_informative = self.groups
        bare = [g for g in groups if not any(r.experiences for r in g.rollouts)]
        self.fresh_groups += len(bare)
        self.fresh_mixed += sum(g.mixed for g in bare)
        rewards = [r.score.value for g in groups for r in g.rollouts]
        self.silent = 0 if rewards else self.silent + sum(g.missing for g in groups)
        self.rollouts += len(rewards)
        for group in groups:
            for rollout in group.rollouts:
                self.usage += rollout.completion.usage
        if rewards:
            self.curve.append(_point(step, groups, version))


def _point(step: int, groups: Sequence[Group], version: int) -> dict[str, float]:
    means = [sum(r.score.value for r in g.rollouts) / len(g.rollouts) for g in groups if g.rollouts]
    mean = sum(means) / len(means)
    spread = (sum((m - mean) ** 2 for m in means) / max(1, len(means) - 1)) ** 0.5
    half = 1.96 * spread / len(means) ** 0.5
    return {
        "step": step,
        "groups": len(groups),
        "version": version,
        "reward": round(mean, 4),
        "low": round(max(0.0, mean - half), 4),
        "high": round(min(max(1.0, *means), mean + half), 4),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """Everything a run of the loop needs; `run` is the loop."""

    learner: ExperienceLearner
    collector: Collector
    curriculum: Curriculum
    grouping: Grouping
    advantage: Advantage
    schedule: Schedule
    events: EventLog

    async def run(self) -> Tally:
        """Sample, learn and commit until the groups are used up, the budget is, or nothing is left to learn."""
        tally = Tally()
        under_way: deque[tuple[int, asyncio.Task[list[Finished]]]] = deque()
        planned = 0
        try:
            for step in range(self.schedule.open_steps):
                planned = self._launch(step, planned, under_way)
            while under_way:
                step, task = under_way.popleft()
                finished = await task
                version = await self._learn(step, finished, tally)
                if not tally.stopped:
                    planned = self._launch(step + self.schedule.open_steps, planned, under_way)
                self._tell(step, tally, version)
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)
        return tally

    def _launch(self, step: int, planned: int, under_way: deque[tuple[int, asyncio.Task[list[Finished]]]]) -> int:
        size = min(self.schedule.step_groups, self.schedule.groups - planned)
        if size <= 0:
            return planned
        plans = [self._plan(planned + n) for n in range(size)]
        under_way.append((step, asyncio.create_task(self._step(plans), name=f"step {step}")))
        return planned + size

    def _plan(self, index: int) -> Plan:
        problem = self.curriculum.next(self.learner.coverage)
        return self.learner.plan(index, problem, self.grouping(problem, index))

    async def _step(self, plans: Sequence[Plan]) -> list[Finished]:
        results = await asyncio.gather(*(self._group(plan) for plan in plans), return_exceptions=True)
        failed = [r for r in results if isinstance(r, BaseException)]
        for error in failed:
            if not isinstance(error, BudgetExhausted):
                raise error
        return [r for r in results if not isinstance(r, BaseException)]

    async def _group(self, plan: Plan) -> Finished:
        group = await self.collector.group(plan.problem, plan.prompts, plan.index, plan.version)
        values = self.advantage(Table.of([group]))
        return await self.learner.read(plan, group, values)

    async def _learn(self, step: int, finished: Sequence[Finished], tally: Tally) -> int:
        if not finished:
            tally.stopped = tally.stopped or "the budget is used up"
            return self.learner.snapshot.version.number
        version = finished[0].plan.version
        tally.add(step, finished, version)
        if tally.silent >= SILENCE:
            raise TransportError(
                f"the last {tally.silent} rollouts got no scored answer; the run's events say why. Nothing that was "
                f"paid for is lost: the same command goes on here"
            )
        await self.learner.update(step, finished)
        for problem in self.learner.taught:
            self.curriculum.revisit(problem)
        self._finished_learning(tally)
        return version

    def _finished_learning(self, tally: Tally) -> None:
        """Stop when a whole epoch taught nothing and nothing is on trial: more calls would buy nothing."""
        quiet = tally.groups - tally.last_informative
        on_trial = any(e.status == "trial" for e in self.learner.pool.live)
        if quiet >= 2 * len(self.curriculum) and not on_trial:
            tally.stopped = "two epochs taught nothing new"

    def _tell(self, step: int, tally: Tally, version: int) -> None:
        spend = self.collector.caller.ledger.spend
        self.events.emit(
            "step_done",
            step=step,
            groups=tally.groups,
            planned=self.schedule.groups,
            rollouts=tally.rollouts,
            reward=tally.curve[-1]["reward"] if tally.curve else None,
            version=version,
            live=len(self.learner.pool.live),
            calls=spend.calls,
            tokens=spend.tokens,
            usd=round(spend.usd, 6),
            unpriced=spend.unpriced_calls,
        )
