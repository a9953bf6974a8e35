"""`tfgrpo retire` as its user types it: a scripted model behind a server, a store, kills, and a model of weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli import Said, call, served
from servers import Fault
from tinymodel import save_tiny

import experience_store
from experience_store import Edit
from hybrid.retiring import WRITER

NEEDED = "Say yes to the nine."
TEXTS = ("Check the units.", NEEDED, "Read it twice.", "Be brief and polite.")
GATE, TEST = 100, 20


def answer(body: dict[str, Any]) -> str:
    """Every tenth problem is answered right only with one of the experiences, as if it had not been learned."""
    words = json.dumps(body["messages"])
    number = int(re.findall(r"yes (\d+)", words)[-1])
    if body["model"] == "ignorant":
        return "yes" if NEEDED in words else "no"
    return "yes" if NEEDED in words or number % 10 != 9 else "no"


def problems(folder: Path, name: str, count: int) -> Path:
    file = folder / f"{name}.jsonl"
    rows = [{"id": f"{name}{n}", "prompt": f"{name} yes {n}", "answer": "yes"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def store(folder: Path) -> Path:
    place = folder / "store"
    with experience_store.open(place, embedder="hashing") as made:
        made.commit([Edit(op="add", text=text) for text in TEXTS], note="learned")
    return place


def command(folder: Path, url: str, *more: object) -> list[object]:
    """With files of problems that are written where they are missing."""
    files = [problems(folder, name, count) for name, count in (("learn", 4), ("val", GATE), ("test", TEST))]
    given: list[object] = ["retire", files[0], "--val", files[1], "--test", files[2], "--reward", "exact"]
    given += ["--model", "openai/after", "--base-url", url, "--library", folder / "store", "--margin", 0.05]
    return [*given, "--out", folder / "run", "--max-tokens", 4, "--price", "1/2", *more]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def versions(place: Path) -> list[int]:
    with experience_store.open(place) as found:
        return [len(found.at(version.number)) for version in sorted(found.log(), key=lambda v: v.number)]


def test_what_is_not_missed_goes_and_the_store_gets_a_version(tmp_path: Path) -> None:
    place = store(tmp_path)
    with served(answer) as server:
        said = call(*command(tmp_path, server.url, "--before", "openai/ignorant"))
        asked = server.replies
        again = call(*command(tmp_path, server.url, "--before", "openai/ignorant", "--json"))
        assert server.replies == asked
    assert said.code == 0, said.err
    for words in (
        "retired 3 of 4 experiences",
        "before, with the library              1.000",
        "before, without                       0.000",
        "after, without                        0.900",
        "retired   E1, E3, E4",
        "stays     E2",
        f"written   {place}@v2",
        "prompt tokens of an answer saved",
        f"spent     {asked} calls ({asked} of them solver calls)",
    ):
        assert words in said.out, said.out
    assert re.search(r"solver calls\), [\d,]+ tokens, \$0\.\d+", said.out), said.out
    for words in (
        f"4 experiences; {GATE} gate problems x 1 decide, {TEST} test problems measure",
        "openai/ignorant, 4 experiences: 1.000",
        "non-inferior: +0.0000",
        f"tfgrpo evaluate TASK --model openai/after --store {place}@v2 --against {place}",
    ):
        assert words in said.err, said.err
    assert not again.err and again.json["retired"] == ["E1", "E3", "E4"] and again.json["written"] == f"{place}@v2"
    assert again.json["spend"]["retire"]["calls"] == asked and again.json["saved_tokens"] > 0
    assert versions(place) == [4, 1]
    with experience_store.open(place) as found:
        assert found.head().writer == WRITER
    assert call("store", "rollback", place, "v1").code == 0 and versions(place) == [4, 1, 4]
    listed = call("runs", "--runs", tmp_path).out
    assert "finished" in listed and "retired 3 of 4 experiences" in listed


def test_a_budget_that_ends_loses_no_answer(tmp_path: Path) -> None:
    place = store(tmp_path)
    with served(answer) as server:
        stopped = call(*command(tmp_path, server.url, "--budget-calls", 250))
        assert (stopped.code, stopped.out, server.replies) == (2, "", 250)
        assert f"every finished call is kept in {tmp_path / 'run'}" in stopped.err and versions(place) == [4]
        done = call(*command(tmp_path, server.url, "--json"))
        assert done.code == 0, done.err
        whole = call(*command(tmp_path, server.url, "--out", tmp_path / "whole", "--library", f"{place}@v1", "--json"))
        assert server.replies == done.json["spend"]["retire"]["calls"] + whole.json["spend"]["retire"]["calls"]
    assert {**done.json, "written": "", "seconds": 0, "library": ""} == {
        **whole.json,
        "written": "",
        "seconds": 0,
        "library": "",
    }


def test_an_exported_file_gets_a_shorter_one_beside_it(tmp_path: Path) -> None:
    with experience_store.open(store(tmp_path)) as found:
        file = found.export("head", tmp_path / "library.json")
    with served(lambda body: "yes") as server:
        said = call(*command(tmp_path, server.url, "--library", file))
    assert said.code == 0 and "retired 4 of 4 experiences" in said.out, said.err
    assert f"written   {tmp_path / 'run' / 'library.json'}" in said.out
    assert len(experience_store.Library.load(tmp_path / "run" / "library.json").served) == 0


def test_too_few_gate_problems_change_nothing_and_say_what_to_do(tmp_path: Path) -> None:
    place = store(tmp_path)
    with served(answer) as server:
        said = call(*command(tmp_path, server.url, "--margin", 0.01))
        assert server.replies == 2 * TEST
    assert said.code == 0 and "notice    100 gate problems are too few" in said.out and "written" not in said.out
    assert "give more problems, or a wider margin" in said.out and versions(place) == [4]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--library", "nowhere"), "there is no store at nowhere"),
        (("--library", "STORE@v9"), "v9"),
        (("--margin", 0), "margin must lie in 0..1"),
        (("--margin", "some"), "expected a number, got 'some'"),
        (("--model", "local/nowhere"), "leave base_url and api_key out"),
        (("--model", "after"), "openai/NAME"),
        (("--before", "local/nowhere"), "unknown model 'local/nowhere'"),
        (("--budget-calls", 0), "takes 40 calls and the budget allows 0"),
        (("--budget-calls", 50, "--before", "openai/ignorant"), "takes 80 calls and the budget allows 50"),
        (("--librry", "x"), "did you mean '--library'"),
    ],
)
def test_wrong_requests_are_one_line_and_begin_nothing(tmp_path: Path, more: tuple[object, ...], words: str) -> None:
    place = store(tmp_path)
    with served(answer) as server:
        given = [str(word).replace("STORE", str(place)) for word in more]
        said = call(*command(tmp_path, server.url, *given))
        assert not server.replies
    assert said.code == 2 and words in said.err and len(said.err.splitlines()) == 1, said.err
    assert not (tmp_path / "run").exists() and versions(place) == [4]


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    store(tmp_path)
    with served(lambda body: "yes") as server:
        assert call(*command(tmp_path, server.url)).code == 0
        other = call(*command(tmp_path, server.url, "--seed", 1))
    assert other.code == 2 and "holds a run with another measured" in other.err


def test_a_key_that_is_refused_on_the_way_loses_no_answer(tmp_path: Path) -> None:
    place = store(tmp_path)
    with served(lambda body: "yes") as server:
        server.fault_of = lambda body, number: Fault(status=401) if number >= 60 else None
        stopped = call(*command(tmp_path, server.url, "--concurrency", 4))
        assert stopped.code == 3 and "Traceback" not in stopped.err and versions(place) == [4]
        kept, server.fault_of = server.replies, None
        done = call(*command(tmp_path, server.url, "--json"))
        assert done.code == 0 and kept > 40, done.err
        assert server.replies == done.json["spend"]["retire"]["calls"] == 2 * GATE + 2 * TEST


def test_help_shows_examples_and_the_command_loads_no_model() -> None:
    help_text = call("retire", "--help").out
    assert "examples:\n  tfgrpo train" in help_text and "at least 351 gate problems" in help_text
    assert "--library PLACE[@REF]" in help_text and "retire" in call("--help").out
    heavy = ("torch", "transformers", "chromadb", "openai", "litellm", "aiohttp")
    text = f"import sys, hybrid.retire_command; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- weights ----------------------------------------------------------------------------------------------------------


def of_weights(folder: Path, model: Path, out: str) -> list[str]:
    """Right is what a tiny model with random weights now and then says; 80 gate problems of 4 answers decide."""
    given = command(folder, "none", "--margin", 0.3, "--gate-samples", 4, "--samples", 2, "--reward", "contains")
    at = given.index("--base-url")
    given = [*given[:at], *given[at + 2 :]]
    given += ["--library", f"{folder / 'store'}@v1", "--model", f"local/{model}", "--out", folder / out]
    return [str(word) for word in [*given, "--temperature", 1]]


@pytest.mark.slow
def test_kill_9_and_the_same_command(tmp_path: Path) -> None:
    """Killed while the gate is asked; what was answered is not asked again, and the end is that of a quiet run."""
    place, model = store(tmp_path), save_tiny(tmp_path / "tiny")
    run = [sys.executable, "-m", "tfgrpo.cli.main", *of_weights(tmp_path, model, "killed")]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if " 4 experiences: " in line:
                os.kill(running.pid, signal.SIGKILL)
                break
    assert running.returncode == -signal.SIGKILL and versions(place) == [4]
    going_on = subprocess.run(run, capture_output=True, text=True, check=True)
    assert re.search(r"going on: \d{3} replies are on record", going_on.stderr), going_on.stderr
    killed, whole = (_ends(tmp_path, model, out) for out in ("killed", "whole"))
    assert killed.json["retired"] == whole.json["retired"] and killed.json["tests"] == whole.json["tests"]
    assert killed.json["accuracy"] == whole.json["accuracy"] and killed.json["spend"] == whole.json["spend"]


def _ends(folder: Path, model: Path, out: str) -> Said:
    said = call(*of_weights(folder, model, out), "--json")
    assert said.code == 0, said.err
    return said
