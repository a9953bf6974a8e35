"""A run of training in TensorBoard or W&B: listeners of its events, chosen by `--track`, none of them needed.

    with tracking(["tensorboard"], out="./trained") as told:
        hybrid.train(task, model="local/smollm2", out="./trained", on_event=told)

OUT/
  tensorboard/              tensorboard --logdir OUT/tensorboard
    told.json               how far this tracker was told
  wandb/                    W&B's own files; WANDB_MODE=offline keeps all of it here
    told.json

A run that goes on goes on in the same tracker run, and every step is told once: steps that are computed again after a
kill have the same numbers, and are skipped; steps that a tracker lacks, because it was chosen later, are told to it
from the run's record. A tracker that fails is dropped and said; the run goes on without it. W&B writes its file by
itself, every FLUSH_S: a step that was told within that time before a kill is lost to it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from hybrid.quantities import quantity
from tfgrpo.errors import InputError, MissingExtraError, missing_extra, unknown_name
from tfgrpo.events import Event, EventLog, recorded
from tfgrpo.record import RunRecord

Listener: TypeAlias = Callable[[Event], None]
ABOUT = ("task", "model", "setup", "plan", "methods", "settings", "folder")
"""What is told of a run, of its event "started"."""
FLUSH_S = 0.2


class Board(Protocol):
    """The part of a tracker that differs: where numbers and words go. Opened when the first thing is to be told."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Finite numbers by name, durable when this returns as far as the tracker can say."""
        ...

    def words(self, name: str, text: str, step: int) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class Told:
    """How far a tracker was told, in a file beside its own: the last step, and other things by a mark each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step, self.marks, self.run = 0, set[str](), secrets.token_hex(4)
        if file.exists():
            known = json.loads(file.read_text(encoding="utf-8"))
            self.step, self.marks, self.run = int(known["step"]), set(known["marks"]), str(known["run"])

    def keep(self) -> None:
        fresh = self._file.with_name(f"{self._file.name}.part")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        known = {"run": self.run, "step": self.step, "marks": sorted(self.marks)}
        fresh.write_text(json.dumps(known) + "\n", encoding="utf-8")
        fresh.replace(self._file)


class Tracker:
    """Turns a run's events into what a board is told, each once."""

    def __init__(self, file: Path, opened: Callable[[Told, Mapping[str, Any]], Board]) -> None:
        self._file, self._opened = file, opened
        self._told: Told | None = None
        self._board: Board | None = None
        self._about: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Take in one event of the run."""
        data = event.data
        if event.name == "started":
            self._about = {name: data[name] for name in ABOUT if name in data}
            self._begin()
        elif event.name == "resumed":
            self._catch_up(int(data["step"]))
        elif event.name == "update_done":
            self._step(data)
        elif event.name == "measured" and "mean" in data:
            numbers = {f"test/{name}": float(data[name]) for name in ("mean", "low", "high")}
            self._once(f"test/{data['step']}", lambda board: board.numbers(_finite(numbers), int(data["step"])))
        elif event.name == "alarm":
            name, words = str(data["alarm"]), str(data["words"])
            self._once(f"alarm/{name}", lambda board: board.words(f"alarm/{name}", words, int(data["step"])))

    def close(self, *, failed: bool) -> None:
        if self._board is not None:
            self._board.close(failed=failed)

    def _begin(self) -> tuple[Told, Board]:
        if self._told is None or self._board is None:
            self._told = Told(self._file)
            self._board = self._opened(self._told, self._about)
            self._told.keep()
        return self._told, self._board

    def _catch_up(self, until: int) -> None:
        """Tell the steps that earlier processes made, as far as they were not told; they are not made again."""
        told, _ = self._begin()
        with RunRecord.open(self._file.parent.parent, read_only=True) as record:
            made = {int(event.data["step"]): event.data for event in record.events("update_done")}
        for step in sorted(made):
            if told.step < step <= until:
                self._step(made[step])

    def _step(self, data: Mapping[str, Any]) -> None:
        told, board = self._begin()
        step = int(data["step"])
        if step > told.step:
            known = {name: value for name, value in data.items() if name not in ("step", "planned")}
            board.numbers(_finite({f"{quantity(name).topic}/{name}": v for name, v in known.items()}), step)
            told.step = step
            told.keep()

    def _once(self, mark: str, tell: Callable[[Board], None]) -> None:
        told, board = self._begin()
        if mark not in told.marks:
            tell(board)
            told.marks.add(mark)
            told.keep()


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


# -- the boards --------------------------------------------------------------------------------------------------------


class TensorBoard:
    """Event files as TensorBoard reads them. What was written after the last step told is hidden from it."""

    def __init__(self, folder: Path, told: Told, about: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - torch and tensorboard

        self._writer: Any = SummaryWriter(str(folder), purge_step=told.step + 1)
        if not told.step:
            rows = "\n".join(f"    {name}: {json.dumps(value, default=str)}" for name, value in about.items())
            self._writer.add_text("run", rows, 0)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def words(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, text, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class WandB:
    """A run of W&B. Project, entity, mode and key are those of its own environment variables."""

    def __init__(self, folder: Path, told: Told, about: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415 - a large package

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(console="off")
        if hasattr(settings, "x_transaction_log_flush_interval"):
            settings.x_transaction_log_flush_interval = FLUSH_S  # 15 s by default, lost in a kill
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "tfgrpo"),
                id=told.run,
                name=os.environ.get("WANDB_NAME", folder.parent.name),
                resume="allow",
                dir=str(folder.parent),
                config=dict(about),
                settings=settings,
            )
            self._run.define_metric("*", step_metric="step")  # W&B's own counter drops a second row of one step
        except wandb.Error as error:
            raise InputError(
                f"W&B could not be started: {error}. Log in (wandb login), keep it on this machine "
                f"(WANDB_MODE=offline), or leave --track wandb out"
            ) from error

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def words(self, name: str, text: str, step: int) -> None:
        self._run.summary[name] = f"after step {step}: {text}"

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


# -- by name -----------------------------------------------------------------------------------------------------------


def _tensorboard(out: Path) -> Tracker:
    for package in ("tensorboard", "torch"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "track", "--track tensorboard")
    folder = out / "tensorboard"
    return Tracker(folder / "told.json", lambda told, about: TensorBoard(folder, told, about))


def _wandb(out: Path) -> Tracker:
    if importlib.util.find_spec("wandb") is None:
        raise MissingExtraError("--track wandb needs the package 'wandb'; install it with: pip install wandb")
    folder = out / "wandb"
    return Tracker(folder / "told.json", lambda told, about: WandB(folder, told, about))


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb}


@contextmanager
def tracking(names: Sequence[str], *, out: str | Path, beside: Sequence[Listener] = ()) -> Iterator[Listener]:
    """What to hand over as `on_event`: it tells the trackers of these names, and the listeners `beside` them.

    Nothing is written before the run has begun. Trackers are closed at the end of the block.

    Args:
        names: of TRACKERS.
        out: the run's folder, as given to `train`.
        beside: further listeners, such as a progress display. One that fails is dropped, the others are told so.

    Raises:
        InputError: an unknown name.
        MissingExtraError: a package is not installed; says how to install it.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
    made = [TRACKERS[name](Path(out)) for name in dict.fromkeys(names)]
    log = EventLog(None, *beside, *made)
    with ExitStack() as stack:
        for tracker in made:
            stack.push(partial(_closed, log, tracker))
        yield log.publish


def _closed(log: EventLog, tracker: Tracker, kind: type[BaseException] | None, *_: object) -> None:
    """A tracker that cannot end is said, and costs nothing that was trained."""
    with recorded(log, "subscriber_failed", subscriber="the end of a tracker"):
        tracker.close(failed=kind is not None)
