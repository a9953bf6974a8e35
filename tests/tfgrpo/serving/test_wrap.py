"""`tfgrpo.wrap` around real clients of the openai package, over HTTP, against the model of the proxy's tests."""

import asyncio
import json

import openai
import pytest
from answering import ASK, TOOL, answer, async_client, sync_client
from pydantic import BaseModel
from upstreams import NOTE, Upstream, library, proxied

import tfgrpo
from experience_store import Layout
from experience_store.render import HEADING
from tfgrpo.serving.following import Use

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
NOTES = {"role": "system", "content": f"{HEADING}\n- {NOTE}"}


class Metres(BaseModel):
    metres: int


@pytest.fixture
async def upstream():
    async with Upstream(answer) as server:
        yield server


@pytest.fixture
def file(tmp_path):
    return library(tmp_path, NOTE)


async def test_chat_completions_of_the_async_client(upstream, file):
    async with tfgrpo.wrap(async_client(upstream), file) as client:
        chat = client.chat.completions
        assert (await chat.create(model="m", messages=ASK)).choices[0].message.content == "5000"
        assert upstream.last == {"model": "m", "messages": [NOTES, *ASK]}
        assert client.experience.last == Use(version="v1", labels=("E1@1",), model="m")
        pieces = await chat.create(model="m", messages=ASK, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in pieces]) == "5000"
        async with chat.stream(model="m", messages=ASK) as events:
            assert [e.content async for e in events if e.type == "content.done"] == ["5000"]
        called = await chat.create(model="m", messages=ASK, tools=[TOOL])
        assert called.choices[0].message.tool_calls[0].function.name == "convert"
        assert upstream.last["tools"] == [TOOL]
        parsed = await chat.parse(model="m", messages=ASK, response_format=Metres)
        assert parsed.choices[0].message.parsed == Metres(metres=5000)
        assert upstream.last["messages"] == [NOTES, *ASK]
        parts = [{"type": "text", "text": "What is it?"}, PICTURE]
        await chat.create(model="m", messages=[{"role": "user", "content": parts}])
        assert upstream.last["messages"] == [NOTES, {"role": "user", "content": parts}]


async def test_responses_of_the_async_client(upstream, file):
    async with tfgrpo.wrap(async_client(upstream), file) as client:
        ask = client.responses
        assert (await ask.create(model="m", input="5 km in m?", instructions="Be brief.")).output_text == "5000"
        assert upstream.last["instructions"] == f"Be brief.\n\n{NOTES['content']}"
        assert client.experience.last == Use(version="v1", labels=("E1@1",), api="responses", model="m")
        events = await ask.create(model="m", input=ASK, stream=True)
        assert [e.type async for e in events][-1] == "response.completed"
        parsed = await ask.parse(model="m", input="5 km in m?", text_format=Metres)
        assert parsed.output_parsed == Metres(metres=5000)
        async with ask.stream(model="m", input="5 km in m?") as stream:
            assert (await stream.get_final_response()).output_text == "5000"
        assert upstream.last["instructions"] == NOTES["content"]
        called = await ask.create(model="m", input=ASK, tools=[{"type": "function", "name": "convert"}])
        result = {"type": "function_call_output", "call_id": "call-1", "output": "5000"}
        await ask.create(model="m", input=[*ASK, *called.output, result])  # objects of the package among them
        assert upstream.last["instructions"] == NOTES["content"] and upstream.last["input"][2] == result


async def test_the_sync_client(upstream, file):
    def use():
        with tfgrpo.wrap(sync_client(upstream), file) as client:
            chat = client.chat.completions
            whole = chat.create(model="m", messages=ASK)
            again = chat.create(model="m", messages=[*ASK, whole.choices[0].message, {"role": "user", "content": "?"}])
            pieces = "".join(
                c.choices[0].delta.content or "" for c in chat.create(model="m", messages=ASK, stream=True)
            )
            with chat.stream(model="m", messages=ASK) as events:
                streamed = events.get_final_completion().choices[0].message.content
            parsed = chat.parse(model="m", messages=ASK, response_format=Metres).choices[0].message.parsed
            reply = client.responses.create(model="m", input="5 km in m?").output_text
            typed = client.responses.parse(model="m", input="5 km in m?", text_format=Metres).output_parsed
            words = [reply.choices[0].message.content for reply in (whole, again)]
            return [*words, pieces, streamed, reply], [parsed, typed], client.experience.last

    words, objects, last = await asyncio.to_thread(use)
    assert words == ["5000"] * 5 and objects == [Metres(metres=5000)] * 2
    assert last == Use(version="v1", labels=("E1@1",), api="responses", model="m")
    assert [m["role"] for m in json.loads(upstream.seen[1][3])["messages"]] == ["system", "user", "assistant", "user"]


async def test_raw_and_streaming_responses_and_copies(upstream, file):
    async with tfgrpo.wrap(async_client(upstream), file) as client:
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=ASK)
        assert raw.parse().choices[0].message.content == "5000" and raw.status_code == 200
        copy = client.with_options(timeout=7, max_retries=0).copy(default_headers={"x-mine": "1"})
        assert type(copy) is type(client) and copy.timeout == 7 and copy.experience is client.experience
        asked = copy.chat.completions.with_streaming_response.create(model="m", messages=ASK, stream=True)
        async with asked as response:
            assert "[DONE]" in "".join([line async for line in response.iter_lines()])
        assert upstream.last["messages"][0] == NOTES and upstream.seen[-1][2]["x-mine"] == "1"


async def test_everything_else_is_the_clients_own(upstream, file):
    given = async_client(upstream, timeout=5, default_headers={"x-mine": "1"})
    assert await given.chat.completions.create(model="m", messages=ASK)  # its resources are made by now
    client = tfgrpo.wrap(given, file)
    assert isinstance(client, openai.AsyncOpenAI) and not isinstance(client, openai.OpenAI)
    assert (type(client).__name__, client.timeout, client.api_key) == ("AsyncOpenAI", 5, "sk-client")
    assert client.base_url == given.base_url and client.is_closed() is False
    assert [model.id async for model in client.models.list()] == ["m"]
    await client.embeddings.with_raw_response.create(model="m", input="5 km")
    assert upstream.last["input"] == "5 km" and "instructions" not in upstream.last
    await client.chat.completions.create(model="m", messages=ASK)
    assert upstream.last["messages"] == [NOTES, *ASK]
    await given.chat.completions.create(model="m", messages=ASK)
    assert upstream.last["messages"] == ASK, "the given client is as it was"
    await client.close()


async def test_kinds_and_subclasses_of_clients(upstream, file):
    class Mine(openai.AsyncOpenAI):
        def __init__(self, place):
            super().__init__(base_url=place, api_key="sk-client")
            self.place = place

    azure = openai.AsyncAzureOpenAI(azure_endpoint=upstream.url, api_key="k", api_version="1", azure_deployment="dep")
    for given in (Mine(upstream.url), azure):
        async with tfgrpo.wrap(given, file) as client:
            assert isinstance(client, type(given))
            reply = await client.chat.completions.create(model="m", messages=ASK)
            assert reply.choices[0].message.content == "5000"
    assert "/openai/deployments/dep/chat/completions" in upstream.seen[-1][1]


async def test_each_of_the_packages_transports(upstream, file):
    httpx2 = pytest.importorskip("httpx2", reason="a second transport of the package, which is optional")
    for transport in (openai.DefaultAioHttpClient(), httpx2.AsyncClient()):
        async with tfgrpo.wrap(async_client(upstream, http_client=transport), file) as client:
            reply = await client.chat.completions.create(model="m", messages=ASK)
            assert reply.choices[0].message.content == "5000"


async def test_what_is_in_extra_body_counts(upstream, file):
    async with tfgrpo.wrap(async_client(upstream), file) as client:
        over = [{"role": "user", "content": "over"}]
        await client.chat.completions.create(model="m", messages=ASK, extra_body={"messages": over, "top_k": 3})
        assert upstream.last == {"model": "m", "messages": [NOTES, *over], "top_k": 3}
        await client.responses.create(model="m", input="x", extra_body={"instructions": "Be brief.", "top_k": 3})
        assert upstream.last["instructions"] == f"Be brief.\n\n{NOTES['content']}" and upstream.last["top_k"] == 3


async def test_it_sends_what_the_proxy_sends(upstream, tmp_path):
    """One rule: the same calls through both arrive as the same JSON, whatever the layout picks."""
    layout = Layout(max_tokens=60)
    place = library(
        tmp_path, *(f"Parcel {n} stands in hall {n * 7 % 50}, says the clerk." for n in range(60)), layout=layout
    )

    async def calls(client):
        for n in (7, 31):
            messages = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Where is parcel {n}?"},
            ]
            await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])
            await client.responses.create(model="m", input=messages[1:], instructions="Be brief.")
            await client.responses.create(model="m", input=f"Where is parcel {n}?", stream=True)
        sent, upstream.seen = upstream.seen, []
        return [json.loads(body) for _, _, _, body in sent]

    async with tfgrpo.wrap(async_client(upstream), place) as client:
        ours = await calls(client)
    async with (
        proxied(upstream, place) as proxy,
        openai.AsyncOpenAI(base_url=f"{proxy.server.url}/v1", api_key="sk-client") as client,
    ):
        assert await calls(client) == ours
    assert "Parcel 31 " in str(ours[3]) and "Parcel 31 " not in str(ours[0]), "the question picks"
