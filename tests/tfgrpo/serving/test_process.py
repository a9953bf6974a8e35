"""`tfgrpo serve` as a process: started, followed, killed, with a Chroma server that comes and goes."""

import asyncio
import json
import signal

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from chromas import Chroma
from cli import call
from upstreams import CHAT, KEY, NOTE, Upstream, library, serving

import experience_store
from experience_store import Edit

slow = pytest.mark.slow


async def ask(session, url, body=CHAT):
    async with session.post(f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}) as got:
        return got.status, got.headers, await got.json()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--store", "nowhere"], "there is no store at nowhere"),
        (["--host", "0.0.0.0"], "so requests need tokens"),
        (["--upstream", "not-a-url"], "--upstream must be a URL"),
        (["--upstream-key-env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE: that variable is not set"),
        (["--tokens", "nowhere"], "cannot read the tokens in nowhere"),
        (["--store", "a=x.json", "--store", "x.json", "--store", "y.json"], "two stores for the same requests"),
        (["--log", "/nonexistent/log"], "cannot write the log"),
        (["--port", "x"], "expected a whole number"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    file = library(tmp_path, NOTE)
    said = call("serve", *([] if "--store" in args else ["--store", file]), "--port", "0", *args)
    assert said.code == 2 and words in said.err and said.err.count("\n") == 1 and not said.out


@slow
async def test_it_says_what_it_serves_and_ends_when_it_is_told_to(tmp_path):
    go_on = asyncio.Event()

    async def answer(request, body):
        await go_on.wait()
        return web.json_response({"ok": True})

    log = tmp_path / "log.jsonl"
    async with Upstream(answer) as upstream, ClientSession() as session:
        place = library(tmp_path, NOTE)
        async with serving("--store", place, "--upstream", upstream.url, "--log", log) as process:
            assert "v1 of" in (await process.stdout.readline()).decode()
            task = asyncio.create_task(ask(session, process.url))
            await upstream.holding(1)
            process.send_signal(signal.SIGTERM)
            assert b"finishing 1 requests" in await asyncio.wait_for(process.stdout.readline(), 10)
            with pytest.raises(ClientError):
                await session.get(process.url + "/models")
            go_on.set()
            assert (await task)[0] == 200
            assert await asyncio.wait_for(process.wait(), 20) == 0
            err = (await process.stderr.read()).decode()
    assert err == "" and KEY not in log.read_text()
    assert json.loads(log.read_text().splitlines()[-1])["experiences"] == ["E1@1"]


@slow
async def test_a_kill_while_a_tag_is_followed_loses_no_answer_that_was_given(tmp_path):
    """The tag moves all the time, the server is killed twice: every answer that arrives fits the version it names."""
    place = tmp_path / "store"
    with experience_store.open(place, embedder="hashing") as store:
        store.commit([Edit(op="add", text="words of v1")])
        store.commit([Edit(op="revise", id="E1", text="words of v2")])
        store.tag("best", 1)
        done, counts = asyncio.Event(), {"v1": 0, "v2": 0, "broken": 0}

        async def move():
            while not done.is_set():
                for number in (2, 1):
                    await asyncio.to_thread(store.tag, "best", number)
                    await asyncio.sleep(0.05)

        async def worker(session, where):
            while not done.is_set():
                try:
                    status, headers, body = await ask(session, where["url"])
                except (ClientError, OSError):
                    counts["broken"] += 1
                    await asyncio.sleep(0.05)
                    continue
                version = headers["x-tfgrpo-version"]
                assert status == 200 and body["choices"][0]["message"]["content"].endswith(f"- words of {version}")
                counts[version] += 1

        async with Upstream() as upstream, ClientSession(timeout=ClientTimeout(total=20)) as session:
            where = {}
            async with asyncio.TaskGroup() as group:
                group.create_task(move())
                for round_ in range(3):
                    options = ("--store", f"{place}@best", "--upstream", upstream.url, "--poll-seconds", 0.05)
                    async with serving(*options, "--log", "none") as process:
                        where["url"] = process.url
                        if round_ == 0:
                            for _ in range(6):
                                group.create_task(worker(session, where))
                        before = counts["v1"], counts["v2"]
                        while counts["v1"] < before[0] + 20 or counts["v2"] < before[1] + 20:
                            assert process.returncode is None
                            await asyncio.sleep(0.02)
                        process.kill()
                        await process.wait()
                done.set()
        assert counts["broken"] > 0, "a killed server is noticed"
        versions = store.log()
    with experience_store.open(place) as again:
        assert [v.number for v in again.log()] == [v.number for v in versions]
        assert again.at("v2").experiences[0].text == "words of v2"


@slow
async def test_a_chroma_server_that_goes_away_and_comes_back(tmp_path):
    chroma = Chroma(tmp_path / "chroma")
    await asyncio.to_thread(chroma.start)
    try:
        store = await asyncio.to_thread(experience_store.open, chroma.url, embedder="hashing")
        await asyncio.to_thread(store.commit, [Edit(op="add", text="words of v1")])
        async with Upstream() as upstream, ClientSession() as session:
            options = ("--store", chroma.url, "--upstream", upstream.url, "--poll-seconds", 0.1, "--log", "none")
            async with serving(*options) as process:
                assert (await ask(session, process.url))[1]["x-tfgrpo-version"] == "v1"
                chroma.kill()
                got = await until(session, process.url, lambda got: "x-tfgrpo-store" in got[1])
                assert got[0] == 200 and got[1]["x-tfgrpo-version"] == "v1"
                async with session.get(process.url.removesuffix("/v1") + "/readyz") as response:
                    ready = await response.json()
                assert ready["status"] == "stale" and "does not answer" in ready["libraries"]["default"]["problem"]
                await asyncio.to_thread(chroma.start)
                await asyncio.to_thread(store.commit, [Edit(op="revise", id="E1", text="words of v2")])
                got = await until(session, process.url, lambda got: got[1]["x-tfgrpo-version"] == "v2")
                assert "x-tfgrpo-store" not in got[1]
                assert got[2]["choices"][0]["message"]["content"].endswith("words of v2")
        store.close()
    finally:
        chroma.kill()


async def until(session, url, holds):
    for _ in range(300):
        got = await ask(session, url)
        assert got[0] == 200
        if holds(got):
            return got
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to hold")


@slow
async def test_spans_are_sent_by_otlp(tmp_path):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got = []

    async def answer(request, body):
        if request.path != "/v1/traces":
            return await Upstream.echo(request, body)
        got.append(ExportTraceServiceRequest.FromString(body))
        return web.Response(content_type="application/x-protobuf")

    async with Upstream(answer) as upstream, ClientSession() as session:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": upstream.url.removesuffix("/v1"), "OTEL_SERVICE_NAME": "mine"}
        options = ("--store", library(tmp_path, NOTE), "--upstream", upstream.url, "--trace", "otlp", "--log", "none")
        async with serving(*options, **env) as process:
            assert (await ask(session, process.url))[0] == 200
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
    (spans,) = got[0].resource_spans
    assert "mine" in str(spans.resource) and spans.scope_spans[0].spans[0].name == "chat m"
    assert KEY not in str(got)
