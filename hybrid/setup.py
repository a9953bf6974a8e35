"""Makes a run of training from what its caller chose, checks all of it, goes on with what an earlier process did."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hybrid.checkpoint import Checkpoints
from hybrid.engines import Needed, engine_of, open_rollouts
from hybrid.loop import Training
from hybrid.losses import Loss, resolve_loss
from hybrid.model import load_trainable, model_folder
from hybrid.report import TrainReport
from hybrid.rollouts import Worker, training_sampling
from hybrid.settings import Plan, Settings
from hybrid.trainer import Trainer
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.curriculum import Curriculum
from tfgrpo.errors import RunStateError
from tfgrpo.events import Event, EventLog
from tfgrpo.grouping import Preparing, prepare
from tfgrpo.late import bound, notices
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
    plan: Plan
    out: Path
    seed: int
    settings: Settings
    on_event: Callable[[Event], None] | None


async def run(job: Job) -> TrainReport:
    """All of it. Whatever can be refused is refused before the first answer is sampled."""
    task, settings, out = job.task, job.settings, job.out
    recipe = Recipe.of(task, job.plan.group)
    loss = resolve_loss(job.loss)
    temperature = settings.temperature or task.sampling.temperature
    sampling = training_sampling(dataclasses.replace(task.sampling, temperature=temperature))
    folder = model_folder(job.model)
    engine_of(settings.rollouts)
    methods = {"advantage": task.methods["advantage"], "loss": _name(job.loss, loss)}
    methods |= {name: task.methods[name] for name in ("grouping", "sampler")}
    config = _config(job, folder, methods)
    async with AsyncExitStack() as stack:
        record = stack.enter_context(RunRecord.open(out))
        _same_run(record, config, out)
        worker = Worker()
        stack.push_async_callback(worker.aclose)
        loaded = await worker(lambda: load_trainable(folder, settings))
        trainer = await worker(lambda: Trainer(loaded, loss, settings, temperature=temperature))
        checkpoints = Checkpoints(out, settings.keep_free)
        checkpoints.check_room(trainer)
        events = EventLog(record, *([job.on_event] if job.on_event else []))
        tell = partial(events.emit, "engine")
        rollouts = await open_rollouts(
            stack, Needed(loaded=loaded, trainer=trainer, worker=worker, settings=settings, out=out, tell=tell)
        )
        if settings.rollouts != "live":
            loaded = dataclasses.replace(loaded, words=f"{loaded.words}; answers by {rollouts.name}")
        caller = _caller(record, events, job.seed)
        stack.enter_context(bound(task.models, partial(caller, solver=False), rollouts))
        stack.enter_context(metrics_to(events.emit))
        events.emit(
            "started", task=task.name, model=job.model, folder=str(out), plan=job.plan.words(), setup=loaded.words
        )
        task = await _prepared(task, recipe, caller(rollouts, solver=False), record, events, job.plan.group)
        training = Training(
            task=task,
            recipe=recipe,
            plan=job.plan,
            settings=settings,
            loaded=loaded,
            model_name=job.model,
            trainer=trainer,
            rollouts=rollouts,
            worker=worker,
            solver=solver_of(caller(rollouts), task.agent),
            sampling=sampling,
            curriculum=Curriculum(task.learn, job.seed, sampler=recipe.sampler),
            record=record,
            events=events,
            checkpoints=checkpoints,
            methods=methods,
            seed=job.seed,
        )
        report = await interruptible(training.go(), out)
        report = dataclasses.replace(report, config=config, notices=notices(task.models))
        record.put_state("training", report.as_json())
        events.emit("finished", checkpoint=report.checkpoint, gain=report.gain_words)
        return report


def _caller(record: RunRecord, events: EventLog, seed: int) -> partial[Caller]:
    """Whoever is asked in a run, from its record where that knows."""
    ledger = Ledger(Budget())
    return partial(Caller, record=record, ledger=ledger, concurrency=AT_ONCE, emit=events.publish, seed=seed)


async def _prepared(task: Task, recipe: Recipe, asks: Caller, record: RunRecord, events: EventLog, group: int) -> Task:
    """The task with what its grouping needs made once; the model that is trained is asked for it."""
    grouping, _ = recipe.grouping(group)
    if not isinstance(grouping, Preparing):
        return task
    made = await prepare(grouping, task.learn, asks, record=record, events=events)
    return dataclasses.replace(task, learn=made)


def _config(job: Job, folder: Path, methods: dict[str, str]) -> dict[str, Any]:
    """What identifies a run: neither how long it may be nor where it computes."""
    return {
        "task": job.task.fingerprint(),
        "model": _digest(folder),
        **methods,
        "group": job.plan.group,
        "prompts": job.plan.prompts,
        "seed": job.seed,
        "settings": job.settings.identity,
    }


def _digest(folder: Path) -> str:
    """A hash of the model's files by name, size and beginning: cheap, and different for different weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".bin", ".json") and path.is_file():
            with path.open("rb") as handle:
                handle.seek(max(0, path.stat().st_size - (1 << 20)))
                digest.update(f"{path.name} {path.stat().st_size}".encode() + handle.read())
    return digest.hexdigest()


def _same_run(record: RunRecord, config: dict[str, Any], out: Path) -> None:
    known = record.get_state("config")
    if known is None:
        record.put_state("config", config)
        return
    now = json.loads(json.dumps(config))
    odd = [name for name in now if known.get(name) != now[name]]
    if "settings" in odd:
        before = known.get("settings", {})
        odd += [f"setting {name}" for name in now["settings"] if before.get(name) != now["settings"][name]]
        odd.remove("settings")
    if odd:
        raise RunStateError(
            f"{out} holds a run with another {', '.join(odd)}; give the same to go on with it, or another folder "
            f"(out=..., --out) for a new run"
        )


def _name(given: Loss | str, loss: Loss) -> str:
    name = given if isinstance(given, str) else getattr(loss, "name", None) or getattr(loss, "__qualname__", "own")
    return str(name)
