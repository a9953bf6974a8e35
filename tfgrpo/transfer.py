"""Which experiences of a library help another model: each one's effect, and a mask of those that harm it.

    result = tfgrpo.transfer.transfer("./experience@v7", "openai/gpt-4.1-nano", task=task, budget=Budget(calls=800))
    result.mask.save("mask.json")

Each gate problem is answered several times by the other model. Every experience that says something about the problem
stands in a random half of its prompts, each by a coin of its own; the rest of the library stands in all of them, as it
is served. So one group measures all of its experiences at once, against each other's noise and no other confounding:
`tfgrpo.evidence` reads effects (shrunken towards what such experiences are worth for this model) and the wealth of
betting on them. Many are looked at together, so verdicts are taken by e-BH: of those that are called harmful, and of
those that are called helpful, at most 5 % are expected not to be, however often it is looked.

Left out on purpose: whether two experiences need each other. A retrieving layout shows what is nearest among the
experiences that the coins let in, so that an effect there is one against whatever takes the place.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import numpy as np

from experience_store import ExperienceStore, Layout, Snapshot
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.collect import Collector
from tfgrpo.dressing import dressed
from tfgrpo.errors import BudgetExhausted, InputError, TransportError, unknown_name
from tfgrpo.events import Event, EventLog
from tfgrpo.evidence import SPECIFIC, Verdict, discoveries
from tfgrpo.late import bound, notices
from tfgrpo.measure import Split, check_calls, problems_of
from tfgrpo.plan import DEFAULT_CALLS
from tfgrpo.policy import Policy
from tfgrpo.pool import Draw, Entry, Pool
from tfgrpo.record import RunRecord
from tfgrpo.relevance import Relevance
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.running import interruptible, opened, synchronous, together
from tfgrpo.runs import DEFAULT_FOLDER, run_folder, run_name
from tfgrpo.sides import snapshot_of
from tfgrpo.task import Task, load_task
from tfgrpo.transferred import KEEP, Effect, Transfer, mask_of
from tfgrpo.types import Group, Problem, Prompt

ALPHA = 0.05
"""The share of wrong ones that is expected among the verdicts of one direction, at most."""
ALL_KNOWN = "every experience that a problem is about has a verdict"
AT_ONCE = 8
"""Groups between two looks at the evidence; fixed, so that a run ends at the same group at any concurrency."""


async def atransfer(
    store: ExperienceStore | Snapshot | str,
    model: Policy | str,
    *,
    task: Task | str,
    keep: str = "unharmed",
    group: int = 8,
    split: Split = "gate",
    budget: Budget | None = None,
    concurrency: int = 64,
    seed: int = 0,
    runs: str | Path = DEFAULT_FOLDER,
    on_event: Callable[[Event], None] | None = None,
) -> Transfer:
    """Measure what each served experience does to a model that did not learn it, and mask what harms it.

    Args:
        store: "./experience@v7", an exported file, an open store or a snapshot.
        model: the other model.
        task: a `Task`, or its name as `load_task` takes it.
        keep: what the mask leaves in: "unharmed", "likely" or "proven" (`tfgrpo.transferred.KEEP`).
        group: answers to each problem, at least 2.
        split: whose problems decide. Test problems stay for measuring what the mask is worth.
        budget: limits; None is 600 solver calls. Problems are asked again, with other coins, while it lasts.
        concurrency: requests in flight at most.
        seed: decides order and coins, and sampling where the server honours it.
        runs: where run folders are kept.
        on_event: called with every event, for progress.

    Returns:
        Effects and mask. A finished run of the same configuration is returned as it is, at no cost; with another budget
        it goes on from its answers.

    Raises:
        InputError: something given is wrong; nothing was spent.
        PolicyError: the same call goes on where this one stopped.
    """
    if keep not in KEEP:
        raise InputError(str(unknown_name("value of keep", keep, KEEP)))
    if group < 2:
        raise InputError(f"a coin needs at least 2 answers to each problem, got {group}")
    chosen, limit = load_task(task) if isinstance(task, str) else task, budget or Budget(calls=DEFAULT_CALLS)
    problems = problems_of(chosen, split, group)
    async with AsyncExitStack() as stack:
        policy = await opened(stack, model)
        label, snapshot = await asyncio.to_thread(snapshot_of, stack, store)
        if not snapshot.served:
            raise InputError(f"{label} serves no experience, so that there is nothing to measure")
        check_calls(limit, group * chosen.calls_per_answer)
        config = {
            "task": chosen.fingerprint(),
            "model": policy.name,
            "library": [[e.label, e.hash] for e in snapshot.served],
            "layout": dataclasses.asdict(snapshot.layout),
            "measured": [split, len(problems), group, seed],
        }
        folder = run_folder(Path(runs), run_name(f"transfer {chosen.name}", config), new=False)
        record = stack.enter_context(RunRecord.open(folder))
        config["budget"] = dataclasses.asdict(limit)  # not in the folder's name: a larger one goes on there
        known = record.get_state("transfer")
        if known is not None and (known["stopped"] == ALL_KNOWN or known["config"]["budget"] == config["budget"]):
            done = Transfer.from_json(known).kept(keep, label)
            return dataclasses.replace(done, notices=[*done.notices, "finished before; nothing was asked again"])
        events, ledger = EventLog(record, *([on_event] if on_event else [])), Ledger(limit)
        slots = asyncio.Semaphore(concurrency)
        caller = partial(
            Caller, record=record, ledger=ledger, concurrency=concurrency, slots=slots, emit=events.publish, seed=seed
        )
        stack.enter_context(bound(chosen.models, partial(caller, solver=False), policy))
        stack.enter_context(metrics_to(events.emit))
        solver = solver_of(caller(policy), chosen.agent)
        events.emit("started", kind="transfer", task=chosen.name, model=policy.name, folder=str(folder), plan=label)
        collector = Collector(
            caller=solver, reward=chosen.reward, sampling=chosen.sampling, events=events, record=record
        )
        trial = _Trial(chosen, problems, snapshot, collector, group, _most(limit, chosen, group), seed)
        await interruptible(trial.run(), folder)
        done = trial.result(label, split, keep)
        result = dataclasses.replace(done, folder=str(folder), notices=notices(chosen.models), config=config)
        record.put_state("transfer", result.as_json())
        events.emit("finished", words=result.words())
        return result


transfer = synchronous(atransfer, "transfer")
"""`atransfer` for programs without an event loop; takes the same arguments."""


def _most(limit: Budget, task: Task, group: int) -> int | None:
    """Groups that a budget of calls pays for; None where calls are not limited."""
    return None if limit.calls is None else limit.calls // (group * task.calls_per_answer)


MOST_GROUPS = 10_000
"""Where neither calls nor anything else ends a run sooner."""


class _Trial:
    """Deals the experiences, asks, and keeps the evidence; the groups' order decides everything."""

    def __init__(
        self,
        task: Task,
        problems: Sequence[Problem],
        snapshot: Snapshot,
        collector: Collector,
        group: int,
        most: int | None,
        seed: int,
    ) -> None:
        self._task, self._problems, self._snapshot, self._collector = task, problems, snapshot, collector
        self._size, self._most, self._seed = group, MOST_GROUPS if most is None else most, seed
        questions = {p.id: p.question for p in (*task.learn, *problems)}
        self.pool = Pool(Relevance(questions.values()), one_at_a_time=_one_place(snapshot.layout))
        for experience in snapshot.served:
            self.pool.add(experience, "accepted")
        self.groups = self.rollouts = self.missing = 0
        self.stopped = ""

    async def run(self) -> None:
        """Group by group until every experience that can be measured has a verdict, or the budget ends."""
        measurable = {e.id for p in self._problems for e in self.pool.applying(p)}
        if not measurable:
            raise InputError("no problem is about any of the experiences, so that none could be measured")
        for start in range(0, self._most, AT_ONCE):
            if await self._step(range(start, min(start + AT_ONCE, self._most))):
                return
            verdicts = self._verdicts()
            if all(verdicts[id] != "undecided" for id in measurable):
                self.stopped = ALL_KNOWN
                return

    async def _step(self, indices: range) -> bool:
        """A few groups at once, read in their order; whether the budget ended."""
        drawn = [self._drawn(index) for index in indices]
        done = await together([self._asked(index, *draw) for index, draw in zip(indices, drawn, strict=True)])
        for found, (_, draw, _) in zip(done, drawn, strict=True):
            if found is not None:
                self._observe(found, draw.applying)
        if not self.rollouts and self.missing:
            raise TransportError(
                f"not one of {self.missing} answers arrived and was scored; the run's events say why. Nothing that was "
                f"paid for is lost: the same command goes on here"
            )
        if not self.rollouts:
            raise InputError(f"the budget ended before one group of {self._size} was answered; raise it")
        self._collector.events.emit("test_progress", version="groups", done=self.groups, total=self._most)
        return any(found is None for found in done)

    def _drawn(self, index: int) -> tuple[Problem, Draw, tuple[Prompt, ...]]:
        """The problem of a group, what is in question in it, and its prompts."""
        turn, place = divmod(index, len(self._problems))
        order = np.random.default_rng((self._seed, 6, turn)).permutation(len(self._problems))
        problem = self._problems[order[place]]
        about = self.pool.applying(problem)
        ids = tuple(e.id for e in self._snapshot.served)
        applying = frozenset(e.id for e in about)
        always = tuple(i for i in ids if i not in applying)
        draw = Draw(always, tuple((e.id, "") for e in about), ids, applying)
        bare = Prompt(messages=problem.messages)
        coins = draw.deal(self._size, np.random.default_rng((self._seed, 7, index)))
        return problem, draw, tuple(dressed(bare, self._snapshot, shown) for shown in coins)

    async def _asked(self, index: int, problem: Problem, draw: Draw, prompts: tuple[Prompt, ...]) -> Group | None:
        try:
            return await self._collector.group(problem, prompts, index, self._snapshot.version.number)
        except BudgetExhausted as error:
            self.stopped = str(error)
            return None

    def _observe(self, group: Group, applying: frozenset[str]) -> None:
        self.groups += 1
        self.rollouts += len(group.rollouts)
        self.missing += group.missing
        shown = [[label.partition("@")[0] for label in r.experiences] for r in group.rollouts]
        values = [min(1.0, max(0.0, r.score.value)) for r in group.rollouts]
        self.pool.observe(shown, applying, values)

    def _verdicts(self) -> dict[str, Verdict]:
        """By e-BH over all experiences that a coin decided on, for each direction."""
        tried = [e for e in self.pool.entries.values() if e.wealth.groups]
        sides = list(zip(*(e.wealth.log_wealth for e in tried), strict=True)) or [(), ()]
        found: dict[str, Verdict] = dict.fromkeys(self.pool.entries, "undecided")
        helps, harms = (discoveries(side, ALPHA) for side in sides)
        for entry, good, bad in zip(tried, helps, harms, strict=True):
            if good != bad:
                found[entry.id] = "helps" if good else "harms"
        return found

    def effects(self) -> list[Effect]:
        """What was found of every served experience, in the order in which they stand in a prompt."""
        self.pool.learn_priors()
        specific = [e.column for e in self.pool.entries.values() if e.keys]
        self.pool.effects = self.pool.effects.refitted(specific, SPECIFIC)
        verdicts, sd = self._verdicts(), self.pool.effects.sd
        return [self._effect(e, float(sd[e.column]), verdicts[e.id]) for e in self.pool.entries.values()]

    def result(self, library: str, split: str, keep: str) -> Transfer:
        """What it came to."""
        ledger, effects = self._collector.caller.ledger, self.effects()
        model = self._collector.caller.policy.name
        return Transfer(
            folder="",
            task=self._task.name,
            model=model,
            library=library,
            split=split,
            keep=keep,
            effects=effects,
            mask=mask_of(model, library, effects, keep),
            groups=self.groups,
            rollouts=self.rollouts,
            missing=self.missing,
            stopped=self.stopped,
            spend={name: dataclasses.asdict(s) for name, s in ledger.spend_by_purpose.items()},
            seconds=ledger.elapsed_s,
        )

    def _effect(self, entry: Entry, sd: float, verdict: Verdict) -> Effect:
        mean, e = self.pool.effect(entry), entry.experience
        return Effect(
            id=e.id,
            hash=e.hash,
            text=e.text,
            effect=round(mean, 4),
            low=round(mean - 1.96 * sd, 4),
            high=round(mean + 1.96 * sd, 4),
            groups=entry.wealth.groups,
            verdict=verdict,
        )


def _one_place(layout: Layout) -> bool:
    return layout.max_entries == 1 and layout.select == "all"
