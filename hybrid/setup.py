"""Makes a run of training from what its caller chose, checks all of it, goes on with what an earlier process did."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hybrid.allocator import give_back
from hybrid.checkpoint import Checkpoints
from hybrid.distill import Distill
from hybrid.engines import Needed, engine_of, open_rollouts
from hybrid.folders import model_folder
from hybrid.identity import check_same, digest_of
from hybrid.library_teacher import Opened, open_library, teaching
from hybrid.loop import Training
from hybrid.losses import Loss, resolve_loss
from hybrid.model import load_trainable
from hybrid.parallel import Ranks
from hybrid.report import TrainReport
from hybrid.rollouts import Worker, training_sampling
from hybrid.settings import Plan, Settings
from hybrid.trainer import Trainer
from hybrid.writing import Writer, check_decoder
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.curriculum import Curriculum
from tfgrpo.events import Event, EventLog
from tfgrpo.grouping import Preparing, prepare, wordings_notice
from tfgrpo.late import bound, notices
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.recipe import Recipe
from tfgrpo.record import RunRecord
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.running import interruptible
from tfgrpo.task import Task

AT_ONCE = 1 << 16
"""Answers asked for at once; the decoder has its own limit of rows."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the caller of `train` chose."""

    task: Task
    model: str
    loss: Loss | str
    distill: Distill | None = None
    recipe: str = ""  # its name, "" for none
    plan: Plan
    out: Path
    seed: int
    settings: Settings
    on_event: Callable[[Event], None] | None


async def run(job: Job) -> TrainReport:
    """All of it. Whatever can be refused is refused before the first answer is sampled."""
    try:
        return await _run(job)
    finally:
        give_back()  # now that nothing holds the model


async def _run(job: Job) -> TrainReport:
    recipe, loss = Recipe.of(job.task, job.plan.group), resolve_loss(job.loss)
    check_decoder(job.settings.decoder)
    engine_of(job.settings.rollouts)
    folder = model_folder(job.model)
    temperature = job.settings.temperature or job.task.sampling.temperature
    sampling = training_sampling(dataclasses.replace(job.task.sampling, temperature=temperature))
    async with AsyncExitStack() as stack:
        worker = Worker()
        stack.push_async_callback(worker.aclose)
        ranks = await worker(lambda: Ranks.join(hang_s=job.settings.hang_s))
        stack.callback(ranks.close)
        if not ranks.leading:
            equipment = await worker(lambda: Equipment.of(job, folder, loss, temperature, ranks))
            return TrainReport.from_json(await worker(ranks.follow))
        library = await _library(stack, job)
        record = stack.enter_context(RunRecord.open(job.out))
        methods = _methods(job.task, _name(job.loss, loss))
        config = _config(job, folder, methods, library)
        methods |= _way(job)
        check_same(record, config, job.out, parts={"settings": "setting", "distill": "option of distillation"})
        equipment = await worker(lambda: Equipment.of(job, folder, loss, temperature, ranks))
        equipment.checkpoints.check_room()
        training = await _training(stack, job, recipe, sampling, record, equipment, worker, methods, library)
        report = await interruptible(training.go(), job.out)
        report = dataclasses.replace(
            report, config=config, notices=[*report.notices, *_told(training.task, recipe, job)]
        )
        record.put_state("training", report.as_json())
        training.events.emit("finished", checkpoint=report.checkpoint, gain=report.gain_words)
        await worker(lambda: ranks.stop(report.as_json()))
        return report


async def _training(
    stack: AsyncExitStack,
    job: Job,
    recipe: Recipe,
    sampling: Sampling,
    record: RunRecord,
    equipment: Equipment,
    worker: Worker,
    methods: dict[str, str],
    library: Opened | None,
) -> Training:
    """The loop with everything that it needs, as rank 0 has it; the stack closes what was opened."""
    events = EventLog(record, *([job.on_event] if job.on_event else []))
    tell = partial(events.emit, "engine")
    rollouts = await open_rollouts(stack, equipment.needed(worker, job, tell))
    live = job.settings.rollouts == "live"
    setup = equipment.words + (f", decoder {equipment.writer.decoder}" if live else f"; answers by {rollouts.name}")
    caller = partial(
        Caller,
        record=record,
        ledger=Ledger(Budget()),
        concurrency=AT_ONCE,
        emit=events.publish,
        seed=job.seed,
    )
    stack.enter_context(bound(job.task.models, partial(caller, solver=False), rollouts))
    stack.enter_context(metrics_to(events.emit))
    events.emit("started", **_begun(job), setup=setup, methods=methods)
    task = await _prepared(job.task, recipe, caller(rollouts, solver=False), record, events, job.plan.group)
    return Training(
        task=task,
        recipe=recipe,
        plan=job.plan,
        settings=job.settings,
        setup=setup,
        model_name=job.model,
        trainer=equipment.trainer,
        rollouts=rollouts,
        worker=worker,
        solver=solver_of(caller(rollouts), task.agent),
        sampling=sampling,
        curriculum=Curriculum(task.learn, job.seed, sampler=recipe.sampler),
        record=record,
        events=events,
        checkpoints=equipment.checkpoints,
        methods=methods,
        seed=job.seed,
        distill=job.distill,
        teach=teaching(library.snapshot if library else None),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Equipment:
    """What every rank has: the model, what trains it, what writes with it, where it is saved."""

    loaded: LoadedModel
    trainer: Trainer
    writer: Writer
    checkpoints: Checkpoints
    words: str  # "bfloat16 on cpu, 1 thread, 2 processes (ddp)"

    @staticmethod
    def of(job: Job, folder: Path, loss: Loss, temperature: float, ranks: Ranks) -> Equipment:
        """On every rank at the same time: data type and threads are those that rank 0 found best."""
        settings = dataclasses.replace(job.settings, device=job.settings.device or _device(ranks))
        found = load_trainable(folder, settings) if ranks.leading else None
        chosen = ranks.first(lambda: str(found.model.dtype).removeprefix("torch.") if found else "")
        loaded = found or load_trainable(folder, dataclasses.replace(settings, dtype=chosen))
        dtype = loaded.model.dtype
        trainer = Trainer(loaded, loss, settings, temperature=temperature, ranks=ranks, distill=job.distill)
        ranks.jobs["update"] = trainer.update
        decoder = settings.decoder or ("slots" if trainer.cut else None)  # graphs need weights that stay in their place
        writer = Writer(loaded, ranks, trainer.whole, max_rows=settings.max_rows, decoder=decoder)
        together = f", {ranks.size} processes ({settings.parallel})" if ranks.size > 1 else ""
        return Equipment(
            loaded=loaded,
            trainer=trainer,
            writer=writer,
            checkpoints=Checkpoints(
                folder=job.out, keep_free=settings.keep_free, loaded=loaded, trainer=trainer, dtype=dtype
            ),
            words=f"{loaded.words}{together}",
        )

    def needed(self, worker: Worker, job: Job, tell: Callable[..., None]) -> Needed:
        """What rank 0 makes an engine of."""
        return Needed(
            loaded=self.loaded,
            trainer=self.trainer,
            writer=self.writer,
            worker=worker,
            settings=job.settings,
            out=job.out,
            tell=tell,
        )


def _device(ranks: Ranks) -> str | None:
    """One GPU for each process of this host."""
    return f"cuda:{ranks.local_rank}" if ranks.size > 1 and torch.cuda.is_available() else None


def _told(task: Task, recipe: Recipe, job: Job) -> list[str]:
    """What a reader of the report should know of the groups and of the models that the reward asked."""
    return [*wordings_notice(recipe.grouping(job.plan.group)[0], task.learn), *notices(task.models)]


async def _prepared(task: Task, recipe: Recipe, asks: Caller, record: RunRecord, events: EventLog, group: int) -> Task:
    """The task with what its grouping needs made once; the model that is trained is asked for it."""
    grouping, _ = recipe.grouping(group)
    if not isinstance(grouping, Preparing):
        return task
    made = await prepare(grouping, task.learn, asks, record=record, events=events)
    task = dataclasses.replace(task, learn=made)
    recipe.check(task, group)
    return task


def _begun(job: Job) -> dict[str, Any]:
    """What a run is, as those who watch it are told at its beginning."""
    return {
        "kind": "train",
        "task": job.task.name,
        "model": job.model,
        "folder": str(job.out),
        "plan": job.plan.words(),
        "steps": job.plan.steps,
        "prompts": job.plan.prompts,
        "seconds": job.plan.seconds,
        "settings": dataclasses.asdict(job.settings),
    }


def _methods(task: Task, loss: str) -> dict[str, str]:
    """The choices with a name, each of which decides the result."""
    named = task.methods
    return {"advantage": named["advantage"], "loss": loss, "grouping": named["grouping"], "sampler": named["sampler"]}


def _way(job: Job) -> dict[str, str]:
    """What a report says of a recipe; what it decides is known by its parts."""
    told = {"recipe": job.recipe, "distil": job.distill.words() if job.distill else ""}
    return {name: words for name, words in told.items() if words}


async def _library(stack: AsyncExitStack, job: Job) -> Opened | None:
    """What the teacher reads, open as long as the run lasts; None where it reads none."""
    if job.distill is None or job.distill.library is None:
        return None
    return await asyncio.to_thread(open_library, stack, job.distill.library)


def _config(job: Job, folder: Path, methods: dict[str, str], library: Opened | None = None) -> dict[str, Any]:
    """What identifies a run: neither how long it may be nor where it computes."""
    return {
        "task": job.task.fingerprint(),
        "model": digest_of(folder),
        **methods,
        "group": job.plan.group,
        "prompts": job.plan.prompts,
        "seed": job.seed,
        "settings": job.settings.identity,
        "distill": job.distill and job.distill.identity,
        **({"library": library.digest} if library else {}),
    }


def _name(given: Loss | str, loss: Loss) -> str:
    name = given if isinstance(given, str) else getattr(loss, "name", None) or getattr(loss, "__qualname__", "own")
    return str(name)
