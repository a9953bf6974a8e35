"""Several processes over gloo: what one process computes, checkpoints for any number, ranks that hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import save_tiny, trainer_state

from hybrid.parallel import Ranks, dealt
from hybrid.report import TrainReport
from hybrid.watchdog import EXIT_CODE

PROGRAM = Path(__file__).parent / "ranks_program.py"
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True)


def launch(count: int, *given: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM)]
    if count > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *torchrun, str(PROGRAM)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*command, *map(str, given)], capture_output=True, text=True, env=env, timeout=240, check=False
    )


def found(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert done.returncode == 0 and len(lines) == 1, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(lines[0].removeprefix("FOUND "))
    return result


def test_one_process_sends_nothing() -> None:
    alone = Ranks.join(hang_s=1.0)
    assert alone.size == 1 and alone.leading and alone.watchdog is None
    assert alone.first(lambda: 3) == 3 and alone.gather({"a": 1}) == [{"a": 1}]
    alone.stop()
    alone.close()


def test_pieces_are_dealt_evenly_and_all() -> None:
    shares = dealt([7, 1, 3, 3, 2, 8], 3)
    assert sorted(n for share in shares for n in share) == list(range(6))
    assert [sum([7, 1, 3, 3, 2, 8][n] for n in share) for share in shares] == [8, 8, 8]
    assert dealt([5], 2) == [[0], []]


@slow
def test_gradients_and_weights_are_those_of_one_process(folder: Path, tmp_path: Path) -> None:
    """Plain, with a reference, with the influence of tokens, and with every kind of teacher."""
    kept, metrics = {}, {}
    for name, count in (("one", 1), ("ddp", 2), ("fsdp", 2)):
        parallel = "ddp" if name == "one" else name
        metrics[name] = found(launch(count, "gradients", folder, parallel, TENSORS=str(tmp_path / name)))
        kept[name] = torch.load(tmp_path / name)
    assert metrics["one"]["live"]["taught/kl"] > 0.01 and len(kept["one"]) == 7
    assert all(told["rows"] == 3 for told in metrics["fsdp"].values())  # so that one of two ranks waits for the other
    for name, way in product(("ddp", "fsdp"), kept["one"]):
        for kind, tensors in kept["one"][way].items():
            assert tensors.keys() == kept[name][way][kind].keys()
            largest = max(tensor.abs().max().item() for tensor in tensors.values())
            for key, tensor in tensors.items():
                assert (kept[name][way][kind][key] - tensor).abs().max().item() <= 2e-5 * largest, (name, way, key)
        for key, value in metrics["one"][way].items():
            if key not in ("update_s", "rows", "packed_tokens"):
                assert metrics[name][way][key] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, way, key)


@slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_goes_on_as_one_and_the_other_way_round(folder: Path, tmp_path: Path, parallel: str) -> None:
    two = TrainReport.from_json(found(launch(2, "train", folder, tmp_path / "a", parallel, 3)))
    assert "2 processes" in two.setup and two.steps == 3
    assert max(point.get("parity_max", 0.0) for point in two.curve) < 1e-3
    one = TrainReport.from_json(found(launch(1, "train", folder, tmp_path / "b", parallel, 3)))
    assert [p["reward"] for p in two.curve] == [p["reward"] for p in one.curve]  # the same answers
    assert_close(two, one)
    onward = TrainReport.from_json(found(launch(1, "train", folder, tmp_path / "a", parallel, 5)))
    assert onward.steps == 5 and onward.curve[:3] == list(two.curve)
    again = TrainReport.from_json(found(launch(2, "train", folder, tmp_path / "b", parallel, 5)))
    assert_close(onward, again)


def assert_close(one: TrainReport, other: TrainReport) -> None:
    mine, theirs = trainer_state(one), trainer_state(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if name.startswith(("master/", "teacher/")):
            assert (tensor - theirs[name]).abs().max() < 2e-3, name


@slow
def test_adapters_on_cut_weights(folder: Path, tmp_path: Path) -> None:
    more = json.dumps({"lora": 4, "lr": 0.02})
    two = TrainReport.from_json(found(launch(2, "train", folder, tmp_path / "a", "fsdp", 2, more)))
    one = TrainReport.from_json(found(launch(1, "train", folder, tmp_path / "b", "fsdp", 2, more)))
    assert_close(two, one)
    assert Path(two.checkpoint, "adapter", "adapter_model.safetensors").is_file()


@slow
@pytest.mark.parametrize(
    ("parallel", "way", "more"),
    [
        ("ddp", {"teacher": "ema"}, {}),
        ("fsdp", {"teacher": "live"}, {"updates": 2}),
        ("fsdp", {"teacher": "ema", "rate": 0.3}, {}),
        ("fsdp", {"teacher": "trust_region", "rate": 0.3}, {"lora": 4, "lr": 0.02}),
    ],
    ids=str,
)
def test_taught_answers_of_two_processes_weigh_like_those_of_one(
    folder: Path, tmp_path: Path, parallel: str, way: dict[str, Any], more: dict[str, Any]
) -> None:
    given = json.dumps({"srpo": way, **more})
    two = TrainReport.from_json(found(launch(2, "train", folder, tmp_path / "a", parallel, 3, given)))
    one = TrainReport.from_json(found(launch(1, "train", folder, tmp_path / "b", parallel, 3, given)))
    assert sum(point["route/taught"] for point in one.curve) > 0
    for mine, theirs in zip(two.curve, one.curve, strict=True):
        for name in ("reward", "route/taught", "loss", "taught/divergence", "taught/kl"):
            assert mine.get(name) == pytest.approx(theirs.get(name), rel=1e-2, abs=1e-5), name
    assert_close(two, one)
    assert any(name.startswith("teacher/") for name in trainer_state(two)) == (way["teacher"] == "ema")
    onward = TrainReport.from_json(found(launch(1, "train", folder, tmp_path / "a", parallel, 4, given)))
    assert onward.steps == 4 and onward.curve[:3] == list(two.curve)


@slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_model_that_fails_on_one_rank_loses_the_wave_and_no_process(folder: Path, count: int) -> None:
    told = found(launch(count, "lose_a_wave", folder))
    assert "a fault of one moment" in told["said"] and ("on rank 1" in told["said"]) == (count == 2)
    assert len(told["lengths"]) == 4 and min(told["lengths"]) >= 1


@slow
def test_a_hung_rank_ends_the_job_with_the_name_of_its_phase() -> None:
    done = launch(2, "hang", "update")
    assert done.returncode != 0
    assert "has been in the phase" in done.stderr and "rank 1: update" in done.stderr
    assert f"exitcode  : {EXIT_CODE}" in done.stderr


@slow
def test_a_stopped_process_is_noticed() -> None:
    done = launch(2, "freeze")
    assert done.returncode != 0
    assert "given no sign of life" in done.stderr or "in the phase 'update'" in done.stderr


@slow
def test_tied_weights_are_saved_once(folder: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    report = TrainReport.from_json(found(launch(2, "train", folder, tmp_path, "fsdp", 1)))
    with safe_open(f"{report.checkpoint}/model.safetensors", "pt") as weights:
        assert "model.embed_tokens.weight" in weights.keys() and "lm_head.weight" not in weights.keys()  # noqa: SIM118
