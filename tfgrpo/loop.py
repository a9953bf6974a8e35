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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tfgrpo.advantage import Advantage, Table
from tfgrpo.collect import Collector
from tfgrpo.curriculum import Curriculum
from tfgrpo.errors import BudgetExhausted, InputError, TransportError
from tfgrpo.events import EventLog
from tfgrpo.grouping import Grouping
from tfgrpo.learner import ExperienceLearner, Finished, Plan
from tfgrpo.reach import Reach
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
        """About a quarter of the run is open at once, no more than keeps the slots busy, in waves of equal size.

        Example:
            >>> Schedule.of(150, group_size=4, concurrency=64)
            Schedule(groups=150, step_groups=7, open_steps=5)
        """
        useful = max(1, -(-2 * concurrency // group_size))
        opened = max(1, min(useful, groups // OPEN_SHARE))
        waves = max(1, round(groups / opened))
        opened = -(-groups // waves)  # a last wave of a few groups would take as long as a full one
        step = max(1, min(MAX_STEP_GROUPS, opened // 4))
        return Schedule(groups=groups, step_groups=step, open_steps=-(-opened // step))


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
    reach: Reach = field(default_factory=Reach)
    silent: int = 0  # rollouts without a scored answer since the last scored one
    stopped: str = ""

    def add(self, step: int, finished: Sequence[Finished], version: int) -> None:
        """Count one step."""
        groups = [done.group for done in finished]
        self.groups += len(groups)
        self.reach.add(groups)
        self.missing += sum(g.missing for g in groups)
        self.mixed += sum(g.mixed for g in groups)
        self.informative += sum(done.informative for done in finished)
        if any(done.informative for done in finished):
            self.last_informative = self.groups
        bare = [g for g in groups if not any(r.experiences for r in g.rollouts)]
        self.fresh_groups += len(bare)
        self.fresh_mixed += sum(g.mixed for g in bare)
        answers = [r for g in groups for r in (*g.earlier, *g.rollouts)]
        self.silent = 0 if answers else self.silent + sum(g.missing for g in groups)
        self.rollouts += len(answers)
        for answer in answers:
            self.usage += answer.completion.usage
        if any(g.unaided for g in groups):
            self.curve.append(_point(step, groups, version))


def _point(step: int, groups: Sequence[Group], version: int) -> dict[str, float]:
    """Rewards without help: a curve that hints had lifted would not say what was learned."""
    means = [sum(r.score.value for r in g.unaided) / len(g.unaided) for g in groups if g.unaided]
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


Sized: TypeAlias = Callable[[int], tuple[Grouping, int]]
"""A group size -> its grouping, and the most answers that one such group asks for."""

Planned: TypeAlias = tuple[Plan, Grouping, float]
"""A group with its grouping, and what the sampler says its advantages count."""


@dataclass(slots=True)
class Room:
    """Answers that groups may still ask for; those under way count with the most that they may."""

    left: int
    most: dict[int, int] = field(default_factory=dict)  # of each group, by its number

    def begin(self, most: int) -> int:
        """The number of the next group, which may ask for `most` answers."""
        index = len(self.most)
        self.most[index] = most
        self.left -= most
        return index

    def give_back(self, finished: Sequence[Finished]) -> None:
        """What finished groups did not need."""
        for done in finished:
            self.left += self.most[done.group.index] - done.group.asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """Everything a run of the loop needs; `run` is the loop.

    Groups are begun while `answers` pays for one more at its most. What a group did not need, because no hint was
    asked for, goes to later ones; it is counted in the order of the steps, so that a run that goes on begins the same
    groups.
    """

    learner: ExperienceLearner
    collector: Collector
    curriculum: Curriculum
    grouping: Sized
    advantage: Advantage
    schedule: Schedule
    events: EventLog
    group_size: int
    answers: int  # that all groups together may ask for

    async def run(self) -> Tally:
        """Sample, learn and commit until the answers are used up, the budget is, or nothing is left to learn."""
        tally = Tally()
        room = Room(left=self.answers)
        under_way: deque[tuple[int, asyncio.Task[list[Finished]]]] = deque()
        try:
            for step in range(self.schedule.open_steps):
                self._launch(step, room, under_way)
            while under_way:
                step, task = under_way.popleft()
                finished = await task
                room.give_back(finished)
                version = await self._learn(step, finished, tally)
                if not tally.stopped:
                    self._launch(step + self.schedule.open_steps, room, under_way)
                self._tell(step, tally, version)
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)
        return tally

    def _launch(self, step: int, room: Room, under_way: deque[tuple[int, asyncio.Task[list[Finished]]]]) -> None:
        planned: list[Planned] = []
        usual = self.grouping(self.group_size)[1]
        while len(planned) < self.schedule.step_groups and room.left >= usual:
            planned.append(self._plan(room))
        if planned:
            under_way.append((step, asyncio.create_task(self._step(planned), name=f"step {step}")))

    def _plan(self, room: Room) -> Planned:
        """The next group, as large as the sampler wants it and the room allows."""
        problem = self.curriculum.next(self.learner.coverage)
        grouping, most = self.grouping(self.curriculum.size(problem, self.group_size))
        if most > room.left:
            grouping, most = self.grouping(self.group_size)
        index = room.begin(most)
        prompts = grouping(problem, index)
        if len(prompts) > most:
            raise InputError(
                f"the grouping {grouping!r} asks for {len(prompts)} answers to problem {problem.id!r}, and the budget "
                f"was divided by {most}; it must ask no more of a later group than of the first"
            )
        return self.learner.plan(index, problem, prompts), grouping, self.curriculum.weight(problem)

    async def _step(self, planned: Sequence[Planned]) -> list[Finished]:
        groups = [self._group(*each) for each in planned]
        results = await asyncio.gather(*groups, return_exceptions=True)
        failed = [r for r in results if isinstance(r, BaseException)]
        for error in failed:
            if not isinstance(error, BudgetExhausted):
                raise error
        return [r for r in results if not isinstance(r, BaseException)]

    async def _group(self, plan: Plan, grouping: Grouping, weight: float) -> Finished:
        group = await self.collector.group(
            plan.problem, plan.prompts, plan.index, plan.version, grouping=grouping, fill=plan.fill
        )
        table = Table.of([group])
        values = self.advantage(table.with_extras(bin_weight=[weight] * len(table)))
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
        self.curriculum.observe([done.group for done in finished])
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
            planned=max(self.schedule.groups, tally.groups),
            rollouts=tally.rollouts,
            reward=tally.curve[-1]["reward"] if tally.curve else None,
            version=version,
            live=len(self.learner.pool.live),
            calls=spend.calls,
            tokens=spend.tokens,
            usd=round(spend.usd, 6),
            unpriced=spend.unpriced_calls,
        )
