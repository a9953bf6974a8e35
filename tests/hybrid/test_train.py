"""Whole runs on a tiny model: it learns, what it saves loads elsewhere, and a stopped run goes on to the same end."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import save_tiny
from tinytraining import FAST, assert_same_end, problems, task, train

from hybrid import TrainReport
from tfgrpo.budget import Budget
from tfgrpo.cli.main import main
from tfgrpo.errors import InputError, RunStateError, TransportError
from tfgrpo.events import Event
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def test_it_learns_and_says_so(folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    report = train(folder, tmp_path, steps=25, group=8, prompts=4, on_event=events.append)
    assert report.before is not None and report.after is not None and report.gain is not None
    assert report.gain.low > 0.1, str(report)
    assert report.curve[-1]["reward"] > report.curve[0]["reward"] + 0.2
    assert report.steps == 25 and report.rollouts == 25 * 32
    assert max(point.get("parity_max", 0.0) for point in report.curve) < 1e-3
    assert report.methods == {"advantage": "grpo", "loss": "dapo", "grouping": "repeat", "sampler": "least_covered"}
    assert TrainReport.from_json(report.as_json()).as_json() == report.as_json()
    assert "part/share" in report.curve[0]
    for words in ("gain      +", "advantage grpo, loss dapo", report.checkpoint, "25 steps were asked for"):
        assert words in str(report)
    assert [e.name for e in events if e.name == "update_done"] == ["update_done"] * 25
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000025"]


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": FAST},
        {"settings": dataclasses.replace(FAST, dtype="bfloat16", checkpointing="full")},
        {"recipe": "srpo"},
    ],
    ids=["float32", "bfloat16", "srpo"],
)
def test_a_run_that_has_ended_leaves_no_tensor_behind(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Not even until the collector of cycles comes by, which in a large process takes gigabytes."""

    def alive() -> int:
        return sum(type(thing) in (torch.Tensor, torch.nn.Parameter) for thing in gc.get_objects())

    train(folder, tmp_path / "first", steps=1, **changes)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        train(folder, tmp_path / "second", steps=2, **changes)
        assert alive() == before
    finally:
        gc.enable()


def test_what_is_saved_is_what_was_measured(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = train(folder, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(report.checkpoint)
    base = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(report.checkpoint)
    assert tokenizer.chat_template
    assert "tfgrpo" not in Path(report.checkpoint, "config.json").read_text()
    changed = [n for n, p in saved.named_parameters() if not torch.equal(p, dict(base.named_parameters())[n])]
    assert len(changed) == len(list(saved.named_parameters()))
    again = train(folder, tmp_path / "more", task=task(), steps=0, settings=dataclasses.replace(FAST))
    assert again.steps == 0 and again.before == again.after and again.before == report.before
    served = train(Path(report.checkpoint), tmp_path / "served", steps=0)
    assert served.before is not None and report.after is not None
    assert abs(served.before.mean - report.after.mean) < 0.25  # other samples of the same weights


def test_more_steps_go_on_to_the_same_end(folder: Path, tmp_path: Path) -> None:
    whole = train(folder, tmp_path / "whole", steps=6)
    train(folder, tmp_path / "parts", steps=2)
    events: list[Event] = []
    parts = train(folder, tmp_path / "parts", steps=6, on_event=events.append)
    assert [dict(e.data)["step"] for e in events if e.name == "resumed"] == [2]
    assert_same_end(parts, whole)
    again = train(folder, tmp_path / "parts", steps=6)
    assert_same_end(again, whole)


def test_samplers_that_learn_go_on_too(folder: Path, tmp_path: Path) -> None:
    chosen = task(sampler="rollout_gdro", grouping="repeat", advantage="dr_grpo")
    whole = train(folder, tmp_path / "whole", steps=5, task=chosen, loss="gspo")
    train(folder, tmp_path / "parts", steps=2, task=chosen, loss="gspo")
    assert_same_end(train(folder, tmp_path / "parts", steps=5, task=chosen, loss="gspo"), whole)


class Stop(BaseException):
    pass


def stop_at(name: str, step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if event.name == name and event.data.get("step", event.data.get("group")) == step:
            raise Stop

    return listen


@pytest.mark.parametrize("moment", [("group_done", 7), ("update_done", 3), ("checkpoint_saved", 3)])
def test_a_run_that_breaks_anywhere_goes_on_to_the_same_end(
    folder: Path, tmp_path: Path, moment: tuple[str, int]
) -> None:
    seldom = dataclasses.replace(FAST, checkpoint_s=1e9) if moment[0] == "update_done" else FAST
    whole = train(folder, tmp_path / "whole", steps=4, settings=seldom)
    with pytest.raises(Stop):
        train(folder, tmp_path / "broken", steps=4, settings=seldom, on_event=stop_at(*moment))
    assert_same_end(train(folder, tmp_path / "broken", steps=4, settings=seldom), whole)


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import tinytraining
from pathlib import Path
seldom = tinytraining.dataclasses.replace(tinytraining.FAST, checkpoint_s=0.3)
told = lambda event: print(event.name, flush=True)
tinytraining.train(Path({folder!r}), Path({out!r}), steps=40, settings=seldom, on_event=told)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_command(folder: Path, tmp_path: Path) -> None:
    def program(out: Path) -> subprocess.Popen[str]:
        here = Path(__file__).parent
        text = PROGRAM.format(tests=str(here.parent), folder=str(folder), out=str(out))
        return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)

    for killed in range(3):
        with program(tmp_path / "killed") as running:
            assert running.stdout is not None
            updates = 0
            for line in running.stdout:
                updates += line.startswith("update_done")
                if updates == 5 + killed:
                    break
            time.sleep(0.05 * killed)
            os.kill(running.pid, signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL
    seldom = dataclasses.replace(FAST, checkpoint_s=0.3)
    report = train(folder, tmp_path / "killed", steps=40, settings=seldom)
    assert_same_end(report, train(folder, tmp_path / "whole", steps=40, settings=seldom))


def test_a_folder_with_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path, steps=1)
    for change, words in (
        ({"loss": "grpo"}, "another loss"),
        ({"seed": 1}, "another seed"),
        ({"settings": dataclasses.replace(FAST, clip=0.5)}, "another setting clip"),
        ({"task": task(learn=problems("learn", 9))}, "another task"),
    ):
        with pytest.raises(RunStateError, match=words):
            train(folder, tmp_path, **change)
    with pytest.raises(RunStateError, match="another model"):
        train(save_tiny(tmp_path / "other", hidden_size=64), tmp_path)
    train(folder, tmp_path, steps=1, settings=dataclasses.replace(FAST, max_rows=3, checkpoint_s=9))


def test_a_time_budget_ends_the_run_with_its_measurement(folder: Path, tmp_path: Path) -> None:
    report = train(folder, tmp_path, steps=None, budget=Budget(seconds=1.5))
    assert report.after is not None
    assert 0 < report.steps < 500
    assert "budget of 1.5 s" in report.stopped


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group": 1}, "2 answers to compare"),
        ({"budget": Budget(usd=1.0)}, "seconds"),
        ({"budget": Budget(seconds=0.0)}, "a budget of 0 seconds pays for no step"),
        ({"loss": "grop"}, "did you mean 'grpo'"),
        ({"advantage": "grop"}, "did you mean 'grpo'"),
        ({"task": task(sampling=Sampling(temperature=0.0))}, "whole distribution"),
        ({"task": task(grouping="repeats")}, "repeat"),
    ],
)
def test_wrong_requests_are_refused_before_anything_begins(
    folder: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        train(folder, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_no_room_for_checkpoints_is_told_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunStateError, match="checkpoints of this model need"):
        train(folder, tmp_path, settings=dataclasses.replace(FAST, keep_free=1e9))


def test_a_reward_that_always_fails_stops_the_run(folder: Path, tmp_path: Path) -> None:
    @reward
    def broken(problem: Problem, completion: Completion) -> Score:
        raise ZeroDivisionError("no score")

    with pytest.raises(TransportError, match=r"not one of 4 test samples was answered and scored: .*no score"):
        train(folder, tmp_path / "a", task=task(reward=broken))
    with pytest.raises(TransportError, match="of step 1 was written and scored"):
        train(folder, tmp_path / "b", task=task(reward=broken, test=()))


def test_without_test_problems_nothing_is_measured(folder: Path, tmp_path: Path) -> None:
    report = train(folder, tmp_path, task=task(test=()))
    assert report.before is report.after is report.gain is None
    assert "not measured" in str(report)


def numbers_task() -> Task:
    """What the command line is given as module:function."""
    return task()


def test_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    command = [
        "train",
        "test_train:numbers_task",
        "--model",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "2",
    ]
    command += ["--group", "4", "--prompts", "2", "--lr", "0.005", "--loss", "dapo", "--loss-option", "high=0.3"]
    command += ["--advantage", "dr_grpo", "--set", "dtype=float32", "--set", "threads=1", "--set", "keep_free=0"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "step 1/2  reward" in said.err and "test after step 2" in said.err
    assert "loss dapo(high=0.3)" in said.out and "advantage dr_grpo" in said.out
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 2 and report["config"]["group"] == 4
    assert main([*command, "--set", "nothing=1"]) == 2
    assert "unknown setting 'nothing'" in capsys.readouterr().err
    assert main(["train", "largest_of_three", "--model", "nowhere", "--out", str(tmp_path / "x")]) == 2
    assert "unknown model 'nowhere'" in capsys.readouterr().err


@pytest.mark.slow
def test_training_loads_no_store_and_no_network(folder: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    text = f"""
import sys
sys.path[:0] = [{str(here.parent)!r}]
import hybrid
from tasks.largest_of_three import task
assert not {{"torch", "numpy"}} & set(sys.modules)
hybrid.train(task(learn=4, gate=0, test=2), model={str(folder)!r}, steps=1, group=2, prompts=1, out={str(tmp_path)!r})
print(sorted({{"chromadb", "openai", "litellm", "aiohttp", "requests", "pydantic"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
