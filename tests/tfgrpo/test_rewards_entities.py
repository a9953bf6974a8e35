"""Entity match: the golden rows, what counts as found, answers whose verdict fails."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import reward, score_answers
from tfgrpo.rewards.entities import entity_match, entity_rewards, found_entities
from tfgrpo.types import Completion, Problem, Score

ENTITIES = ["Niels Bohr", "Copenhagen", "1922", "Nobel Prize"]
PROBLEM = Problem(
    id="p1", messages=({"role": "user", "content": "Who was it?"},), answer="Bohr model", meta={"entities": ENTITIES}
)


def answer(text: str, *before: dict[str, Any], reason: Any = "stop") -> Completion:
    last = {"role": "assistant", "content": text}
    return Completion(prompt=(), messages=(*before, last), text=text, policy="scripted", finish_reason=reason)


@pytest.mark.parametrize(
    ("correct", "matched", "expected"),
    [
        ([True, False, False, False], [4, 2, 1, 0], [1.0, 0.15, 0.075, 0.0]),
        ([False] * 4, [2, 1, 0, 2], [0.3, 0.15, 0.0, 0.3]),
        ([False] * 2, [0, 0], [0.0, 0.0]),
        ([False], [1], [0.3]),  # the best wrong answer always gets alpha
    ],
)
def test_golden_numbers(correct: list[bool], matched: list[int], expected: list[float]) -> None:
    assert entity_rewards(correct=correct, matched=matched, entities=4) == pytest.approx(expected)


def test_failed_answers_get_nothing() -> None:
    found = entity_rewards(correct=[True, False], matched=[4, 2], entities=4, failed=[True, False])
    assert found == pytest.approx([0.0, 0.15])
    with pytest.raises(InputError, match="at least one entity"):
        entity_rewards(correct=[], matched=[], entities=0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.booleans()), min_size=1, max_size=8), st.floats(0, 0.99))
def test_no_wrong_answer_beats_a_right_one(rows: list[tuple[bool, int, bool]], alpha: float) -> None:
    correct, matched, failed = zip(*rows, strict=True)
    values = entity_rewards(correct=correct, matched=matched, entities=5, failed=failed, alpha=alpha)
    for (right, _, bad), value in zip(rows, values, strict=True):
        assert math.isfinite(value) and value == (0 if bad else 1 if right else value) and 0 <= value <= 1
        assert right or value <= alpha + 1e-12


async def test_a_group() -> None:
    texts = [
        answer("Niels Bohr of COPENHAGEN, 1922, Nobel  prize: the Bohr model."),
        answer("niels bohr, Copenhagen: Rutherford"),
        answer("In 19220 the Nobel Prizes"),  # whole words only
        answer("Copenhagen", reason="length"),
    ]
    right, half, none, cut = await score_answers(entity_match(), PROBLEM, texts)
    assert isinstance(right, Score) and isinstance(half, Score) and isinstance(none, Score) and isinstance(cut, Score)
    assert [s.value for s in (right, half, none, cut)] == pytest.approx([1.0, 0.15, 0.0, 0.0])
    assert (right.success, half.success) == (True, False) and half.parts == {"correct": 0.0, "entities": 0.5}
    assert "Entities not found: 1922, Nobel Prize." in half.feedback


def test_where_entities_are_looked_for() -> None:
    searched = [
        {"role": "assistant", "content": "", "reasoning_content": "Perhaps Niels Bohr?"},
        {"role": "tool", "content": "Copenhagen is a city. Niels Bohr lived there."},
    ]
    plain = answer("It was in 1922.", *searched)
    assert found_entities(ENTITIES, plain) == ["Niels Bohr", "1922"]
    assert found_entities(ENTITIES, plain, supported=True) == ["Niels Bohr"]


async def test_another_verdict_and_its_failures() -> None:
    def verdict(problem: Problem, completion: Completion) -> float | None:
        return {"yes": 1.0, "no": 0.0, "maybe": None}[completion.text]

    made = entity_match(correct=reward(verdict), alpha=0.5)
    yes, no, maybe, broken = await score_answers(made, PROBLEM, [answer(t) for t in ("yes", "no", "maybe", "what")])
    assert isinstance(yes, Score) and yes.value == 1.0 and isinstance(no, Score) and no.value == 0.0
    assert maybe is None and isinstance(broken, RewardError)


@pytest.mark.parametrize("entities", [None, [], "Bohr", [1], [" "]])
async def test_problems_without_entities(entities: Any) -> None:
    problem = Problem(id="p1", messages=PROBLEM.messages, answer="a", meta={"entities": entities})
    (outcome,) = await score_answers(entity_match(), problem, [answer("a")])
    assert isinstance(outcome, RewardError) and "needs a column 'entities', a list of texts" in str(outcome)


def test_bad_alpha() -> None:
    with pytest.raises(InputError, match="no wrong answer beats a right one; got 1"):
        entity_match(alpha=1)
