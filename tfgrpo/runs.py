"""Run folders: one per configuration, so that the same command goes on where it was stopped.

runs/
  largest-of-three-3f9a2c1b7d/      the first run of this configuration
    run.sqlite                      finished calls, states, events
  largest-of-three-3f9a2c1b7d-2/    the same configuration again, asked for with `new=True`
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgrpo.budget import Spend
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.events import Event
from tfgrpo.record import FILE_NAME, RunRecord

DEFAULT_FOLDER = "runs"
RESULTS = {
    "learn": "report",
    "evaluate": "measurement",
    "compare": "contrast",
    "transfer": "transfer",
    "train": "training",
    "retire": "retirement",
    "improve": "improvement",
}
"""The state in which a run of each kind keeps what it came to."""


def run_name(task: str, config: Mapping[str, Any]) -> str:
    """The task's name and a hash of everything that decides what a run does."""
    text = json.dumps(config, sort_keys=True, default=str)
    slug = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40] or "task"
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def run_folder(root: Path, name: str, *, new: bool) -> Path:
    """The latest folder of this configuration, or a new one."""
    taken = [folder for folder in _attempts(root, name) if (folder / FILE_NAME).exists()]
    if not taken:
        return root / name
    return root / f"{name}-{len(taken) + 1}" if new else taken[-1]


def fresh_folder(root: Path, name: str, result: str, *, reuse: bool) -> tuple[Path, int]:
    """The folder of an unfinished measurement (or of the last one, to reuse), else a new one; and its number.

    Args:
        result: the state that a finished one has.
    """
    folder = run_folder(root, name, new=False)
    if not reuse and (folder / FILE_NAME).exists():
        with RunRecord.open(folder, read_only=True) as record:
            finished = record.get_state(result) is not None
        folder = run_folder(root, name, new=finished)
    number = folder.name.removeprefix(name).removeprefix("-")
    return folder, int(number or 1)


def _attempts(root: Path, name: str) -> list[Path]:
    found = []
    folder, number = root / name, 1
    while folder.exists():
        found.append(folder)
        number += 1
        folder = root / f"{name}-{number}"
    return found


def find_run(given: str, root: str | Path = DEFAULT_FOLDER) -> Path:
    """The folder of a run by its path, its name, the beginning of its name, or "last".

    Raises:
        InputError: none or several fit; they are listed.
    """
    folder = Path(given)
    if (folder / FILE_NAME).exists():
        return folder
    runs = sorted((p.parent for p in Path(root).glob(f"*/{FILE_NAME}")), key=lambda p: (p / FILE_NAME).stat().st_mtime)
    if given == "last" and runs:
        return runs[-1]
    fitting = [run for run in runs if run.name.startswith(given)]
    exact = [run for run in fitting if run.name == given]
    if len(exact or fitting) == 1:
        return (exact or fitting)[0]
    listed = ", ".join(run.name for run in (fitting or runs)[-8:]) or "none"
    raise InputError(
        f"{'several runs fit' if fitting else 'there is no run'} {given!r} in {root}/; runs there: {listed}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLine:
    """A run in a list. `state` is "finished", "unfinished" (the same command goes on), or what is wrong with it."""

    name: str
    folder: str
    kind: str  # "learn", "evaluate", or what another package calls its own: "train", "retire", "improve"
    task: str = ""
    model: str = ""
    state: str = "unfinished"
    calls: int = 0
    usd: float = 0.0
    result: str = ""
    time: float = 0.0


def list_runs(root: str | Path = DEFAULT_FOLDER) -> list[RunLine]:
    """Every run in a folder, the latest last."""
    return sorted((run_line(path.parent) for path in Path(root).glob(f"*/{FILE_NAME}")), key=lambda line: line.time)


def kind_of(folder: Path) -> str:
    """What made a run: "learn", "evaluate", or what another package calls its own runs, such as "train".

    Raises:
        RunStateError: there is no run record, or it cannot be read.
    """
    with RunRecord.open(folder, read_only=True) as record:
        return _kind(folder, record)


def _began(record: RunRecord) -> Event | None:
    """How a run began; one that is made of several runs has a name of its own for it."""
    return next(record.events("started"), None) or next(record.events("begun"), None)


def _kind(folder: Path, record: RunRecord) -> str:
    started = _began(record)
    told = started.data.get("kind") if started else None
    measured = folder.name.startswith("evaluate-") or record.get_state("measurement") is not None
    return str(told or ("evaluate" if measured and record.get_state("report") is None else "learn"))


def run_line(folder: Path) -> RunLine:
    """One run in a few words; `state` says what is wrong with a record that cannot be read."""
    kind = "evaluate" if folder.name.startswith("evaluate-") else "learn"
    try:
        with RunRecord.open(folder, read_only=True) as record:
            kind = _kind(folder, record)
            started = _began(record)
            done = record.get_state(RESULTS.get(kind, kind))
            calls, usd = _spent(record, done)
    except RunStateError as error:
        return RunLine(name=folder.name, folder=str(folder), kind=kind, state=str(error))
    data = started.data if started else {}
    return RunLine(
        name=folder.name,
        folder=str(folder),
        kind=kind,
        task=str(data.get("task", "")),
        model=str(data.get("model", "")),
        state="finished" if done else "unfinished",
        calls=calls,
        usd=usd,
        result=_result(done) if done else "",
        time=started.time if started else 0.0,
    )


def _spent(record: RunRecord, done: Mapping[str, Any] | None) -> tuple[int, float]:
    """Calls and dollars: those on record, or what a run that is made of several says of all of them."""
    told = (done or {}).get("spend", {})
    if "calls_usd" in told:
        return int(told["calls"]), float(told["calls_usd"])
    spent = sum(record.spend().values(), Spend())
    return spent.calls, spent.usd


def _result(done: Mapping[str, Any]) -> str:
    if done.get("gain_words"):
        return str(done["gain_words"])
    if done.get("words"):
        return str(done["words"])
    single = done.get("after") or done.get("before")
    return (
        f"{single['mean']:.3f} (95 % {single['low']:.3f}..{single['high']:.3f})" if single else str(done.get("why", ""))
    )
