"""`tfgrpo improve` as its user types it: in this process on the tiny model, killed in every phase, and for real."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Any

import pytest
from cli import call
from storyworld import improve
from tinymodel import save_tiny

import hybrid
from hybrid import Improvement
from tfgrpo.errors import InputError

TESTS = Path(__file__).parents[2]
PHASES = ("baseline", "prompts", "pilot", "training", "final_trained")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def command(folder: Path, out: Path, *more: object) -> list[object]:
    """The story of `storyworld.improve`, which is the same wherever it is told from the folder above `out`."""
    settings = ("dtype=float32", "device=cpu", "threads=1", "keep_free=0", "checkpoint_s=0")
    return [
        *("improve", "storyworld:numbers_task", "--model", f"local/{folder}", "--train-model", folder),
        *("--budget-calls", 240, "--group", 4, "--prompts", 4, "--pilot-steps", 2, "--lr", 0.005, "--out", out.name),
        *(word for setting in settings for word in ("--set", setting)),
        *more,
    ]


def test_the_plan_is_told_before_anything_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = call(*command(folder, tmp_path / "out", "--dry-run"))
    assert said.code == 0 and not (tmp_path / "out").exists()
    for words in (
        "18 to learn from, 6 for the gate, 12 set aside for the decision, up to 20 held out x 2",
        "as it is; with experiences; trained; trained, with experiences",
        "measuring about 72 calls",
        "pilot     up to 2 steps of 4 problems x 4 answers",
        "groups of 3",
    ):
        assert words in said.out, said.out
    barred = call(*command(folder, tmp_path / "out", "--dry-run", "--train-model", "openai/gpt-4.1", "--json")).json
    assert "no weights on this machine" in barred["barred"] and barred["arms"] == ["base", "library"]
    assert barred["problems"] == {"learn": 18, "gate": 6, "decision": 12, "held_out": 20}


def test_a_story_in_words_and_in_json(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = call(*command(folder, tmp_path / "out"))
    assert said.code == 0, said.err
    for words in (
        "== baseline:",
        "== prompts:",
        "== pilot:",
        "== training:",
        "step 1/2  reward",
        "20/20",
        "report.html",
    ):
        assert words in said.err, said.err
    assert "use       trained" in said.out and "decision  train" in said.out
    again = call(*command(folder, tmp_path / "out", "--json"))
    assert not again.err and Improvement.from_json(again.json).recommended.startswith("trained")
    other = call(*command(folder, tmp_path / "out", "--seed", 5))
    assert other.code == 2 and "another seed" in other.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--budget-usd", "0"), "a budget of 0 usd pays for nothing"),
        (("--train-model", "./nowhere"), "unknown model './nowhere': there are no weights"),
        (("--set", "nothing=1"), "unknown setting 'nothing'"),
        (("--model", "local/nowhere"), "unknown model 'local/nowhere'"),
        (("--traffic-calls", "-1"), "at least 0"),
    ],
)
def test_wrong_requests_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = call(*command(folder, tmp_path / "out", *more))
    assert said.code == 2 and words in said.err and len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


async def in_a_loop() -> None:
    hybrid.improve("largest_of_three", model="local/smollm2")


def test_the_names_that_users_write() -> None:
    given = inspect.signature(hybrid.aimprove).parameters
    assert list(given) == [
        *("task", "model", "train_model", "critic", "store", "budget", "gpu_usd_per_hour", "traffic_calls", "out"),
        *("seed", "concurrency", "choices", "on_event"),
    ]
    assert typing.get_type_hints(hybrid.improve)["return"] is Improvement
    assert " ".join(inspect.signature(hybrid.decide).parameters) == "report budget prices force"
    assert {f.name for f in dataclasses.fields(hybrid.Prices)} == {
        *("prompt_usd_per_mtok", "completion_usd_per_mtok", "gpu_usd_per_hour", "traffic_calls", "horizon_days")
    }
    assert {"Choices", "Decision", "Evidence", "Improvement", "Pilot", "Prices"} <= set(hybrid.__all__)
    with pytest.raises(InputError, match=r"await hybrid\.aimprove"):
        asyncio.run(in_a_loop())
    for name in ("Choices", "Decision", "Evidence", "Improvement", "Pilot", "Prices", "aimprove", "decide", "improve"):
        assert inspect.getdoc(getattr(hybrid, name))


def test_the_command_loads_neither_torch_nor_a_store_before_it_needs_them() -> None:
    heavy = ("torch", "transformers", "chromadb", "openai", "litellm", "aiohttp")
    text = f"import sys, hybrid.escalation.command; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
import storyworld
told = lambda event: print(event.name, event.data.get("phase", ""), flush=True)
storyworld.improve(Path({folder!r}), Path({out!r}), on_event=told)
"""


@pytest.mark.slow
def test_kill_9_in_every_phase_and_the_same_call(folder: Path, tmp_path: Path) -> None:
    """One story is killed once in each of its phases and then told to its end: the end of an undisturbed one."""
    text = PROGRAM.format(tests=str(TESTS), folder=str(folder), out=str(tmp_path / "killed"))
    for n, phase in enumerate(PHASES):
        with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            inside = False
            for line in running.stdout:
                inside = inside or line.split() == ["phase", phase]
                if inside and line.split() != ["phase", phase]:
                    break
            time.sleep(0.02 * n)
            os.kill(running.pid, signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL, f"it ended before {phase} began"
    killed = improve(folder, tmp_path / "killed")
    whole = improve(folder, tmp_path / "whole")
    assert outcome(killed) == outcome(whole)


def outcome(found: Improvement) -> dict[str, Any]:
    """What depends neither on the clock nor on the name of the folder, which the samples of trained weights do."""
    assert found.training is not None and found.prompts is not None and found.pilot is not None
    return {
        "prompt arms": [(arm.name, arm.score) for arm in found.arms if arm.name in ("base", "library")],
        "arms": [arm.name for arm in found.arms],
        "decision": (found.decision.action, found.decision.training.gain, found.decision.training.amount),
        "pilot": (found.pilot.steps, found.pilot.before, found.pilot.gain),
        "training": (found.training.steps, found.training.gain, [p["reward"] for p in found.training.curve]),
        "prompts": (found.prompts.groups, found.prompts.why, found.prompts.before, found.prompts.after),
        "calls": found.spend["calls"],
    }


@pytest.mark.slow
def test_a_tenth_of_the_real_thing(tmp_path: Path) -> None:
    """The README's command at a tenth of its size: the packaged model, offline, within its time."""
    begun = time.monotonic()
    words = ["improve", "largest_of_three", "--model", "local/smollm2", "--critic", "examples"]
    words += ["--train-model", "local/smollm2", "--budget-seconds", "150", "--samples", "2", "--force-train"]
    words += ["--group", "4", "--prompts", "4", "--pilot-steps", "2", "--out", str(tmp_path / "out"), "--json"]
    words += ["--set", "threads=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tfgrpo.cli.main", *words], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    found = Improvement.from_json(json.loads(done.stdout))
    assert found.spend["seconds"] < 150 * 1.15  # a step or a measurement that was under way may end
    assert time.monotonic() - begun < 150 * 1.15 + 60
    base = found.arm("base")
    assert base is not None and base.score.n >= 8
    if found.training is not None:
        assert found.training.steps >= 1 and Path(found.training.checkpoint, "model.safetensors").exists()
        assert found.arm("trained") is not None or "the budget ended" in " ".join(found.notices)
    else:
        assert "paid for no step" in " ".join(found.notices)  # on a machine that is slow or busy
    assert (tmp_path / "out" / "report.html").exists()
