"""The training-free learner: scored groups in, edits of the store out, each with its verdict.

    plan      which entries each prompt of the next group shows (a random half for every open question)
    read      what the critic proposes after an informative group
    update    evidence of a whole step, verdicts, consolidation, one commit
    conclude  which undecided entries ship

Everything is decided in the order of the groups' numbers from what earlier steps left, never from arrival order, so
that a run that is killed and started again walks the same path through its recorded replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from experience_store import Edit, Experience, Layout, Snapshot, Version
from tfgrpo.advantage import Values
from tfgrpo.collect import Fill
from tfgrpo.consolidate import Consolidator, Embedder, normal_form
from tfgrpo.critic.base import Critic, Reading
from tfgrpo.dressing import dressed
from tfgrpo.events import EventLog, recorded
from tfgrpo.evidence import Wealth
from tfgrpo.pool import Draw, Entry, Pool
from tfgrpo.provenance import inheriting, with_origin
from tfgrpo.relevance import Relevance
from tfgrpo.types import Group, Problem, Prompt, Rollout

Gate: TypeAlias = Literal["evidence", "strict", "none"]
"""*evidence* ships what helps and what is undecided with a positive expected effect, *strict* only what helps,
*none* everything at once, as the paper does."""

ALPHA = 0.05


class Store(Protocol):
    """What the learner needs of an experience store."""

    @property
    def location(self) -> str: ...
    @property
    def embedder(self) -> Embedder: ...
    def head(self) -> Version: ...
    def log(self, limit: int | None = None) -> Sequence[Version]: ...
    def at(self, ref: int | str) -> Snapshot: ...
    def commit(
        self,
        edits: Sequence[Edit],
        *,
        parent: int | None = None,
        layout: Layout | None = None,
        note: str = "",
        evidence: dict[str, Any] | None = None,
        writer: str = "",
    ) -> Version: ...
    def rollback(self, to: int | str, note: str = "", *, writer: str = "") -> Version: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A group that is about to be sampled. `fill` puts the entries that were drawn for it into later stages' prompts,
    from what was known when it was planned."""

    index: int
    problem: Problem
    prompts: tuple[Prompt, ...]
    applying: frozenset[str]
    known: tuple[Experience, ...]
    version: int
    fill: Fill


@dataclass(frozen=True, slots=True)
class Finished:
    """A group with what the critic proposed after it."""

    plan: Plan
    group: Group
    proposals: tuple[Edit, ...]
    informative: bool


def comparable(group: Group) -> list[list[Rollout]]:
    """The rollouts of a group in sets within which a coin alone decided who shows what: the evidence of a group.

    Answers that were helped with a hint, a draft or a reference are left out: what an entry does beside a hint is not
    what it does when it is served. Answers of different stages are never compared, since a later one is asked only
    because of what the earlier ones came to, and neither are different kinds of prompt within a stage. Wordings and
    roles of one stage are: their prompts were dealt together, so that the difference is unbiased between them too.
    """
    sets: dict[tuple[int, str], list[Rollout]] = {}
    for rollout in group.unaided:
        sets.setdefault((rollout.stage, rollout.kind), []).append(rollout)
    return list(sets.values())


def informative(group: Group, values: Values) -> bool:
    """Whether a group can teach: some advantage is not 0, or all failed and what is right is known.

    Example: a group of equal successes cannot, unless earlier answers of it failed without the hint; one of equal
    failures can when there is a reference answer.
    """
    if not group.rollouts:
        return False
    if np.any(np.abs(values) > 1e-9):
        return True
    failed = not any(r.score.success for r in group.rollouts)
    if not failed and any(not r.score.success for r in group.earlier):
        return True
    return failed and (group.problem.answer is not None or any(r.score.feedback for r in group.rollouts))


class ExperienceLearner:
    """Owns the pool of entries and the only writer of the run to the store."""

    def __init__(
        self,
        *,
        store: Store,
        start: Version,
        critic: Critic,
        problems: Sequence[Problem],
        layout: Layout,
        events: EventLog,
        run_id: str,
        seed: int = 0,
        gate: Gate = "evidence",
        objective: str = "",
        outside: bool = True,
    ) -> None:
        self.store, self.critic, self.events, self.layout = store, critic, events, layout
        self.gate, self._run_id, self._seed, self._objective = gate, run_id, seed, objective
        self._outside = outside
        self.pool = Pool(Relevance(p.question for p in problems), one_at_a_time=_one_place(layout))
        self._problems = {p.id: p for p in problems}
        self._mine = {v.writer: v for v in store.log() if v.writer.startswith(f"{run_id}/")}
        self.consolidator = Consolidator(store.embedder, events, _buried(store.log()))
        self.snapshot = store.at(start.number)
        self._clipped = False  # whether a score outside 0..1 was seen and told
        self.taught: list[Problem] = []  # problems whose entries were added by the last update
        self._adopt(self.snapshot)

    # -- before a group -----------------------------------------------------------------------------------------------

    def plan(self, index: int, problem: Problem, prompts: Sequence[Prompt]) -> Plan:
        """Put the drawn entries into the prompts of a group."""
        rng = np.random.default_rng((self._seed, 2, index))
        live = self.pool.live
        everything = tuple(e.id for e in live)
        draw = Draw(everything, (), everything) if self.gate == "none" else self.pool.draw(problem, rng)
        fill = partial(self._filled, index, self.snapshot, draw)
        made = self._dressed(self.snapshot, prompts, draw.deal(len(prompts), rng))
        known = tuple(e.experience for e in live)
        return Plan(index, problem, made, draw.applying, known, self.snapshot.version.number, fill)

    def _filled(
        self, index: int, snapshot: Snapshot, draw: Draw, stage: int, prompts: Sequence[Prompt]
    ) -> tuple[Prompt, ...]:
        """The prompts of a later stage, under the version and the questions with which the group was planned."""
        coin = np.random.default_rng((self._seed, 2, index, stage))
        return self._dressed(snapshot, prompts, draw.deal(len(prompts), coin))

    def _dressed(
        self, snapshot: Snapshot, prompts: Sequence[Prompt], shown: Sequence[Sequence[str]]
    ) -> tuple[Prompt, ...]:
        return tuple(dressed(p, snapshot, ids, layout=self.layout) for p, ids in zip(prompts, shown, strict=True))

    def coverage(self, problem: Problem) -> float:
        """Summed positive effect of the entries that are about this problem in particular."""
        return sum(max(0.0, self.pool.effect(e)) for e in self.pool.applying(problem) if e.keys)

    # -- after a group ------------------------------------------------------------------------------------------------

    async def read(self, plan: Plan, group: Group, values: Values) -> Finished:
        """Ask the critic about an informative group; its failure costs this group's lesson only."""
        teaches = informative(group, values)
        proposals: tuple[Edit, ...] = ()
        if teaches and not self._explained(plan, group):
            reading = Reading(group=group, values=values, known=plan.known, objective=self._objective)
            async with recorded(self.events, "critic_failed", group=group.index, problem=group.problem.id):
                read = await self.critic.read(reading)
                proposals = with_origin(read, group, run=self._run_id, outside=self._outside)
        return Finished(plan, group, proposals, teaches)

    def _explained(self, plan: Plan, group: Group) -> bool:
        """Whether every answer that had all there is to know about this problem was right: nothing is left to learn."""
        about = [e for e in self.pool.entries.values() if e.id in plan.applying and e.keys]
        slots = [{e.id for e in rivals} for rivals in self.pool.slots(about)]
        told = [r for r in group.unaided if all(slot & _ids(r.experiences) for slot in slots)]
        return bool(slots) and bool(told) and all(r.score.success for r in told)

    async def update(self, step: int, finished: Sequence[Finished]) -> Version:
        """Learn from a finished step and commit what changed; returns the version of the groups to come."""
        for done in finished:
            self._observe(done)
        proposals = [edit for done in finished for edit in done.proposals]
        known = tuple(e.experience for e in self.pool.live)
        async with recorded(self.events, "consolidation_failed", step=step):
            proposals = inheriting(await self.critic.merge(step, proposals, known), proposals)
        edits = (*self._verdicts(), *self._proposed(proposals, known))
        if edits:
            note = f"step {step}: groups {finished[0].plan.index}-{finished[-1].plan.index}"
            await self._commit(edits, f"step-{step}", note)
        return self.snapshot.version

    def _observe(self, done: Finished) -> None:
        if self.gate == "none":
            return
        for rollouts in comparable(done.group):
            shown = [_known_ids(self.pool, r.experiences) for r in rollouts]
            values = [r.score.value for r in rollouts]
            if not self._clipped and not all(0.0 <= v <= 1.0 for v in values):
                self._clipped = True
                self.events.emit(
                    "reward_clipped", group=done.group.index, values=values, why="evidence reads scores as 0..1"
                )
            self.pool.observe(shown, done.plan.applying, [min(1.0, max(0.0, v)) for v in values])

    def _proposed(self, proposals: Sequence[Edit], known: Sequence[Experience]) -> tuple[Edit, ...]:
        if self.gate == "none":
            return self.consolidator.check(self._trusted(proposals), known, trial=False)
        checked = self.consolidator.check(proposals, known, trial=True)
        for edit in checked:
            if edit.op == "drop":  # an opinion is no evidence: the entry is put to the test again
                entry = self.pool.entries[edit.id]
                entry.status, entry.wealth = "trial", Wealth()
        return tuple(edit for edit in checked if edit.op != "drop")

    def _trusted(self, proposals: Sequence[Edit]) -> list[Edit]:
        """Without a gate, text that others may have written gets in by no way."""
        for edit in proposals:
            if edit.taint == "untrusted":
                why = "it comes from untrusted text, which only a gate may let in"
                self.events.emit("edit_refused", op=edit.op, id=edit.id, text=edit.text, why=why)
        return [edit for edit in proposals if edit.taint != "untrusted"]

    def _verdicts(self) -> tuple[Edit, ...]:
        if self.gate == "none":
            return ()
        edits: list[Edit] = []
        for entry in self.pool.live:
            verdict = entry.wealth.verdict(ALPHA)
            if entry.status == "trial" and verdict == "helps":
                edits.extend(self._accepted(entry, "helps: shown by randomised inclusion"))
            elif entry.status == "trial" and verdict == "harms":
                self.consolidator.bury(entry.experience)
                entry.status = "harms"
                e = entry.experience
                source = {"buried": normal_form(e.text, e.question)}
                edits.append(Edit(op="drop", id=e.id, reason="harms: shown by randomised inclusion", source=source))
        return tuple(edits)

    def _accepted(self, entry: Entry, reason: str) -> list[Edit]:
        """End the trial; a new wording that won takes the place and the id of the old one."""
        entry.status = "accepted"
        old = self.pool.entries.get(entry.replaces)
        if old is None or not old.live:
            return [Edit(op="accept", id=entry.id, reason=reason)] if entry.id in self.snapshot.version.trial else []
        entry.status = "dropped"
        old.wealth, old.column, old.status = entry.wealth, entry.column, "accepted"
        e = entry.experience
        revised = Edit(op="revise", id=old.id, text=e.text, kind=e.kind, reason=reason, source=e.source, taint=e.taint)
        return [revised, Edit(op="drop", id=entry.id, reason=f"became {old.id}")]

    # -- at the end ---------------------------------------------------------------------------------------------------

    async def conclude(self) -> Version:
        """Settle what ships under the gate's policy and commit it."""
        if self.gate == "none":
            return self.snapshot.version
        self.pool.learn_priors()
        wanted = [e for e in self.pool.live if self._ships(e)]
        best = self.pool.best_of_slots(wanted)
        edits: list[Edit] = []
        for entry in best:
            if entry.status == "trial":
                edits.extend(self._accepted(entry, f"undecided; expected effect {self.pool.effect(entry):+.3f}"))
        settled = {e.id for e in best} | {edit.id for edit in edits}
        for entry in self.pool.live:
            if entry.status == "accepted" and entry.id not in settled:
                entry.status = "dropped"
                edits.append(
                    Edit(op="drop", id=entry.id, reason="a rival has the larger measured effect, or none is left")
                )
        if edits:
            await self._commit(tuple(edits), "conclusion", "what ships")
        return self.snapshot.version

    def shown_to_help(self) -> bool:
        """Whether any entry that ships has a verdict, or an interval of its effect, above zero."""
        return any(self._helps(entry) for entry in self.pool.live if entry.status == "accepted")

    def _helps(self, entry: Entry) -> bool:
        sd = float(self.pool.effects.sd[entry.column])
        return entry.wealth.verdict(ALPHA) == "helps" or self.pool.effect(entry) > 1.96 * sd

    def _ships(self, entry: Entry) -> bool:
        """An expectation is not enough for text that others may have written."""
        effect = self.pool.effect(entry)
        if entry.status == "accepted":
            return effect >= 0
        if entry.experience.taint == "untrusted" and not self._helps(entry):
            return False
        return effect > 0 and self.gate != "strict"

    # -- the store ----------------------------------------------------------------------------------------------------

    async def _commit(self, edits: Sequence[Edit], name: str, note: str) -> None:
        """One commit, once: a run that was killed after it finds its own version again."""
        writer = f"{self._run_id}/{name}"
        version = self._mine.get(writer)
        if version is None:
            parent = self.snapshot.version.number
            commit = partial(self.store.commit, parent=parent, layout=self.layout, note=note, writer=writer)
            version = await asyncio.to_thread(commit, edits, evidence=self.evidence())
        self.snapshot = await asyncio.to_thread(self.store.at, version.number)
        self._adopt(self.snapshot)
        self.events.emit("committed", version=version.name, note=note, edits=len(edits), live=len(version.rows))

    def _adopt(self, snapshot: Snapshot) -> None:
        """Bring the pool in line with a version: ids and texts are the store's, beliefs are the pool's."""
        self.taught = []
        for experience in snapshot.experiences:
            entry = self.pool.entries.get(experience.id)
            if entry is not None:
                entry.experience = experience
                continue
            source = experience.source
            trial = experience.id in snapshot.version.trial
            replaces, born = str(source.get("replaces", "")), int(source.get("group", -1))
            self.pool.add(experience, "trial" if trial else "accepted", replaces=replaces, born=born)
            if trial and experience.kind != "example" and source.get("problem") in self._problems:
                self.taught.append(self._problems[source["problem"]])
        there = {e.id for e in snapshot.experiences}
        for entry in self.pool.live:
            if entry.id not in there:
                entry.status = "dropped"

    def evidence(self) -> dict[str, Any]:
        """What is known of every live entry: effect with its 95 % interval, groups, verdict."""
        if not self.pool.live:
            return {}
        mean, sd = self.pool.effects.mean, self.pool.effects.sd
        return {"effects": {e.id: _belief(e, float(mean[e.column]), float(sd[e.column])) for e in self.pool.live}}


def _belief(entry: Entry, mean: float, sd: float) -> dict[str, Any]:
    return {
        "effect": round(mean, 4),
        "low": round(mean - 1.96 * sd, 4),
        "high": round(mean + 1.96 * sd, 4),
        "groups": entry.wealth.groups,
        "shown": entry.shown,
        "verdict": entry.wealth.verdict(ALPHA),
        "applies_to": sorted(entry.keys) or "everything",
    }


def _ids(labels: Sequence[str]) -> set[str]:
    return {label.partition("@")[0] for label in labels}


def _known_ids(pool: Pool, labels: Sequence[str]) -> list[str]:
    return [i for i in (label.partition("@")[0] for label in labels) if i in pool.entries]


def _buried(log: Sequence[Version]) -> set[str]:
    """Texts that harmed in an earlier run on this store."""
    return {
        str(edit.source["buried"]) for v in log for edit in v.edits if edit.op == "drop" and "buried" in edit.source
    }


def _one_place(layout: Layout) -> bool:
    """Whether all entries compete for one place in every prompt; a retrieving layout chooses by the question."""
    return layout.max_entries == 1 and layout.select == "all"
