"""One run of learning from start to end: learn, gate, measure, report. `api.learn` sets it up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experience_store import Layout, Snapshot, Version
from tfgrpo.agents.base import as_agent
from tfgrpo.budget import Hold
from tfgrpo.caller import Caller, Solver
from tfgrpo.changes import changes, faults
from tfgrpo.collect import Collector
from tfgrpo.critic.base import Critic
from tfgrpo.curriculum import Curriculum
from tfgrpo.dressing import dressed
from tfgrpo.errors import BudgetExhausted, TransportError
from tfgrpo.evaluation import Comparison, Evaluation, compare, evaluate_problems
from tfgrpo.events import EventLog
from tfgrpo.gate import Gatekeeper, GateResult
from tfgrpo.grouping import Preparing, prepare, wordings_notice
from tfgrpo.learner import ExperienceLearner, Gate, Store
from tfgrpo.loop import Loop, Schedule, Tally
from tfgrpo.plan import Shares
from tfgrpo.recipe import Recipe
from tfgrpo.record import RunRecord
from tfgrpo.report import Measured, Report
from tfgrpo.running import together
from tfgrpo.task import Task
from tfgrpo.types import Problem, Prompt

TEST_EPOCHS = (0, 1)  # before and after are asked under their own numbers, so that both are fresh samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Practice:
    """Everything one run needs, made and closed by the caller."""

    run: str
    task: Task
    solver: Solver
    critic: Critic
    critic_name: str
    store: Store
    record: RunRecord
    events: EventLog
    group_size: int
    shares: Shares
    layout: Layout
    gate: Gate
    seed: int
    recipe: Recipe
    reader: Caller

    async def go(self) -> Report:
        """Run to the end, or go on with what an earlier process recorded."""
        start = self._start()
        hold = self._hold_test()
        task = await self._prepared()
        report = await dataclasses.replace(self, task=task)._go(start, hold)
        said = wordings_notice(self.recipe.grouping(self.group_size)[0], task.learn)
        return dataclasses.replace(report, notices=[*report.notices, *said])

    async def _go(self, start: Version, hold: Hold | None) -> Report:
        learner = self._learner(start)
        tally = await self._loop(learner).run()
        _some_answers(tally.rollouts, tally.missing, "rollouts")
        self.events.emit("learned", groups=tally.groups, stopped=tally.stopped)
        proposed = await learner.conclude()
        gate, final = await self._gated(learner, start, proposed)
        if hold is not None:
            self.solver.ledger.unhold(hold)
        before, after = await self._tested(start, final)
        return self._report(learner, tally, start, final, gate, before, after)

    # -- stages -------------------------------------------------------------------------------------------------------

    def _start(self) -> Version:
        """The version this run began with, remembered so that a resumed run begins there too."""
        known = self.record.get_state("start")
        if known is None:
            known = self.store.head().number
            self.record.put_state("start", known)
        return self.store.at(known).version

    def _hold_test(self) -> Hold | None:
        """Keep the calls of the final measurement aside before anything else is spent."""
        if not self.shares.test_calls or self.solver.ledger.budget.calls is None:
            return None
        return self.solver.ledger.hold(calls=self.shares.test_calls, purpose="evaluate")

    async def _prepared(self) -> Task:
        """The task with what its grouping needs made once, for no more problems than there will be groups."""
        grouping, _ = self.recipe.grouping(self.group_size)
        if not isinstance(grouping, Preparing):
            return self.task
        learn, most = self.task.learn, self.shares.answers // self.group_size
        if len(learn) > most:
            chosen = np.random.default_rng((self.seed, 4)).permutation(len(learn))[:most]
            learn = tuple(learn[i] for i in sorted(chosen))
        made = await prepare(
            grouping, learn, self.reader, embedder=self.store.embedder, record=self.record, events=self.events
        )
        task = dataclasses.replace(self.task, learn=made)
        self.recipe.check(task, self.group_size)
        return task

    def _learner(self, start: Version) -> ExperienceLearner:
        return ExperienceLearner(
            store=self.store,
            start=start,
            critic=self.critic,
            problems=self.task.learn,
            layout=self.layout,
            events=self.events,
            run_id=self.run,
            seed=self.seed,
            gate=self.gate,
            objective=self.task.objective,
            outside=self.task.agent is not None and as_agent(self.task.agent).outside,
        )

    def _loop(self, learner: ExperienceLearner) -> Loop:
        return Loop(
            learner=learner,
            collector=Collector(
                caller=self.solver,
                reward=self.task.reward,
                sampling=self.task.sampling,
                events=self.events,
                record=self.record,
            ),
            curriculum=Curriculum(self.task.learn, self.seed, sampler=self.recipe.sampler),
            grouping=self.recipe.grouping,
            advantage=self.recipe.advantage,
            schedule=self.schedule,
            events=self.events,
            group_size=self.group_size,
            answers=self.shares.answers,
        )

    @property
    def schedule(self) -> Schedule:
        """How the groups are spread over steps; a resumed run keeps its own, whatever the concurrency is now."""
        known = self.record.get_state("schedule")
        if known is None:
            concurrency = self.solver.concurrency
            made = Schedule.of(self.shares.groups, group_size=self.group_size, concurrency=concurrency)
            known = dataclasses.asdict(made)
            self.record.put_state("schedule", known)
        return Schedule(**known)

    async def _gated(
        self, learner: ExperienceLearner, start: Version, proposed: Version
    ) -> tuple[GateResult | None, Version]:
        """Check the library as a whole; what does not pass is rolled back to the version the run began with."""
        if self.gate == "none" or same_library(self.store, start, proposed):
            return None, proposed
        keeper = Gatekeeper(
            caller=self.solver,
            reward=self.task.reward,
            sampling=self.task.sampling,
            max_pairs=self.shares.gate_pairs,
        )
        result = await keeper.check(
            self.task.gate, self._asks(start), self._asks(proposed), proven=learner.shown_to_help()
        )
        self.events.emit("gated", **result.as_json())
        if result.passed or not result.pairs:
            return result, proposed
        return result, self._rolled_back(start, result)

    def _rolled_back(self, start: Version, result: GateResult) -> Version:
        writer = f"{self.run}/rollback"
        for version in self.store.log():
            if version.writer == writer:
                return version
        return self.store.rollback(start.number, f"the gate refused what was learned: {result.words()}", writer=writer)

    async def _tested(self, start: Version, final: Version) -> tuple[Evaluation | None, Evaluation | None]:
        """Before and after on the same test problems, at the same time."""
        if not self.shares.test_problems:
            return None, None
        unchanged = same_library(self.store, start, final)
        try:
            if unchanged:
                return await self._measured(start, TEST_EPOCHS[0]), None
            before, after = await together(
                [self._measured(start, TEST_EPOCHS[0]), self._measured(final, TEST_EPOCHS[1])]
            )
        except BudgetExhausted as error:
            self.events.emit("test_skipped", why=str(error))
            return None, None
        return before, after

    async def _measured(self, version: Version, epoch: int) -> Evaluation:
        total = self.shares.test_problems * self.shares.test_samples

        def progress(done: int, _: int) -> None:
            self.events.emit("test_progress", version=version.name, done=done, total=total)

        done = await evaluate_problems(
            self.task.test[: self.shares.test_problems],
            self.task.reward,
            self.solver,
            apply=self._asks(version),
            samples=self.shares.test_samples,
            sampling=self.task.sampling,
            epoch=epoch,
            on_progress=progress if self.record is not None else None,
            measures=self.task.measures,
            probes=self.task.probes,
        )
        _some_answers(done.scores.size - done.missing, done.missing, "samples of the test")
        return done

    def _asks(self, version: Version) -> Callable[[Problem], Prompt]:
        return served(self.store.at(version.number))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _report(
        self,
        learner: ExperienceLearner,
        tally: Tally,
        start: Version,
        final: Version,
        gate: GateResult | None,
        before: Evaluation | None,
        after: Evaluation | None,
    ) -> Report:
        comparison = compare(before, after, seed=self.seed) if before and after else None
        snapshot = self.store.at(final.number)
        effects = learner.evidence().get("effects", {})
        accepted = not same_library(self.store, start, final)
        return Report(
            run=self.run,
            folder=str(self.record.path.parent),
            task=self.task.name,
            model=self.solver.policy.name,
            critic=self.critic_name,
            store=self.store.location,
            start=start.number,
            final=final.number,
            accepted=accepted,
            why=_why(accepted, gate, comparison),
            before=measured(before),
            after=measured(after),
            gain=_gain(comparison, before),
            gain_words=comparison.words() if comparison else "",
            beside=changes(before, after, seed=self.seed),
            gate=gate.as_json() if gate else {},
            gate_words=gate.words() if gate else "not asked: nothing changed" if self.gate != "none" else "off",
            learned=[_row(e, effects.get(e.id, {})) for e in snapshot.served],
            diff=str(self.store.diff(start.number, final.number)) if hasattr(self.store, "diff") else "",
            groups=tally.groups,
            open_groups=self.schedule.open_groups,
            rollouts=tally.rollouts,
            missing=tally.missing,
            mixed_share=tally.mixed / max(1, tally.groups),
            mixed_share_before=tally.fresh_mixed / tally.fresh_groups if tally.fresh_groups else None,
            informative_share=tally.informative / max(1, tally.groups),
            curve=tally.curve,
            spend={name: dataclasses.asdict(s) for name, s in self.solver.ledger.spend_by_purpose.items()},
            seconds=self.solver.ledger.elapsed_s,
            busy_share=self.solver.busy_share(),
            stopped=tally.stopped,
            notices=faults(before, after),
            counts=tally.reach.as_json(),
            methods=self.task.methods,
        )


def _some_answers(answered: int, missing: int, what: str) -> None:
    """A result without a single answer would only say that the server was down."""
    if missing and not answered:
        raise TransportError(
            f"not one of the {missing} {what} got an answer that was scored; the run's events say why. Nothing that "
            f"was paid for is lost: the same command goes on here"
        )


def served(snapshot: Snapshot) -> Callable[[Problem], Prompt]:
    """How a version is asked: the same rendering as in learning, with what is served."""

    def apply(problem: Problem) -> Prompt:
        return dressed(Prompt(messages=problem.messages), snapshot)

    return apply


def same_library(store: Store, a: Version, b: Version) -> bool:
    """Whether two versions serve the same."""
    if a.number == b.number:
        return True
    one, other = store.at(a.number), store.at(b.number)
    return [e.row for e in one.served] == [e.row for e in other.served] and (a.layout == b.layout or not one.served)


def measured(evaluation: Evaluation | None) -> Measured | None:
    """An evaluation as the report keeps it."""
    if evaluation is None:
        return None
    e = evaluation.interval
    pass_at_k = evaluation.pass_at_k() if evaluation.samples > 1 else None
    lost = evaluation.missing + evaluation.unscored
    return Measured(
        mean=e.mean, low=e.low, high=e.high, n=e.n, samples=evaluation.samples, missing=lost, pass_at_k=pass_at_k
    )


def _gain(comparison: Comparison | None, before: Evaluation | None) -> Measured | None:
    if comparison is None or before is None:
        return None
    g = comparison.gain
    return Measured(mean=g.mean, low=g.low, high=g.high, n=g.n, samples=before.samples)


def _why(accepted: bool, gate: GateResult | None, comparison: Comparison | None) -> str:
    if gate is not None and gate.pairs and not gate.passed:
        return "the gate refused what was learned; the store was rolled back to where the run began"
    if not accepted:
        return "nothing was accepted: no experience was proposed, or none had a measured or expected effect above zero"
    if comparison is None:
        return "experiences were accepted; there was no test split or budget to measure the gain"
    if comparison.inside_noise:
        return "experiences were accepted; on the test problems the gain is inside the noise"
    return "experiences were accepted, and the test problems show a " + ("gain" if comparison.gain.mean > 0 else "LOSS")


def _row(experience: Any, belief: dict[str, Any]) -> dict[str, Any]:
    e = experience
    return {"id": e.id, "text": e.text, "question": e.question, "kind": e.kind, "source": dict(e.source), **belief}
