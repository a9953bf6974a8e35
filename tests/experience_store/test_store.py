"""Commits, versions, tags, conflicts: one writer, and two that take turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import experience_store
from experience_store import Conflict, Edit, ExperienceStore, Layout, StoreError
from experience_store.embed import cosine
from experience_store.errors import EditError, EmbedderError, RefError, UnavailableError


@pytest.fixture
def store(tmp_path: Path) -> ExperienceStore:
    return experience_store.open(tmp_path / "store", embedder="hashing")


def add(text: str, **more: object) -> Edit:
    return Edit(op="add", text=text, **more)  # type: ignore[arg-type]


def texts(store: ExperienceStore, ref: int | str = "head") -> dict[str, str]:
    return {e.id: e.text for e in store.at(ref).experiences}


def test_a_new_store_is_version_zero_and_empty(store: ExperienceStore) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert store.head().number == 0
    assert len(store.at("head")) == 0
    assert store.at(0).apply(messages).messages is messages
    assert store.log() == ()
    assert store.render() == ""


def test_add_revise_accept_drop_keep_ids_and_raise_revisions(store: ExperienceStore) -> None:
    first = store.commit([add("one"), add("two", trial=True)], note="start", evidence={"gain": 0.1}, writer="a")
    assert [e.id for e in first.edits] == ["E1", "E2"]
    assert [e.id for e in store.at().served] == ["E1"]
    store.commit([Edit(op="revise", id="E1", text="one!"), Edit(op="accept", id="E2")])
    assert [e.label for e in store.at().served] == ["E1@2", "E2@1"]
    store.commit([Edit(op="drop", id="E1"), add("three")])
    assert texts(store) == {"E2": "two", "E3": "three"}
    assert texts(store, 1) == {"E1": "one", "E2": "two"}
    assert store.version("v1") == first
    assert (first.note, first.evidence, first.writer) == ("start", {"gain": 0.1}, "a")


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    layout = Layout(placement="turns", select="retrieve", max_entries=2, max_tokens=100)
    with experience_store.open(tmp_path, embedder="hashing") as store:
        source = {"problems": ["p1"], "critic": {"model": "m"}}
        written = store.commit(
            [add("a", source=source, reason="r", taint="untrusted"), add("x", kind="example", question="q?")],
            layout=layout,
            evidence={"effects": {"E1": [0.1, None, True]}},
        )
    again = experience_store.open(tmp_path)
    assert again.head() == written
    assert again.embedder.name == "hashing"
    one, two = again.at().experiences
    assert (one.source, one.taint) == ({**source, "reason": "r"}, "untrusted")
    assert (two.kind, two.question) == ("example", "q?")
    assert again.at().layout == layout


def test_an_id_is_never_given_twice_also_after_drops_and_gc(store: ExperienceStore) -> None:
    store.commit([add("one"), add("two")])
    store.commit([Edit(op="drop", id="E2")])
    store.gc(older_than_s=0)
    assert store.commit([add("three")]).edits[0].id == "E3"
    with pytest.raises(EditError, match="given before"):
        store.commit([add("four", id="E2")])
    assert store.commit([add("nine", id="E9"), add("ten")]).edits[1].id == "E10"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit(op="drop", id="E12"), r"did you mean .*'E1'"),
        (Edit(op="revise", id="Q", text="x"), "known: E1, E2"),
        (Edit(op="accept", id=""), "no such experience"),
        (Edit(op="add", text="  "), "empty text"),
        (Edit(op="revise", id="E1", text=""), "empty text"),
        (Edit(op="add", text="x", id="mine"), "must look like 'E17'"),
        (Edit(op="add", text="\ud800"), "valid Unicode"),
        (Edit(op="add", text="x", source={"a": {1, 2}}), "plain JSON"),
        (Edit(op="add", text="x", source={"a": float("nan")}), "plain JSON"),
        (Edit(op="merge", id="E1"), "unknown operation"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_edit_names_what_is_wrong_and_writes_nothing(store: ExperienceStore, edit: Edit, words: str) -> None:
    store.commit([add("one"), add("two")])
    with pytest.raises(EditError, match=words):
        store.commit([add("fine"), edit])
    assert store.head().number == 1
    assert store.stats()["unlisted_rows"] == 0


def test_rollback_is_a_new_version_and_revisions_go_on(store: ExperienceStore) -> None:
    store.commit([add("one"), add("two", trial=True)], layout=Layout(max_tokens=50))
    store.commit([Edit(op="revise", id="E1", text="other"), Edit(op="drop", id="E2"), add("three")], layout=Layout())
    back = store.rollback("v1", "worse on gate")
    assert (back.number, back.parent, back.note) == (3, 2, "worse on gate")
    assert texts(store) == texts(store, 1) == {"E1": "one", "E2": "two"}
    assert (back.trial, back.layout) == (("E2",), Layout(max_tokens=50))
    assert [(e.op, e.id) for e in back.edits] == [("drop", "E3"), ("revise", "E1"), ("add", "E2")]
    assert not store.diff(1, 3)
    store.commit([Edit(op="revise", id="E1", text="again"), add("four")])
    assert [e.label for e in store.at().experiences] == ["E1@3", "E2@1", "E4@1"]


def test_diff_says_what_changed(store: ExperienceStore) -> None:
    store.commit([add("keep"), add("old text"), add("gone"), add("maybe", trial=True)])
    edits = [Edit(op="revise", id="E2", text="new text"), Edit(op="drop", id="E3"), Edit(op="accept", id="E4")]
    store.commit([*edits, add("fresh", trial=True)], layout=Layout(max_entries=3))
    assert str(store.diff("v1", "v2")).splitlines() == [
        "v1 -> v2",
        "+ E5@1 [lesson] fresh (on trial)",
        "- E2@1 [lesson] old text",
        "+ E2@2 [lesson] new text",
        "- E3@1 [lesson] gone",
        "= E4@1 accepted",
        "= layout.max_entries: 0 -> 3",
    ]
    assert str(store.diff(2, 2)) == "v2 -> v2\nno change"


def test_tags_move_and_name_versions(store: ExperienceStore) -> None:
    store.commit([add("one")])
    store.commit([add("two")])
    assert store.tag("best", "v1") == 1
    assert len(store.at("best")) == 1
    store.tag("best")
    assert store.tags() == {"best": 2}
    with pytest.raises(RefError, match="did you mean 'best'"):
        store.at("bets")
    for name in ("head", "v7", "7", "a b", ""):
        with pytest.raises(StoreError, match="cannot be a tag"):
            store.tag(name)


@pytest.mark.parametrize("ref", [5, "v5", -1])
def test_an_unknown_version_is_an_error(store: ExperienceStore, ref: int | str) -> None:
    with pytest.raises(RefError, match=r"there is no version|the last one is v0"):
        store.at(ref)


def test_rebase_gives_new_ids_and_fail_names_both_writers(tmp_path: Path) -> None:
    ann, bob = (experience_store.open(tmp_path, embedder="hashing") for _ in range(2))
    ann.commit([add("one"), add("two")], writer="ann")
    base = bob.head().number
    ann.commit([add("three"), Edit(op="drop", id="E2")], writer="ann")
    with pytest.raises(Conflict, match=r"'bob' started from v1, and v2 was committed by 'ann'"):
        bob.commit([add("four")], parent=base, writer="bob", on_conflict="fail")
    done = bob.commit([add("four", id="E3"), Edit(op="drop", id="E3")], parent=base, writer="bob")
    assert [e.id for e in done.edits] == ["E4", "E4"]
    done = bob.commit([add("four"), Edit(op="revise", id="E1", text="1")], parent=base, writer="bob")
    assert (done.number, done.parent, done.edits[0].id) == (4, 3, "E5")
    assert texts(ann) == {"E1": "1", "E3": "three", "E5": "four"}


@pytest.mark.parametrize("op", ["revise", "drop", "accept"])
def test_an_edit_of_what_others_dropped_or_revised_is_a_conflict(store: ExperienceStore, op: str) -> None:
    store.commit([add("one"), add("two")], writer="ann")
    store.commit([Edit(op="drop", id="E1"), Edit(op="revise", id="E2", text="new")], writer="ann")
    for id, words in (("E1", "dropped meanwhile"), ("E2", "is E2@2 by now")):
        with pytest.raises(Conflict, match=f"{words}.*'bob'.*'ann'"):
            store.commit([Edit(op=op, id=id, text="mine")], parent=1, writer="bob")  # type: ignore[arg-type]
    with pytest.raises(EditError, match="no such experience"):
        store.commit([Edit(op="drop", id="E7")], parent=1)
    assert store.head().number == 2


def test_namespaces_share_nothing(tmp_path: Path) -> None:
    one = experience_store.open(tmp_path, namespace="one", embedder="hashing")
    two = experience_store.open(tmp_path, namespace="two", embedder="hashing")
    one.commit([add("secret of one")])
    one.tag("best")
    assert two.head().number == 0
    assert two.tags() == {}
    assert two.search("secret") == []
    for name in ("a.b", "", "../x", "a b", "-x"):
        with pytest.raises(StoreError, match="is no namespace"):
            experience_store.open(tmp_path, namespace=name)


def test_another_embedder_than_the_stores_is_refused(tmp_path: Path) -> None:
    experience_store.open(tmp_path, embedder="hashing")
    with pytest.raises(EmbedderError, match="was built with the embedder 'hashing', not 'minilm'"):
        experience_store.open(tmp_path, embedder="minilm")
    with pytest.raises(EmbedderError, match="unknown embedder 'nope'; known: hashing, minilm"):
        experience_store.open(tmp_path, namespace="other", embedder="nope")


def test_create_false_finds_or_refuses(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="there is no store"):
        experience_store.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    experience_store.open(tmp_path / "a", embedder="hashing").commit([add("x")])
    assert experience_store.open(tmp_path / "a", create=False).head().number == 1
    with pytest.raises(UnavailableError, match="has no namespace 'other'; there are: default"):
        experience_store.open(tmp_path / "a", namespace="other", create=False)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("./experience@v7", ("./experience", "v7")),
        ("./experience@best", ("./experience", "best")),
        ("./experience", ("./experience", "head")),
        ("a@b/c", ("a@b/c", "head")),
        ("http://127.0.0.1:8000", ("http://127.0.0.1:8000", "head")),
        ("http://127.0.0.1:8000@7", ("http://127.0.0.1:8000", "7")),
        ("http://me@127.0.0.1:8000", ("http://me@127.0.0.1:8000", "head")),
    ],
)
def test_parse_ref(spec: str, expected: tuple[str, str]) -> None:
    assert experience_store.parse_ref(spec) == expected


def test_search_is_exact_and_equal_texts_keep_their_order(store: ExperienceStore) -> None:
    texts = [f"word{n % 7} word{n % 5} word{n % 3}" for n in range(150)]
    store.commit([Edit(op="add", text=text) for text in texts])
    embed = store.embedder.embed
    for query in ("word6 word4", "word1", "nothing"):
        scores = [round(cosine(embed([query])[0], v), 5) for v in embed([e.text for e in store.at().experiences])]
        wanted = sorted(range(len(scores)), key=lambda i: -scores[i])[:9]
        hits = store.search(query, k=9)
        assert [h.experience.id for h in hits] == [store.at().experiences[i].id for i in wanted]
        assert [h.similarity for h in hits] == pytest.approx([scores[i] for i in wanted], abs=2e-5)


def test_the_same_version_is_the_same_snapshot_until_it_is_erased(store: ExperienceStore) -> None:
    store.commit([Edit(op="add", text="Ann", source={"person": "ann"})])
    assert store.at() is store.at("v1") and store.version() is store.version(1)
    before = store.at(1)
    with experience_store.open(store.location) as other:
        other.gc(erase="ann")
    assert store.at(1) is not before and store.at(1).experiences[0].text == "[erased]"


def test_a_layout_with_a_core_is_stored(store: ExperienceStore) -> None:
    store.commit([], layout=Layout(select="core", max_tokens=100))
    with experience_store.open(store.location) as other:
        assert other.at().layout == Layout(select="core", max_tokens=100)


def test_threads_may_share_a_store(store: ExperienceStore) -> None:
    def work(me: int) -> None:
        for n in range(5):
            store.commit([add(f"{me} {n}")], writer=str(me))
            store.at().apply([{"role": "user", "content": "x"}])
            store.search(f"{me}", k=1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert {e.text for e in store.at().experiences} == {f"{me} {n}" for me in range(4) for n in range(5)}
    assert store.head().number == 20
