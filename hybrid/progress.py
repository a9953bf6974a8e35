"""What a run of training shows while it goes on: a live table on a terminal, lines elsewhere. All on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from experience_store.quoting import visible
from hybrid.quantities import KL, PART, ordered, quantity
from tfgrpo.events import Event
from tfgrpo.troubles import Troubles

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

EVERY_S = 5.0
HISTORY = 16  # steps of a small curve
TWO_BLOCKS = 112  # characters of a terminal from which on quantities stand in two blocks
CURVE, START = 52, 70  # characters of a block from which on it has small curves, and tells where a quantity began
BARS = "▁▂▃▄▅▆▇█"
Listener: TypeAlias = Callable[[Event], None]
Points: TypeAlias = tuple[Mapping[str, float], ...]


@contextmanager
def progress(*, silent: bool) -> Iterator[Listener]:
    """What to hand over as `on_event`. `silent` tells nothing but that another listener failed."""
    if silent:
        yield _failures
    elif sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415

        with live(Console(stderr=True, highlight=False)) as listener:
            yield listener
    else:
        yield Lines()


def _failures(event: Event) -> None:
    if event.name == "subscriber_failed":
        print(f"note: {event.data['subscriber']} failed: {event.data['error']}", file=sys.stderr)


# -- lines -------------------------------------------------------------------------------------------------------------


def lasting(event: Event, troubles: Troubles) -> list[str]:
    """What is worth a line for good, wherever it is shown; errors may hold words of the model, which steer nothing."""
    return [visible(line) for line in _lasting(event, troubles)]


def _lasting(event: Event, troubles: Troubles) -> list[str]:
    data = event.data
    if event.name == "started":
        return [f"{data['task']}: {data['model']} ({data['setup']}), {data['plan']}", f"run folder {data['folder']}"]
    if event.name == "engine":
        return [str(data["words"])]
    if event.name == "resumed":
        return [f"going on after step {data['step']}, from {data['checkpoint']}"]
    if event.name == "measured":
        return [f"test after step {data['step']}: {data['words']}"]
    if event.name == "alarm":
        return [f"alarm {data['alarm']} after step {data['step']}: {data['words']}"]
    return troubles.told(event)


class Lines:
    """A run's events as lines: one per step, troubles a few times, tests every few seconds."""

    def __init__(self) -> None:
        self._told, self._troubles = time.monotonic(), Troubles()

    def __call__(self, event: Event) -> None:
        for line in self._lines(event):
            print(line, file=sys.stderr, flush=True)

    def _lines(self, event: Event) -> list[str]:
        if event.name == "update_done":
            return [visible(step_words(event.data))]
        if event.name == "test_progress" and time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            return [f"test {event.data['done']}/{event.data['total']}"]
        return lasting(event, self._troubles)


IN_LINE: dict[str, str] = {
    "reward": "reward {:.3f}",
    PART: "{} {:.3f}",
    "mixed": "mixed {:.0%}",
    "zero_variance": "flat {:.0%}",
    "length": "length {:.0f}",
    "truncated": "cut {:.0%}",
    "loss": "loss {:+.4f}",
    "entropy": "entropy {:.2f}",
    KL: "{} {:.1e}",
    "route/taught": "taught {:.0f}",
    "taught/kl": "teacher KL {:.3f}",
    "grad_norm": "grad {:.2f}",
    "parity_mean": "parity {:.1e}",
    "clipped_low": "clipped below {:.1%}",
    "clipped_high": "above {:.1%}",
    "dropped": "dropped {:.1%}",
    "sampler_capped": "capped {:.1%}",
    "sampler_dropped": "sampler dropped {:.1%}",
    "tokens_per_s": "{:.0f} tokens/s",
    "memory_gib": "{:.1f} GiB",
    "gpu_gib": "GPU {:.1f} GiB",
}
"""What one line tells of a step; a name that ends in / or _ stands for every column that begins with it."""


def step_words(data: Mapping[str, Any]) -> str:
    """One step in a line.

    Example:
        >>> step_words({"step": 3.0, "reward": 0.25, "mixed": 0.5, "length": 12.0, "sample_s": 4.0, "update_s": 6.0})
        'step 3  reward 0.250  mixed 50%  length 12  nothing to learn  4+6 s'
    """
    planned = f"/{data['planned']}" if data.get("planned") else ""
    said = [f"step {data['step']:.0f}{planned}"]
    for name, form in IN_LINE.items():
        if name == "loss" and not data.get("updates"):
            said.append("nothing to learn")
        if name in (PART, KL):
            said += [form.format(n.removeprefix(PART), data[n]) for n in sorted(data) if n.startswith(name)]
        elif data.get(name) is not None:
            said.append(form.format(data[name]))
    return "  ".join([*said, f"{data['sample_s']:.0f}+{data['update_s']:.0f} s"])


# -- a live table ------------------------------------------------------------------------------------------------------


@dataclass
class View:
    """What the events have said so far, as something that rich can draw at any moment."""

    steps: int | None = None
    seconds: float | None = None
    prompts: int = 0
    step: int = 0
    groups: int = 0  # of the step that is being made
    stage: str = "getting ready"
    first: Mapping[str, float] = field(default_factory=dict)
    points: Points = ()  # the latest; exchanged and never changed, another thread draws them
    alarms: tuple[str, ...] = ()
    troubles: Troubles = field(default_factory=Troubles)
    begun: float = field(default_factory=time.monotonic)
    spent_s: float = 0.0  # by earlier processes

    def see(self, event: Event) -> list[str]:
        """Take in one event; the lines that are worth showing for good."""
        data = event.data
        if event.name == "started":
            self.steps, self.seconds, self.prompts = data.get("steps"), data.get("seconds"), data.get("prompts") or 0
        elif event.name == "resumed":
            self.step, self.spent_s, self.stage = int(data["step"]), float(data.get("spent_s", 0.0)), "writing answers"
        elif event.name == "test_progress":
            self.stage = f"test {data['done']}/{data['total']}"
        elif event.name == "measured":
            self.stage, self.groups = "writing answers", 0
        elif event.name == "group_done":
            self.groups += 1
            ready = self.prompts and self.groups >= self.prompts
            self.stage = "learning" if ready else f"{self.groups}/{self.prompts or '?'} groups"
        elif event.name == "update_done":
            self._step(data)
        elif event.name == "alarm":
            self.alarms = (*self.alarms, str(data["alarm"]))
        return lasting(event, self.troubles)

    def _step(self, data: Mapping[str, Any]) -> None:
        point = {n: float(v) for n, v in data.items() if isinstance(v, int | float) and n != "planned"}
        self.first = self.first or point
        self.points = (*self.points, point)[-HISTORY:]
        self.step, self.groups, self.stage = int(point["step"]), 0, "writing answers"

    # -- drawn --------------------------------------------------------------------------------------------------------

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head(options.max_width)
        if self.points:
            yield self._numbers(options.max_width, curves=not options.ascii_only)

    def _head(self, width: int) -> Table:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        elapsed = self.spent_s + time.monotonic() - self.begun
        total, done = (self.steps, self.step) if self.steps else (self.seconds, min(elapsed, self.seconds or 0.0))
        head = Table.grid(padding=(0, 2))
        steps = f"step {self.step}" + (f"/{self.steps}" if self.steps else "")
        left = self._left()
        times = _clock(elapsed) + (f", about {_clock(left)} left" if left else "")
        bar = ProgressBar(total=total or 1, completed=done, width=min(32, max(8, width - 60)))
        alarms = f"alarms: {', '.join(self.alarms)}" if self.alarms else ""
        head.add_row(Text(steps), bar, Text(times), Text(self.stage, style="dim"), Text(alarms, style="yellow"))
        return head

    def _left(self) -> float:
        """Seconds until the last step, as far as the latest ones tell."""
        if self.steps is None or not self.points:
            return 0.0
        took = [p.get("sample_s", 0.0) + p.get("update_s", 0.0) for p in self.points][-5:]
        return (self.steps - self.step) * sum(took) / len(took)

    def _numbers(self, width: int, *, curves: bool) -> Table:
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        points = self.points
        seen = dict.fromkeys(name for point in points for name in point)
        names = [name for name in ordered(seen) if quantity(name).brief]
        blocks = 2 if width >= TWO_BLOCKS else 1
        tall = -(-len(names) // blocks)
        table = Table.grid(padding=(0, 2))
        cells = [self._cells(name, points, width // blocks, curves) for name in names]
        for _ in range(blocks * (len(cells[0]) if cells else 0)):
            table.add_column(no_wrap=True)
        for place in range(tall):
            table.add_row(*(Text(words, style=style) for row in cells[place::tall] for words, style in row))
        return table

    def _cells(self, name: str, points: Points, room: int, curves: bool) -> list[tuple[str, str]]:
        """Words and styles of one quantity, in a block of `room` characters."""
        known, values = quantity(name), [point.get(name, math.nan) for point in points]
        last = next((v for v in reversed(values) if math.isfinite(v)), math.nan)
        start = self.first.get(name, math.nan)
        began = f"from {start:{known.form}}" if math.isfinite(start) else ""
        row = [(visible(known.title), "dim"), (f"{known.words(last):>15}", "")]
        row += [(sparkline(values), "")] if curves and room >= CURVE else []
        return [*row, (began, "dim")] if room >= START else row


def sparkline(values: Sequence[float]) -> str:
    """A small curve; a step that measured nothing is a gap, and a level one lies at the bottom.

    Example:
        >>> sparkline([0.0, 0.5, float("nan"), 1.0]), sparkline([2.0, 2.0])
        ('▁▅ █', '▁▁')
    """
    known = [v for v in values if math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if high <= low:
        return "".join(BARS[0] if math.isfinite(v) else " " for v in values)
    scale = (len(BARS) - 1) / (high - low)
    return "".join(BARS[math.floor((v - low) * scale + 0.5)] if math.isfinite(v) else " " for v in values)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def live(console: Console) -> Iterator[Listener]:
    """A table that is drawn anew while events come in, and gone at the end; lines worth keeping stay above it."""
    from rich.live import Live  # noqa: PLC0415

    view = View()
    with Live(view, console=console, transient=True, refresh_per_second=4):

        def listen(event: Event) -> None:
            for line in view.see(event):
                console.print(line, markup=False, soft_wrap=True)

        yield listen
