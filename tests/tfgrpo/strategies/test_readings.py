"""What an answer says: equal answers read the same, different ones do not, and nothing readable is None."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo import Completion, Problem
from tfgrpo.errors import InputError
from tfgrpo.rewards.named import REWARDS
from tfgrpo.strategies.readings import OF_REWARD, READINGS, reading_of, resolve_reading

PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Which is largest of these: 3, 5, 9?"},))


def said(text, tool_calls=None):
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if tool_calls else {})}
    return Completion(prompt=(), messages=(message,), text=text, policy="any")


def read(spec, text, **more):
    return resolve_reading(spec)(PROBLEM, said(text, **more))


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("reading", "alike", "other"),
    [
        ("text", ["Paris.", " paris", "PARIS!"], "Rome"),
        ("number", ["so 1,250", "= 1250.0", "1.25e3 in all"], "1251"),
        ("number", ["a half: 1/2", "0.5", ".50"], "50%"),
        ("numbers", ["7 and 9", "9, 7", "9 9 7"], "9"),
        ("math", [r"Thus \boxed{\frac12 x}", r"the answer is $\frac12 x$"], r"\boxed{2x}"),
        ("math", ["The answer is 1/2.", r"\boxed{0.5}", "hence 0.50"], "The answer is 2"),
        ("choice", ["(B)", "I choose B.", "A is wrong, so B"], "(C)"),
        ("json", ['{"a": 1, "b": 2}', 'Sure: {"b": 2, "a": 1}'], '{"a": 1}'),
        ("json:a.b", ['{"a": {"b": 1}}', 'x {"a": {"b": 1, "c": 3}}'], '{"a": {"b": 2}}'),
        ("regex:colou?r is (\\w+)", ["The color is Red", "the colour is red"], "the colour is blue"),
        ("auto", ["The answer is 42", r"so \boxed{42}", "#### 42"], "The answer is 43"),
        ("auto", ["<think>3? 5?</think> Nine", "nine."], "five"),
        ("auto", ['{"a": 1,"b":2}', '{"b": 2, "a": 1}'], '{"a": 1}'),
    ],
)
def test_equal_answers_read_the_same(reading, alike, other):
    found = {read(reading, text) for text in alike}
    assert len(found) == 1 and None not in found
    assert read(reading, other) not in found


@pytest.mark.parametrize(
    ("reading", "text"),
    [("number", "none"), ("numbers", ""), ("choice", "no letter"), ("json", "{"), ("json:a", "{}"), ("regex:z", "a"),
     ("text", " ... "), ("auto", ""), ("calls", "5")],
)  # fmt: skip
def test_what_says_nothing_votes_for_nobody(reading, text):
    assert read(reading, text) is None


def test_an_echo_of_the_question_is_no_answer():
    assert read("numbers", "Which is largest of these: 3, 5, 9? 9") == "9"


def test_calls_are_compared_by_their_arguments():
    one = read("auto", "", tool_calls=[call("f", '{"a": 1, "b": [2]}')])
    assert one == read("calls", "well", tool_calls=[call("f", '{"b": [2], "a": 1}')])
    assert one != read("calls", "", tool_calls=[call("f", '{"a": 2, "b": [2]}')])
    assert read("calls", "", tool_calls=[call("f", "{broken")]) != one


@pytest.mark.parametrize("calls", ["no list", [1, None], [{"function": "f"}], [{}], [{"function": {"arguments": 3}}]])
def test_calls_that_are_none_break_nothing(calls):
    read("auto", "text", tool_calls=calls)


@given(st.text(max_size=60), st.sampled_from(sorted(READINGS)))
def test_every_reading_takes_every_text(text, name):
    found = read(name, text)
    assert found is None or (isinstance(found, str) and found)


def test_rewards_have_the_reading_of_what_they_compare():
    assert set(OF_REWARD) <= set(REWARDS) and set(OF_REWARD.values()) <= set(READINGS)
    assert reading_of("numeric(tolerance=0.1)") == "number" and reading_of("names_it") == "auto"


@pytest.mark.parametrize(
    ("spec", "words"), [("numbr", "did you mean 'number'"), ("regex:(", "not a regular expression"), ("text:x", "text")]
)
def test_unknown_readings_are_refused(spec, words):
    with pytest.raises(InputError, match=words):
        resolve_reading(spec)
