"""The entries that a run knows, what is believed of each, and which of them the next prompts show.

An entry is on *trial* until its verdict; *helps* makes it accepted, *harms* takes it out for good. Entries that would
say something about the same problems share a *slot*: a prompt shows at most one of a slot, so that rivals are
compared with each other and a right and a wrong version never stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from experience_store import Experience
from tfgrpo.evidence import GENERAL, SPECIFIC, EffectModel, Wealth
from tfgrpo.relevance import Relevance, applies, words
from tfgrpo.types import Problem

Status: TypeAlias = Literal["trial", "accepted", "harms", "dropped"]
Duel: TypeAlias = "tuple[Entry | None, Entry | None]"
"""What the two halves of a group show of one slot; twice the same when nothing is in question."""

MAX_GENERAL_TRIALS = 12
"""General entries under test in one group: more would bury the question and thin out the evidence."""
RESTING_PROBABILITY = 0.05
"""A trial entry less likely to help than this is shown no more, though it has no verdict yet."""
SURE_PROBABILITY = 0.99
"""An accepted entry more likely to help than this is shown in every prompt, unless a rival is promising."""


@dataclass(slots=True, eq=False)
class Entry:
    """One experience in a run. `column` is its place in the effect model, `born` the group that taught it."""

    experience: Experience
    keys: Mapping[str, float]
    column: int
    status: Status
    replaces: str = ""  # id of the entry of which this is a new wording
    born: int = -1
    wealth: Wealth = field(default_factory=Wealth)
    shown: int = 0  # rollouts in whose prompt it stood

    @property
    def id(self) -> str:
        return self.experience.id

    @property
    def live(self) -> bool:
        return self.status in ("trial", "accepted")


@dataclass(frozen=True, slots=True)
class Draw:
    """What is in question in one group: settled before its first prompt, and the same for all of its stages.

    `duels` are pairs of ids, "" for none: the two halves of the prompts show one side each.
    """

    always: tuple[str, ...]
    duels: tuple[tuple[str, str], ...]
    order: tuple[str, ...]  # ids as they stand in a prompt
    applying: frozenset[str] = frozenset()

    def deal(self, size: int, rng: np.random.Generator) -> tuple[tuple[str, ...], ...]:
        """Which ids each of `size` prompts shows. A coin of its own for every stage: only prompts dealt together can
        be compared."""
        shown: list[set[str]] = [set(self.always) for _ in range(size)]
        for pair in self.duels:
            sides = [pair[n * 2 // size] for n in range(size)]
            for n, entry in zip(rng.permutation(size), sides, strict=True):
                if entry:
                    shown[n].add(entry)
        return tuple(tuple(i for i in self.order if i in s) for s in shown)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Which entries each of the G prompts of a group shows, and which of them apply to its problem."""

    shown: tuple[tuple[str, ...], ...]  # [G] ids
    applying: frozenset[str]


class Pool:
    """All entries of a run, with the model of their effects."""

    def __init__(self, relevance: Relevance, *, one_at_a_time: bool = False) -> None:
        self._relevance = relevance
        self._one_at_a_time = one_at_a_time  # a prompt has room for one entry only, so that all are rivals
        self.entries: dict[str, Entry] = {}
        self.effects = EffectModel()

    def add(self, experience: Experience, status: Status, *, replaces: str = "", born: int = -1) -> Entry:
        """Take in an experience of the store."""
        keys = {} if experience.kind == "example" else self._relevance.keys(experience.text)
        column = self.effects.add(SPECIFIC if keys else GENERAL)
        entry = Entry(experience, keys, column, status, replaces, born)
        self.entries[entry.id] = entry
        return entry

    @property
    def live(self) -> tuple[Entry, ...]:
        """Accepted and trial entries, oldest first."""
        return tuple(entry for entry in self.entries.values() if entry.live)

    def effect(self, entry: Entry) -> float:
        """Posterior mean effect, in reward."""
        return float(self.effects.mean[entry.column])

    def learn_priors(self) -> None:
        """Believe of general advice what general advice was worth in this run, before the undecided are judged.

        Where much of it was proposed and little helped, those that look good by chance are no longer believed.
        """
        general = [entry.column for entry in self.entries.values() if not entry.keys]
        self.effects = self.effects.refitted(general, GENERAL)

    def applying(self, problem: Problem) -> tuple[Entry, ...]:
        """The live entries that say something about this problem; an example never about the one it solves."""
        held = words(problem.question)
        return tuple(e for e in self.live if applies(e.keys, held) and not _is_solution(e.experience, problem))

    def slots(self, entries: Iterable[Entry]) -> tuple[tuple[Entry, ...], ...]:
        """Entries grouped into sets of rivals."""
        found: dict[object, list[Entry]] = {}
        for entry in entries:
            found.setdefault(self._slot(entry), []).append(entry)
        return tuple(tuple(rivals) for rivals in found.values())

    def _slot(self, entry: Entry) -> object:
        if self._one_at_a_time:
            return "the one place"
        if entry.keys:
            return frozenset(entry.keys)
        return entry.replaces or entry.id

    def include(self, problem: Problem, size: int, rng: np.random.Generator) -> Inclusion:
        """Draw which entries each of `size` prompts shows: every open question gets a random half of the group."""
        draw = self.draw(problem, rng)
        return Inclusion(draw.deal(size, rng), draw.applying)

    def draw(self, problem: Problem, rng: np.random.Generator) -> Draw:
        """Which entries are in question in a group of this problem, and which stand in all of its prompts."""
        applying = self.applying(problem)
        always = self._beside_the_point(problem, applying)
        first, second = self.effects.draw(rng), self.effects.draw(rng)
        duels = self._without_crowding([self._duel(rivals, first, second) for rivals in self.slots(applying)], first)
        pairs = tuple(("" if a is None else a.id, "" if b is None else b.id) for a, b in duels)
        order = tuple(entry.id for entry in self.live)
        return Draw(tuple(always), pairs, order, frozenset(e.id for e in applying))

    def _beside_the_point(self, problem: Problem, applying: Sequence[Entry]) -> list[str]:
        """Entries about other problems, as a served prompt would hold them: they are shown and not tested."""
        if self._one_at_a_time:
            return []
        others = [e for e in self.live if e not in applying and not _is_solution(e.experience, problem)]
        return [e.id for e in others if e.status == "accepted" or self.effect(e) > 0]

    def _duel(self, rivals: Sequence[Entry], first: np.ndarray, second: np.ndarray) -> Duel:
        """Top-two Thompson sampling within a slot; "none of them" always competes with an effect of 0."""
        if len(rivals) == 1:
            only = rivals[0]
            if only.status == "accepted":
                return only, only
            resting = self.effects.probability_of_help(only.column) < RESTING_PROBABILITY
            return (None, None) if resting else (only, None)
        contenders: list[Entry | None] = [*rivals, None]
        best = max(contenders, key=lambda e: 0.0 if e is None else first[e.column])
        others = [e for e in contenders if e is not best]
        next_best = max(others, key=lambda e: 0.0 if e is None else second[e.column])
        return (best, best) if self._settled(best, next_best) else (best, next_best)

    def _settled(self, best: Entry | None, other: Entry | None) -> bool:
        if best is None or best.status != "accepted":
            return False
        if self.effects.probability_of_help(best.column) <= SURE_PROBABILITY:
            return False
        return other is None or self.effects.probability_of_help(other.column) < 0.5

    def _without_crowding(self, duels: list[Duel], draw: np.ndarray) -> list[Duel]:
        """Keep the most promising general trials under test and leave the others out of this group."""
        tests = [d for d in duels if d[0] is not d[1] and d[0] is not None and not d[0].keys]
        if len(tests) <= MAX_GENERAL_TRIALS:
            return duels
        ranked = sorted(tests, key=lambda d: -draw[d[0].column] if d[0] is not None else 0.0)
        crowded = {id(d) for d in ranked[MAX_GENERAL_TRIALS:]}
        return [d for d in duels if id(d) not in crowded]

    def observe(self, shown: Sequence[Sequence[str]], applying: frozenset[str], reward: Sequence[float]) -> None:
        """Learn from one finished group: which ids really stood in each prompt, and the rewards in [0, 1]."""
        y = np.asarray(reward, dtype=np.float64)
        x = np.zeros((len(y), len(self.effects)))
        for n, ids in enumerate(shown):
            for i in ids:
                self.entries[i].shown += 1
                if i in applying:
                    x[n, self.entries[i].column] = 1.0
        if len(y) < 2:
            return
        self.effects.observe(x, y)
        for i in sorted(applying):
            entry = self.entries[i]
            on = x[:, entry.column] > 0
            if on.any() and not on.all():
                entry.wealth.bet(float(y[on].mean() - y[~on].mean()))

    def best_of_slots(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Of each set of rivals the one that is best on cautious terms, in prompt order.

        Half a standard deviation is taken off, so that a newcomer that was never tried does not displace an entry with
        a measured effect.
        """
        sd = self.effects.sd if len(self.effects) else np.zeros(0)
        return tuple(
            max(rivals, key=lambda e: self.effect(e) - 0.5 * float(sd[e.column])) for rivals in self.slots(entries)
        )


def _is_solution(experience: Experience, problem: Problem) -> bool:
    return experience.kind == "example" and experience.source.get("problem") == problem.id
