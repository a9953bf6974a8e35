"""What a run folder and its store tell about a run, gathered for a report that a person reads."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import experience_store
from experience_store import StoreError, Version
from tfgrpo.events import Event
from tfgrpo.measurement import Measurement
from tfgrpo.record import RunRecord
from tfgrpo.report import Report
from tfgrpo.types import Completion, message_text

ROUTINE = frozenset(
    {"started", "prepared", "group_done", "step_done", "committed", "learned", "gated", "test_progress", "finished"}
)
KEPT_EVENTS = 60
SHOWN = 4

Place = tuple[int, str, int]  # group, problem, sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One rollout to look at; `completion` is None when its words were erased."""

    place: Place
    score: float
    version: int
    experiences: tuple[str, ...]
    completion: Completion | None = None

    @property
    def question(self) -> str:
        """The words of the last user message that was really sent."""
        prompt = self.completion.prompt if self.completion else ()
        return next((message_text(m) for m in reversed(prompt) if m.get("role") == "user"), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """All that the page shows; `report` or `measurement` is there once a run of learning or an evaluation is done."""

    folder: Path
    report: Report | None
    measurement: Measurement | None
    started: Mapping[str, Any]
    config: Mapping[str, Any]
    spend: Mapping[str, Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    versions: Sequence[Version]
    texts: Mapping[str, str]  # by experience id, as last written
    store_problem: str  # why `versions` is empty, or ""
    pairs: Sequence[tuple[Shown, Shown]]  # best and worst answer to the same question
    best: Sequence[Shown]
    worst: Sequence[Shown]
    counts: Mapping[str, int]
    failures: Sequence[Event]


def read_story(folder: Path) -> Story:
    """Read a run folder without changing it.

    Raises:
        RunStateError: there is no run record, or it cannot be read.
    """
    return _read(folder, whole=True)


def read_outline(folder: Path) -> Story:
    """The same without rollouts and versions, which takes as much memory for a long run as for a short one.

    Raises:
        RunStateError: there is no run record, or it cannot be read.
    """
    return _read(folder, whole=False)


def _read(folder: Path, *, whole: bool) -> Story:
    with RunRecord.open(folder, read_only=True) as record:
        known = record.get_state("report")
        report = None if known is None else Report.from_json(known)
        known = record.get_state("measurement")
        measurement = None if known is None else Measurement.from_json(known)
        started = next((e.data for e in record.events("started")), {})
        done = report or measurement
        config = (done.config if done else None) or record.get_state("config") or {}
        pairs, best, worst = _rollouts(record) if whole else ([], [], [])
        counts, failures = _events(record)
        curve = report.curve if report else _steps(record.events("step_done"))
        spend = {name: dataclasses.asdict(spent) for name, spent in record.spend().items()}
    run = report.run if report else str(started.get("run", folder.name))
    versions, problem = _versions(folder, run, report, config) if whole else ([], "")
    return Story(
        folder=folder,
        report=report,
        measurement=measurement,
        started=started,
        config=config,
        spend=_with_failed(spend, done),
        curve=curve,
        versions=versions,
        texts=_texts(versions),
        store_problem=problem,
        pairs=pairs,
        best=best,
        worst=worst,
        counts=counts,
        failures=failures,
    )


def _with_failed(spend: dict[str, dict[str, Any]], done: Report | Measurement | None) -> dict[str, dict[str, Any]]:
    """Failed calls leave no reply in the record; the report of the last process counted them."""
    for name, row in (done.spend if done else {}).items():
        spend.setdefault(name, dict(row))["failed_calls"] = row.get("failed_calls", 0)
    return spend


def _steps(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The curve of a run that has not finished: steps without intervals."""
    points: dict[int, dict[str, Any]] = {}
    for event in events:
        data = event.data
        if data.get("reward") is not None:
            points[int(data["step"])] = {"reward": data["reward"], "version": data["version"], "total": data["groups"]}
    ends = [0, *(point["total"] for point in points.values())]
    return [
        {"step": step, "groups": point["total"] - before, "version": point["version"], "reward": point["reward"]}
        for (step, point), before in zip(points.items(), ends, strict=False)
        if point["total"] > before
    ]


# -- rollouts -----------------------------------------------------------------------------------------------------


def _rollouts(record: RunRecord) -> tuple[list[tuple[Shown, Shown]], list[Shown], list[Shown]]:
    """Those worth a look, with their words; the latest first where scores are equal, each problem once."""
    groups = {int(e.data["group"]): e.data for e in record.events("group_done")}
    spread = sorted(groups.items(), key=lambda item: (-_spread(item[1]), -item[0]))
    apart = _distinct([g for _, g in spread if _spread(g) > 0], lambda g: str(g["problem"]))
    pairs = [(_ends(g, -1), _ends(g, 1)) for g in apart[: SHOWN - 1]]
    paired = {shown.place for pair in pairs for shown in pair}
    best = _ranked(groups, paired, sign=-1)
    worst = [s for s in _ranked(groups, paired, sign=1) if not best or s.score < best[0].score]
    wanted = {s.place for s in (*best, *worst, *(s for pair in pairs for s in pair))}
    words = {}
    for call in record.calls("solve"):
        place = (call.key.epoch, call.key.problem, call.key.sample)
        if place in wanted:
            words[place] = call.completion

    def told(shown: Shown) -> Shown:
        return dataclasses.replace(shown, completion=words.get(shown.place))

    return [(told(a), told(b)) for a, b in pairs], [told(s) for s in best], [told(s) for s in worst]


def _ranked(groups: Mapping[int, Mapping[str, Any]], paired: set[Place], *, sign: int) -> list[Shown]:
    """The best or worst of each problem; those that are shown in pairs only where there are no others."""
    each = [_ends(g, sign) for g in groups.values() if g["rollouts"]]
    each.sort(key=lambda s: (s.place in paired, sign * s.score, -s.place[0]))
    return _distinct(each, lambda s: s.place[1])[:SHOWN]


def _ends(group: Mapping[str, Any], sign: int) -> Shown:
    """The best (sign -1) or worst rollout of a group."""
    row = min(group["rollouts"], key=lambda r: sign * r["score"])
    return Shown(
        place=(int(group["group"]), str(group["problem"]), int(row["sample"])),
        score=float(row["score"]),
        version=int(group["version"]),
        experiences=tuple(row["experiences"]),
    )


def _spread(group: Mapping[str, Any]) -> float:
    scores = [float(r["score"]) for r in group["rollouts"]] or [0.0]
    return max(scores) - min(scores)


def _distinct(items: Iterable[Any], key: Any) -> list[Any]:
    first: dict[str, Any] = {}
    for item in items:
        first.setdefault(key(item), item)
    return list(first.values())


# -- events and versions ------------------------------------------------------------------------------------------


def _events(record: RunRecord) -> tuple[dict[str, int], list[Event]]:
    counts: Counter[str] = Counter()
    kept: deque[Event] = deque(maxlen=KEPT_EVENTS)
    for event in record.events():
        counts[event.name] += 1
        if event.name not in ROUTINE:
            kept.append(event)
    return dict(counts), list(kept)


def _versions(folder: Path, run: str, report: Report | None, config: Mapping[str, Any]) -> tuple[list[Version], str]:
    """The versions this run wrote, the oldest first, or why they cannot be shown."""
    location, _, namespace = str(config.get("store", report.store if report else "")).rpartition("#")
    if not location:
        return [], "this run has not told which store it writes to"
    place = _where(location, folder, report)
    try:
        with experience_store.open(place, namespace=namespace, create=False) as store:
            log = store.log()
    except StoreError as error:
        return [], f"the store {location} could not be opened: {error}"
    return [v for v in reversed(log) if v.writer.startswith(f"{run}/")], ""


def _where(location: str, folder: Path, report: Report | None) -> str:
    """A relative store is looked for here, then where the run was started, as far as the run folder tells that."""
    if "://" in location or Path(location).exists() or report is None:
        return location
    steps = Path(report.folder).parts
    if folder.resolve().parts[-len(steps) :] != steps:
        return location
    base = Path(*folder.resolve().parts[: -len(steps)])
    return str(base / location) if (base / location).exists() else location


def _texts(versions: Sequence[Version]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for version in versions:
        for edit in version.edits:
            if edit.text:
                texts[edit.id] = f"{edit.question}\n→ {edit.text}" if edit.question else edit.text
    return texts
