"""What the phases of a story share: the job, its record and purse, the held-out bench, and one open model at a time."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import experience_store
from experience_store import ExperienceStore, Snapshot
from hybrid.escalation.arms import WEIGHTS, Arm, Bench
from hybrid.escalation.evidence import Pilot
from hybrid.escalation.job import Job, held_out
from hybrid.escalation.purse import Clock, Purse, less
from hybrid.escalation.shares import Scale
from hybrid.report import TrainReport
from tfgrpo.budget import Budget
from tfgrpo.events import EventLog
from tfgrpo.policy import Policy, connect
from tfgrpo.policy.local import LocalPolicy
from tfgrpo.record import RunRecord
from tfgrpo.report import Report
from tfgrpo.task import Task


@dataclass(kw_only=True, slots=True)
class Stage:
    """The state of one story; `barred` says why there can be no training, and is "" where there can."""

    job: Job
    record: RunRecord
    events: EventLog
    clock: Clock
    purse: Purse
    bench: Bench
    aside: Task  # what is learned from, with the problems of the decision as its test problems
    barred: str
    notices: list[str] = field(default_factory=list)
    _place: str = ""
    _policy: Policy | None = None

    @staticmethod
    def of(job: Job, aside: Task, barred: str, record: RunRecord, events: EventLog) -> Stage:
        """The stage of a job on its record; `aside` and `barred` as from the job."""
        clock = Clock(record)
        bench = Bench(
            task=job.task,
            problems=held_out(job.task, job.seed),
            record=record,
            events=events,
            concurrency=job.concurrency,
            seed=job.seed,
        )
        return Stage(
            job=job,
            record=record,
            events=events,
            clock=clock,
            purse=Purse(
                total=job.budget,
                gpu_usd_per_hour=job.gpu_usd_per_hour,
                record=record,
                clock=clock,
                free=frozenset({WEIGHTS}),
            ),
            bench=bench,
            aside=aside,
            barred=barred,
        )

    def enter(self, phase: str, words: str, *, machine: bool) -> None:
        """A phase begins; `machine`: it computes on this machine."""
        if machine:
            self.purse.on_machine(phase)
        self.clock.enter(phase)
        left = {k: v for k, v in dataclasses.asdict(self.purse.left()).items() if v is not None}
        self.events.emit("phase", phase=phase, words=words, left=left)

    def once(self, name: str, value: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """What a phase came to: kept when given, else what is on record."""
        if value is not None:
            self.record.put_state(name, value)
            return value
        found: dict[str, Any] | None = self.record.get_state(name)
        return found

    # -- models -------------------------------------------------------------------------------------------------------

    async def model(self) -> Policy:
        """The model of the prompt arm; opened when it is first needed."""
        if not isinstance(self.job.model, str):
            return self.job.model
        return await self._opened(self.job.model)

    async def weights(self, place: str) -> Policy:
        """A local model as the training arm has it; what was open before is closed."""
        return await self._opened(place, weights=True)

    async def release(self) -> None:
        """Make room on the machine: the model that was opened here is closed."""
        if self._policy is not None:
            policy, self._policy, self._place = self._policy, None, ""
            await policy.aclose()

    async def _opened(self, place: str, *, weights: bool = False) -> Policy:
        key = f"{'weights' if weights else 'model'} {place}"
        if self._policy is None or self._place != key:
            await self.release()
            local = weights or place.startswith("local/")
            self._policy, self._place = await self._local(place) if local else connect(place), key
        return self._policy

    async def _local(self, place: str) -> LocalPolicy:
        """A local model, loaded, so that this is no part of an answer's pace; all of them compute in one data type."""
        s, known = self.job.choices.settings, self.record.get_state("dtype")
        policy = LocalPolicy(place, max_rows=s.max_rows, device=s.device, dtype=s.dtype or known, threads=s.threads)
        await policy.start()
        if known is None:
            self.record.put_state("dtype", policy.setup.partition(" ")[0])
        return policy

    # -- what is left -------------------------------------------------------------------------------------------------

    @property
    def trained_arms(self) -> int:
        """Arms with trained weights at most: without and with experiences; and the untrained ones, if they differ."""
        return 0 if self.barred else 2 if self.job.same_model else 3

    def scale(self, base: Arm, trained: TrainReport | None = None) -> Scale:
        """What answers cost, by what was seen so far."""
        task = self.job.task
        found = Scale.of(
            base, samples=task.test_samples, calls=task.calls_per_answer, gpu_usd_per_hour=self.job.gpu_usd_per_hour
        )
        answer_s = Pilot.of(trained).answer_s if trained is not None else 0.0
        return dataclasses.replace(found, trained_s=answer_s) if answer_s > 0 else found

    def left(self, scale: Scale, *, trained_arms: int) -> Budget:
        """What may be spent now, with the arms that are still to be measured kept aside.

        A model behind a server is measured as it is at the end too, beside the same with experiences.
        """
        problems, prompt_arms = int(self.record.get_state("held_out")), 1 if self.job.local else 2
        return less(self.purse.left(), scale.kept_aside(problems, prompt_arms=prompt_arms, trained_arms=trained_arms))

    # -- experiences --------------------------------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """Where they are kept."""
        given = self.job.store
        return given.location if isinstance(given, ExperienceStore) else given or str(self.job.out / "experience")

    def store(self, stack: ExitStack, *, create: bool) -> ExperienceStore:
        """The experiences of this story; a store of its own needs no model to embed examples."""
        given = self.job.store
        if isinstance(given, ExperienceStore):
            return given
        words = self.aside.critic in ("lessons", "paper") or self.job.critic is not None
        embedder = None if given is not None or words or not create else "hashing"
        return stack.enter_context(experience_store.open(self.place, create=create, embedder=embedder))

    def snapshot(self, stack: ExitStack, learned: Report) -> Snapshot:
        """The version that a learning run left."""
        return self.store(stack, create=False).at(learned.final)
