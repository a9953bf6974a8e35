"""The library behind a wrapped client: which version, how it changes, who opens and closes it; and without a client."""

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
from answering import ASK, answer, async_client, sync_client
from upstreams import NOTE, Upstream, completion, library

import experience_store
import tfgrpo
from experience_store import Edit, Layout, Library
from experience_store.errors import RefError, UnavailableError
from experience_store.render import HEADING
from tfgrpo.errors import InputError
from tfgrpo.serving.following import Use

HEAVY = ("chromadb", "torch", "numpy", "transformers", "sentence_transformers", "aiohttp", "litellm", "yarl")
NOTES = {"role": "system", "content": f"{HEADING}\n- {NOTE}"}


@pytest.fixture
async def upstream():
    async with Upstream(answer) as server:
        yield server


@pytest.fixture
def file(tmp_path):
    return library(tmp_path, NOTE)


def followers():
    return [t for t in threading.enumerate() if t.name == "tfgrpo-follower"]


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
