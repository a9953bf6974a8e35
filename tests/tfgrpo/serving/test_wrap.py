"""`tfgrpo.wrap` around real clients of the openai package, over HTTP, against the model of the proxy's tests."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest
from aiohttp import web
from answering import ASK, TOOL, answer
from pydantic import BaseModel
from upstreams import NOTE, Upstream, completion, library, proxied

import experience_store
import tfgrpo
from experience_store import Edit, Layout, Library
from experience_store.errors import RefError, UnavailableError
from experience_store.render import HEADING
from tfgrpo.errors import InputError
from tfgrpo.serving.following import Use

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
HEAVY = ("chromadb", "torch", "numpy", "transformers", "sentence_transformers", "aiohttp", "litellm", "yarl")
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


def sync_client(upstream, **options):
    return openai.OpenAI(base_url=upstream.url, api_key="sk-client", **options)


def async_client(upstream, **options):
    return openai.AsyncOpenAI(base_url=upstream.url, api_key="sk-client", **options)


def followers():
    return [t for t in threading.enumerate() if t.name == "tfgrpo-follower"]


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


# -- which version, and how it changes --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text=NOTE)])
        store.tag("production", 1)
        store.commit([Edit(op="add", text="Check the sign.")])
        yield store


async def _until(holds):
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_tag_is_followed_and_a_pin_stays(upstream, store):
    tagged = tfgrpo.wrap(async_client(upstream), f"{store.location}@production", poll_s=0.02)
    pinned = tfgrpo.wrap(async_client(upstream), f"{store.location}@v1", poll_s=0.02)
    async with tagged, pinned:
        await tagged.chat.completions.create(model="m", messages=ASK)
        assert tagged.experience.last.labels == ("E1@1",)
        store.tag("production", 2)
        await _until(lambda: tagged.experience.version == "v2")
        await tagged.chat.completions.create(model="m", messages=ASK)
        assert (tagged.experience.last.version, tagged.experience.last.labels) == ("v2", ("E1@1", "E2@1"))
        await pinned.chat.completions.create(model="m", messages=ASK)
        assert pinned.experience.last.version == "v1"
        assert tagged.experience.last.version == "v2", "each library has a last use of its own"
    assert not followers()


async def test_all_tries_of_one_request_are_of_one_version(upstream, file, tmp_path):
    async def fails_once(request, body):
        if len(upstream.seen) == 1:
            library(tmp_path, NOTE, "Another.", name="new.json")
            (tmp_path / "new.json").replace(file)
            await _until(
                lambda: (
                    client.experience.version == "v1" and len(client.experience.current().prepared.core.entries) == 2
                )
            )
            return web.json_response({"error": {"message": "busy"}}, status=503, headers={"Retry-After-Ms": "1"})
        return web.json_response(completion("5000"))

    upstream.answer = fails_once
    async with tfgrpo.wrap(async_client(upstream), file, poll_s=0.02) as client:
        await client.chat.completions.create(model="m", messages=ASK)
        first, second = (json.loads(body)["messages"] for _, _, _, body in upstream.seen)
        assert first == second == [NOTES, *ASK]
        await client.chat.completions.create(model="m", messages=ASK)
        assert "Another." in upstream.last["messages"][0]["content"]


async def test_a_store_that_goes_away_leaves_the_last_version_in_use(upstream, file):
    async with tfgrpo.wrap(async_client(upstream), file, poll_s=0.02) as client:
        await asyncio.to_thread(Path(file).unlink)
        await _until(lambda: client.experience.status().problem)
        assert "cannot read" in client.experience.status().problem
        assert (await client.chat.completions.create(model="m", messages=ASK)).choices[0].message.content == "5000"


async def test_each_task_sees_its_own_last_use_and_all_are_told(upstream, file):
    told = []
    async with tfgrpo.wrap(async_client(upstream), file, on_use=told.append) as client:

        async def one(model):
            await client.chat.completions.create(model=model, messages=ASK)
            await asyncio.sleep(0.01)
            return client.experience.last.model

        assert await asyncio.gather(*(one(f"m{n}") for n in range(20))) == [f"m{n}" for n in range(20)]
        assert client.experience.last is None, "nothing was asked in this task"
        assert sorted(use.model for use in told) == sorted(f"m{n}" for n in range(20))


async def test_threads_share_a_sync_client(upstream, file):
    with tfgrpo.wrap(sync_client(upstream), file) as client:

        def one(n):
            content = client.chat.completions.create(model=f"m{n}", messages=ASK).choices[0].message.content
            return content, client.experience.last.model

        got = await asyncio.gather(*(asyncio.to_thread(one, n) for n in range(20)))
    assert got == [("5000", f"m{n}") for n in range(20)]


async def test_a_question_that_cannot_be_searched_with_is_asked_bare_and_told(upstream, store):
    store.commit([], layout=Layout(select="retrieve", max_entries=1))

    def away(question, experiences):
        raise experience_store.StoreError("the embedder is away")

    snapshot = store.at("head")
    async with tfgrpo.wrap(async_client(upstream), snapshot) as client:
        object.__setattr__(client.experience.current().prepared, "rank", away)
        assert (await client.chat.completions.create(model="m", messages=ASK)).choices[0].message.content == "bare"
        use = client.experience.last
        assert (use.labels, use.problem, use.version) == ((), "the embedder is away", "v3")


# -- opening and closing ----------------------------------------------------------------------------------------------


async def test_a_library_is_shared_and_closed_by_who_opened_it(upstream, store):
    with tfgrpo.follow(f"{store.location}@production") as shared:
        async with tfgrpo.wrap(async_client(upstream), shared) as one:
            assert one.experience is shared
        with tfgrpo.wrap(sync_client(upstream), shared) as two:
            assert two.experience is shared
        assert len(followers()) == 1
    assert not followers()
    shared.close()  # again
    assert shared([*ASK]) == [NOTES, *ASK], "the version in use stays"


async def test_a_client_that_is_forgotten_leaves_no_thread(upstream, store):
    client = tfgrpo.wrap(sync_client(upstream), store.location, poll_s=0.02)
    assert len(followers()) == 1
    del client
    gc.collect()
    await _until(lambda: not followers())


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (object(), "got builtins.object; for any other client"),
        (openai.OpenAI, "the class OpenAI; make an object of it"),
        (json, "the module json"),
        (None, "NoneType"),
    ],
)
def test_other_clients_are_refused(client, words, file):
    with pytest.raises(InputError, match=words):
        tfgrpo.wrap(client, file)
    assert not followers()


def test_a_wrapped_client_is_not_wrapped_again(file, upstream):
    client = tfgrpo.wrap(sync_client(upstream), file)
    for again in (client, client.with_options(timeout=3)):
        with pytest.raises(InputError, match=r"wrapped already, with <FollowedLibrary v1 of .*library.json>"):
            tfgrpo.wrap(again, file)
    client.close()


def test_what_is_not_there_is_said_at_once(store, tmp_path, upstream):
    with pytest.raises(UnavailableError, match="no store at"):
        tfgrpo.wrap(sync_client(upstream), str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match="no namespace 'eve'"):
        tfgrpo.wrap(sync_client(upstream), store.location, namespace="eve")
    with pytest.raises(RefError, match="no version or tag 'other'"):
        tfgrpo.wrap(sync_client(upstream), f"{store.location}@other")
    with pytest.raises(InputError, match=r"of an open store give store.at\('head'\)"):
        tfgrpo.wrap(sync_client(upstream), store)
    with pytest.raises(InputError, match="poll_s is seconds"):
        tfgrpo.wrap(sync_client(upstream), store.location, poll_s=0)
    with pytest.raises(InputError, match="give a plain function"):
        tfgrpo.wrap(sync_client(upstream), store.at("v1"), on_use=_until)
    with pytest.raises(InputError, match="belong to follow"):
        tfgrpo.wrap(sync_client(upstream), tfgrpo.follow(store.at("v1")), namespace="eve")
    assert not followers()


# -- any other client -------------------------------------------------------------------------------------------------


def test_follow_is_a_function_of_messages(file):
    with tfgrpo.follow(file) as notes:
        messages = [{"role": "user", "content": "5 km in m?"}]
        assert notes(messages) == [NOTES, *messages] and len(messages) == 1
        assert notes.last == Use(version="v1", labels=("E1@1",))
        reply = openai.types.chat.ChatCompletionMessage(role="assistant", content="5000")
        assert notes([*messages, reply])[2] == {"role": "assistant", "content": "5000"}
    assert tfgrpo.follow(Library.load(file)).apply(messages).labels == ("E1@1",)
    with experience_store.open(Path(file).parent / "empty", embedder="hashing") as store:
        assert tfgrpo.follow(store.at("head")).apply(messages).messages is messages


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_says_that_it_follows_nothing(file):
    program = f"""
import os, tfgrpo
library = tfgrpo.follow({file!r})
child = os.fork()
if child == 0:
    ok = "forked" in library.status().problem and library.version == "v1"
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0 and library.status().problem == ""
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


async def test_an_exported_file_needs_no_store_no_model_and_no_arrays(upstream, file):
    """All that is loaded beside the client's own package when a client is wrapped over a file and asked."""
    program = f"""
import sys, openai
before, refused = set(sys.modules), []

class Refusing:
    def find_spec(name, path=None, target=None):
        if name in {HEAVY!r}:
            refused.append(name)
            raise ImportError(name)

sys.meta_path.insert(0, Refusing)
import tfgrpo
client = tfgrpo.wrap(openai.OpenAI(base_url={upstream.url!r}, api_key="k"), {file!r})
print(client.responses.create(model="m", input="5 km in m?").output_text)
client.close()
new = set(sys.modules) - before
print(*sorted(n for n in new if n.partition(".")[0] in ("tfgrpo", "experience_store") or n in {HEAVY!r}))
assert not refused, refused
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    words, loaded = out.decode().splitlines()
    assert words == "5000"
    ours = {name for name in loaded.split() if not name.startswith("experience_store")}
    assert {name for name in ours if "serving" not in name} == {"tfgrpo", "tfgrpo.errors"}


def test_wrapping_costs_little(file):
    """Microseconds beside a request that takes milliseconds."""
    notes = tfgrpo.follow(file)
    began = time.perf_counter()
    for _ in range(1000):
        notes(ASK)
    assert (time.perf_counter() - began) / 1000 < 1e-3
    notes.close()
