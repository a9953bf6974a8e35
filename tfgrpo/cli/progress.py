"""Live progress from a run's events: a bar on a terminal, a line every few seconds elsewhere. All on stderr."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.events import Event
from tfgrpo.troubles import Troubles

EVERY_S = 5.0
IN_WORDS = ("measured", "removal_tested")
"""Events of `retire` that are shown as they are told."""


@dataclass
class View:
    """What the events have said so far."""

    groups: int = 0
    planned: int = 0
    learned: bool = False
    step: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, tuple[int, int]] = field(default_factory=dict)
    troubles: Troubles = field(default_factory=Troubles)
    spent: dict[str, Any] = field(default_factory=dict)

    def see(self, event: Event) -> list[str]:
        """Take in one event; the lines that are worth showing for good."""
        data = event.data
        self.spent.update({k: data[k] for k in ("calls", "usd", "unpriced") if k in data})
        if event.name == "started":
            self.planned = int(data.get("groups", 0))
            return _started(data)
        if event.name == "group_done":
            self.groups += 1
            self.planned = max(self.planned, self.groups)  # staged groupings plan with the most a group may ask
        elif event.name == "step_done":
            self.step = dict(data)
        elif event.name == "test_progress":
            self.tests[str(data["version"])] = (int(data["done"]), int(data["total"]))
        elif event.name == "learned":
            self.learned = True
            return [f"learned from {data['groups']} groups" + (f": {data['stopped']}" if data["stopped"] else "")]
        elif event.name == "gated":
            return [f"gate: {data['verdict']} over {data['pairs']} pairs"]
        elif event.name in IN_WORDS:
            self.tests.clear()  # of this measurement; the next one counts for itself
            return [str(data["words"])]
        return self.troubles.told(event)

    @property
    def test(self) -> tuple[int, int]:
        """Samples measured and to be measured, of all sides."""
        return sum(done for done, _ in self.tests.values()), sum(total for _, total in self.tests.values())

    def status(self) -> str:
        """Reward of the last step, version, live experiences, spend and troubles in a few words."""
        said = []
        if self.step:
            reward = self.step.get("reward")
            said += [] if reward is None else [f"reward {reward:.2f}"]
            said += [f"v{self.step['version']}", f"{self.step['live']} live"]
        if self.spent:
            usd = self.spent.get("usd") or 0.0
            cost = f", ${usd:.4f}" if usd or not self.spent.get("unpriced") else ""
            said += [f"{self.spent.get('calls', 0)} calls{cost}"]
        lost = self.troubles["call_failed"] + self.troubles["request_refused"]
        return ", ".join([*said, *([f"{lost} lost"] if lost else [])])

    def line(self) -> str:
        """The state in one line."""
        done, total = self.test
        stage = f"test {done}/{total}" if total else f"groups {self.groups}/{self.planned}"
        status = self.status()
        return f"{stage}, {status}" if status else stage


def _started(data: Any) -> list[str]:
    known = int(data.get("recorded", 0))
    going_on = [f"going on: {known} replies are on record and are not asked for again"] if known else []
    return [f"{data['task']}: {data['model']}, {data['plan']}", f"run folder {data['folder']}", *going_on]


Listener = Callable[[Event], None]


@contextmanager
def progress(args: argparse.Namespace) -> Iterator[Listener | None]:
    """What to hand over as `on_event`; None with --json and --quiet."""
    if args.json or args.quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as listener:
            yield listener
    else:
        yield _Lines()


class _Lines:
    """A line when something is worth one, and every few seconds."""

    def __init__(self) -> None:
        self.view, self._told = View(), time.monotonic()

    def __call__(self, event: Event) -> None:
        for line in self.view.see(event):
            print(line, file=sys.stderr, flush=True)
        if time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            print(self.view.line(), file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Listener]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    view, console = View(), Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    status = TextColumn("{task.fields[status]}", markup=False)
    with Progress(*columns, status, console=console, transient=True) as bars:
        groups = bars.add_task("groups", total=None, visible=False, status="")
        test = bars.add_task("test", total=None, visible=False, status="")

        def listen(event: Event) -> None:
            for line in view.see(event):
                bars.console.print(line, markup=False, soft_wrap=True)
            done, total = view.test
            learning = bool(view.planned) and not view.learned
            bars.update(
                groups, completed=view.groups, total=view.planned or None, visible=learning, status=view.status()
            )
            bars.update(test, completed=done, total=total or None, visible=bool(total), status=view.status())

        yield listen
