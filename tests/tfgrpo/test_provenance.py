"""From an experience back to the answers and scores that taught it; and what untrusted text may not do."""

import dataclasses
import json
import re

import flagworld
import pytest
from cli import call

import experience_store
from experience_store import Edit, Library
from experience_store.library import content_digest
from experience_store.origin import check
from tfgrpo import Budget, alearn
from tfgrpo.agents import Agent
from tfgrpo.provenance import answer_hash, inheriting, untrusted, verify, with_origin
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.types import Completion, Group, Problem, Rollout, Score

PROBLEM = Problem(id="p1", messages=({"role": "user", "content": "2 + 2?"},), answer="4")


def rollout(text, score, *between, origin=""):
    messages = (*between, {"role": "assistant", "content": text})
    completion = Completion(prompt=PROBLEM.messages, messages=messages, text=text, policy="m", origin=origin)
    return Rollout(completion=completion, score=Score(value=score))


def group(*rollouts, problem=PROBLEM, index=3):
    return Group(problem=problem, rollouts=rollouts, index=index)


TOOL = {"role": "tool", "tool_call_id": "1", "content": "obey"}
OBSERVED = {"role": "user", "content": "Observation: obey"}


@pytest.fixture
def server(chat_server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    chat_server.answer = flagworld.answer
    experience_store.open(tmp_path / "store", embedder="hashing").close()
    return chat_server


def learning(task, tmp_path, **more):
    given = {
        "store": str(tmp_path / "store"),
        "runs": tmp_path / "runs",
        "concurrency": 16,
        "budget": Budget(calls=200),
    }
    return alearn(task, model="openai/solver", **{**given, **more})


async def test_what_a_run_learns_leads_back_to_its_answers_and_scores(server, tmp_path):
    await learning(flagworld.flag_task(), tmp_path)
    with experience_store.open(tmp_path / "store") as store:
        learned = store.at().served
        file = store.export("head", tmp_path / "library.json")
    assert learned and all(check(e).state == "whole" for e in learned)
    done = verify(learned, tmp_path / "runs")
    assert not done.broken and not done.missing_runs and done.answers == 3 * len(learned)
    said = call("store", "verify", file, "--json")
    assert said.code == 0 and {e["state"] for e in said.json["entries"]} == {"whole"}
    assert said.json["answers_found"] > 0, "runs in ./runs are looked up"


async def test_an_agents_answers_are_found_too(server, tmp_path):
    async def twice(problem, client):
        await client.complete(problem.messages)
        return await client.complete(problem.messages)

    await learning(flagworld.flag_task(agent=Agent(run=twice, max_calls=2)), tmp_path, budget=Budget(calls=400))
    with experience_store.open(tmp_path / "store") as store:
        done = verify(store.at().experiences, tmp_path / "runs")
    assert done.answers and not done.broken


def changed(file, change):
    """The file with a change, and with its own hash made to fit."""
    data = json.loads(file.read_text())
    change(data["experiences"][0])
    data["hash"] = content_digest(data)
    file.write_text(json.dumps(data))
    return file


def forge(entry):
    """Everything that can be hashed anew is: only the run's record tells."""
    made = entry["source"]["origin"]
    made["groups"][0]["rollouts"][0]["score"] = 0.123
    made["hash"] = experience_store.origin.digest({k: v for k, v in made.items() if k != "hash"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e["source"]["origin"]["groups"][0]["rollouts"][0].update(score=9), "its answers or scores are not"),
        (lambda e: e["source"]["origin"].update(run="other"), "its answers or scores are not"),
        (forge, "a score of group 0 is not the one on record"),
    ],
)
async def test_a_changed_origin_is_found(server, tmp_path, change, words):
    task = flagworld.flag_task(learn=flagworld.problems(0, 1), gate=(), test=())
    await learning(task, tmp_path, gate="none", budget=Budget(calls=3), group=3)
    with experience_store.open(tmp_path / "store") as store:
        file = changed(store.export("head", tmp_path / "library.json"), change)
    said = call("store", "verify", file)
    assert said.code == 2 and "1 BROKEN" in said.out and words in said.out


async def test_a_text_that_was_put_in_by_hand_is_not_what_was_learned(server, tmp_path):
    task = flagworld.flag_task(learn=flagworld.problems(0, 1), gate=(), test=())
    await learning(task, tmp_path, gate="none", budget=Budget(calls=3), group=3)
    with experience_store.open(tmp_path / "store") as store:
        (entry,) = store.at().experiences
        store.commit([Edit(op="revise", id=entry.id, text="Obey.", source=entry.source)])
        store.commit([Edit(op="add", text="By hand.")])
    said = call("store", "verify", tmp_path / "store")
    assert said.code == 2 and "its text is not the one that was learned" in said.out
    assert "1 without a known origin" in said.out
    with experience_store.open(tmp_path / "store") as store:
        store.gc(erase=entry.id)
        assert {c.state for c in verify(store.at(1).experiences).checks} == {"erased"}


def test_an_export_of_before_is_readable_and_its_origin_unknown(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text="Check.", source={"group": 3, "problem": "p1"})])
        file = store.export("head", tmp_path / "old.json")
    assert Library.load(file).text().endswith("- Check.")
    said = call("store", "verify", file, "--runs", tmp_path)
    assert said.code == 0 and "1 entries: 1 without a known origin" in said.out


def test_a_run_that_is_not_here_is_named(tmp_path):
    (edit,) = with_origin([Edit(op="add", text="Check.")], group(rollout("4", 1.0)), run="far-away")
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([edit])
        done = verify(store.at().experiences, tmp_path)
    assert done.missing_runs == ("far-away",) and not done.broken and "no such run" in str(done)


def test_what_a_critic_makes_of_several_proposals_comes_from_all_of_them():
    proposals = [
        with_origin([Edit(op="add", text=f"note {n}")], group(rollout("4", 1.0), index=n), run="r")[0]
        for n in (1, 2, 2)
    ]
    tainted = dataclasses.replace(proposals[0], taint="untrusted")
    (merged, dropped) = inheriting([Edit(op="add", text="both"), Edit(op="drop", id="E1")], [tainted, *proposals[1:]])
    assert [g["group"] for g in merged.source["origin"]["groups"]] == [1, 2]
    assert merged.taint == "untrusted" and not dropped.source
    assert inheriting(proposals, proposals) == proposals
    assert inheriting([Edit(op="add", text="x")], []) == [Edit(op="add", text="x")]


@pytest.mark.parametrize(
    ("of", "outside", "expected"),
    [
        (group(rollout("4", 1.0)), True, False),
        (group(rollout("4", 1.0, TOOL), rollout("5", 0.0)), True, True),
        (group(rollout("4", 1.0, OBSERVED)), True, True),
        (group(rollout("4", 1.0, {"role": "user", "content": "Check it."})), True, False),
        (group(rollout("4", 1.0, TOOL)), False, False),
        (group(rollout("4", 1.0), problem=dataclasses.replace(PROBLEM, meta={"untrusted": True})), False, True),
    ],
)
def test_what_is_untrusted(of, outside, expected):
    assert untrusted(of, outside=outside) == expected
    (edit,) = with_origin([Edit(op="add", text="x")], of, run="r", outside=outside)
    assert edit.taint == ("untrusted" if expected else "clean")


async def looks_up(problem, client):
    """An agent whose tool is right about some flags, and obeys nobody else."""
    found = flagworld.re.search(r"flag of (\w+)\?", problem.question)[1]
    messages = [*problem.messages, {"role": "tool", "tool_call_id": "1", "content": f"about {found}"}]
    reply = await client.complete(problem.messages)
    return [*messages, {"role": "assistant", "content": reply}]


async def test_without_a_gate_untrusted_text_does_not_get_in(server, tmp_path):
    events = []
    for outside, expected in ((True, 0), (False, 1)):
        agent = Agent(run=looks_up, max_calls=1, outside=outside, name=f"looks_up {outside}")
        task = flagworld.flag_task(agent=agent, gate=(), test=())
        store = str(tmp_path / f"store-{outside}")
        experience_store.open(store, embedder="hashing").close()
        await learning(task, tmp_path, store=store, gate="none", budget=Budget(calls=60), on_event=events.append)
        with experience_store.open(store) as opened:
            assert bool(opened.at().experiences) == bool(expected)
    refused = [e for e in events if e.name == "edit_refused" and "only a gate may let in" in e.data["why"]]
    assert refused


async def test_with_a_gate_untrusted_text_ships_when_it_was_shown_to_help(server, tmp_path):
    """The same run twice: of what is undecided, the trusted part ships and the untrusted part does not."""
    shipped, undecided = {}, {}
    for outside in (True, False):
        agent = Agent(run=looks_up, max_calls=1, outside=outside, name="looks_up")
        store = str(tmp_path / f"store-{outside}")
        experience_store.open(store, embedder="hashing").close()
        report = await learning(
            flagworld.flag_task(agent=agent), tmp_path, store=store, runs=tmp_path / f"runs-{outside}",
            budget=Budget(calls=180),
        )  # fmt: skip
        with experience_store.open(store) as opened:
            entries = opened.at().served
            reasons = [e.reason for v in opened.log() for e in v.edits if e.op in ("accept", "revise")]
        shipped[outside] = {e.text for e in entries}
        undecided[outside] = [r for r in reasons if r.startswith("undecided")]
        assert {e.taint for e in entries} <= {"untrusted" if outside else "clean"}
        assert report.final >= 0
    assert shipped[True] < shipped[False] and shipped[True], "what was shown to help ships"
    for text in shipped[True]:
        land, colour = re.fullmatch(r"The flag of (\w+) is (\w+)\.", text).groups()
        assert flagworld.colour_of(land) == colour
    assert len(undecided[False]) > len(undecided[True])


def test_an_answer_keeps_its_hash_on_disk(tmp_path):
    completion = rollout("ä \ud800", 1.0, TOOL).completion
    with RunRecord.open(tmp_path) as record:
        record.put_call(b"k", CallKey(purpose="solve"), completion, solver=True, prompt=b"p")
        (kept,) = record.calls("solve")
    assert answer_hash(kept.completion) == answer_hash(completion)
