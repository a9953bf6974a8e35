"""Runs: the list, and one of them with its curve, its result and what it spent by purpose.

A run of another package (training) is shown by the function that writes its report: what stands in the report's `main`
is put into this page, whose policy allows neither scripts nor styles of its own, whatever was written.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from tfgrpo.html_curves import parts_of_whole
from tfgrpo.html_parts import Html, clean, escaped, join, section, tag
from tfgrpo.html_report import PURPOSES, accounts, outcome, title
from tfgrpo.record import FILE_NAME, RunRecord
from tfgrpo.run_story import Story, read_outline
from tfgrpo.runs import RunLine, kind_of, run_line
from tfgrpo.ui.frame import Asked, View, badge, empty, failed, heading, pager, place, row, search

SIZE = 50
OURS = ("learn", "evaluate")
MAIN = re.compile(r"<main>(.*)</main>", re.DOTALL)
Writer: TypeAlias = Callable[[Path, Path], Path]
T = TypeVar("T")
Stamp: TypeAlias = tuple[tuple[int, int], ...]


def stamp(folder: Path) -> Stamp:
    """Changes whenever something is written to a run's record."""
    files = (folder / FILE_NAME, folder / f"{FILE_NAME}-wal")
    stats = [file.stat() for file in files if file.exists()]
    return tuple((s.st_mtime_ns, s.st_size) for s in stats if s.st_size)  # reading makes an empty log of its own


@dataclass(slots=True)
class Kept(Generic[T]):
    """What was read of the latest folders, read again only when they have changed."""

    read: Callable[[Path], T]
    most: int
    _known: dict[Path, tuple[Stamp, T]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, folder: Path) -> T:
        with self._lock:
            now, known = stamp(folder), self._known.pop(folder, None)
            value = known[1] if known and known[0] == now else self.read(folder)
            self._known[folder] = (now, value)
            while len(self._known) > self.most:
                del self._known[next(iter(self._known))]
            return value


class RunPages:
    """Reads run folders; `writer_of` gives the function that writes the report of a kind of run of another package."""

    def __init__(self, runs: Path, writer_of: Callable[[str], Writer]) -> None:
        self.runs = runs
        self._writer_of = writer_of
        self._lines: Kept[RunLine] = Kept(run_line, most=5000)
        self._stories: Kept[Story] = Kept(read_outline, most=8)
        self._reports: Kept[Html] = Kept(self._report, most=8)

    def folders(self) -> list[Path]:
        """All run folders, the latest written first."""
        found = [(file.stat().st_mtime_ns, file.parent) for file in self.runs.glob(f"*/{FILE_NAME}")]
        return [folder for _, folder in sorted(found, key=lambda pair: (-pair[0], pair[1].name))]

    def folder(self, name: str) -> Path | None:
        """The folder of a run by its exact name; no other path leads anywhere."""
        if not name or name in (".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
            return None
        folder = self.runs / name
        return folder if (folder / FILE_NAME).is_file() else None

    def index(self, asked: Asked) -> View:
        """All runs, the latest first."""
        query = asked.query.get("q", "").casefold()
        folders = [f for f in self.folders() if all(word in f.name.casefold() for word in query.split())]
        if not folders:
            return View(title="Runs", active="runs", body=[heading("Runs"), *self._nothing(asked, query)])
        page = min(asked.page, -(-len(folders) // SIZE))
        lines = [self._lines.of(f) for f in folders[(page - 1) * SIZE : page * SIZE]]
        rows = tag("div", *map(_row, lines), class_="rows runs")
        turn = pager(asked, len(folders), SIZE, "run")
        body = [
            heading("Runs", clean(f"in {self.runs}", 300)),
            search(asked, "Search by name (press /)"),
            turn,
            rows,
            turn,
        ]
        return View(title="Runs", active="runs", body=body)

    def _nothing(self, asked: Asked, query: str) -> Sequence[object]:
        if query:
            again = join(["Other words, or ", tag("a", "all runs", href="/runs"), "."])
            return [search(asked, "Search by name (press /)"), empty("Nothing matches", again)]
        learn = f"tfgrpo learn problems.jsonl --reward exact --model openai/NAME --runs {self.runs}"
        train = "tfgrpo train TASK --model local/FOLDER --out runs/NAME"
        return [
            empty(
                "Nothing was run yet",
                clean(f"There is no run in {self.runs}. One of these makes one:", 300),
                learn,
                train,
            ),
            empty("Or look at an example", "", "tfgrpo demo", "tfgrpo ui --store demo/experience --runs demo/runs"),
        ]

    def one(self, asked: Asked) -> View:
        """A run."""
        folder = self.folder(asked.parts["run"])
        if folder is None:
            return failed(404, f"there is no run {asked.parts['run'][:120]!r} in {self.runs}")
        if kind_of(folder) in OURS:
            story = self._stories.of(folder)
            groups = _to_groups(folder, bool(story.counts.get("group_done")))
            shown = [*outcome(story), groups, spent(story.spend), *accounts(story)]
            return View(title=title(story), active="runs", body=[crumbs(folder.name), *shown])
        report = self._reports.of(folder)
        with RunRecord.open(folder, read_only=True) as record:
            groups = _to_groups(folder, record.count_events("group_done") > 0)
        return View(title=folder.name, active="runs", body=[crumbs(folder.name), groups, report])

    def _report(self, folder: Path) -> Html:
        writer = self._writer_of(kind_of(folder))
        with tempfile.TemporaryDirectory(prefix="tfgrpo-ui-") as work:
            text = writer(folder, Path(work) / "report.html").read_text(encoding="utf-8")
        found = MAIN.search(text)
        return Html(found[1]) if found else escaped(text)


def crumbs(run: str, *more: object) -> Html:
    """Where one is among the runs."""
    parts: list[object] = [tag("a", "Runs", href="/runs"), tag("a", clean(run, 120), href=place("runs", run)), *more]
    return tag("p", join(parts, " › "), class_="crumbs")


def _to_groups(folder: Path, there: bool) -> Html | None:
    words = "Groups and their rollouts, side by side"
    return tag("p", tag("a", words, href=place("runs", folder.name, "groups"))) if there else None


def _row(line: RunLine) -> Html:
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(line.time)) if line.time else "–"
    state = {"finished": "good", "unfinished": "open"}.get(line.state, "bad")
    known = clean(line.state, 160)
    return row(
        place("runs", line.name),
        clean(line.name, 80),
        tag(
            "div",
            clean(line.result or line.task, 300),
            tag("div", clean(line.model, 120), class_="quiet"),
            class_="words",
        ),
        tag("div", badge(clean(line.kind, 30)), badge(known, state), class_="figure"),
        tag("div", tag("b", f"{line.calls:,}"), " calls", class_="figure"),
        tag("div", f"${line.usd:.4f}", class_="figure"),
        tag("div", when, class_="figure"),
    )


def spent(spend: Mapping[str, Mapping[str, Any]]) -> Html | None:
    """Dollars by purpose as parts of one bar; tokens where no call has a price."""
    dollars = {name: float(r.get("usd", 0.0)) for name, r in spend.items()}
    tokens = {n: float(r.get("prompt_tokens", 0) + r.get("completion_tokens", 0)) for n, r in spend.items()}
    priced = any(dollars.values())
    amounts = [(n, v) for n, v in (dollars if priced else tokens).items() if v > 0]
    if not amounts:
        return None
    amounts.sort(key=lambda pair: -pair[1])
    named = [(PURPOSES.get(name, name), amount) for name, amount in amounts]
    keys = [
        tag(
            "li", tag("span", class_=f"key tint{n % 4}"), f" {name}: ", tag("b", f"${v:.4f}" if priced else f"{v:,.0f}")
        )
        for n, (name, v) in enumerate(named)
    ]
    what = "Dollars by purpose" if priced else "Tokens by purpose"
    return section(what, parts_of_whole(named), tag("ul", *keys, class_="keys"))
