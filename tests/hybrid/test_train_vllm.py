"""Whole runs whose answers come from a server: a small one that really computes, and vLLM itself."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file
from tinymodel import NUMBERS, WORDS, save_tiny
from tinyvllm import TinyVLLM

import hybrid
from hybrid import DriftError, RolloutError, Settings, TrainReport
from hybrid.answers import Batch
from hybrid.engines import Needed, open_rollouts
from hybrid.folders import model_folder
from hybrid.losses import resolve_loss
from hybrid.model import load_trainable
from hybrid.rollouts import LiveRollouts, Rollouts, Worker
from hybrid.trainer import Trainer
from hybrid.vllm_server import own_server
from hybrid.vllm_weights import Source
from hybrid.writing import Writer
from tasks.largest_of_three import task as largest_of_three
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.cli.main import main
from tfgrpo.errors import RunStateError
from tfgrpo.events import Event
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Group, Problem, Rollout, Score

FAST = Settings(dtype="float32", device="cpu", threads=1, lr=5e-3, keep_free=0.0, checkpoint_s=0.0, timeout_s=20.0)
TESTS = Path(__file__).parent.parent


@reward
def says_numbers(problem: Problem, completion: Completion) -> Score:
    """The share of words that are numbers; solved when half of them are."""
    words = completion.text.split()
    share = sum(word in NUMBERS for word in words) / max(1, len(words))
    return Score(value=share, solved=share >= 0.5)


def numbers_task() -> Task:
    def problems(name: str, words: list[str]) -> tuple[Problem, ...]:
        asked = [({"role": "user", "content": f"{word} {words[n - 3]}"},) for n, word in enumerate(words)]
        return tuple(Problem(id=f"{name}{n}", messages=messages) for n, messages in enumerate(asked))

    return Task(
        name="numbers",
        learn=problems("learn", WORDS[:10]),
        test=problems("test", WORDS[10:]),
        reward=says_numbers,
        sampling=Sampling(temperature=1.0, max_tokens=6),
        test_samples=2,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True)


@pytest_asyncio.fixture
async def server(folder: Path) -> AsyncIterator[TinyVLLM]:
    started = await TinyVLLM(folder).start()
    yield started
    await started.stop()


async def train(folder: Path, out: Path, rollouts: str, **changes: Any) -> TrainReport:
    settings = replace(FAST, rollouts=rollouts)
    given = {"steps": 4, "group": 4, "prompts": 3, "settings": settings, **changes}
    return await hybrid.atrain(numbers_task(), model=str(folder), out=out, **given)


def holds(server: TinyVLLM, report: TrainReport) -> bool:
    """Whether a server has the weights of a checkpoint."""
    has = server.state()
    return all(torch.equal(has[n], t) for n, t in load_file(f"{report.checkpoint}/model.safetensors").items())


def marks_of(server: TinyVLLM) -> list[str]:
    said = [body["new_version"] for path, body in server.orders if path == "/update_weight_version"]
    return [mark.split("-", 2)[2] for mark in said if not mark.endswith("on its way")]


async def test_a_run_through_a_server(folder: Path, server: TinyVLLM, tmp_path: Path) -> None:
    events: list[Event] = []
    report = await train(folder, tmp_path, f"{server.url}#tiny", on_event=events.append)
    assert report.steps == 4 and holds(server, report)
    assert all(point["missing"] == 0 and "renew_s" in point for point in report.curve)
    learned = [point for point in report.curve if point["updates"]]
    assert len(learned) > 2 and all(0 < point["parity_mean"] < 1e-3 for point in learned)
    assert all(point["sampler_capped"] == 0 and point["sampler_gap"] < 1e-3 for point in learned)  # the correction
    assert marks_of(server) == ["trial", "step-0", "step-1", "step-2", "step-3", "step-4"]
    handovers, tests = 6, 2 * 10 * 2
    assert len(server.requests) == handovers + report.rollouts + tests  # what is measured is what is sampled
    assert "vllm/" in " ".join(dict(e.data)["words"] for e in events if e.name == "engine")
    assert dict(report.seconds_by)["renew"] > 0


async def test_a_run_that_was_stopped_goes_on_at_another_server(folder: Path, server: TinyVLLM, tmp_path: Path) -> None:
    """The new server starts with random weights, and is first given those of the checkpoint."""
    await train(folder, tmp_path, f"{server.url}#tiny", steps=2)
    other = await TinyVLLM(folder, name="other").start()
    report = await train(folder, tmp_path, f"{other.url}#other")
    assert marks_of(other) == ["trial", "step-0", "step-2", "step-3", "step-4"]
    assert holds(other, report) and not holds(server, report)
    assert all(point["parity_mean"] < 1e-3 for point in report.curve if point["updates"])
    assert report.before is not None and len(other.requests) == 5 + 2 * 12 + 2 * 10  # the first test is on record
    await other.stop()


async def test_another_kind_of_engine_is_another_run(folder: Path, server: TinyVLLM, tmp_path: Path) -> None:
    await train(folder, tmp_path, f"{server.url}#tiny", steps=1)
    with pytest.raises(RunStateError, match="setting rollouts"):
        await train(folder, tmp_path, "live", steps=1)


PYTHON = """#!{python}
import os, sys
if sys.argv[1] == "-c":
    print("True", "False")
else:
    print(os.environ["VLLM_SERVER_DEV_MODE"], os.getpid(), sys.argv[1:], file=open({seen!r}, "a"))
    os.execv({python!r}, [{python!r}, {server!r}, *sys.argv[3:]])
"""


@pytest.fixture
def in_place_of_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that starts the small server when it is asked for vLLM, and a file that tells how it was asked."""
    seen, python = tmp_path / "seen", tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, seen=str(seen), server=str(TESTS / "tinyvllm.py")))
    python.chmod(0o755)
    monkeypatch.setenv("TFGRPO_VLLM_PYTHON", str(python))
    monkeypatch.setenv("TFGRPO_VLLM_ARGS", "--dtype bfloat16 --max-num-seqs 8")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return seen


@pytest.mark.slow
def test_a_server_of_our_own_is_started_and_stopped(
    folder: Path, tmp_path: Path, in_place_of_vllm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line: the process, its arguments, its end."""
    command = ["train", "test_train_vllm:numbers_task", "--model", str(folder), "--out", str(tmp_path / "out")]
    command += ["--steps", "2", "--group", "4", "--prompts", "2", "--set", "dtype=float32", "--set", "keep_free=0"]
    assert main([*command, "--set", "rollouts=vllm", "--set", "max_rows=4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 2 and all(p["parity_mean"] < 1e-3 for p in report["curve"] if p["updates"])
    assert report["setup"] == f"float32 on cpu, 1 thread; answers by vllm/{folder.name}"
    mode, pid, words = in_place_of_vllm.read_text().split(" ", 2)
    assert mode == "1" and "'--load-format', 'dummy'" in words
    assert words.index("'bfloat16'") < words.index("'--dtype', 'float32'")  # ours stand last, and win
    assert words.index("'8'") < words.index("'--max-num-seqs', '4'")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.slow
async def test_a_server_that_dies_ends_the_run_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, in_place_of_vllm: Path
) -> None:
    def kill(event: Event) -> None:
        if event.name == "update_done" and event.data["step"] == 2:
            os.kill(int(in_place_of_vllm.read_text().split()[1]), signal.SIGKILL)

    with pytest.raises(RolloutError, match=r"(?s)its last words:.*The same command") as caught:
        await train(folder, tmp_path / "out", "vllm", on_event=kill)
    assert "http://127.0.0.1" in str(caught.value)  # the small server prints its address
    report = await train(folder, tmp_path / "out", "vllm")
    assert report.steps == 4 and all(point["missing"] == 0 for point in report.curve)
    assert all(point["parity_mean"] < 1e-3 for point in report.curve if point["updates"])


# -- vLLM itself ------------------------------------------------------------------------------------------------------

TOLD = {"segments": True, "tempered": True}
REAL = Settings(device="cpu", threads=1, lr=1e-5, dtype="bfloat16")


def questions(count: int, answers: int, tokens: int) -> list[tuple[tuple[Any, ...], Sampling]]:
    problems = largest_of_three(learn=count, gate=0, test=1).learn
    return [
        (tuple(problem.messages), Sampling(seed=n, max_tokens=tokens, temperature=1.0, extra=TOLD))
        for problem in problems
        for n in range(answers)
    ]


async def sampled(rollouts: Rollouts, asked: list[tuple[tuple[Any, ...], Sampling]]) -> tuple[list[Completion], float]:
    """The answers, and tokens per second."""
    begun = time.monotonic()
    answers = await asyncio.gather(*(rollouts.complete(m, s) for m, s in asked))
    return list(answers), sum(a.usage.completion_tokens for a in answers) / (time.monotonic() - begun)


def batch_of(answers: list[Completion], size: int) -> Batch:
    """Groups whose answers are rewarded for the digits in them: there is always something to learn."""
    scored = [Rollout(completion=a, score=Score(value=sum(c.isdigit() for c in a.text) / 9)) for a in answers]
    problem = Problem(id="p", messages=({"role": "user", "content": "?"},))
    groups = [
        Group(problem=problem, rollouts=tuple(scored[at : at + size]), index=at) for at in range(0, len(scored), size)
    ]
    return Batch.of(groups, resolve_advantage("grpo").columns(Table.of(groups)))


@pytest.mark.slow
@pytest.mark.skipif("TFGRPO_VLLM_PYTHON" not in os.environ, reason="needs TFGRPO_VLLM_PYTHON and TFGRPO_VLLM_MODEL")
async def test_a_real_vllm(tmp_path: Path) -> None:
    """Steps with renewed weights agree, weights that were not renewed are stopped, a whole run by URL."""
    async with AsyncExitStack() as stack:
        address = await parts_of_a_run(stack, tmp_path)
        gc.collect()  # one trainer at a time
        await a_whole_run(address, tmp_path / "run")


async def parts_of_a_run(stack: AsyncExitStack, out: Path) -> str:
    """The address of the server, which stays."""
    async with AsyncExitStack() as inner:
        worker = Worker()
        inner.push_async_callback(worker.aclose)
        loaded = load_trainable(model_folder(os.environ["TFGRPO_VLLM_MODEL"]), REAL)
        trainer = Trainer(loaded, resolve_loss("dapo"), REAL, temperature=1.0)
        writer = Writer(loaded, trainer.ranks, trainer.whole)
        needed = Needed(
            loaded=loaded,
            trainer=trainer,
            writer=writer,
            worker=worker,
            settings=REAL,
            out=out,
            tell=lambda *, words: print(words),
        )
        begun = time.monotonic()
        server = await own_server(stack, needed, Source(loaded, trainer, worker))
        print(f"\nthe server is there after {time.monotonic() - begun:.0f} s")
        address = f"{server.url}#{server.model}"
        rollouts = await open_rollouts(inner, replace(needed, settings=replace(REAL, rollouts=address)))
        await compare_with_live(rollouts, LiveRollouts(writer, worker))
        await three_steps(rollouts, trainer, worker)
        await stale_weights_are_stopped(rollouts, trainer, worker)
        return address


async def compare_with_live(rollouts: Rollouts, live: Rollouts) -> None:
    asked = questions(5, 8, 24)  # more than the 32 rows of the server
    await sampled(rollouts, asked[:4])  # the first requests of a server are slow
    first, speed = await sampled(rollouts, asked)
    again, _ = await sampled(rollouts, asked)
    near, live_speed = await sampled(live, asked)
    same = sum(a.segments[1].token_ids == b.segments[1].token_ids for a, b in zip(first, again, strict=True))
    print(
        f"\ntokens/s: vLLM {speed:.0f}, live {live_speed:.0f}; {same} of {len(asked)} answers the same when asked again"
    )
    assert all(a.segments[0] == b.segments[0] for a, b in zip(first, near, strict=True))
    assert {a.finish_reason for a in first} <= {"stop", "length"}


async def three_steps(rollouts: Rollouts, trainer: Trainer, worker: Worker) -> None:
    for step in (1, 2, 3):
        answers, _ = await sampled(rollouts, questions(3, 4, 16))
        batch = batch_of(answers, 4)
        metrics = await worker(lambda batch=batch: trainer.update(batch, max_tokens=16))
        begun = time.monotonic()
        await rollouts.renew(step)
        print(
            f"step {step}: parity mean {metrics['parity_mean']:.4f}, max {metrics['parity_max']:.3f}, "
            f"capped {metrics['sampler_capped']:.3f}; renewed in {time.monotonic() - begun:.2f} s"
        )
        assert 0 < metrics["parity_mean"] < 0.1


async def stale_weights_are_stopped(rollouts: Rollouts, trainer: Trainer, worker: Worker) -> None:
    """A step that is large enough to be seen, and a server that was not told."""

    async def update() -> dict[str, float]:
        answers, _ = await sampled(rollouts, questions(3, 4, 16))
        batch = batch_of(answers, 4)
        return await worker(lambda: trainer.update(batch, max_tokens=16))

    trainer.settings = replace(trainer.settings, lr=3e-4)
    await update()
    trainer.settings = replace(trainer.settings, lr=1e-6)
    with pytest.raises(DriftError, match="other weights") as caught:
        await update()
    print(caught.value)
    await rollouts.renew(4)
    assert (await update())["parity_mean"] < 0.1


async def a_whole_run(address: str, out: Path) -> None:
    """From the command's own verb, with a test before and after."""
    task = largest_of_three(learn=12, gate=0, test=4)
    report = await hybrid.atrain(
        task,
        model=os.environ["TFGRPO_VLLM_MODEL"],
        steps=2,
        group=4,
        prompts=3,
        out=out,
        settings=replace(REAL, rollouts=address),
    )
    assert report.steps == 2 and report.before is not None and report.after is not None
    assert all(0 < point["parity_mean"] < 0.1 for point in report.curve if point["updates"])
    print(report)
