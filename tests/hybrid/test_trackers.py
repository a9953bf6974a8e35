"""Trackers: what they were told is read back from their own files, also after a run that was killed and went on."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tinycounting import FAST, OPTIONS, SELDOM, Stop, stop_at, train
from tinymodel import save_tiny

from hybrid import TrainReport
from hybrid.trackers import Told, tracking
from tfgrpo.cli.main import main
from tfgrpo.errors import InputError
from tfgrpo.events import Event


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def tracked(folder: Path, out: Path, *names: str, stop: tuple[str, int] | None = None, **changes: Any) -> TrainReport:
    beside = [stop_at(*stop)] if stop else []
    with tracking(names, out=out, beside=beside) as told:
        return train(folder, out, on_event=told, **changes)


def scalars(out: Path, *, hidden: bool = True) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows; with `hidden=False` also what it hides as written by a process that was killed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), purge_orphaned_data=hidden)
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_curve_and_the_test(folder: Path, tmp_path: Path) -> None:
    report = tracked(folder, tmp_path, "tensorboard", steps=4)
    seen = scalars(tmp_path)
    for name, tag in (
        ("reward", "reward/reward"),
        ("part/numbers", "reward/part/numbers"),
        ("entropy", "policy/entropy"),
    ):
        assert seen[tag] == [(int(p["step"]), pytest.approx(p[name])) for p in report.curve if name in p]
    assert {"reward/zero_variance", "answers/length", "machine/tokens_per_s", "policy/parity_mean"} <= set(seen)
    assert report.before is not None and report.after is not None
    assert seen["test/mean"] == [(0, pytest.approx(report.before.mean)), (4, pytest.approx(report.after.mean))]
    assert not [tag for tag in seen if "step" in tag or "planned" in tag]


@pytest.mark.parametrize("moment", [("update_done", 3), ("checkpoint_saved", 3), ("group_done", 7)])
def test_a_run_that_goes_on_has_every_step_once(folder: Path, tmp_path: Path, moment: tuple[str, int]) -> None:
    settings = SELDOM if moment[0] == "update_done" else FAST  # without a checkpoint it begins anew
    with pytest.raises(Stop):
        tracked(folder, tmp_path, "tensorboard", steps=5, settings=settings, stop=moment)
    tracked(folder, tmp_path, "tensorboard", steps=5, settings=settings)
    tracked(folder, tmp_path, "tensorboard", steps=5, settings=settings)  # it has ended: nothing is told again
    for hidden in (True, False):
        seen = scalars(tmp_path, hidden=hidden)
        assert [step for step, _ in seen["reward/reward"]] == [1, 2, 3, 4, 5]
        assert [step for step, _ in seen["test/mean"]] == [0, 5]


def test_a_tracker_that_was_chosen_later_is_told_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path, steps=3)
    tracked(folder, tmp_path, "tensorboard", steps=5)
    seen = scalars(tmp_path, hidden=False)
    assert [step for step, _ in seen["reward/reward"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in seen["test/mean"]] == [0, 5]


def test_a_step_written_but_not_yet_known_as_told_is_hidden(tmp_path: Path) -> None:
    """The process was killed between the two: the step is told again, and shown once."""

    def told(*steps: int) -> None:
        with tracking(["tensorboard"], out=tmp_path) as listener:
            listener(Event(name="started", data={"task": "t"}))
            for step in steps:
                listener(Event(name="update_done", data={"step": float(step), "reward": step / 10, "planned": 4}))

    told(1, 2, 3)
    file = tmp_path / "tensorboard" / "told.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "step": 2}))
    told(3, 4)
    assert [step for step, _ in scalars(tmp_path)["reward/reward"]] == [1, 2, 3, 4]
    assert [step for step, _ in scalars(tmp_path, hidden=False)["reward/reward"]] == [1, 2, 3, 3, 4]


def test_alarms_are_words_beside_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking(["tensorboard"], out=tmp_path) as told:
        told(Event(name="started", data={"task": "t", "model": "m"}))
        for _ in range(2):
            told(Event(name="alarm", data={"alarm": "all_cut", "words": "nearly all were cut", "step": 12}))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (alarm,) = events.Tensors("alarm/all_cut/text_summary")
    assert alarm.step == 12 and b"nearly all were cut" in alarm.tensor_proto.string_val[0]
    (about,) = events.Tensors("run/text_summary")
    assert b'model: "m"' in about.tensor_proto.string_val[0]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    with tracking(["tensorboard"], out=tmp_path) as told:
        told(Event(name="update_done", data={"step": 1.0, "reward": float("nan"), "length": 3.0, "mine": None}))
    assert set(scalars(tmp_path)) == {"answers/length"}


def test_an_unknown_tracker_is_refused_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'tensorboard'"), tracking(["tensorbord"], out=tmp_path / "x"):
        pass
    assert not (tmp_path / "x").exists()


def test_a_refused_run_leaves_no_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'grpo'"):
        tracked(folder, tmp_path / "x", "tensorboard", loss="grop")
    assert not (tmp_path / "x").exists()


MISSING = """
import sys


class Without:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorboard", "wandb"):
            raise ModuleNotFoundError(name, name=name)


sys.meta_path.insert(0, Without())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("tensorboard", "wandb") else real(name, *rest)
from tfgrpo.cli.main import main
from hybrid.command import configure, run
import argparse

for name in ("tensorboard", "wandb"):
    parser = argparse.ArgumentParser()
    configure(parser)
    args = parser.parse_args(["largest_of_three", "--model", "local/smollm2", "--out", sys.argv[1], "--track", name])
    try:
        run(args)
    except ImportError as error:
        print(error)
assert "torch" not in sys.modules
"""


def test_a_missing_package_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISSING, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'tfgrpo[track]'" in done.stdout and "pip install wandb" in done.stdout
    assert not (tmp_path / "x").exists()


def test_a_tracker_that_fails_costs_the_run_nothing_and_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tensorboard").write_text("a file where a folder belongs")
    command = ["train", "tinycounting:counting", "--model", str(folder), "--out", str(tmp_path / "out")]
    command += ["--steps", "1", "--group", "4", "--prompts", "2", *OPTIONS]
    assert main([*command, "--track", "tensorboard", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "Tracker failed: " in said.err and "steps     1" in said.out


def test_told_comes_back_as_it_was(tmp_path: Path) -> None:
    told = Told(tmp_path / "a" / "told.json")
    told.step, told.marks = 7, {"test/0"}
    told.keep()
    again = Told(tmp_path / "a" / "told.json")
    assert (again.step, again.marks, again.run) == (7, {"test/0"}, told.run)


# -- W&B, in an environment that has it --------------------------------------------------------------------------------


def wandb_rows(out: Path) -> list[dict[str, Any]]:
    """Every row of history that W&B keeps offline, of all its files: LevelDB's log format around protobuf records."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for file in sorted((out / "wandb").glob("offline-run-*/*.wandb")):
        for record in _log_records(file.read_bytes()):
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            if parsed.HasField("history"):
                named = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in parsed.history.item}
                rows.append(named)
    return rows


def _log_records(data: bytes) -> list[bytes]:
    block, at, records, part = 32768, 7, [], b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            records.append(part)
            part = b""
    return records


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from hybrid.trackers import tracking
from tinycounting import FAST, train
import dataclasses, time

def told(event):
    print(event.name, flush=True)
    time.sleep(0.2 * (event.name == "update_done"))  # a step of a real model takes longer than that

with tracking([{name!r}], out={out!r}, beside=[told]) as listener:
    seldom = dataclasses.replace(FAST, checkpoint_s=1.0)
    train(Path({folder!r}), Path({out!r}), steps=24, settings=seldom, on_event=listener)
"""


def killed(program: str, after: int) -> None:
    """Runs a program of the above to its end, or kills it some steps after its start."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        updates = 0
        for line in running.stdout:
            updates += line.startswith("update_done")
            if updates == after:
                os.kill(running.pid, signal.SIGKILL)
                break
        running.stdout.read()
    assert running.returncode == (-signal.SIGKILL if updates == after else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_kill_9_loses_no_step_and_doubles_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    program = PROGRAM.format(tests=str(Path(__file__).parent.parent), name=name, out=str(tmp_path), folder=str(folder))
    for after in (7, 9, 1000):
        killed(program, after)
    if name == "tensorboard":
        assert [step for step, _ in scalars(tmp_path)["reward/reward"]] == list(range(1, 25))
        return
    steps = Counter(int(row["step"]) for row in wandb_rows(tmp_path) if "reward/reward" in row)
    assert set(steps.values()) == {1}
    assert len(steps) >= 22, "a step at each kill may be lost"


@pytest.mark.slow
def test_wandb_offline_holds_every_step_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(Stop):
        tracked(folder, tmp_path, "wandb", steps=5, stop=("update_done", 3))
    report = tracked(folder, tmp_path, "wandb", steps=5)
    rows = wandb_rows(tmp_path)
    steps = Counter(int(row["step"]) for row in rows if "reward/reward" in row)
    assert steps == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    rewards = {int(row["step"]): row["reward/reward"] for row in rows if "reward/reward" in row}
    assert rewards == {int(point["step"]): point["reward"] for point in report.curve}
    assert [int(row["step"]) for row in rows if "test/mean" in row] == [0, 5]
    ids = {file.name for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb")}
    assert len(ids) == 1  # one run of W&B, in as many files as there were processes
