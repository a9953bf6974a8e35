"""The public verbs. Each has an async core and a thin sync form.

report = tfgrpo.learn("gsm8k", model="openai/gpt-4.1-mini", budget=Budget(usd=3))
report = await tfgrpo.alearn(task, model=..., store=...)
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import experience_store
from experience_store import ExperienceStore
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.critic import CriticSpec
from tfgrpo.events import Event, EventLog
from tfgrpo.late import bound, notices
from tfgrpo.learner import Gate
from tfgrpo.plan import DEFAULT_CALLS, share_out
from tfgrpo.policy import Policy
from tfgrpo.practice import Practice
from tfgrpo.recipe import Recipe
from tfgrpo.record import RunRecord
from tfgrpo.report import Report
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.running import interruptible, opened, synchronous
from tfgrpo.runs import DEFAULT_FOLDER, run_folder, run_name
from tfgrpo.task import Task, load_task


async def alearn(
    task: Task | str,
    *,
    model: Policy | str,
    critic: Policy | CriticSpec | str | None = None,
    store: ExperienceStore | str = "./experience",
    budget: Budget | None = None,
    group: int = 3,
    seed: int = 0,
    concurrency: int = 64,
    gate: Gate = "evidence",
    runs: str | Path = DEFAULT_FOLDER,
    new: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Improve a model on a task by learned experience, without touching its weights.

    Args:
        task: a `Task`, or its name as `load_task` takes it.
        model: what solves the problems: a name for `connect`, or a `Policy`.
        critic: what reads the groups: a model's name, "lessons", "examples" or "paper", or "paper:MODEL"; a
            `Policy`; or a `CriticSpec`, which also limits the tokens of its replies. None: what the task asks for,
            with the solver itself as the model.
        store: a folder, a Chroma server's URL, or an open store.
        budget: limits of calls, tokens, dollars or seconds; None is 600 solver calls.
        group: rollouts of one problem that are compared.
        seed: decides order, splits of groups and, where the server honours it, sampling.
        concurrency: requests in flight at most.
        gate: "evidence", "strict" (ships proven entries only) or "none" (as in the paper).
        runs: where run folders are kept.
        new: start again instead of going on with, or returning, the last run of this configuration.
        on_event: called with every event, for progress.

    Returns:
        The report; `print` it. A finished run of the same configuration is returned as it is, at no cost.

    Raises:
        InputError: something given is wrong; nothing was spent.
        PolicyError: the model could not be asked; the same call goes on where this one stopped.
    """
    chosen = load_task(task) if isinstance(task, str) else task
    recipe, limit = Recipe.of(chosen, group), budget or Budget(calls=DEFAULT_CALLS)
    async with AsyncExitStack() as stack:
        policy = await opened(stack, model)
        spec, book = _spec(critic, chosen, policy), await _store(stack, store)
        layout = chosen.layout or spec.layout
        config = {
            "task": chosen.fingerprint(),
            "model": policy.name,
            "critic": str(spec),
            "store": f"{book.location}#{book.namespace}",
            "budget": dataclasses.asdict(limit),
            "group": group,
            "seed": seed,
            "gate": gate,
            "layout": dataclasses.asdict(layout),
        }
        shares = share_out(limit, chosen, group_size=group, samples=chosen.test_samples, price=policy.price)
        record = stack.enter_context(RunRecord.open(run_folder(Path(runs), run_name(chosen.name, config), new=new)))
        record.put_state("config", config := {**config, "methods": chosen.methods})
        if (done := record.get_state("report")) is not None:
            return Report.from_json(done).noted("finished before; nothing was asked again")
        events = EventLog(record, *([on_event] if on_event else []))
        caller = _callers(record, limit, concurrency, events, seed)
        reader = caller(await _reader(stack, critic, spec, policy), solver=False)
        practice = Practice(
            run=record.path.parent.name,
            task=chosen,
            solver=solver_of(caller(policy), chosen.agent),
            critic=spec.build(reader),
            critic_name=str(spec),
            store=book,
            record=record,
            events=events,
            group_size=group,
            shares=shares,
            layout=layout,
            gate=gate,
            seed=seed,
            recipe=recipe,
            reader=reader,
        )
        stack.enter_context(bound(chosen.models, partial(caller, solver=False), policy))
        stack.enter_context(metrics_to(events.emit))
        return await _finished(practice, config, [*_notices(budget, book), *notices(chosen.models)])


def _callers(record: RunRecord, limit: Budget, concurrency: int, events: EventLog, seed: int) -> Callable[..., Caller]:
    """What makes the callers of a run: they share its record, its budget and its slots."""
    slots, ledger = asyncio.Semaphore(concurrency), Ledger(limit)
    return partial(
        Caller, record=record, ledger=ledger, concurrency=concurrency, slots=slots, emit=events.publish, seed=seed
    )


async def _finished(practice: Practice, config: dict[str, Any], notices: list[str]) -> Report:
    """Run it, and keep the report so that the same call returns it."""
    record, events, folder = practice.record, practice.events, practice.record.path.parent
    events.emit(
        "started",
        run=practice.run,
        plan=practice.shares.words(practice.group_size),
        groups=practice.shares.groups,
        task=practice.task.name,
        model=practice.solver.policy.name,
        folder=str(folder),
        recorded=sum(spent.calls for spent in record.spend().values()),
    )
    report = await interruptible(practice.go(), folder)
    report = dataclasses.replace(report, config=config, notices=[*report.notices, *notices])
    record.put_state("report", report.as_json())
    events.emit("finished", final=f"v{report.final}", accepted=report.accepted)
    return report


learn = synchronous(alearn, "learn")
"""`alearn` for programs without an event loop; takes the same arguments."""


def _spec(critic: Policy | CriticSpec | str | None, task: Task, solver: Policy) -> CriticSpec:
    if isinstance(critic, CriticSpec):
        return critic
    if critic is None or isinstance(critic, str):
        return CriticSpec.parse(critic or task.critic, solver.name)
    return CriticSpec(task.critic if task.critic != "examples" else "lessons", critic.name)


async def _reader(
    stack: AsyncExitStack, critic: Policy | CriticSpec | str | None, spec: CriticSpec, solver: Policy
) -> Policy:
    if critic is not None and not isinstance(critic, str | CriticSpec):
        return critic
    return solver if spec.model == solver.name else await opened(stack, spec.model)


async def _store(stack: AsyncExitStack, store: ExperienceStore | str) -> ExperienceStore:
    if not isinstance(store, str):
        return store
    return stack.enter_context(await asyncio.to_thread(experience_store.open, store))


def _notices(budget: Budget | None, store: ExperienceStore) -> list[str]:
    default = "no budget was given, so it was 600 solver calls" if budget is None else ""
    return [notice for notice in (default, store.notice) if notice]
