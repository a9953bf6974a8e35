"""Real clients against the proxy, unmodified but for their base URL.

openai-python and curl run with the other tests; litellm with the slow ones. openai (npm), LangChain's ChatOpenAI and
simonw's llm have an environment of their own (`make clients`; TFGRPO_CLIENTS names another folder).
"""

import asyncio
import base64
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest
from aiohttp import web
from answering import ASK, TOOL, answer, stream
from clients import CLIENTS, installed, run
from pydantic import BaseModel
from upstreams import NOTE, Upstream, library, proxied


@pytest.fixture
async def proxy(tmp_path):
    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        client.__dict__.update(upstream=upstream, url=f"{client.server.url}/v1")
        yield client


class Metres(BaseModel):
    metres: int


async def test_openai_python_async(proxy):
    async with openai.AsyncOpenAI(base_url=proxy.url, api_key="sk-client") as client:
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=ASK)
        assert raw.parse().choices[0].message.content == "5000"
        assert raw.headers["x-tfgrpo-version"] == "v1" and raw.headers["x-tfgrpo-experiences"] == "E1@1"
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "5000"
        assert [model.id async for model in client.models.list()] == ["m"]
        assert (await client.responses.create(model="m", input="5 km in m?")).output_text == "5000"
        events = await client.responses.create(model="m", input="5 km in m?", stream=True)
        kinds = [event.type async for event in events]
        assert kinds[-1] == "response.completed" and kinds.count("response.output_text.delta") == 4
        called = await client.chat.completions.create(model="m", messages=ASK, tools=[TOOL])
        assert called.choices[0].message.tool_calls[0].function.name == "convert"
        assert proxy.upstream.last["tools"] == [TOOL]
        parsed = await client.chat.completions.parse(model="m", messages=ASK, response_format=Metres)
        assert parsed.choices[0].message.parsed == Metres(metres=5000)
        picture = "data:image/png;base64," + base64.b64encode(b"png").decode()
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": picture}}]
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
        assert proxy.upstream.last["messages"][1]["content"] == parts


async def test_openai_python_sync(proxy):
    def use():
        with openai.OpenAI(base_url=proxy.url, api_key="sk-client") as client:
            whole = client.chat.completions.create(model="m", messages=ASK).choices[0].message.content
            stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
            return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(use) == ("5000", "5000")


async def test_openai_python_reads_our_errors_and_tries_again(proxy):
    proxy.server.proxy.upstream.base = proxy.server.proxy.upstream.base.with_port(9)
    async with openai.AsyncOpenAI(base_url=proxy.url, api_key="sk-client", max_retries=1) as client:
        with pytest.raises(openai.InternalServerError, match="cannot be reached") as told:
            await client.chat.completions.create(model="m", messages=ASK)
        assert told.value.code == "upstream_unreachable" and told.value.status_code == 502
    assert proxy.server.proxy.slots.in_flight == 0


async def test_a_broken_stream_is_an_error_in_openai_python(proxy):
    async def breaks(request, body):
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        await out.write(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"5"}}]}\n\n')
        await asyncio.sleep(0.05)
        request.transport.abort()
        return out

    proxy.upstream.answer = breaks
    async with openai.AsyncOpenAI(base_url=proxy.url, api_key="sk-client") as client:
        stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match="no whole answer"):
            async for _ in stream:
                pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_streams(proxy):
    data = json.dumps({"model": "m", "messages": ASK, "stream": True})
    out = await run("curl", "-sSN", "-i", f"{proxy.url}/chat/completions", "-d", data)
    head, _, body = out.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200") and "x-tfgrpo-version: v1" in head
    assert body.endswith("data: [DONE]\n\n") and body.count("data: ") == 7


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_a_curl_that_is_killed_cancels_the_server(proxy):
    async def forever(request, body):
        await stream(request, ["data: {}\n\n"])
        await asyncio.sleep(3600)

    proxy.upstream.answer = forever
    data = json.dumps({"model": "m", "messages": ASK, "stream": True})
    process = await asyncio.create_subprocess_exec("curl", "-sSN", f"{proxy.url}/chat/completions", "-d", data)
    await proxy.upstream.holding(1)
    process.kill()
    await process.wait()
    await asyncio.wait_for(proxy.upstream.cancelled.wait(), 5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed")
@pytest.mark.filterwarnings("ignore")  # its warnings are its own
async def test_litellm(proxy):
    from tfgrpo.policy.litellm import load_litellm

    ask = load_litellm().acompletion
    given = {"model": "openai/m", "messages": ASK, "api_base": proxy.url, "api_key": "sk-client"}
    assert (await ask(**given)).choices[0].message.content == "5000"
    stream = await ask(**given, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "5000"


LANGCHAIN = """
import os
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model="m", base_url=os.environ["URL"], api_key="sk-client")
print(model.invoke("5 km in m?").content, "".join(piece.content for piece in model.stream("5 km in m?")))
"""
NPM = """
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.env.URL, apiKey: "sk-client"});
const messages = [{role: "user", content: "5 km in m?"}];
const whole = await client.chat.completions.create({model: "m", messages});
let words = "";
for await (const chunk of await client.chat.completions.create({model: "m", messages, stream: true}))
  words += chunk.choices[0].delta.content ?? "";
const reply = await client.responses.create({model: "m", input: "5 km in m?"});
console.log(whole.choices[0].message.content, words, reply.output_text);
"""


IN_CODE = """
import os, openai, tfgrpo
from langchain_openai import ChatOpenAI
given = {"base_url": os.environ["URL"], "api_key": "sk-client"}
client = tfgrpo.wrap(openai.OpenAI(**given), os.environ["LIBRARY"])
model = ChatOpenAI(model="m", root_client=client, client=client.chat.completions, **given)
print(model.invoke("5 km in m?").content, "".join(piece.content for piece in model.stream("5 km in m?")))
print(client.responses.create(model="m", input="5 km in m?").output_text, client.experience.last.labels)
"""


@pytest.mark.slow
async def test_langchain_over_a_client_that_is_wrapped_in_code(tmp_path):
    """In an environment that holds none of our dependencies: an exported file needs none."""
    root = str(Path(__file__).parents[3])
    async with Upstream(answer) as upstream:
        given = {"URL": upstream.url, "LIBRARY": library(tmp_path, NOTE), "PYTHONPATH": root}
        out = await run(installed("bin/python"), "-c", IN_CODE, **given)
    assert out == "5000 5000\n5000 ('E1@1',)\n"
    missing = (
        "import importlib.util as u; print([n for n in ('chromadb', 'torch', 'numpy', 'aiohttp') if u.find_spec(n)])"
    )
    assert await run(installed("bin/python"), "-c", missing) == "[]\n"


@pytest.mark.slow
async def test_langchain(proxy):
    assert await run(installed("bin/python"), "-c", LANGCHAIN, URL=proxy.url) == "5000 5000\n"


@pytest.mark.slow
async def test_llm(proxy, tmp_path):
    models = [{"model_id": "served", "model_name": "m", "api_base": proxy.url, "api_key_name": "x"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    out = await run(
        installed("bin/python"),
        "-m",
        "llm",
        "-m",
        "served",
        "--key",
        "sk-client",
        "5 km in m?",
        LLM_USER_PATH=str(tmp_path),
    )
    assert out.strip() == "5000"


@pytest.mark.slow
async def test_openai_for_javascript(proxy):
    installed("node/node_modules/openai")
    program = CLIENTS / "node" / "served.mjs"
    program.write_text(NPM)
    assert await run("node", str(program), URL=proxy.url) == "5000 5000 5000\n"
