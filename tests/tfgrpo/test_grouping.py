"""Groupings, and wordings made by a model that never sees the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.errors import InputError
from tfgrpo.grouping import make_paraphrases, paraphrases, repeat, worded
from tfgrpo.policy.base import Price, Sampling
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
    assert "five" not in model.seen[0]


@pytest.mark.parametrize("reply", ["no", "{", '{"wordings": 3}', '{"other": []}', "[]", '{"wordings": [""]}'])
async def test_unreadable_wordings_change_nothing(reply: str) -> None:
    assert await make_paraphrases(PROBLEM, caller(Scripted(reply)), 2) == PROBLEM
