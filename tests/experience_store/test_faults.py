"""What is damaged, newer, away or in the way: clear errors, and nothing that was committed is lost."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import experience_store
from experience_store import Edit, ExperienceStore, StoreError
from experience_store import commit as commits
from experience_store.chroma import Row
from experience_store.embed import HashingEmbedder
from experience_store.errors import Conflict, DamagedError, NewerSchemaError, UnavailableError, WriteError
from experience_store.shelf import digest


@pytest.fixture
def store(tmp_path: Path) -> ExperienceStore:
    store = experience_store.open(tmp_path / "store", embedder="hashing")
    store.commit([Edit(op="add", text="one"), Edit(op="add", text="two")])
    store.commit([Edit(op="revise", id="E2", text="new")])
    return store


def test_a_missing_row_names_the_version_and_the_others_stay_readable(store: ExperienceStore) -> None:
    store._shelf.rows.delete([store.head().rows[1]])
    again = experience_store.open(store.location)
    with pytest.raises(DamagedError, match=r"v2 lists 1 rows that are not in the store: E2@2-.* Roll back"):
        again.at()
    assert [e.text for e in again.at(1).experiences] == ["one", "two"]
    assert len(again.log()) == 2


def test_a_changed_row_is_noticed(store: ExperienceStore) -> None:
    row = store.head().rows[0]
    old = store._shelf.rows.get([row], vectors=True)[row]
    store._shelf.rows.upsert([replace(old, text="obey")])
    with pytest.raises(DamagedError, match="does not match its content hash"):
        experience_store.open(store.location).at()


@pytest.mark.parametrize("rehash", [False, True])
def test_an_unreadable_record_is_named_and_the_others_stay_readable(store: ExperienceStore, rehash: bool) -> None:
    old = store._shelf.versions.get(["v2"])["v2"]
    text = old.text[:50]
    meta = {**old.meta, "hash": digest(text)} if rehash else old.meta
    store._shelf.versions.upsert([Row("v2", text, meta, (1.0, 0.0))])
    again = experience_store.open(store.location)
    with pytest.raises(DamagedError, match=r"the record of v2 (cannot be read|does not match its hash)"):
        again.head()
    assert len(again.at(1)) == 2


def test_a_missing_record_says_which_is_the_last_good_one(store: ExperienceStore) -> None:
    store.commit([Edit(op="drop", id="E1")])
    store._shelf.versions.delete(["v2"])
    again = experience_store.open(store.location)
    with pytest.raises(DamagedError, match="the first is v2; the last good one is v3"):
        again.head()


def test_a_store_of_a_newer_release_is_not_touched(store: ExperienceStore) -> None:
    store._shelf.versions.modify(metadata={"schema": 2, "embedder": "x"})
    before = len(store._shelf.versions.ids())
    with pytest.raises(
        NewerSchemaError, match=r"has schema 2; this release knows up to 1\. It was not touched: upgrade"
    ):
        experience_store.open(store.location)
    assert len(store._shelf.versions.ids()) == before
    assert store._shelf.connection.names() == {"default.experiences", "default.tags", "default.versions"}


def test_a_missing_collection_is_named(store: ExperienceStore) -> None:
    store._shelf.connection.server.delete_collection("default.tags")
    with pytest.raises(DamagedError, match=r"the collection default\.tags is missing"):
        experience_store.open(store.location)


@pytest.mark.parametrize("how", ["header", "body", "cut"])
def test_a_damaged_file_says_so_and_what_to_do(store: ExperienceStore, how: str) -> None:
    store.close()
    file = Path(store.location) / "chroma.sqlite3"
    data = bytearray(file.read_bytes())
    if how == "header":
        data[:20] = b"this is no database!"
    elif how == "body":
        data[8192:] = os.urandom(len(data) - 8192)
    file.write_bytes(data[:20000] if how == "cut" else data)
    damaged = file.read_bytes()
    with pytest.raises(DamagedError, match=r"is damaged .*Move the folder aside, do not delete it"):
        experience_store.open(store.location).at()
    assert file.read_bytes() == damaged, "it was not made worse"


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="not writable or no folder"):
        experience_store.open(tmp_path / "file")


def test_a_server_that_is_not_there_says_how_to_start_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError, match=rf"http://127.0.0.1:{port} does not answer.*chroma run"):
        experience_store.open(f"http://127.0.0.1:{port}")


INSIDE = "2 + 2?"  # embedded after the writer has read the head


class Rival(HashingEmbedder):
    """An embedder during whose work another writer commits: the moment at which a race is lost."""

    def __init__(self) -> None:
        self.todo: list[Edit] = []
        self.other: ExperienceStore | None = None

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self.other and self.todo and INSIDE in texts:
            edits, self.todo = tuple(self.todo), []
            shelf = self.other._shelf
            request = commits.Request(edits=edits, writer="rival")
            commits._race(shelf, request, shelf.head_number(), commits.live(shelf, shelf.head_number()), {})
        return super().embed(texts)


@pytest.fixture
def raced(tmp_path: Path) -> tuple[ExperienceStore, Rival]:
    """A store whose next commit of a revised example loses its version number to a rival."""
    rival = Rival()
    store = experience_store.open(tmp_path / "store", embedder=rival)
    store.commit([Edit(op="add", text="four", kind="example", question=INSIDE), Edit(op="add", text="two")])
    rival.other = experience_store.open(tmp_path / "store")
    return store, rival


LOSING = Edit(op="revise", id="E1", text="It is four.")  # its text is embedded first, its old problem inside the race


def test_the_loser_of_a_version_number_rebases_and_leaves_no_rows(raced: tuple[ExperienceStore, Rival]) -> None:
    store, rival = raced
    rival.todo = [Edit(op="add", text="three")]
    done = store.commit([LOSING, Edit(op="add", text="mine")], writer="me")
    assert (done.number, [e.id for e in done.edits]) == (3, ["E1", "E4"])
    assert [(e.label, e.text) for e in store.at().experiences] == [
        ("E1@2", "It is four."),
        ("E2@1", "two"),
        ("E3@1", "three"),
        ("E4@1", "mine"),
    ]
    assert store.stats()["unlisted_rows"] == 0


def test_the_loser_is_told_when_its_entry_is_gone(raced: tuple[ExperienceStore, Rival]) -> None:
    store, rival = raced
    rival.todo = [Edit(op="add", text="x")]
    with pytest.raises(Conflict, match="the head moved: 'me' started from v1, and v2 was committed by 'rival'"):
        store.commit([LOSING], writer="me", on_conflict="fail")
    rival.todo = [Edit(op="drop", id="E1")]
    with pytest.raises(Conflict, match="dropped meanwhile; 'me' started from v2, and v3 was committed by 'rival'"):
        store.commit([LOSING], writer="me")
    assert store.head().number == 3
    assert store.stats()["unlisted_rows"] == 0
    assert store.head().writer == "rival"


def test_a_writer_that_died_between_its_two_adds_is_never_seen(store: ExperienceStore) -> None:
    shelf = store._shelf
    dead = experience_store.Experience(id="E3", text="of the dead writer", row="E3@1-dead")
    shelf.write_rows([dead], shelf.embed_experiences([dead]))
    store.commit([Edit(op="add", text="of the second writer")])
    again = experience_store.open(store.location)
    assert [e.text for e in again.at().experiences] == ["one", "new", "of the second writer"]
    assert again.at().experiences[2].id == "E3"
    assert "dead" not in json.dumps([h.experience.text for h in again.search("the dead writer", k=5)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_says_so(store: ExperienceStore) -> None:
    store.close()
    file = Path(store.location) / "chroma.sqlite3"
    file.chmod(0o444)
    with pytest.raises(WriteError):
        experience_store.open(store.location).commit([Edit(op="add", text="x")])


@pytest.mark.parametrize("place", ["http://me:secret@127.0.0.1:9", "http://me:secret", "https://me@host", "http://:9"])
def test_a_url_with_a_password_is_refused_and_not_shown(place: str) -> None:
    with pytest.raises(StoreError, match="holds no user and no password; give token=") as told:
        experience_store.open(place, create=False)
    assert "secret" not in str(told.value) and "me" not in str(told.value).split()
