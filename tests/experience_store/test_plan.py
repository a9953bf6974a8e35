"""Commits against a plain dict: as pure plans (many examples), and through a real store (few)."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import experience_store
from experience_store import Edit, Layout
from experience_store.codec import EMPTY, Record, edit_from_json, edit_to_json, record_from_text, record_to_text
from experience_store.plan import plan
from experience_store.types import Version

TEXTS = st.text(min_size=1, max_size=20).filter(lambda t: t.strip() and not any(0xD800 <= ord(c) <= 0xDFFF for c in t))
MOVES = st.lists(
    st.tuples(st.sampled_from(["add", "revise", "drop", "accept"]), st.integers(0, 9), TEXTS, st.booleans()), max_size=8
)


class Model:
    """What a library is, in a few lines: id -> (text, revision), the ids on trial, the next number."""

    def __init__(self) -> None:
        self.live: dict[str, tuple[str, int]] = {}
        self.trial: set[str] = set()
        self.highest: dict[str, int] = {}
        self.next = 1

    def apply(self, moves: list[tuple[str, int, str, bool]]) -> list[Edit]:
        edits = []
        for op, at, text, trial in moves:
            ids = list(self.live)
            if op == "add":
                id, self.next = f"E{self.next}", self.next + 1
                self.put(id, text, 1, trial)
                edits.append(Edit(op="add", text=text, trial=trial))
            elif ids and op == "revise":
                id = ids[at % len(ids)]
                self.put(id, text, self.highest[id] + 1, trial)
                edits.append(Edit(op="revise", id=id, text=text, trial=trial))
            elif ids:
                id = ids[at % len(ids)]
                self.trial.discard(id)
                if op == "drop":
                    del self.live[id]
                edits.append(Edit(op=op, id=id))  # type: ignore[arg-type]
        return edits

    def put(self, id: str, text: str, revision: int, trial: bool) -> None:
        self.live[id], self.highest[id] = (text, revision), revision
        (self.trial.add if trial else self.trial.discard)(id)

    def state(self) -> tuple[list[tuple[str, str, int]], set[str]]:
        return [(i, t, r) for i, (t, r) in self.live.items()], set(self.trial)


@given(st.lists(MOVES, max_size=6))
@settings(max_examples=60, deadline=None)
def test_plans_do_what_a_dict_does(commits: list[list[tuple[str, int, str, bool]]]) -> None:
    model, base, live = Model(), EMPTY, ()
    rows: set[str] = set()
    for n, moves in enumerate(commits, 1):
        done = plan(base, live, model.apply(moves), attempt=f"t{n}")
        live = done.live
        assert [(e.id, e.text, e.revision) for e in live] == model.state()[0]
        assert set(done.trial) == model.state()[1]
        assert done.next_id == model.next
        assert not rows & {e.row for e in done.new}, "a row's id is used once"
        rows |= {e.row for e in done.new}
        version = Version(number=n, parent=n - 1, rows=tuple(e.row for e in live), trial=done.trial, edits=done.edits)
        base = Record(version=version, attempt=f"t{n}", next_id=done.next_id, revisions=done.revisions)
        assert record_from_text(record_to_text(base), "v") == base


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


@given(TEXTS, TEXTS, st.dictionaries(TEXTS, PLAIN, max_size=3), st.booleans())
@settings(max_examples=50, deadline=None)
def test_edits_survive_json(text: str, reason: str, source: dict[str, Any], trial: bool) -> None:
    edit = Edit(op="add", id="E1", text=text, reason=reason, source=source, trial=trial, taint="untrusted")
    assert edit_from_json(edit_to_json(edit)) == edit


class StoreMachine(RuleBasedStateMachine):
    """A real store beside the model: commit, roll back, read any version, compare versions."""

    folder: str
    number = itertools.count()

    @initialize()
    def open(self) -> None:
        self.store = experience_store.open(self.folder, namespace=f"n{next(self.number)}", embedder="hashing")
        self.model = Model()
        self.past: list[tuple[Any, Any]] = [self.model.state()]

    def state(self, ref: int | str = "head") -> Any:
        snapshot = self.store.at(ref)
        return [(e.id, e.text, e.revision) for e in snapshot.experiences], set(snapshot.version.trial)

    @rule(moves=MOVES)
    def commit(self, moves: list[tuple[str, int, str, bool]]) -> None:
        version = self.store.commit(self.model.apply(moves), layout=Layout(max_entries=len(moves)))
        self.past.append(self.model.state())
        assert version.number == len(self.past) - 1

    @precondition(lambda self: len(self.past) > 1)
    @rule(data=st.data())
    def rollback(self, data: Any) -> None:
        to = data.draw(st.integers(0, len(self.past) - 1))
        self.store.rollback(to)
        entries, trial = self.past[to]
        self.model.live, self.model.trial = {i: (t, r) for i, t, r in entries}, set(trial)
        self.past.append(self.model.state())

    @rule(data=st.data())
    def compare(self, data: Any) -> None:
        a, b = (data.draw(st.integers(0, len(self.past) - 1)) for _ in range(2))
        diff = self.store.diff(a, b)
        old, new = ({i: (t, r) for i, t, r in self.past[n][0]} for n in (a, b))
        assert {e.id for e in diff.added} == new.keys() - old.keys()
        assert {e.id for e in diff.dropped} == old.keys() - new.keys()
        assert {n.id for _, n in diff.revised} == {i for i in old.keys() & new.keys() if old[i] != new[i]}
        assert str(diff)

    @invariant()
    def head_is_the_model(self) -> None:
        if hasattr(self, "store"):
            assert self.state() == self.model.state()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            again = experience_store.open(self.folder, namespace=self.store.namespace)
            self.store.close()
            self.store = again
            for number, expected in enumerate(self.past):
                assert self.state(number) == expected
            assert again.stats()["unlisted_rows"] == 0
            again.close()


def test_a_store_does_what_a_dict_does() -> None:
    StoreMachine.folder = tempfile.mkdtemp()
    machine: Any = StoreMachine.TestCase
    machine.settings = settings(
        max_examples=5, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
    )
    try:
        machine().runTest()
    finally:
        shutil.rmtree(StoreMachine.folder)
