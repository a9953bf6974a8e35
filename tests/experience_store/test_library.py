"""The exported file: round trip, hashes, and that it renders with the standard library alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import experience_store
from experience_store import Edit, ExperienceStore, Layout, Library
from experience_store.errors import LibraryError, WriteError

ASK = [{"role": "user", "content": "Which lamp do boats have?"}]


@pytest.fixture
def store(tmp_path: Path) -> ExperienceStore:
    store = experience_store.open(tmp_path / "store", embedder="hashing")
    edits = [
        Edit(op="add", text="Boats sail.", source={"problems": ["p1"]}, taint="untrusted"),
        Edit(op="add", text="Every boat has a red lamp."),
        Edit(op="add", text="Trains need rails.", trial=True),
        Edit(op="add", text="four", kind="example", question="2 + 2?"),
    ]
    store.commit(edits, layout=Layout(select="retrieve", max_entries=2), note="n", evidence={"gain": [0.1, 0.2]})
    return store


def test_a_library_renders_what_the_store_renders(store: ExperienceStore, tmp_path: Path) -> None:
    library = Library.load(store.export("head", tmp_path / "lib" / "a.json"))
    assert library.apply(ASK) == store.at().apply(ASK)
    assert library.text() == store.render()
    assert library.experiences[0].taint == "untrusted"
    assert [e.id for e in library.served] == ["E1", "E2", "E4"]
    assert (library.version.number, library.version.note, library.layout.max_entries) == (1, "n", 2)
    assert library.apply(ASK, include=["E3"]).labels == ("E3@1",)


def test_the_same_version_gives_the_same_bytes(store: ExperienceStore, tmp_path: Path) -> None:
    one, two = store.export(1, tmp_path / "a.json"), store.export("v1", tmp_path / "b.json")
    assert one.read_bytes() == two.read_bytes()
    assert "Every boat has a red lamp." in one.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "store"]


def test_import_into_an_empty_store_is_the_same_library(store: ExperienceStore, tmp_path: Path) -> None:
    file = store.export("head", tmp_path / "a.json")
    other = experience_store.open(tmp_path / "other", embedder="hashing")
    version = other.import_(file)
    assert [e.label for e in other.at().experiences] == ["E1@1", "E2@1", "E3@1", "E4@1"]
    assert (version.trial, version.layout) == (("E3",), Layout(select="retrieve", max_entries=2))
    assert other.at().apply(ASK) == store.at().apply(ASK)
    assert other.at().experiences[0].source["imported"] == "E1@1"
    assert other.import_(file).number == 1, "what is here already is left out"


def test_import_into_a_store_with_entries_gives_new_ids(store: ExperienceStore, tmp_path: Path) -> None:
    other = experience_store.open(tmp_path / "other", embedder="hashing")
    other.commit([Edit(op="add", text="Trains need rails."), Edit(op="add", text="own")])
    other.import_(store.export("head", tmp_path / "a.json"))
    texts = [(e.id, e.text) for e in other.at().experiences]
    assert texts[2:] == [("E3", "Boats sail."), ("E4", "Every boat has a red lamp."), ("E5", "four")]
    assert other.at().layout == Layout()


def change(data: dict[str, Any], path: str, value: Any) -> None:
    *keys, last = path.split(".")
    target: Any = data
    for key in keys:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value


@pytest.mark.parametrize(
    ("path", "value", "rehash", "words"),
    [
        ("experiences.0.text", "obey", False, "does not match its hash"),
        ("experiences.0.text", "obey", True, "entry 1: E1@1 does not match its content hash"),
        ("experiences.1.kind", "order", True, "entry 2: unknown kind 'order'"),
        ("experiences.1.revision", "x", True, "entry 2 cannot be read"),
        ("version.layout", {}, True, "its version cannot be read"),
        ("schema", 2, True, "upgrade"),
        ("format", "other", True, "no exported library"),
    ],
)
def test_a_changed_file_is_refused(
    store: ExperienceStore, tmp_path: Path, path: str, value: Any, rehash: bool, words: str
) -> None:
    file = store.export("head", tmp_path / "a.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data, path, value)
    if rehash:
        data["hash"] = experience_store.library.content_digest(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LibraryError, match=words):
        Library.load(file)


def test_a_cut_or_missing_file_is_refused(store: ExperienceStore, tmp_path: Path) -> None:
    file = store.export("head", tmp_path / "a.json")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(LibraryError, match="no exported library"):
        Library.load(file)
    with pytest.raises(LibraryError, match="cannot read"):
        Library.load(tmp_path / "none.json")
    with pytest.raises(WriteError, match="cannot write"):
        store.export("head", file / "below" / "a.json")


LIGHT = """
import sys
before = set(sys.modules)
import experience_store
library = experience_store.Library.load(sys.argv[1])
assert library.apply([{"role": "user", "content": "Which lamp do boats have?"}]).labels == ("E1@1", "E2@1")
assert library.text().count("- ") == 3
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - {"experience_store"}
print(",".join(sorted(loaded - set(sys.stdlib_module_names))))
"""


def test_importing_and_rendering_load_the_standard_library_only(store: ExperienceStore, tmp_path: Path) -> None:
    file = store.export("head", tmp_path / "a.json")
    done = subprocess.run([sys.executable, "-c", LIGHT, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
