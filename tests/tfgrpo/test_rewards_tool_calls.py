"""Tool-call accuracy: golden numbers, every form in which calls are written, answers that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import RewardError
from tfgrpo.rewards.base import Outcome, Reward, reward, score_answers, weighted
from tfgrpo.rewards.tool_calls import calls_of, same_json, tool_call_score, tool_calls
from tfgrpo.types import Completion, Problem, Score

GOLD = [{"name": "f", "arguments": {"x": 1, "y": 2}}]
NEAR = [{"name": "f", "arguments": {"x": 1, "z": 9}}]


def problem(answer: Any = GOLD) -> Problem:
    return Problem(id="p1", messages=({"role": "user", "content": "Do it, please."},), answer=answer)


def answer(text: str = "", *messages: dict[str, Any]) -> Completion:
    produced = messages or ({"role": "assistant", "content": text},)
    return Completion(prompt=(), messages=produced, text=text, policy="scripted")


async def scored(made: Reward, given: Completion, asked: Problem | None = None) -> Outcome:
    (outcome,) = await score_answers(made, asked or problem(), [given])
    return outcome


@pytest.mark.parametrize(
    ("gold", "made", "expected"),
    [
        (GOLD, NEAR, 0.5),  # 1 + 1/3 + 1 of 4
        (GOLD, GOLD, 3.0),
        (GOLD, [], -3.0),
        (GOLD, [{"name": "g", "arguments": {"x": 1, "y": 2}}], -3.0),
        (GOLD, [*GOLD, *GOLD], 6 * 3.5 / 4 - 3),  # the second one costs half of the names
        ([], [], 3.0),
        ([], GOLD, -3.0),
        ([*GOLD, *NEAR], [*NEAR, *GOLD], 3.0 * (2 * 7 / 7 - 1)),  # all of it, in another order
        ([*GOLD, *GOLD], GOLD, 6 * 3.5 / 7 - 3),
        ([{"name": "f", "arguments": {}}], [{"name": "f", "arguments": {}}], 3.0),
    ],
)
def test_golden_numbers(gold: Any, made: Any, expected: float) -> None:
    assert tool_call_score(gold, made) == pytest.approx(expected)


async def test_as_a_share_and_as_part_of_a_sum() -> None:
    near = answer(json.dumps(NEAR))
    share, raw = await scored(tool_calls(), near), await scored(tool_calls(unit=False), near)
    assert isinstance(share, Score) and share.value == pytest.approx(0.583, abs=5e-4) and not share.success
    assert isinstance(raw, Score) and raw.value == pytest.approx(0.5) and raw.parts == {"calls": raw.value, "format": 1}
    assert "Expected the calls" in raw.feedback and not raw.success
    one = reward(lambda p, c: 1.0)
    whole = weighted({"tool": (tool_calls(), 0.4), "answer": (one, 0.5), "format": (one, 0.1)})  # arXiv 2512.11277
    total = await scored(whole, near)
    assert isinstance(total, Score) and total.value == pytest.approx(0.833, abs=5e-4)
    best = await scored(tool_calls(unit=False), answer(json.dumps(GOLD)))
    assert isinstance(best, Score) and best.value == 3.0 and best.success


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1, "y": 2}'}}


@pytest.mark.parametrize(
    "given",
    [
        answer(json.dumps(GOLD)),
        answer(json.dumps(GOLD[0])),
        answer("Sure:\n" + json.dumps(GOLD) + "\nDone."),
        answer(f"```json\n{json.dumps(GOLD)}\n```"),
        answer(f"```\n{json.dumps(GOLD[0])}\n```"),
        answer(f"<tool_call>\n{json.dumps(GOLD[0])}\n</tool_call>"),
        answer('{"name": "f", "parameters": {"y": 2.0, "x": 1}}'),
        answer(json.dumps(CALL)),
        answer("", {"role": "assistant", "content": None, "tool_calls": [CALL]}),
        answer(
            "It is done.",
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": '{"name": "g"}', "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is done."},
        ),
    ],
)
async def test_forms_of_a_call(given: Completion) -> None:
    outcome = await scored(tool_calls(), given)
    assert isinstance(outcome, Score) and outcome.success and outcome.value == 1.0, outcome


async def test_calls_of_several_messages_count_together() -> None:
    turns = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}] * 2
    outcome = await scored(tool_calls(), answer("ok", *turns), problem(GOLD * 2))
    assert isinstance(outcome, Score) and outcome.success


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"name": "f", "arguments": ', "cannot be read: Expecting value"),
        ("[{name: 1}]", "cannot be read: Expecting property name"),
        ("[1, 2]", "expected an object with 'name' and 'arguments', got 1"),
        ('{"name": "f", "arguments": [1]}', "expected the arguments of 'f' to be an object, got [1]"),
        ('{"name": "f", "arguments": "{"}', "cannot be read"),
        ('{"name": 5}', "expected an object with 'name'"),
        ("<tool_call>f(1)</tool_call>", "expected JSON, got"),
        ("[" * 20_000, "cannot be read"),
    ],
)
async def test_what_cannot_be_read_gets_the_lowest_value(text: str, said: str) -> None:
    for made, lowest in ((tool_calls(), 0.0), (tool_calls(unit=False), -3.0)):
        outcome = await scored(made, answer(text), problem([]))
        assert isinstance(outcome, Score) and outcome.value == lowest and not outcome.success
        assert said in outcome.feedback and outcome.parts["format"] == 0.0


async def test_an_answer_without_any_call() -> None:
    words = answer("I cannot do that.")
    assert (await scored(tool_calls(), words, problem([]))) == Score(
        value=1.0, parts={"calls": 1.0, "format": 1.0}, solved=True
    )
    explicit = await scored(tool_calls(explicit=True), words, problem([]))
    assert isinstance(explicit, Score) and not explicit.success and "holds no JSON" in explicit.feedback
    listed = await scored(tool_calls(explicit=True), answer("[]"), problem([]))
    assert isinstance(listed, Score) and listed.success


@pytest.mark.parametrize("gold", [GOLD[0], json.dumps(GOLD), tuple(GOLD), [CALL]])
async def test_forms_of_the_reference(gold: Any) -> None:
    outcome = await scored(tool_calls(), answer(json.dumps(GOLD)), problem(gold))
    assert isinstance(outcome, Score) and outcome.success


@pytest.mark.parametrize("gold", [None, "f(1)", 5, [5], "5"])
async def test_a_reference_that_is_none_is_an_error_of_the_problem(gold: Any) -> None:
    outcome = await scored(tool_calls(), answer("[]"), problem(gold))
    assert isinstance(outcome, RewardError) and "needs a list of calls as the answer of problem 'p1'" in str(outcome)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("fgh"), "arguments": st.dictionaries(st.sampled_from("xyz"), JSON)}),
    max_size=4,
)


@given(CALLS, CALLS)
def test_the_score_stays_in_its_range_and_is_highest_only_for_the_same_calls(gold: Any, made: Any) -> None:
    score = tool_call_score(gold, made)
    assert -3.0 <= score <= 3.0 + 1e-9
    assert tool_call_score(gold, gold) == 3.0
    assert tool_call_score(gold, made[::-1]) <= 3.0 + 1e-9


@given(JSON)
def test_json_values_survive_being_written(value: Any) -> None:
    assert same_json(value, json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    ("a", "b"), [(1, True), (0, False), ("1", 1), (None, 0), ([1], [1, 1]), ({"a": 1}, {}), (1, [1])]
)
def test_values_that_are_not_the_same(a: Any, b: Any) -> None:
    assert not same_json(a, b) and not same_json(b, a)


@given(st.text(max_size=100) | JSON.map(json.dumps))
def test_any_text_can_be_read(text: str) -> None:
    found, complaint = calls_of(answer(text), problem())
    assert (found is None) == bool(complaint)
