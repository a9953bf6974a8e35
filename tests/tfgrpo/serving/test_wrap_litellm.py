"""`tfgrpo.wrap` around litellm and its Router, over HTTP; and that a call which is none of ours is litellm's own."""

import asyncio
from importlib.util import find_spec

import pytest
from answering import ASK, TOOL, answer
from upstreams import NOTE, Upstream, library

import tfgrpo
from experience_store.render import HEADING
from tfgrpo.errors import InputError
from tfgrpo.policy.litellm import load_litellm
from tfgrpo.serving.following import Use
from tfgrpo.serving.litellm_client import WrappedLiteLLM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # its warnings are its own
]
NOTES = {"role": "system", "content": f"{HEADING}\n- {NOTE}"}


@pytest.fixture
async def upstream():
    async with Upstream(answer) as server:
        yield server


@pytest.fixture
def llm(tmp_path):
    with tfgrpo.follow(library(tmp_path, NOTE)) as notes:
        yield tfgrpo.wrap(load_litellm(), notes)


def place(upstream):
    return {"api_base": upstream.url, "api_key": "sk-client"}


async def test_completions(upstream, llm):
    given = {"model": "openai/m", "messages": ASK, **place(upstream)}
    first = await llm.acompletion(**given)
    assert first.choices[0].message.content == "5000"
    assert upstream.last["messages"] == [NOTES, *ASK]
    assert llm.experience.last == Use(version="v1", labels=("E1@1",), model="openai/m")
    pieces = await llm.acompletion(**given, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in pieces]) == "5000"
    again = [*ASK, first.choices[0].message, {"role": "user", "content": "Sure?"}]  # an object of litellm's
    called = await llm.acompletion("openai/m", again, tools=[TOOL], **place(upstream))
    assert called.choices[0].message.tool_calls[0].function.name == "convert"
    assert [m["role"] for m in upstream.last["messages"]] == ["system", "user", "assistant", "user"]
    sync = await asyncio.to_thread(llm.completion, "openai/m", ASK, **place(upstream))
    assert sync.choices[0].message.content == "5000"


async def test_responses(upstream, llm):
    reply = await llm.aresponses("5 km in m?", "openai/m", instructions="Be brief.", **place(upstream))
    assert reply.output[0].content[0].text == "5000"
    assert upstream.last["instructions"] == f"Be brief.\n\n{NOTES['content']}"
    reply = await asyncio.to_thread(llm.responses, input=ASK, model="openai/m", **place(upstream))
    assert reply.output[0].content[0].text == "5000" and upstream.last["instructions"] == NOTES["content"]


async def test_a_router(upstream, tmp_path):
    litellm = load_litellm()
    router = litellm.Router([{"model_name": "mine", "litellm_params": {"model": "openai/m", **place(upstream)}}])
    wrapped = tfgrpo.wrap(router, library(tmp_path, NOTE))
    assert (await wrapped.acompletion("mine", ASK)).choices[0].message.content == "5000"
    pieces = await wrapped.acompletion("mine", ASK, True)  # more by position than a model and messages
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in pieces]) == "5000"
    assert wrapped.get_model_names() == ["mine"]
    wrapped.close()


def test_everything_else_is_litellms_own(llm):
    litellm = load_litellm()
    assert isinstance(llm, WrappedLiteLLM) and llm.token_counter is litellm.token_counter
    assert "acompletion" in dir(llm) and "experience" in dir(llm)
    before = litellm.drop_params
    llm.drop_params = not before
    assert litellm.drop_params is not before
    litellm.drop_params = before
    with pytest.raises(InputError, match="wrapped already"):
        tfgrpo.wrap(llm, llm.experience)
