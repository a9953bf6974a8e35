"""The answers to test problems that a finished run kept, given out again without asking anybody.

    learn, train      before, after
    evaluate          before (what the store was compared with), after
    improve           base, library, untrained, trained, trained_library: those that it measured

What a run scored is not believed: its answers are scored again, by the reward of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tfgrpo.budget import Ledger
from tfgrpo.errors import InputError, TransportError
from tfgrpo.policy.base import Policy, Price, Sampling
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.runs import RESULTS, kind_of
from tfgrpo.types import Completion, Message, Problem, Prompt, message_text

PURPOSES = ("evaluate", "weights")
"""Under which runs ask test problems; answers of trained weights, which no budget limits, have one of their own."""
ARMS = ("base", "library", "untrained", "trained", "trained_library")
"""What `improve` measures; the place is the epoch under which the answers are recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One side of a run: under which epoch its answers stand, how many of each problem, and whose they are."""

    epoch: int
    samples: int
    model: str
    what: str  # "./experience@v7", "no experiences"


Stages: TypeAlias = Mapping[str, Stage]
"""By name, in the order in which a run measures them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """The answers of one stage, by problem and sample number; those of probes are numbered on behind the samples."""

    folder: str
    name: str  # of the stage
    stage: Stage
    task: str = ""  # fingerprint of the task, "" where the run does not tell
    answers: Mapping[tuple[str, int], Completion]

    @property
    def problems(self) -> frozenset[str]:
        """Ids of the problems that it answered."""
        return frozenset(problem for problem, sample in self.answers if sample < self.stage.samples)

    def shared(self, problems: Sequence[Problem]) -> tuple[Problem, ...]:
        """Those of the problems that it answered.

        Raises:
            InputError: it answered others, or the same ids stand for other questions.
        """
        known = {p.id for p in problems}
        others = sorted(self.problems - known)
        if others:
            raise InputError(
                f"{self.folder} ({self.name}) answered {len(others)} problems that are not among the {len(known)} "
                f"of the task, such as {others[0]!r}; only answers to the same problems can be compared: "
                f"give the task and the split of that run"
            )
        held = tuple(p for p in problems if p.id in self.problems)
        for problem in held:
            if not self._asked(problem):
                raise InputError(
                    f"{self.folder} ({self.name}) was asked something else under the id {problem.id!r} than the task "
                    f"asks now; give the task of that run"
                )
        return held

    def _asked(self, problem: Problem) -> bool:
        """Whether what was sent holds the question; experiences may stand before it."""
        sent = next(c for (id, sample), c in self.answers.items() if id == problem.id and sample < self.stage.samples)
        users = [message_text(m) for m in sent.prompt if m.get("role") == "user"]
        return bool(users) and problem.question in users[-1]


def recorded_answers(folder: Path, stage: str = "") -> Recorded:
    """The answers of one stage of a finished run; without a name the last one that it measured.

    Raises:
        InputError: it has not finished, has no such stage, or keeps no answers that can be told apart.
        RunStateError: the run record cannot be read.
    """
    kind = kind_of(folder)
    read = READERS.get(kind)
    if read is None:
        raise InputError(f"{folder} is a run of the kind {kind!r}; answers are compared of: {', '.join(READERS)}")
    with RunRecord.open(folder, read_only=True) as record:
        done = record.get_state(RESULTS[kind]) or {}
        stages = read(record, done, folder)
        if not stages:
            raise InputError(f"{folder} has no answers to test problems yet; the command that started it goes on there")
        if stage and stage not in stages:
            raise InputError(f"{folder} measured {', '.join(stages)}, and no {stage!r}; write {folder}:STAGE")
        name = stage or [*stages][-1]
        found = _answers(record, stages[name].epoch)
        task = str((done.get("config") or {}).get("task", ""))
    if not found:
        raise InputError(f"{folder} ({name}) keeps no answers any more, or none that can be read; measure it again")
    return Recorded(folder=str(folder), name=name, stage=stages[name], task=task, answers=found)


def _answers(record: RunRecord, epoch: int) -> dict[tuple[str, int], Completion]:
    calls = (call for purpose in PURPOSES for call in record.calls(purpose))
    return {(c.key.problem, c.key.sample): c.completion for c in calls if c.key.epoch == epoch and c.solver}


def _epochs(record: RunRecord) -> list[int]:
    return sorted({call.key.epoch for call in record.calls("evaluate")})


def _learned(record: RunRecord, done: Mapping[str, Any], folder: Path) -> Stages:
    sides = {"before": done.get("start"), "after": done.get("final")}
    return {
        name: Stage(epoch=n, samples=done[name]["samples"], model=done["model"], what=f"{done['store']}@v{version}")
        for n, (name, version) in enumerate(sides.items())
        if done.get(name)
    }


def _evaluated(record: RunRecord, done: Mapping[str, Any], folder: Path) -> Stages:
    if done.get("curve"):
        raise InputError(f"{folder} measured a strategy, which chooses among several answers; compare plain ones")
    first = min(_epochs(record), default=0) // 2 * 2  # both sides of a measurement have a number of its own pair
    sides = {"before": done.get("against"), "after": done.get("store")}
    found = [(name, what) for name, what in sides.items() if done.get(name)]
    return {
        name: Stage(epoch=first + n, samples=done[name]["samples"], model=done["model"], what=str(what))
        for n, (name, what) in enumerate(found)
    }


def _trained(record: RunRecord, done: Mapping[str, Any], folder: Path) -> Stages:
    epochs = _epochs(record)
    sides = {"before": (epochs[:1], done.get("model")), "after": (epochs[1:][-1:], done.get("checkpoint"))}
    return {
        name: Stage(epoch=at[0], samples=done[name]["samples"], model=str(model), what="no experiences")
        for name, (at, model) in sides.items()
        if at and done.get(name)
    }


def _improved(record: RunRecord, done: Mapping[str, Any], folder: Path) -> Stages:
    arms = {name: record.get_state(f"arm/{name}") for name in ARMS}
    return {
        name: Stage(
            epoch=n,
            samples=len(arm["scores"][0]),
            model=arm["model"],
            what="what it learned" if name.endswith("library") else "no experiences",
        )
        for n, (name, arm) in enumerate(arms.items())
        if done and arm and arm["scores"]
    }


READERS: Mapping[str, Callable[[RunRecord, Mapping[str, Any], Path], Stages]] = {
    "learn": _learned,
    "evaluate": _evaluated,
    "train": _trained,
    "improve": _improved,
}
"""How each kind of run says which of its answers are whose."""


class Replay:
    """A solver that answers from a run's record; it is its own policy, and nobody stands behind it.

    Example:
        >>> stage = Stage(epoch=0, samples=1, model="m", what="no experiences")
        >>> solver = Replay(Recorded(folder="runs/a", name="before", stage=stage, answers={}))
        >>> solver.policy.name, solver.busy_share()
        ('m', 0.0)
    """

    price: Price | None = None
    concurrency = 64  # answers that are scored at once

    def __init__(self, recorded: Recorded) -> None:
        self.name, self._recorded, self.ledger = recorded.stage.model, recorded, Ledger()

    @property
    def policy(self) -> Policy:
        return self

    def busy_share(self) -> float:
        """Nobody is busy."""
        return 0.0

    async def answer(self, problem: Problem, prompt: Prompt, key: CallKey, sampling: Sampling) -> Completion:
        """The recorded answer.

        Raises:
            TransportError: there is none, as when that call failed then: missing data.
        """
        known = self._recorded.answers.get((problem.id, key.sample))
        if known is None:
            raise TransportError(f"sample {key.sample} of problem {problem.id!r} is not on record")
        return known.answering(prompt)

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Never: what is not on record is not asked for.

        Raises:
            TransportError: always.
        """
        raise TransportError(f"{self._recorded.folder} is a finished run; nobody is asked")

    async def aclose(self) -> None:
        """Nothing is open."""
