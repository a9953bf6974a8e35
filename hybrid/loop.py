"""The loop of the gradient arm: measure, then steps of sample -> score -> advantage -> update, then measure again.

The same Task, Grouping, Reward, Advantage and Sampler objects as in the training-free arm. Every answer is in the run's
record before it is used, under the number of its group, so that a run that was killed goes on from its last checkpoint
through recorded answers and asks the model for nothing twice.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.answers import Batch
from hybrid.checkpoint import Checkpoints
from hybrid.distill import Distill
from hybrid.library_teacher import Teach
from hybrid.report import TrainReport
from hybrid.reprompt import trouble, with_teachers
from hybrid.rollouts import Rollouts, Worker
from hybrid.settings import Plan, Settings
from hybrid.told import gpu_memory, scored, short, step_numbers
from hybrid.trainer import Trainer
from hybrid.watch import Watch, alarms_of
from tfgrpo.advantage import Table
from tfgrpo.caller import Solver
from tfgrpo.changes import changes, faults
from tfgrpo.collect import Collector
from tfgrpo.curriculum import Curriculum
from tfgrpo.errors import TransportError
from tfgrpo.evaluation import Comparison, Evaluation, compare, evaluate_problems
from tfgrpo.events import EventLog
from tfgrpo.policy.base import Sampling
from tfgrpo.recipe import Recipe
from tfgrpo.record import RunRecord
from tfgrpo.report import Measured
from tfgrpo.rewards.calling import TrainerState, training
from tfgrpo.running import together
from tfgrpo.stats import Estimate
from tfgrpo.task import Task
from tfgrpo.types import Group, Problem

GIB = 2**30
TRIED = 4
"""Test problems that are tried before all of them are measured."""


@dataclass(slots=True)
class Progress:
    """Where the run stands; what a checkpoint keeps of it."""

    step: int = 0
    spent_s: float = 0.0  # by earlier processes
    rollouts: int = 0
    tokens: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds_by: dict[str, float] = field(
        default_factory=lambda: {"sample": 0.0, "update": 0.0, "renew": 0.0, "evaluate": 0.0}
    )
    stopped: str = ""
    last_step_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Everything one run needs, made and closed by `hybrid.api`."""

    task: Task
    recipe: Recipe
    plan: Plan
    settings: Settings
    setup: str
    model_name: str
    trainer: Trainer
    rollouts: Rollouts
    worker: Worker
    solver: Solver
    sampling: Sampling
    curriculum: Curriculum
    record: RunRecord
    events: EventLog
    checkpoints: Checkpoints
    methods: dict[str, str]
    seed: int
    distill: Distill | None = None
    teach: Teach = with_teachers
    watch: Watch = field(default_factory=Watch)

    async def go(self) -> TrainReport:
        """Run to the end, or go on from the last checkpoint."""
        started = time.monotonic()
        progress = await self._resumed()
        before = await self._measured(0, progress)
        saved, saved_at = self.checkpoints.last(), time.monotonic()
        while not self._over(progress, time.monotonic() - started):
            await self._step(progress)
            if time.monotonic() - saved_at >= self.settings.checkpoint_s:
                saved, saved_at = await self._save(progress, started), time.monotonic()
        if saved is None or saved.name != f"step-{progress.step:06d}":
            saved = await self._save(progress, started)
        after = await self._measured(1 + progress.step, progress) if progress.step else before
        return self._report(progress, saved, before, after, progress.spent_s + time.monotonic() - started)

    # -- going on -----------------------------------------------------------------------------------------------------

    async def _resumed(self) -> Progress:
        place = self.checkpoints.last()
        if place is None:
            return Progress()
        state = await self.worker(lambda: self.checkpoints.restore(place))
        self.curriculum.restore(state["curriculum"])
        await self.rollouts.renew(state["step"])
        for point in state["progress"]["curve"]:
            self.watch.see(point)  # what it raises was told before
        spent_s = state["progress"]["spent_s"]
        self.events.emit("resumed", step=state["step"], checkpoint=str(place), spent_s=spent_s)
        return Progress(**state["progress"])

    async def _save(self, progress: Progress, started: float) -> Path:
        kept = {
            "progress": {
                **{name: getattr(progress, name) for name in Progress.__slots__},
                "spent_s": progress.spent_s + time.monotonic() - started,
                "stopped": "",
            },
            "curriculum": self.curriculum.state(),
        }
        place = await self.worker(lambda: self.checkpoints.save(progress.step, kept))
        self.events.emit("checkpoint_saved", step=progress.step, folder=str(place))
        return place

    def _over(self, progress: Progress, elapsed: float) -> bool:
        """Whether no further step is to begin; the time that the last measurement will take is kept aside."""
        if self.plan.steps is not None and progress.step >= self.plan.steps:
            progress.stopped = f"{self.plan.steps} steps were asked for"
        if self.plan.seconds is not None:
            aside = progress.last_step_s + float(self.record.get_state("before_s") or 0.0)
            if progress.spent_s + elapsed + aside >= self.plan.seconds:
                progress.stopped = f"the budget of {self.plan.seconds:g} s is used up, less what the last test takes"
        return bool(progress.stopped)

    # -- one step -----------------------------------------------------------------------------------------------------

    async def _step(self, progress: Progress) -> None:
        begun = time.monotonic()
        steps = self.plan.steps or progress.step + 1
        with training(TrainerState(global_step=progress.step, max_steps=steps)):
            groups, weights = await self._sample(progress.step)
        sampled = time.monotonic()
        table = Table.of(groups)
        table = self.recipe.advantage.columns(table.with_extras(bin_weight=_by_rollout(groups, weights)))
        batch = await self._batch(groups, table, progress.step)
        limit = self.sampling.max_tokens
        metrics = await self.worker(lambda: self.trainer.ranks.lead("update", batch=batch, max_tokens=limit))
        self.curriculum.observe(groups)
        progress.step += 1
        updated = time.monotonic()
        await self.rollouts.renew(progress.step)
        ended = time.monotonic()
        parts = {"sample": sampled - begun, "update": updated - sampled, "renew": ended - updated}
        for name, seconds in parts.items():
            progress.seconds_by[name] = progress.seconds_by.get(name, 0.0) + seconds
        progress.last_step_s = ended - begun
        self._tell(progress, groups, table, {**metrics, **{f"{name}_s": s for name, s in parts.items()}})

    async def _batch(self, groups: Sequence[Group], table: Table, step: int) -> Batch:
        """What the update learns from; with the teachers' prompts where there are teachers."""
        batch, spec = Batch.of(groups, table), self.distill
        if spec is None:
            return batch
        seed = (self.seed, step)
        batch = await self.worker(lambda: self.teach(batch, groups, spec, self.checkpoints.loaded, seed))
        if words := trouble(batch.counts, spec):
            self.events.emit("teaching_failed", step=step + 1, error=words)
        return batch

    async def _sample(self, step: int) -> tuple[list[Group], list[float]]:
        """The groups of a step, sampled and scored together, and what the sampler says each counts."""
        collector = Collector(
            caller=self.solver,
            reward=self.task.reward,
            sampling=self.sampling,
            events=self.events,
            record=self.record,
        )
        planned: list[tuple[Problem, int, float]] = []
        for _ in range(self.plan.prompts):
            problem = self.curriculum.next(lambda _: 0.0)
            size = self.curriculum.size(problem, self.plan.group)
            planned.append((problem, size, self.curriculum.weight(problem)))
        jobs = []
        for number, (problem, size, _) in enumerate(planned, start=step * self.plan.prompts):
            grouping, _ = self.recipe.grouping(size)
            prompts = grouping(problem, number)
            jobs.append(collector.group(problem, prompts, number, step, grouping=grouping))
        groups = await together(jobs)
        if not any(group.rollouts for group in groups):
            lost = sum(group.missing for group in groups)
            raise TransportError(
                f"not one of the {lost} answers of step {step + 1} was written and scored; the run's events say why. "
                f"The last checkpoint is whole, and the same command goes on from there"
            )
        return groups, [weight for _, _, weight in planned]

    def _tell(self, progress: Progress, groups: Sequence[Group], table: Table, metrics: dict[str, float]) -> None:
        """One row of the curve, as an event too."""
        answers = [r for group in groups for r in group.rollouts]
        written = [r.completion.usage.completion_tokens for r in answers]
        progress.rollouts += len(answers)
        progress.tokens += sum(written)
        point = {
            "step": float(progress.step),
            "reward": float(np.nanmean([r.score.value for r in answers])),
            "success": float(np.mean([r.score.success for r in answers])),
            "mixed": float(np.mean([group.mixed for group in groups])),
            "missing": float(sum(group.missing for group in groups)),
            "length": float(np.mean(written)),
            "truncated": float(np.mean([r.completion.finish_reason == "length" for r in answers])),
            **step_numbers(groups, table),
            **metrics,
            "tokens_per_s": sum(written) / max(metrics["sample_s"], 1e-9),
            "memory_gib": memory_gib(),
            **gpu_memory(),
        }
        progress.curve.append({name: short(value) for name, value in point.items()})
        self.events.emit("answers_scored", step=progress.step, **scored(groups, table))
        self.events.emit("update_done", planned=self.plan.steps, **progress.curve[-1])
        for alarm in self.watch.see(progress.curve[-1]):
            self.events.emit("alarm", **alarm.as_json())

    # -- measuring ----------------------------------------------------------------------------------------------------

    async def _measured(self, epoch: int, progress: Progress) -> Evaluation | None:
        """The model as it is now on the test problems. Samples that are on record are not drawn again."""
        if not self.task.test:
            return None
        begun, step = time.monotonic(), progress.step if epoch else 0  # a run that goes on knows what was before

        def told(done: int, total: int) -> None:
            self.events.emit("test_progress", version=f"step {step}", done=done, total=total)

        measure = partial(
            evaluate_problems, reward=self.task.reward, caller=self.solver, sampling=self.task.sampling, epoch=epoch
        )
        if not epoch:  # a reward that cannot score is told after a few answers, which are then not asked for again
            _refuse_nothing(await measure(self.task.test[:TRIED], samples=1))
        found = await measure(
            self.task.test,
            samples=self.task.test_samples,
            on_progress=told,
            measures=self.task.measures,
            probes=self.task.probes,
        )
        _refuse_nothing(found)
        took = time.monotonic() - begun
        progress.seconds_by["evaluate"] += took
        if epoch == 0 and self.record.get_state("before_s") is None:
            self.record.put_state("before_s", took)
        span = found.interval
        numbers = {"mean": span.mean, "low": span.low, "high": span.high, "n": span.n}
        self.events.emit("measured", step=step, words=found.words(), **numbers)
        return found

    def _report(
        self, progress: Progress, saved: Path, before: Evaluation | None, after: Evaluation | None, seconds: float
    ) -> TrainReport:
        compared: Comparison | None = compare(before, after, seed=self.seed) if before and after else None
        return TrainReport(
            folder=str(self.record.path.parent),
            checkpoint=str(saved),
            task=self.task.name,
            model=self.model_name,
            setup=self.setup,
            steps=progress.step,
            stopped=progress.stopped,
            before=_measured(before),
            after=_measured(after),
            gain=None if compared is None else _estimate(compared.gain, self.task.test_samples),
            gain_words=compared.words() if compared else "",
            p_value=compared.p_value if compared and compared.gain.n else None,
            beside=changes(before, after, seed=self.seed),
            curve=progress.curve,
            methods=self.methods,
            rollouts=progress.rollouts,
            tokens=progress.tokens,
            seconds=seconds,
            seconds_by=progress.seconds_by,
            memory_gib=memory_gib(),
            notices=[*faults(before, after), *(alarm.notice() for alarm in alarms_of(progress.curve))],
        )


def _refuse_nothing(found: Evaluation) -> None:
    if found.missing + found.unscored == found.scores.size:
        why = f": {'; '.join(found.troubles)}" if found.troubles else "; the run's events say why"
        raise TransportError(f"not one of {found.scores.size} test samples was answered and scored{why}")


def _by_rollout(groups: Sequence[Group], weights: Sequence[float]) -> list[float]:
    return [weight for group, weight in zip(groups, weights, strict=True) for _ in group.rollouts]


def _measured(found: Evaluation | None) -> Measured | None:
    if found is None:
        return None
    lost = found.missing + found.unscored
    passed = found.pass_at_k() if found.samples > 1 else None
    return _estimate(found.interval, found.samples, missing=lost, pass_at_k=passed)


def _estimate(e: Estimate, samples: int, **more: Any) -> Measured:
    return Measured(mean=e.mean, low=e.low, high=e.high, n=e.n, samples=samples, **more)


def memory_gib() -> float:
    """The most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / GIB
