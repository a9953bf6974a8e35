"""The recorded client: what an agent written for the openai package gets, and what is really asked."""

import asyncio
import json

import pytest

from experience_store import Experience, Layout, Snapshot, Version
from tfgrpo.agents.client import sampling_of
from tfgrpo.agents.shapes import Shaped, plain_message
from tfgrpo.dressing import dressed
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.record import RunRecord
from tfgrpo.types import Prompt

ASK = [{"role": "user", "content": "6 * 7?"}]


def counting():
    count = iter(range(1000))
    return lambda messages, sampling: f"reply {next(count)}"


async def test_replies_have_the_shape_of_the_openai_package(world):
    async def agent(problem, client):
        async with client.with_options(timeout=3) as same:
            reply = await same.chat.completions.create(model="gpt-x", messages=ASK, temperature=0.5, timeout=3)
        assert reply.object == "chat.completion" and reply.choices[0].index == 0
        assert reply.choices[0].message.role == "assistant" and reply.choices[0].message.tool_calls is None
        assert reply.choices[0].finish_reason == "stop" and reply.usage.total_tokens == 15
        assert reply.model_dump()["choices"][0]["message"]["content"] == reply.choices[0].message.content
        assert json.loads(reply.model_dump_json()) == reply.to_dict()
        return reply.choices[0].message.content

    there = world()
    completion = await there.answer(agent)
    assert completion.text == "42"
    ((messages, sampling),) = there.policy.calls
    assert messages == tuple(ASK) and sampling.temperature == 0.5 and sampling.extra == {}


async def test_equal_requests_of_one_rollout_are_different_calls_also_when_gathered(world, tmp_path):
    async def agent(problem, client):
        return " ".join(await asyncio.gather(*(client.complete(ASK) for _ in range(4))))

    with RunRecord.open(tmp_path) as record:
        there = world(counting(), record=record)
        first = await there.answer(agent)
        assert first.text == "reply 0 reply 1 reply 2 reply 3"
        assert [call.key.turn for call in record.calls()] == [0, 1, 2, 3]
        assert len({sampling.seed for _, sampling in there.policy.calls}) == 4
    with RunRecord.open(tmp_path) as record:
        again = world(counting(), record=record)
        assert (await again.answer(agent)).text == first.text
        assert again.policy.calls == [] and again.ledger.spend.solver_calls == 4


def test_requests_become_sampling():
    usual = Sampling(temperature=0.3, max_tokens=50)
    tools = [{"type": "function", "function": {"name": "f"}}]
    made = sampling_of(
        usual,
        {
            "max_completion_tokens": 9, "stop": "x", "tools": tools, "tool_choice": "auto", "n": 1, "stream": False,
            "timeout": 3, "top_p": None, "extra_body": {"top_k": 5}, "response_format": {"type": "json_object"},
        },
    )  # fmt: skip
    assert (made.temperature, made.max_tokens, made.stop, made.schema) == (0.3, 9, ("x",), None)
    assert made.extra == {
        "tools": tools, "tool_choice": "auto", "top_k": 5, "response_format": {"type": "json_object"},
    }  # fmt: skip
    described = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    assert sampling_of(usual, {"response_format": described}).schema == {"type": "object"}
    assert sampling_of(usual, {}) == usual


@pytest.mark.parametrize(("options", "words"), [({"stream": True}, "stream"), ({"n": 2}, "several choices")])
async def test_what_cannot_be_recorded_stops_the_run_whatever_the_agent_catches(world, options, words):
    async def agent(problem, client):
        try:
            await client.chat.completions.create(messages=ASK, **options)
        except Exception:  # noqa: BLE001 - as careless agents do
            return "never mind"

    with pytest.raises(InputError, match=words):
        await world().answer(agent)


def test_messages_of_any_kind_become_plain():
    from openai.types.chat import ChatCompletionMessage

    shaped = Shaped({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]})
    theirs = ChatCompletionMessage(role="assistant", content="hi")
    assert plain_message(shaped) == {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    assert plain_message(theirs) == {"role": "assistant", "content": "hi"}
    assert dict(shaped)["role"] == "assistant" and shaped.tool_calls[0].function.name == "f" and len(shaped) == 3
    assert shaped == Shaped(shaped.model_dump()) and hash(shaped) == hash(Shaped(shaped.model_dump()))
    with pytest.raises(TypeError, match="a role"):
        plain_message("hello")


async def test_an_unknown_part_of_the_client_is_named(world):
    async def agent(problem, client):
        await client.responses.create(input="x")

    there = world()
    with pytest.raises(Exception, match="'responses' is not recorded"):
        await there.answer(agent)


def library(**layout):
    rows = [Experience(id=f"E{n}", text=f"Lesson {n} about {w}.") for n, w in enumerate(("apples", "pears"))]
    version = Version(number=1, parent=0, rows=("E0@1-a", "E1@1-a"), layout=Layout(**layout))
    return Snapshot(version=version, experiences=tuple(rows))


@pytest.mark.parametrize("placement", ["system", "user"])
async def test_experiences_stand_in_every_request_as_the_store_renders_them(world, placement):
    snapshot = library(placement=placement)
    prompt = dressed(Prompt(messages=tuple(ASK)), snapshot)
    own = [{"role": "system", "content": "Be brief."}, *ASK]

    async def agent(problem, client):
        assert problem.messages == tuple(ASK)
        await client.complete(own)
        return await client.complete(
            [*own, {"role": "assistant", "content": "42"}, {"role": "user", "content": "Sure?"}]
        )

    there = world()
    completion = await there.answer(agent, prompt=prompt)
    for messages, _ in there.policy.calls:
        assert "Lesson 0" in str(messages) and "Lesson 1" in str(messages)
    assert list(there.policy.calls[0][0]) == list(snapshot.apply(own).messages)
    assert completion.prompt == tuple(snapshot.apply(own).messages)
    assert not any("Lesson" in str(m) for m in completion.messages)


async def test_the_entries_of_the_prompt_are_shown_whatever_a_later_message_is_about(world):
    snapshot = library(select="retrieve", max_entries=1)
    prompt = dressed(Prompt(messages=({"role": "user", "content": "How many pears?"},)), snapshot)
    assert prompt.experiences == ("E1@1",)

    async def agent(problem, client):
        return await client.complete("And apples?")

    there = world()
    await there.answer(agent, prompt=prompt)
    assert "pears" in str(there.policy.calls[0][0]) and "Lesson 0" not in str(there.policy.calls[0][0])


def test_without_experiences_the_prompt_stays_the_very_same():
    prompt = Prompt(messages=tuple(ASK))
    assert dressed(prompt, library(), []) is prompt
    assert prompt.dress(ASK) is ASK
