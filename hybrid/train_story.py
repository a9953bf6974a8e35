"""What the folder of a training run tells about it, gathered for a page that a person reads. Light to import."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from hybrid.report import TrainReport
from tfgrpo.events import Event
from tfgrpo.record import RunRecord
from tfgrpo.types import Completion, message_text

ROUTINE = frozenset(
    {"started", "resumed", "prepared", "group_done", "answers_scored", "update_done", "test_progress", "measured"}
    | {"checkpoint_saved", "engine", "finished", "metric"}
)
KEPT_EVENTS = 60
STEPS, GROUPS, ANSWERS = 24, 8, 16
"""The most steps of a run, groups of a step and answers of a group that are shown."""
Place: TypeAlias = tuple[int, str, int]  # group, problem, sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One scored answer; `words` is None where they are not on record: given, or erased."""

    place: Place
    reward: float | None
    advantage: float | None
    in_loss: bool
    success: bool
    length: int
    cut: bool
    parts: Mapping[str, float | None]
    words: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The answers to one problem that were compared, the best first; `left_out` more are not shown."""

    problem: str
    question: str
    answers: Sequence[Answer]
    left_out: int = 0

    @property
    def spread(self) -> float:
        """Between the best and the worst reward."""
        known = [a.reward for a in self.answers if a.reward is not None]
        return max(known) - min(known) if known else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Groups of one step, those with the widest rewards first; `left_out` more are not shown."""

    number: int
    groups: Sequence[Compared]
    left_out: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """All that the page shows. `report` is there once the run has ended, and not while it goes on again."""

    folder: Path
    report: TrainReport | None
    started: Mapping[str, Any]
    config: Mapping[str, Any]
    curve: Sequence[Mapping[str, float]]
    tests: Mapping[int, Mapping[str, Any]]  # by step
    steps: Sequence[Step]
    counts: Mapping[str, int]
    failures: Sequence[Event]
    answers: int = 0  # on record, of all steps


@dataclass(slots=True)
class _Seen:
    """What one reading of all events leaves; the tables of answers are read again, when it is known which to show."""

    started: Mapping[str, Any] = field(default_factory=dict)
    ended: bool = False
    curve: dict[int, Mapping[str, float]] = field(default_factory=dict)
    tests: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    alarmed: set[int] = field(default_factory=set)
    answers: dict[int, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    failures: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))

    def see(self, event: Event) -> None:
        name, data = event.name, event.data
        self.counts[name] += 1
        if name == "started":
            self.started, self.ended = data, False
        elif name == "finished":
            self.ended = True
        elif name == "update_done":
            self.curve[int(data["step"])] = {n: v for n, v in data.items() if n != "planned"}
        elif name == "measured":
            self.tests[int(data["step"])] = data
        elif name == "answers_scored":
            self.answers[int(data["step"])] = len(data["group"])
        elif name == "alarm":
            self.alarmed.add(int(data["step"]))
        if name not in ROUTINE and name != "alarm":
            self.failures.append(event)


def read_story(folder: Path) -> Story:
    """Read a run folder without changing it. Steps that were made twice, after a kill, count as made the last time.

    Raises:
        RunStateError: there is no run record, or it cannot be read.
    """
    seen = _Seen()
    with RunRecord.open(folder, read_only=True) as record:
        for event in record.events():
            seen.see(event)
        known = record.get_state("training") if seen.ended else None
        report = None if known is None else TrainReport.from_json(known)
        curve = report.curve if report else [seen.curve[n] for n in sorted(seen.curve)]
        chosen = chosen_steps([int(point["step"]) for point in curve], seen.alarmed)
        steps = _with_words(record, _tables(record, set(chosen)))
        config = (report.config if report else None) or record.get_state("config") or {}
    del seen.counts["alarm"]
    return Story(
        folder=folder,
        report=report,
        started=seen.started,
        config=config,
        curve=curve,
        tests=seen.tests,
        steps=steps,
        counts=dict(seen.counts),
        failures=list(seen.failures),
        answers=sum(seen.answers.values()),
    )


def chosen_steps(steps: Sequence[int], alarmed: set[int], most: int = STEPS) -> list[int]:
    """Which steps are shown: first and last, those that raised an alarm, and the rest at even distances.

    Example:
        >>> chosen_steps(range(1, 101), {33}, most=5)
        [1, 33, 34, 67, 100]
        >>> chosen_steps([1, 2, 3], set())
        [1, 2, 3]
    """
    wanted = [step for step in steps if step in alarmed][: most // 2]
    room = most - len(wanted)
    if len(steps) <= most:
        return list(steps)
    even = [steps[round(n * (len(steps) - 1) / (room - 1))] for n in range(room)]
    return sorted({*wanted, *even})


def _tables(record: RunRecord, chosen: set[int]) -> list[Step]:
    """The steps without the words of their answers."""
    found: dict[int, Mapping[str, Any]] = {}
    for event in record.events("answers_scored"):
        if int(event.data["step"]) in chosen:
            found[int(event.data["step"])] = event.data
    return [_step(number, found[number]) for number in sorted(found)]


def _step(number: int, data: Mapping[str, Any]) -> Step:
    groups: dict[int, list[Answer]] = {}
    for n, group in enumerate(data["group"]):
        groups.setdefault(int(group), []).append(_answer(data, n))
    compared = [_compared(answers) for answers in groups.values()]
    compared.sort(key=lambda c: -c.spread)
    return Step(number=number, groups=compared[:GROUPS], left_out=max(0, len(compared) - GROUPS))


def _answer(data: Mapping[str, Any], n: int) -> Answer:
    return Answer(
        place=(int(data["group"][n]), str(data["problem"][n]), int(data["sample"][n])),
        reward=data["reward"][n],
        advantage=data["advantage"][n],
        in_loss=bool(data["in_loss"][n]),
        success=bool(data["success"][n]),
        length=int(data["length"][n]),
        cut=bool(data["cut"][n]),
        parts={name: values[n] for name, values in data["parts"].items()},
    )


def _compared(answers: Sequence[Answer]) -> Compared:
    """The best and the worst of a group, if there are too many for all."""
    ranked = sorted(answers, key=lambda a: (-(a.reward if a.reward is not None else -1e18), a.place[2]))
    half = ANSWERS // 2
    shown = ranked if len(ranked) <= ANSWERS else [*ranked[:half], *ranked[-half:]]
    return Compared(problem=answers[0].place[1], question="", answers=shown, left_out=len(ranked) - len(shown))


def _with_words(record: RunRecord, steps: Sequence[Step]) -> list[Step]:
    """The words of the answers that are shown, from one reading of the record; the last turn of an agent."""
    wanted = {answer.place for step in steps for group in step.groups for answer in group.answers}
    words: dict[Place, str] = {}
    questions: dict[int, str] = {}
    for call in record.calls("solve") if wanted else ():
        place = (call.key.epoch, call.key.problem, call.key.sample)
        if place in wanted:
            words[place] = call.completion.text
            questions.setdefault(place[0], _question(call.completion))

    def told(group: Compared) -> Compared:
        answers = [replace(answer, words=words.get(answer.place)) for answer in group.answers]
        return replace(group, answers=answers, question=questions.get(group.answers[0].place[0], ""))

    return [replace(step, groups=[told(group) for group in step.groups]) for step in steps]


def _question(completion: Completion) -> str:
    asked = (message_text(m) for m in reversed(completion.prompt) if m.get("role") == "user")
    return next(asked, "")
