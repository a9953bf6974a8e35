"""Where a library comes from: files, pins, tags, heads; and what a namespace may see."""

import threading
import time

import pytest
from upstreams import NOTE, library

import experience_store
from experience_store import Edit, Layout, Library, StoreError
from experience_store.errors import LibraryError, RefError, UnavailableError
from tfgrpo.serving.library_source import Follower, LibrarySource, open_source


@pytest.fixture
def store(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text=NOTE)])
        store.tag("best", 1)
        store.commit([Edit(op="add", text="Check the sign.")])
        yield store


def words(source):
    return source.current().prepared.core.text


def test_a_pin_stays_a_tag_moves_and_the_head_follows(store):
    pinned, tagged, headed = (open_source(f"{store.location}{ref}") for ref in ("@v1", "@best", ""))
    assert [s.current().version for s in (pinned, tagged, headed)] == ["v1", "v1", "v2"]
    store.commit([Edit(op="add", text="new", trial=True)])
    store.tag("best", 2)
    assert [s.look() for s in (pinned, tagged, headed)] == [False, True, True]
    assert [s.current().version for s in (pinned, tagged, headed)] == ["v1", "v2", "v3"]
    assert "new" not in words(headed), "what is on trial is not served"
    assert not any(s.look() for s in (pinned, tagged, headed))
    for source in (pinned, tagged, headed):
        source.close()


def test_a_file_is_read_again_when_it_is_replaced(store, tmp_path):
    file = store.export("v1", tmp_path / "a.json")
    source = open_source(str(file))
    assert source.current().version == "v1" and not source.look()
    store.export("head", file)
    assert source.look() and source.current().version == "v2"
    file.unlink()
    assert not source.look()
    assert source.current().version == "v2" and "cannot read" in source.status().problem


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("none.json", UnavailableError, "no store at"),
        ("store@v9", RefError, "no version v9"),
        ("store@other", RefError, "no version or tag 'other'"),
    ],
)
def test_what_is_not_there_is_said_at_once(store, tmp_path, place, error, words):
    with pytest.raises(error, match=words):
        open_source(str(tmp_path / place))


def test_a_namespace_of_its_own_is_read_and_no_other(store, tmp_path):
    with experience_store.open(store.location, namespace="bob", embedder="hashing") as bob:
        bob.commit([Edit(op="add", text="Bob's secret.")])
    source = open_source(store.location, namespace="bob")
    assert "Bob's secret." in words(source) and NOTE not in words(source)
    source.close()
    with pytest.raises(UnavailableError, match="no namespace 'eve'"):
        open_source(store.location, namespace="eve")
    with pytest.raises(LibraryError, match="holds no namespace 'bob'"):
        open_source(library(tmp_path, NOTE), namespace="bob")


def test_a_file_with_many_entries_ranks_as_the_store_does(tmp_path):
    texts = [f"The colour of parcel {n} in hall {n * 7 % 50} is known to the clerk of hall {n}." for n in range(200)]
    layout = Layout(placement="user", select="retrieve", max_entries=3)
    file = library(tmp_path, *texts, layout=layout)
    source, plain = open_source(file), Library.load(file)
    for question in ("Who knows parcel 17?", "Hall 42, the clerk?", "", "zzz"):
        messages = [{"role": "user", "content": question}]
        assert source.current().prepared.apply(messages) == plain.apply(messages)


class Scripted:
    """A reader that gives what it is told to."""

    place = "scripted"

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def read(self):
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self):
        return None


def test_the_time_since_the_last_look_that_succeeded(store):
    now = [100.0]
    source = LibrarySource(Scripted(store.at(1), StoreError("away"), store.at(2)), clock=lambda: now[0])
    now[0] = 107.0
    assert not source.look()
    assert (source.status().problem, source.status().unseen_s, source.status().version) == ("away", 7.0, "v1")
    assert source.look()
    assert (source.status().problem, source.status().unseen_s, source.status().version) == ("", 0.0, "v2")


def test_one_source_that_fails_does_not_keep_the_others_from_being_read(store):
    bad = LibrarySource(Scripted(store.at(1), StoreError("away")))
    good = LibrarySource(Scripted(store.at(1), store.at(2)))
    follower = Follower({"bad": bad, "good": good}, every_s=0.01).start()
    _wait(lambda: good.current().version == "v2" and bad.status().problem == "away")
    follower.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_follower_that_dies_of_a_bug_says_so(store):
    source = LibrarySource(Scripted(store.at(1), KeyError("a bug")))
    follower = Follower({"a": source}, every_s=0.01).start()
    follower._thread.join(10)
    assert "restart the program" in source.status().problem
    assert source.current().version == "v1"


def test_what_changes_is_told_once(store):
    told = []
    source = LibrarySource(
        Scripted(store.at(1), store.at(1), store.at(2), StoreError("away"), StoreError("away"), store.at(2))
    )
    follower = Follower(
        {"a": source}, every_s=0.01, tell=lambda name, status: told.append((name, status.version, status.problem))
    )
    follower.start()
    _wait(lambda: len(told) == 3)
    follower.stop()
    assert told == [("a", "v2", ""), ("a", "v2", "away"), ("a", "v2", "")]


def test_a_follower_ends_when_it_is_told_to(store):
    source = LibrarySource(Scripted(store.at(1)))
    follower = Follower({"a": source}, every_s=60).start()
    follower.stop()
    assert not [t for t in threading.enumerate() if t.name == "tfgrpo-follower"]
    assert source.status().problem == ""


def _wait(holds):
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)
