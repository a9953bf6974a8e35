"""The one rule of serving: the store's rendering in a request of either API, and nothing else of it touched."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience_store import Experience, Layout, Snapshot, Version
from experience_store.render import HEADING
from tfgrpo.serving.apply import Served, augment

LESSON = Experience(id="E1", text="Check the units.")
EXAMPLE = Experience(id="E2", text="3000 m", kind="example", question="What is 3 km in m?")
BLOCK = f"{HEADING}\n- Check the units."
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TOOLS = [{"type": "function", "function": {"name": "convert", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def served(*experiences, **layout):
    version = Version(number=7, parent=6, rows=(), layout=Layout(**layout))
    return Served.of(Snapshot(version=version, experiences=experiences))


def chat(*messages, **more):
    return {"model": "m", "messages": list(messages), **more}


USER = {"role": "user", "content": "5 km in m?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_chat_gets_what_the_store_renders():
    for layout in ({}, {"placement": "user"}, {"placement": "turns"}, {"select": "retrieve", "max_entries": 1}):
        snapshot = Snapshot(
            version=Version(number=7, parent=6, rows=(), layout=Layout(**layout)), experiences=(LESSON, EXAMPLE)
        )
        done = augment(chat(SYSTEM, USER), "chat", Served.of(snapshot))
        applied = snapshot.apply([SYSTEM, USER])
        assert done.body["messages"] == list(applied.messages)
        assert (done.labels, done.version) == (applied.labels, "v7")


def test_nothing_but_the_messages_is_touched():
    body = chat(SYSTEM, USER, tools=TOOLS, response_format=SCHEMA, temperature=0.2, n=2, metadata={"a": 1})
    before = copy.deepcopy(body)
    done = augment(body, "chat", served(LESSON))
    assert body == before
    assert {k: v for k, v in done.body.items() if k != "messages"} == {k: v for k, v in body.items() if k != "messages"}
    assert done.body["messages"] == [{"role": "system", "content": f"Be brief.\n\n{BLOCK}"}, USER]


def test_images_tool_calls_and_names_stay():
    asked = {"role": "user", "name": "ann", "content": [{"type": "text", "text": "What is it?"}, IMAGE]}
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "5000"}
    done = augment(chat(asked, called, result), "chat", served(LESSON, placement="user"))
    first, *rest = done.body["messages"]
    assert rest == [called, result]
    assert first == {**asked, "content": [{"type": "text", "text": BLOCK}, *asked["content"]]}


def test_without_experiences_the_same_body_comes_back():
    body = chat(USER)
    assert augment(body, "chat", served()).body is body
    assert augment({"input": "x"}, "responses", served()).labels == ()


@pytest.mark.parametrize(
    "body",
    [
        {}, {"messages": None}, {"messages": []}, {"messages": "hi"}, {"messages": [1]}, {"messages": [{"content": 3}]},
        {"messages": [{"role": "user", "content": ["words"]}]}, {"messages": {"role": "user"}},
    ],
)  # fmt: skip
def test_what_is_no_chat_request_is_left_to_the_server(body):
    assert augment(body, "chat", served(LESSON)).body is body


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": []}, {"input": 3}, {"input": [[]]}])
def test_what_is_no_response_request_is_left_to_the_server(body):
    assert augment(body, "responses", served(LESSON)).body is body


def test_responses_take_notes_as_instructions():
    assert augment({"input": "x"}, "responses", served(LESSON)).body == {"input": "x", "instructions": BLOCK}
    done = augment({"input": "x", "instructions": "Be brief."}, "responses", served(LESSON))
    assert done.body == {"input": "x", "instructions": f"Be brief.\n\n{BLOCK}"}


def test_responses_with_a_system_message_keep_it_there():
    items = [{"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}, USER]
    done = augment({"input": items}, "responses", served(LESSON)).body
    added = {"type": "input_text", "text": BLOCK}
    assert done["input"] == [{**items[0], "content": [*items[0]["content"], added]}, USER]
    assert "instructions" not in done


def test_responses_before_the_last_question():
    assert augment({"input": "x"}, "responses", served(LESSON, placement="user")).body == {"input": f"{BLOCK}\n\nx"}
    parts = [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "data:,"}]
    items = [{"type": "message", "role": "user", "content": parts}, {"type": "function_call_output", "output": "1"}]
    done = augment({"input": items}, "responses", served(LESSON, placement="user")).body["input"]
    assert done == [{**items[0], "content": [{"type": "input_text", "text": BLOCK}, *parts]}, items[1]]


def test_responses_with_examples_as_turns():
    done = augment({"input": "5 km in m?"}, "responses", served(EXAMPLE, placement="turns")).body
    turns = [{"role": "user", "content": "What is 3 km in m?"}, {"role": "assistant", "content": "3000 m"}]
    assert done == {"input": [*turns, USER]}


def test_a_stored_prompt_keeps_its_own_instructions():
    body = {"prompt": {"id": "pmpt_1"}, "input": "x"}
    done = augment(body, "responses", served(LESSON)).body
    assert done["input"] == [{"role": "system", "content": BLOCK}, {"role": "user", "content": "x"}]
    assert "instructions" not in done


def test_a_library_that_outgrew_its_budget_keeps_a_stable_prefix_and_picks_the_rest():
    rules = [
        Experience(id=f"E{n}", text=f"Parcel colour{n} goes to dock {n}; check the label first.") for n in range(99)
    ]
    source = served(*rules, max_tokens=300)
    asked = [augment(chat(SYSTEM, {"role": "user", "content": f"colour{n}?"}), "chat", source) for n in (70, 90)]
    first, second = (done.body["messages"] for done in asked)
    assert first[0] == second[0] and first[0]["content"].startswith("Be brief.\n\n" + HEADING)
    assert "dock 70" in first[1]["content"] and first[1]["content"].endswith("\n\ncolour70?")
    assert "E70@1" in asked[0].labels and "E70@1" not in asked[1].labels
    assert all(sum(len(m["content"]) for m in messages) // 4 <= 310 for messages in (first, second))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "system", "tool", "x"]) | JSON, "content": JSON, "type": JSON}
)


@given(
    body=st.fixed_dictionaries(
        {}, optional={"messages": st.lists(MESSAGE | JSON, max_size=3) | JSON, "input": st.lists(MESSAGE | JSON) | JSON,
                      "instructions": JSON, "prompt": JSON}
    ),
    api=st.sampled_from(["chat", "responses"]),
    placement=st.sampled_from(["system", "user", "turns"]),
)  # fmt: skip
def test_any_json_is_read_and_never_changed_in_place(body, api, placement):
    before = json.dumps(body)
    done = augment(body, api, served(LESSON, EXAMPLE, placement=placement))
    assert json.dumps(body) == before
    assert bool(done.labels) == (done.body is not body)
    json.dumps(done.body)
