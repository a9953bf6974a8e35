"""Groupings, and wordings made by a model that never sees the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experience_store.embed import HashingEmbedder
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.errors import InputError, TransportError
from tfgrpo.events import Event, EventLog
from tfgrpo.grouping import (
    hints,
    make_hints,
    make_paraphrases,
    paraphrase_set,
    paraphrases,
    prepare,
    repeat,
    worded,
)
from tfgrpo.grouping.wording import why_not
from tfgrpo.policy.base import Price, Sampling
from tfgrpo.record import RunRecord
from tfgrpo.types import Completion, Message, Problem

SYSTEM = {"role": "system", "content": "Be brief."}
PROBLEM = Problem(
    id="p1",
    messages=(SYSTEM, {"role": "user", "content": "Add 2 and 3."}),
    answer="five",
    variants=("What is 2 plus 3?",),
)


class Scripted:
    """A model that says what it was told to say."""

    name = "scripted"
    price: Price | None = None

    def __init__(self, reply: str) -> None:
        self.reply = reply
        self.seen: list[str] = []

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.seen.append(json.dumps(list(messages)))
        answer = {"role": "assistant", "content": self.reply}
        return Completion(prompt=tuple(messages), messages=(answer,), text=self.reply, policy=self.name)

    async def aclose(self) -> None: ...


def caller(policy: Any) -> Caller:
    return Caller(policy, record=None, ledger=Ledger(Budget()), solver=False)


def test_repeat() -> None:
    prompts = repeat(3)(PROBLEM, 0)
    assert [p.variant for p in prompts] == [0, 0, 0] and prompts[0].messages == PROBLEM.messages
    with pytest.raises(InputError):
        repeat(0)


def test_paraphrases() -> None:
    prompts = paraphrases(2)(PROBLEM, 0)
    assert [p.variant for p in prompts] == [0, 0, 1, 1]
    assert prompts[2].messages == (SYSTEM, {"role": "user", "content": "What is 2 plus 3?"})
    with pytest.raises(InputError, match=r"wordings 0\.\.1, not 2"):
        worded(PROBLEM, 2)


async def test_wordings_are_checked_and_the_answer_is_not_shown() -> None:
    wordings = ["Sum 2 and 3.", "Add 2 and 4.", "2 and 3 make five, or what?", "Add 2 and 3.", "3 and 2 together?", 7]
    model = Scripted(f"Sure:\n```json\n{json.dumps({'wordings': wordings})}\n```")
    made = await make_paraphrases(PROBLEM, caller(model), 4)
    assert made.variants == ("What is 2 plus 3?", "Sum 2 and 3.", "3 and 2 together?")
    assert made.meta["refused_wordings"] == {
        "Add 2 and 4.": "changes the numbers",
        "2 and 3 make five, or what?": "tells the answer",
        "Add 2 and 3.": "is no other wording",
    }
    assert "five" not in model.seen[0]


NAMED = Problem(
    id="n",
    messages=({"role": "user", "content": "Which of these 2 towns is the largest: Bern or Basel?"},),
    answer="Basel",
)


@pytest.mark.parametrize(
    ("wording", "why"),
    [
        ("Of the 2 towns Bern and Basel, which is the largest?", ""),
        ("Of the 2 towns Bern and Basel, which is the biggest?", ""),
        ("Which of these 2 towns is the smallest: Bern or Basel?", "opposite"),
        ("Which of these 2 towns is not the largest: Bern or Basel?", "opposite"),
        ("Which of these 3 towns is the largest: Bern or Basel?", "numbers"),
        ("Which of these towns is the largest: Bern or Basel?", "numbers"),
        ("Which of these 2 towns is the largest: Bern or Basel?", "no other wording"),
        ("", "no other wording"),
    ],
)
def test_what_code_finds_against_a_wording(wording: str, why: str) -> None:
    assert why in why_not(NAMED, wording) and bool(why) == bool(why_not(NAMED, wording))


@pytest.mark.parametrize(
    ("answer", "wording"),
    [
        ("Paris", "Name the capital of France, which is Paris."),
        ("Paris", "What is PARIS the capital of, France?"),
        (["Paris", "Paname"], "Is Paname the capital of France?"),
        (7.0, "The answer is 7: name the capital of France."),
    ],
)
def test_a_wording_that_tells_the_answer_is_refused(answer: Any, wording: str) -> None:
    asked = Problem(id="f", messages=({"role": "user", "content": "What is the capital of France?"},), answer=answer)
    assert why_not(asked, wording) == "tells the answer"
    assert not why_not(asked, "Name the capital of France.")


class Angles:
    """An embedder that puts the first word of a text on a circle."""

    name = "angles"
    duplicate_threshold = 0.9
    near = ("What", "Sum", "Add", "Total")

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0, 0.0] if text.startswith(self.near) else [0.0, 1.0] for text in texts]


async def test_an_embedder_that_knows_meaning_leaves_out_other_questions() -> None:
    bare = Problem(id="p1", messages=PROBLEM.messages, answer="five")
    reply = json.dumps({"wordings": ["Sum 2 and 3.", "Name 2 and 3.", "Total of 2 and 3?"]})
    made = await make_paraphrases(bare, caller(Scripted(reply)), 3, embedder=Angles())
    assert made.variants == ("Sum 2 and 3.", "Total of 2 and 3?")
    made = await make_paraphrases(bare, caller(Scripted(reply)), 3, embedder=HashingEmbedder())
    assert len(made.variants) == 3  # it sees words and no meaning, so it is not asked


@pytest.mark.parametrize(
    ("verdict", "kept"), [('{"same": true}', 1), ('{"same": false}', 0), ('{"same": "yes"}', 0), ("well", 0)]
)
async def test_a_judge_has_to_say_that_it_is_the_same(verdict: str, kept: int) -> None:
    bare = Problem(id="p1", messages=PROBLEM.messages, answer="five")
    reply, judge = Scripted(json.dumps({"wordings": ["Sum 2 and 3."]})), Scripted(verdict)
    made = await make_paraphrases(bare, caller(reply), 1, judge=caller(judge))
    assert len(made.variants) == kept
    assert "five" not in judge.seen[0] and "Sum 2 and 3." in judge.seen[0]


async def test_written_hints_are_checked_and_asked_for_again_when_unreadable() -> None:
    solved = Problem(id="h", messages=PROBLEM.messages, answer="five", meta={"solution": "Count on. It is five."})
    model = Scripted(json.dumps({"hints": ["Count on from 2.", "It is five."]}))
    made = await hints(2, written_by_model=True).prepare(solved, caller(model), None)
    assert made.meta["hints"] == ["Count on from 2."]
    mute = Scripted("no")
    assert await make_hints(solved, caller(mute)) == solved and len(mute.seen) == 3
    assert await hints(2).prepare(solved, caller(mute), None) is solved


async def test_what_was_prepared_is_not_paid_for_twice(tmp_path: Path) -> None:
    bare = [Problem(id=i, messages=PROBLEM.messages, answer="five") for i in ("a", "b")]
    grouping, events = paraphrase_set(4), EventLog()
    with RunRecord.open(tmp_path) as record:
        model = Scripted(json.dumps({"wordings": ["Sum 2 and 3."]}))
        solver = Caller(model, record=record, ledger=Ledger(Budget()), solver=False)
        made = await prepare(grouping, bare, solver, record=record, events=events)
    with RunRecord.open(tmp_path) as record:
        again = Scripted("must not be asked")
        solver = Caller(again, record=record, ledger=Ledger(Budget()), solver=False)
        assert await prepare(grouping, bare, solver, record=record, events=events) == made
    assert [p.variants for p in made] == [("Sum 2 and 3.",)] * 2 and not again.seen


async def test_a_model_that_is_down_leaves_the_problem_as_it_is_for_good(tmp_path: Path) -> None:
    class Down(Scripted):
        async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
            raise TransportError("down")

    bare, told = [Problem(id="a", messages=PROBLEM.messages)], list[Event]()
    with RunRecord.open(tmp_path) as record:
        down = Caller(Down(""), record=record, ledger=Ledger(Budget()), solver=False)
        assert await prepare(paraphrase_set(4), bare, down, record=record, events=EventLog(None, told.append)) == (
            *bare,
        )
        up = caller(Scripted(json.dumps({"wordings": ["Sum 2 and 3."]})))
        assert await prepare(paraphrase_set(4), bare, up, record=record) == (*bare,)
    assert [e.name for e in told] == ["preparation_failed", "prepared"]


@pytest.mark.parametrize("reply", ["no", "{", '{"wordings": 3}', '{"other": []}', "[]", '{"wordings": [""]}'])
async def test_unreadable_wordings_change_nothing(reply: str) -> None:
    assert await make_paraphrases(PROBLEM, caller(Scripted(reply)), 2) == PROBLEM
