"""A server that is dead, slow, half-closed or confused; clients that ask for too much."""

import asyncio
import contextlib
import gzip
import json
import socket

import pytest
from aiohttp import ClientPayloadError, ClientSession, web
from upstreams import CHAT, NOTE, Upstream, ask, library, lines, proxied

from experience_store import Experience, Layout, Snapshot, Version
from experience_store.errors import DamagedError
from tfgrpo.errors import InputError
from tfgrpo.serving.apply import Served
from tfgrpo.serving.limits import Limits


@contextlib.asynccontextmanager
async def raw_server(answer):
    """A server below HTTP: `answer(reader, writer)` after the request's head has arrived."""

    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await reader.readuntil(b"\r\n\r\n")
                await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(data, *, hold_s=0.0, half_closed=False):
    async def answer(reader, writer):
        writer.write(data)
        await writer.drain()
        if half_closed:
            writer.write_eof()
        await asyncio.sleep(hold_s)

    return answer


BROKEN = {
    "closes at once": says(b""),
    "says garbage": says(b"\x00\x01 this is not HTTP\r\n\r\n"),
    "says another protocol": says(b"220 smtp.example.org ESMTP\r\n"),
    "closes within the head": says(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "closes within the body": says(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id": "c1", "cho'),
    "says no more and listens": says(b"", hold_s=5, half_closed=True),
    "says half and listens": says(
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id": "c1", "cho', hold_s=5, half_closed=True
    ),
    "closes within a chunk": says(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"id": "c1"'),
    "counts chunks wrong": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n"),
    "says a huge head": says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_answer_is_an_error_and_never_half_an_answer(tmp_path, fault):
    async with raw_server(BROKEN[fault]) as url, proxied(url, library(tmp_path, NOTE)) as client:
        answer = await ask(client)
        assert answer.status == 502
        assert answer.json["error"]["code"] == "upstream_broke" == answer.headers["x-tfgrpo-error"]
        assert "127.0.0.1" not in answer.json["error"]["message"]
        assert lines(client.log)[-1]["error"] == "upstream_broke"


@pytest.mark.parametrize(
    "answer",
    [says(b"", hold_s=5), says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", hold_s=5)],
    ids=["before its head", "within its body"],
)
async def test_a_silent_server_is_a_time_out(tmp_path, answer):
    async with raw_server(answer) as url, proxied(url, library(tmp_path, NOTE), limits=Limits(timeout_s=0.3)) as client:
        got = await ask(client)
        assert (got.status, got.json["error"]["code"]) == (504, "upstream_timeout")


async def test_a_server_that_drips_is_a_time_out(tmp_path):
    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
        for _ in range(900):
            writer.write(b" ")
            await asyncio.sleep(0.05)

    async with raw_server(drip) as url, proxied(url, library(tmp_path, NOTE), limits=Limits(timeout_s=0.4)) as client:
        assert (await ask(client)).status == 504


async def test_a_stream_whose_server_says_no_more_and_listens_is_broken_off(tmp_path):
    event = b'data: {"choices": []}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    half = says(head + f"{len(event):x}".encode() + b"\r\n" + event + b"\r\n", hold_s=5, half_closed=True)
    async with raw_server(half) as url, proxied(url, library(tmp_path, NOTE)) as client:
        async with client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            got = b""
            with pytest.raises(ClientPayloadError):
                async for piece in response.content.iter_any():
                    got += piece
        assert got.startswith(event) and b'"code": "upstream_broke"' in got and b"[DONE]" not in got


async def test_a_dead_server_and_its_return(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with proxied(f"http://127.0.0.1:{port}/v1", library(tmp_path, NOTE)) as client:
        got = await ask(client)
        assert (got.status, got.json["error"]["code"]) == (502, "upstream_unreachable")
        assert got.headers["x-tfgrpo-version"] == "v1"
        server = await asyncio.start_server(_answers, "127.0.0.1", port)
        assert (await ask(client)).status == 200
        server.close()


async def _answers(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    await writer.drain()
    writer.close()


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(tmp_path):
    """One answer for a connection, without saying so: the next request must not be lost in the old connection."""

    async def once(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with raw_server(once) as url, proxied(url, library(tmp_path, NOTE)) as client:
        for _ in range(20):
            assert (await ask(client)).status == 200
            await asyncio.sleep(0.01)


async def test_too_large_requests_are_refused(tmp_path):
    async def pieces():
        for _ in range(30):
            yield b"x" * 100

    async with (
        Upstream() as upstream,
        proxied(upstream, library(tmp_path, NOTE), limits=Limits(body_bytes=1000)) as client,
    ):
        for path in ("/v1/chat/completions", "/v1/files"):
            for data in (b"x" * 1001, pieces()):
                async with client.post(path, data=data) as response:
                    assert response.status == 413
                    assert (await response.json())["error"]["code"] == "too_large"
        zipped = gzip.compress(b"x" * 10_000)
        async with client.post("/v1/chat/completions", data=zipped, headers={"Content-Encoding": "gzip"}) as response:
            assert response.status == 413
        assert all(path == "/v1/files" for _, path, _, _ in upstream.seen)


async def test_a_request_that_does_not_arrive_is_given_up(tmp_path):
    async with (
        Upstream() as upstream,
        proxied(upstream, library(tmp_path, NOTE), limits=Limits(upload_s=0.2)) as client,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.server.url.rpartition(":")[2]))
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
        writer.write(head.encode())
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408")
        writer.close()
        assert not upstream.seen


async def test_bodies_together_are_limited_and_given_back(tmp_path):
    go_on = asyncio.Event()

    async def answer(request, body):
        await go_on.wait()
        return web.json_response({})

    long = {"model": "m", "messages": [{"role": "user", "content": "x" * 700}]}
    limits = Limits(body_bytes=1000, held_bytes=1500)
    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE), limits=limits) as client:
        held = asyncio.create_task(ask(client, long))
        await upstream.holding(1)
        assert (await ask(client, long)).status == 429
        small = asyncio.create_task(ask(client))
        await upstream.holding(2)
        go_on.set()
        assert [(await held).status, (await small).status, (await ask(client, long)).status] == [200, 200, 200]
        assert client.server.proxy.slots.held == 0


async def test_an_upload_that_stops_is_given_up(tmp_path):
    async with (
        Upstream() as upstream,
        proxied(upstream, library(tmp_path, NOTE), limits=Limits(upload_s=0.2)) as client,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.server.url.rpartition(":")[2]))
        writer.write(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408")
        writer.close()
        assert lines(client.log)[-1]["error"] == "slow_request" and client.server.in_flight == 0


async def test_above_the_limit_of_concurrency_others_are_told_to_wait(tmp_path):
    go_on = asyncio.Event()

    async def answer(request, body):
        await go_on.wait()
        return web.json_response({})

    async with (
        Upstream(answer) as upstream,
        proxied(upstream, library(tmp_path, NOTE), limits=Limits(in_flight=3)) as client,
    ):
        held = [asyncio.create_task(ask(client)) for _ in range(3)]
        await upstream.holding(3)
        refused = await ask(client)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        go_on.set()
        assert [answer.status for answer in await asyncio.gather(*held)] == [200] * 3
        assert (await ask(client)).status == 200


async def test_one_namespace_does_not_take_the_slots_of_another(tmp_path):
    go_on = asyncio.Event()

    async def answer(request, body):
        await go_on.wait()
        return web.json_response({})

    tokens = {"a" * 16: "alice", "b" * 16: "bob"}
    places = {"alice": library(tmp_path, NOTE, name="a"), "bob": library(tmp_path, NOTE, name="b")}
    async with (
        Upstream(answer) as upstream,
        proxied(upstream, places, tokens=tokens, limits=Limits(in_flight_each=1)) as client,
    ):
        alice, bob = ({"Authorization": f"Bearer {token}"} for token in tokens)
        held = [asyncio.create_task(ask(client, headers=alice))]
        await upstream.holding(1)
        assert (await ask(client, headers=alice)).status == 429
        held.append(asyncio.create_task(ask(client, headers=bob)))
        await upstream.holding(2)
        go_on.set()
        assert [a.status for a in await asyncio.gather(*held)] == [200, 200]


async def test_a_client_that_does_not_read_holds_no_slot_for_ever(tmp_path):
    async def endless(request, body):
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        while True:
            await out.write(b"data: " + b"x" * 60_000 + b"\n\n")

    async with (
        Upstream(endless) as upstream,
        proxied(upstream, library(tmp_path, NOTE), limits=Limits(timeout_s=0.4)) as client,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.server.url.rpartition(":")[2]))
        body = json.dumps({**CHAT, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await upstream.holding(1)
        await asyncio.wait_for(upstream.cancelled.wait(), 10)
        for _ in range(100):
            if client.server.in_flight == 0:
                break
            await asyncio.sleep(0.02)
        assert client.server.in_flight == 0
        assert lines(client.log)[-1]["error"] == "slow_client"
        del reader
        writer.close()


async def test_a_question_that_cannot_be_looked_up_is_answered_without_notes(tmp_path):
    def rank(question, experiences):
        if question == "ready":
            return [0.0] * len(experiences)
        raise DamagedError("the vectors are gone")

    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        entries = (Experience(id="E1", text=NOTE),)
        version = Version(number=4, parent=3, rows=(), layout=Layout(select="retrieve"))
        client.sources["default"]._served = Served.of(Snapshot(version=version, experiences=entries, rank=rank))
        answer = await ask(client)
        assert answer.status == 200 and answer.words == CHAT["messages"][0]["content"]
        assert answer.headers["x-tfgrpo-version"] == "v4" and "x-tfgrpo-experiences" not in answer.headers
        assert lines(client.log)[-1]["error"] == "retrieval_failed"


async def test_requests_in_flight_are_finished_before_the_server_stops(tmp_path):
    async def slow(request, body):
        await asyncio.sleep(0.4)
        return web.json_response({"ok": True})

    async with Upstream(slow) as upstream, ClientSession() as other:
        async with proxied(upstream, library(tmp_path, NOTE), drain_s=5.0) as client:
            task = asyncio.create_task(_post(other, client.server.url))
            await upstream.holding(1)
        assert await task == (200, {"ok": True})


async def _post(session, url):
    async with session.post(f"{url}/v1/chat/completions", json=CHAT) as response:
        return response.status, await response.json()


async def test_a_port_in_use_and_a_wrong_upstream_are_said(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        port = int(client.server.url.rpartition(":")[2])
        with pytest.raises(InputError, match=r"cannot listen on .* choose another --port"):
            async with proxied(upstream, library(tmp_path, name="b"), port=port):
                pass
    for url in ("ftp://x", "127.0.0.1:8000", "http://user:secret@host/v1", "http://host/v1?key=secret"):
        with pytest.raises(InputError, match="--upstream must") as told:
            async with proxied(url, library(tmp_path, name="c")):
                pass
        assert "secret" not in str(told.value)
