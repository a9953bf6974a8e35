"""Several real processes: many writers, kills at any moment, a real Chroma server, a full disk."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromas import Chroma

import experience_store
from experience_store import Edit
from experience_store.errors import UnavailableError

pytestmark = pytest.mark.slow

PRELUDE = """
import os, signal, sys
import experience_store
from experience_store import Edit, Experience
where, me = sys.argv[1], sys.argv[2]
store = experience_store.open(where, embedder="hashing")
"""

MANY = """
single, batches, size = map(int, sys.argv[3:6])
for n in range(single):
    store.commit([Edit(op="add", text=f"{me} single {n}")], writer=me)
for n in range(batches):
    store.commit([Edit(op="add", text=f"{me} batch {n} entry {i}") for i in range(size)], writer=me)
"""

ENDLESS = """
n = 0
while True:
    n += 1
    v = store.commit([Edit(op="add", text=f"{me} entry {n}"), Edit(op="add", text=f"{me} twin {n}")], writer=me)
    print(v.number, n, flush=True)
"""

DIES_BETWEEN = """
e = Experience(id="E1", text="of the dead writer", row="E1@1-dead")
store._shelf.write_rows([e], store._shelf.embed_experiences([e]))
print("rows are written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

FULL = """
import resource
store.commit([Edit(op="add", text="before")])
size = os.path.getsize(os.path.join(where, "chroma.sqlite3"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    for n in range(200):
        store.commit([Edit(op="add", text=f"{n} " * 400)])
except experience_store.StoreError as error:
    print(type(error).__name__, store.head().number)
    print(error)
"""


def start(code: str, where: object, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(where), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], timeout_s: float = 280) -> str:
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return out


def check_many(where: object, writers: int, single: int, batches: int, size: int) -> None:
    """Every commit is there, every text once, every row has its vector, no id was given twice."""
    store = experience_store.open(str(where))
    each = single + batches * size
    entries = store.at().experiences
    expected = {f"w{w} single {n}" for w in range(writers) for n in range(single)}
    expected |= {f"w{w} batch {n} entry {i}" for w in range(writers) for n in range(batches) for i in range(size)}
    assert {e.text for e in entries} == expected
    assert len(entries) == writers * each == len({e.id for e in entries})
    assert {e.id for e in entries} == {f"E{n}" for n in range(1, writers * each + 1)}
    log = store.log()
    assert [v.number for v in log] == list(range(writers * (single + batches), 0, -1))
    assert [sum(v.writer == f"w{w}" for v in log) for w in range(writers)] == [single + batches] * writers
    rows = store._shelf.rows.get(vectors=True)
    assert all(len(r.vector) == 512 for r in rows.values())
    assert set(rows) == set(store.head().rows)
    assert store.search("w1 single 7", k=1)[0].experience.text == "w1 single 7"
    store.close()


def test_three_processes_with_1500_adds_each(tmp_path: Path) -> None:
    started = time.monotonic()
    for process in [start(MANY, tmp_path, f"w{n}", 60, 32, 45) for n in range(3)]:
        finished(process)
    print(f"3 x 1,500 adds, 276 commits: {time.monotonic() - started:.0f} s")
    check_many(tmp_path, 3, 60, 32, 45)


def test_a_writer_killed_between_its_two_adds_and_then_a_second_commit(tmp_path: Path) -> None:
    process = start(DIES_BETWEEN, tmp_path, "dead")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert "rows are written" in out
    store = experience_store.open(tmp_path)
    assert store.head().number == 0
    store.commit([Edit(op="add", text="of the second writer")])
    assert [e.text for e in experience_store.open(tmp_path).at().served] == ["of the second writer"]
    assert "dead" not in store.render()
    assert store.stats()["unlisted_rows"] == 1
    assert store.gc()["rows_dropped"] == 0
    assert store.gc(older_than_s=0)["rows_dropped"] == 1


def test_kills_at_any_moment_lose_no_commit_that_returned(tmp_path: Path) -> None:
    rng, told, versions = random.Random(5), {}, {}
    for n in range(6):
        process = start(ENDLESS, tmp_path, f"w{n}")
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(rng.uniform(0.0, 1.0))
        process.kill()
        lines = [first, *process.communicate()[0].splitlines()]
        versions |= {int(line.split()[0]): f"w{n}" for line in lines if len(line.split()) == 2}
        told[f"w{n}"] = max(int(line.split()[1]) for line in lines if len(line.split()) == 2)
    store = experience_store.open(tmp_path)
    texts = [e.text for e in store.at().experiences]
    for writer, count in told.items():
        assert {f"{writer} {kind} {i}" for i in range(1, count + 1) for kind in ("entry", "twin")} <= set(texts)
        assert sum(t.startswith(f"{writer} ") for t in texts) in (2 * count, 2 * count + 2), (
            "at most one more, and whole"
        )
    for number, writer in versions.items():
        assert store.version(number).writer == writer
    assert len(texts) == len(set(texts))
    assert store.commit([Edit(op="add", text="and on it goes")]).number == store.head().number


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    out = finished(start(FULL, tmp_path, "w"))
    assert "WriteError" in out, out
    assert "the disk is full" in out
    assert "What was committed before is kept" in out
    seen = int(out.split()[1])
    store = experience_store.open(tmp_path)
    assert store.head().number == seen >= 1
    assert store.at().experiences[0].text == "before"
    assert store.commit([Edit(op="add", text="after")]).number == seen + 1
    assert len(store.at()) == seen + 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Chroma]:
    server = Chroma(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def test_three_writers_race_on_a_server(server: Chroma) -> None:
    started = time.monotonic()
    for process in [start(MANY, server.url, f"w{n}", 25, 5, 20) for n in range(3)]:
        finished(process)
    print(f"3 x 125 adds, 90 commits on a server: {time.monotonic() - started:.0f} s")
    check_many(server.url, 3, 25, 5, 20)


def test_a_server_does_all_that_a_folder_does_also_after_a_kill(server: Chroma, tmp_path: Path) -> None:
    store = experience_store.open(server.url, namespace="task", embedder="hashing")
    store.commit([Edit(op="add", text="Boats sail."), Edit(op="add", text="Bread is baked.", source={"person": "ann"})])
    store.commit([Edit(op="revise", id="E1", text="Boats sail on water."), Edit(op="add", text="Rails.", trial=True)])
    store.tag("best")
    server.kill()
    with pytest.raises(UnavailableError, match="does not answer"):
        store.commit([Edit(op="add", text="lost")])
    server.start()
    assert store.head().number == 2
    assert store.search("boats on water", k=1)[0].experience.label == "E1@2"
    assert store.rollback(1).number == 3
    assert str(store.diff("best")).splitlines()[0] == "v2 -> v3"
    again = experience_store.open(server.url, namespace="task", create=False)
    assert again.tags() == {"best": 2}
    assert again.gc(erase="ann")["rows_erased"] == 1
    assert [e.text for e in store.at(1).experiences] == ["Boats sail.", "[erased]"], "the other client follows"
    assert store.rebuild_vectors() == 4
    file = store.export("best", tmp_path / "a.json")
    here = experience_store.open(tmp_path / "here", embedder="hashing")
    here.import_(file)
    assert here.render() == store.render("best")
    with pytest.raises(UnavailableError, match="has no namespace 'other'; there are: task"):
        experience_store.open(server.url, namespace="other", create=False)
