"""gc, erasing for good, vectors as a cache, searching."""

from __future__ import annotations

from pathlib import Path

import pytest

import experience_store
from experience_store import Edit, ExperienceStore
from experience_store.errors import EditError

SECRET = "Ann Quokka lives in Zebra Street 5."


def filled(where: Path) -> ExperienceStore:
    store = experience_store.open(where, embedder="hashing")
    edits = [
        Edit(op="add", text="Check the units.", source={"problems": ["p1"]}, reason=f"unlike '{SECRET}'"),
        Edit(op="add", text=SECRET, source={"problems": ["p2", "p9"], "person": "ann"}),
        Edit(
            op="add", text="Street?", kind="example", question="Where does Ann Quokka live?", source={"person": "ann"}
        ),
    ]
    store.commit(edits, evidence={"effects": {"E2": 0.3, "E1": 0.1}, "seen": ["p1", "p2"]}, note="from ann and bob")
    store.commit([Edit(op="revise", id="E2", text=SECRET + " Really."), Edit(op="accept", id="E1")])
    return store


def everything(where: Path) -> bytes:
    return b"".join(f.read_bytes() for f in where.rglob("*") if f.is_file())


def test_erasing_a_person_leaves_no_word_in_the_store_and_a_readable_history(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert b"Quokka" in everything(tmp_path)
    counts = store.gc(erase="ann")
    assert (counts["experiences_erased"], counts["rows_erased"]) == (2, 3)
    assert b"quokka" not in everything(tmp_path).lower()
    assert [e.id for e in store.at().experiences] == ["E1"]
    assert [e.text for e in store.at(1).experiences] == ["Check the units.", "[erased]", "[erased]"]
    assert [e.text for e in store.at(1).served] == ["Check the units."]
    assert "erased" not in store.at(1).text()
    assert [v.number for v in store.log()] == [3, 2, 1]
    first = store.version(1)
    assert first.note == "[erased]"
    assert first.evidence == {"effects": {"E1": 0.1, "[erased]": "[erased]"}, "seen": ["p1", "p2"]}
    assert [e.text for e in first.edits] == ["Check the units.", "[erased]", "[erased]"]
    assert [h.experience.id for h in store.search("units")] == ["E1"]
    assert store.commit([Edit(op="add", text="new")]).edits[0].id == "E4"
    again = experience_store.open(tmp_path)
    assert again.at(2).experiences[1].label == "E2@2"
    assert again.gc(erase="ann")["rows_erased"] == 0


def test_erasing_by_problem_or_experience_id_touches_only_those(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.gc(erase="p9")["experiences_erased"] == 1
    assert [e.text for e in store.at(1).experiences] == ["Check the units.", "[erased]", "Street?"]
    assert store.gc(erase="E3")["experiences_erased"] == 1
    assert store.version(1).note == "from ann and bob"
    assert store.gc(erase="nobody") == {
        "rows_dropped": 0,
        "experiences_erased": 0,
        "rows_erased": 0,
        "versions_erased": 0,
    }
    with pytest.raises(EditError, match="nothing to erase"):
        store.gc(erase=" ")


def test_another_open_store_goes_on_after_maintenance(tmp_path: Path) -> None:
    store = filled(tmp_path)
    other = experience_store.open(tmp_path)
    assert other.at(1).experiences[1].text == SECRET
    store.gc(erase="E2")
    assert other.commit([Edit(op="add", text="still here")]).number == 4
    assert other.at(1).experiences[1].text == "[erased]"
    assert store.head().number == 4


def test_gc_drops_only_old_rows_that_no_version_lists(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shelf = store._shelf
    orphan = experience_store.Experience(id="E9", text="from a crashed writer", row="E9@1-dead")
    shelf.write_rows([orphan], shelf.embed_experiences([orphan]))
    assert store.stats()["unlisted_rows"] == 1
    assert store.gc()["rows_dropped"] == 0
    assert store.gc(older_than_s=0)["rows_dropped"] == 1
    assert store.stats()["unlisted_rows"] == 0
    assert len(store.at(1)) == len(store.at(2)) == 3


def test_a_reader_finds_what_another_process_or_store_wrote(tmp_path: Path) -> None:
    store = filled(tmp_path)
    reader = experience_store.open(tmp_path)
    assert reader.search("units")[0].experience.id == "E1"
    store.commit([Edit(op="add", text="Boats sail on green water.")])
    assert reader.search("green boats", k=1)[0].experience.id == "E4"


def test_vectors_are_a_cache(tmp_path: Path) -> None:
    store = filled(tmp_path)
    expected = [(h.experience.id, round(h.similarity, 5)) for h in store.search("the units", k=3)]
    assert store.rebuild_vectors() == 4
    assert [(h.experience.id, round(h.similarity, 5)) for h in store.search("the units", k=3)] == expected
    assert len(store.at(1)) == 3
    store.close()
    for folder in [f for f in tmp_path.iterdir() if f.is_dir()]:
        for file in folder.iterdir():
            file.unlink()
    again = experience_store.open(tmp_path)
    assert [(h.experience.id, round(h.similarity, 5)) for h in again.search("the units", k=3)] == expected
    assert again.rebuild_vectors() == 4


@pytest.mark.parametrize("complete", [0, 1])
def test_a_rewrite_that_was_killed_is_finished_or_undone(tmp_path: Path, complete: int) -> None:
    store = filled(tmp_path)
    connection = store._shelf.connection
    rows = list(store._shelf.rows.get(vectors=True).values())
    spare = connection.table("default.experiences.rewrite", {"schema": 1, "embedder": "hashing", "complete": 0})
    spare.add(rows if complete else rows[:1])
    if complete:
        spare.modify(metadata={"schema": 1, "embedder": "hashing", "complete": 1})
        connection.server.delete_collection("default.experiences")
    store.close()
    again = experience_store.open(tmp_path)
    assert len(again.at(1)) == len(again.at(2)) == 3
    assert again.search("units")[0].experience.id == "E1"


def test_similar_compares_answers_of_examples_and_search_their_problems(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.search("Where does Ann Quokka live?", k=1)[0].experience.id == "E3"
    assert store.similar("Street?", k=1)[0].experience.id == "E3"
    assert store.similar("Check the units!", k=1)[0].similarity > store.embedder.duplicate_threshold
    assert store.similar("x", k=0) == []
