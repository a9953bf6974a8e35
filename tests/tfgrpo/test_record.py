import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import RunStateError
from tfgrpo.events import Event
from tfgrpo.record import CallKey, RunRecord, decode_completion, encode_completion
from tfgrpo.types import Completion, Segment, Usage

KEY = CallKey(purpose="solve", epoch=2, problem="p1", sample=3)


def reply(text="42", prompt="6 * 7?", **fields):
    return Completion(prompt=({"role": "user", "content": prompt},), messages=({"role": "assistant", "content": text},),
                      text=text, policy="openai/x", model="x-1", usage=Usage(prompt_tokens=7, completion_tokens=2),
                      cost_usd=fields.pop("cost_usd", 0.25), latency_s=0.5, **fields)  # fmt: skip


def put(record, n, completion=None, key=KEY, solver=True):
    record.put_call(bytes([n]), key, completion or reply(), solver=solver, prompt=b"prompt%d" % n)


def test_a_reply_comes_back_as_it_was(tmp_path):
    with RunRecord.open(tmp_path) as record:
        put(record, 1)
        assert record.get_call(bytes([1])) == reply()
        assert record.get_call(bytes([2])) is None
    with RunRecord.open(tmp_path) as record:
        assert record.get_call(bytes([1])) == reply()
        (found,) = record.calls()
        assert (found.key, found.solver, found.completion) == (KEY, True, reply())
        assert list(record.calls("gate")) == []


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(text=WORDS, content=WORDS, cost=st.none() | st.floats(0, 9), ids=st.lists(st.integers(0, 9)),
       estimated=st.booleans(), finish=st.sampled_from(["stop", "length", "content_filter"]))  # fmt: skip
def test_coding_is_an_identity(text, content, cost, ids, estimated, finish):
    completion = Completion(
        prompt=(), messages=({"role": "assistant", "content": content}, {"role": "tool", "content": text}), text=text,
        policy="p", usage=Usage(prompt_tokens=1, estimated=estimated), cost_usd=cost, finish_reason=finish,
        segments=(Segment(token_ids=tuple(ids), train=True, logps=tuple(-0.5 for _ in ids)),),
    )  # fmt: skip
    assert decode_completion(encode_completion(completion), None) == completion


def test_spend_by_purpose_with_unpriced_calls(tmp_path):
    with RunRecord.open(tmp_path) as record:
        put(record, 1)
        put(record, 2, reply(cost_usd=None))
        put(record, 3, key=CallKey(purpose="critic"), solver=False)
        spend = record.spend()
    assert (spend["solve"].calls, spend["solve"].solver_calls, spend["solve"].unpriced_calls) == (2, 2, 1)
    assert (spend["solve"].usd, spend["critic"].solver_calls, spend["critic"].prompt_tokens) == (0.25, 0, 7)


def test_claim_is_true_once_and_only_for_what_an_earlier_process_paid(tmp_path):
    with RunRecord.open(tmp_path) as record:
        for n in range(20):
            put(record, n)
        assert not record.claim(bytes([3]))
    with RunRecord.open(tmp_path) as record:
        put(record, 30)
        assert [record.claim(bytes([3])), record.claim(bytes([3])), record.claim(bytes([30]))] == [True, False, False]
        assert record.claim(bytes([19]))


def test_state_and_events(tmp_path):
    with RunRecord.open(tmp_path) as record:
        assert record.get_state("epoch") is None
        record.put_state("epoch", {"done": [1, 2]})
        record.put_state("epoch", {"done": [1, 2, 3]})
        record.add_event(Event(name="a", data={"x": "ä"}, time=1.5))
        record.add_event(Event(name="b", time=2.5))
    with RunRecord.open(tmp_path, read_only=True) as record:
        assert record.get_state("epoch") == {"done": [1, 2, 3]}
        assert list(record.events()) == [Event(name="a", data={"x": "ä"}, time=1.5), Event(name="b", time=2.5)]
        assert [e.name for e in record.events("b")] == ["b"]


def test_a_second_writer_is_told_who_has_the_run_and_a_reader_is_let_in(tmp_path):
    with RunRecord.open(tmp_path) as record:
        put(record, 1)
        with pytest.raises(RunStateError, match=rf"in use by another process \(pid {os.getpid()}\)"):
            RunRecord.open(tmp_path)
        with RunRecord.open(tmp_path, read_only=True) as reader:
            assert len(list(reader.calls())) == 1
    RunRecord.open(tmp_path).close()


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(RunStateError, match="no run record"):
        RunRecord.open(tmp_path, read_only=True)


def test_newer_foreign_and_damaged_files(tmp_path):
    newer, foreign, damaged, row = (tmp_path / name / "run.sqlite" for name in ("newer", "foreign", "damaged", "row"))
    RunRecord.open(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    foreign.parent.mkdir()
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE t (x)")
    db.close()
    damaged.parent.mkdir()
    damaged.write_bytes(b"no database at all" * 400)
    for path, words in ((newer, "newer version.*upgrade"), (foreign, "no run record"), (damaged, "damaged.*new run")):
        with pytest.raises(RunStateError, match=words):
            RunRecord.open(path)
    with RunRecord.open(row) as record:
        put(record, 1)
    db = sqlite3.connect(row)
    with db:
        db.execute("UPDATE calls SET reply = '{'")
    db.close()
    with RunRecord.open(row) as record, pytest.raises(RunStateError, match="cannot be read"):
        record.get_call(bytes([1]))


OLD = """
CREATE TABLE prompts (id INTEGER PRIMARY KEY, hash BLOB UNIQUE, messages TEXT NOT NULL);
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, key BLOB UNIQUE, purpose TEXT NOT NULL, epoch INTEGER NOT NULL, problem TEXT NOT NULL,
    sample INTEGER NOT NULL, solver INTEGER NOT NULL, prompt BLOB, reply TEXT,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, cost_usd REAL
);
CREATE TABLE states (name TEXT PRIMARY KEY, json TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, time REAL NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL);
PRAGMA application_id = 1952868210;
PRAGMA user_version = 1;
"""


def test_a_record_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_to_write(tmp_path):
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.executescript(OLD)
    row = (b"\x01", "solve", 2, "p1", 3, 1, None, encode_completion(reply()), 7, 2, 0, 0, 0.25)
    with db:
        db.execute(f"INSERT INTO calls VALUES (1, {', '.join('?' * 13)})", row)
    db.close()
    with RunRecord.open(tmp_path, read_only=True) as record:
        assert [call.key for call in record.calls()] == [KEY] and record.spend()["solve"].calls == 1
    with RunRecord.open(tmp_path) as record:
        assert record.get_call(b"\x01").text == "42" and record.get_answer(b"\x01") is None
        put(record, 2, key=CallKey(purpose="solve", turn=4))
        record.put_answer(b"\x05", "p1", reply(), [b"\x01", b"\x02"])
    with RunRecord.open(tmp_path) as record:
        assert [call.key.turn for call in record.calls()] == [0, 4]
        assert record.get_answer(b"\x05") == (reply(), (b"\x01", b"\x02"))


def test_erasing_a_person_leaves_no_byte_and_keeps_the_bill(tmp_path):
    with RunRecord.open(tmp_path) as record:
        put(record, 1, reply(text='about Ms "Planted"', prompt="who?"))
        put(record, 2, reply(prompt='tell me of Ms "Planted"'), key=CallKey(purpose="solve", problem="p2"))
        put(record, 3, reply(prompt="other"), key=CallKey(purpose="solve", problem="p-erase"))
        put(record, 4, reply(prompt="kept"), key=CallKey(purpose="solve", problem="p4"))
        record.add_event(Event(name="edit", data={"text": 'Ms "Planted" said'}))
        record.put_state("s", 'Ms "Planted"')
        record.put_answer(b"a", "p9", reply(text='Ms "Planted" again'), [])
        record.put_answer(b"b", "p-erase", reply(), [])
        assert record.erase(containing='Ms "Planted"', problem="p-erase") == 3
        assert record.get_call(bytes([1])) is None
        assert record.get_call(bytes([4])) == reply(prompt="kept")
        assert record.spend()["solve"].calls == 4
        assert list(record.events()) == [] and record.get_state("s") is None
    for file in tmp_path.iterdir():
        assert b"Planted" not in file.read_bytes() and b"p-erase" not in file.read_bytes()


FULL = """
import resource, sys
from tfgrpo.errors import RunStateError
sys.path.insert(0, {here!r})
from test_record import put, reply
from tfgrpo.record import RunRecord
record = RunRecord.open(sys.argv[1])
put(record, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
try:
    for n in range(1, 200):
        put(record, n, reply(text="x" * 20_000))
except RunStateError as error:
    print(n, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_full_disk_is_told_and_nothing_written_before_is_lost(tmp_path):
    script = FULL.format(here=str(Path(__file__).parent))
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    number, words = told.split(" ", 1)
    assert "disk full" in words and "run the same command again" in words
    with RunRecord.open(tmp_path) as record:
        assert len(list(record.calls())) == int(number) > 5


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from test_record import put
from tfgrpo.record import RunRecord
record = RunRecord.open(sys.argv[1])
for n in range(200):
    put(record, n)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_every_reply_survives_a_kill_and_the_lock_is_free(tmp_path):
    script = textwrap.dedent(KILLED.format(here=str(Path(__file__).parent)))
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert run.returncode == -signal.SIGKILL
    with RunRecord.open(tmp_path) as record:
        assert len(list(record.calls())) == 200
