"""The proxy over real HTTP: what goes in, what comes out, byte by byte."""

import asyncio
import gzip
import json

import pytest
from aiohttp import ClientPayloadError, web
from upstreams import CHAT, KEY, NOTE, Upstream, ask, completion, library, lines, proxied
from yarl import URL

from experience_store.render import HEADING
from tfgrpo.serving.upstream import proxy_of_environment

BLOCK = f"{HEADING}\n- {NOTE}"
STREAM = [
    b": keep-alive\n\n",
    b'data: {"id":"1","model":"served-model","choices":[{"delta":{"content":"\xc3\xa4"}}]}\n\n',
    b"event: odd\r\ndata: {\r\ndata: }\r\n\r\n",
    b'data: {"choices":[{"delta":{"content":"hal',
    b'f a piece"}}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":90,"completion_tokens":7,"prompt_tokens_details":'
    b'{"cached_tokens":64}}}\n\n',
    b"data: [DONE]\n\n",
]


def streaming(pieces=STREAM, pause_s=0.0, headers=None, end=True):
    async def answer(request, body):
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **(headers or {})})
        await out.prepare(request)
        for piece in pieces:
            await out.write(piece)
            await asyncio.sleep(pause_s)
        if not end:
            request.transport.abort()
        return out

    return answer


async def test_experiences_go_in_and_the_answer_comes_out(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        response = await ask(client)
        assert response.status == 200
        assert response.words == BLOCK
        assert response.headers["x-tfgrpo-version"] == "v1"
        assert response.headers["x-tfgrpo-experiences"] == "E1@1"
        assert "x-tfgrpo-store" not in response.headers
        method, path, headers, _ = upstream.seen[0]
        assert (method, path) == ("POST", "/v1/chat/completions")
        assert headers["Authorization"] == f"Bearer {KEY}" and headers["Host"] in upstream.url
        assert upstream.last == {**CHAT, "messages": [{"role": "system", "content": BLOCK}, *CHAT["messages"]]}


async def test_responses_and_other_mounts_of_the_same_api(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        await ask(client, {"model": "m", "input": "hi"}, "/v1/responses")
        assert upstream.last == {"model": "m", "input": "hi", "instructions": BLOCK}
        for path in ("/v1/chat/completions/", "/openai/deployments/d/chat/completions?api-version=1"):
            response = await ask(client, path=path)
            assert upstream.seen[-1][1] == path and response.headers["x-tfgrpo-experiences"] == "E1@1"


@pytest.mark.parametrize(
    "body",
    [b'{"model": "m",  "messages": [ {"role":"user", "content":"\\u00e4 1.0e5"} ] }', b"not json", b"", b"[1]",
     b"\xff\x00", b"[" * 100_000, b'{"messages": [{"role": "user", "content": 1}]}'],
)  # fmt: skip
async def test_what_needs_no_change_is_sent_byte_for_byte(tmp_path, body):
    empty = body.startswith(b'{"model"')  # a request that could be changed, and a library without experiences
    async with Upstream(_ok) as upstream, proxied(upstream, library(tmp_path, *([] if empty else [NOTE]))) as client:
        async with client.post("/v1/chat/completions", data=body) as response:
            assert response.status == 200
            assert "x-tfgrpo-experiences" not in response.headers and "x-tfgrpo-version" in response.headers
        assert upstream.seen[0][3] == body


async def _ok(request, body):
    return web.json_response({"ok": True})


async def test_half_a_surrogate_pair_is_handed_on(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        body = b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'
        async with client.post("/v1/chat/completions", data=body) as response:
            assert response.status == 200
        assert upstream.last["messages"][1]["content"] == "\ud83d"


async def test_streams_are_byte_faithful_and_their_tokens_are_counted(tmp_path):
    async with Upstream(streaming(pause_s=0.01)) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        async with client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert await response.read() == b"".join(STREAM)
        assert upstream.seen[0][2]["Accept-Encoding"] == "identity"
        line = lines(client.log)[-1]
        assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (90, 64, 7)
        assert line["stream"] and line["bytes_out"] == len(b"".join(STREAM))


async def test_a_stream_is_not_held_back(tmp_path):
    go_on = asyncio.Event()

    async def answer(request, body):
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        await out.write(STREAM[1])
        await asyncio.wait_for(go_on.wait(), 10)
        return out

    async with (
        Upstream(answer) as upstream,
        proxied(upstream, library(tmp_path, NOTE)) as client,
        client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response,
    ):
        assert await asyncio.wait_for(response.content.readany(), 5) == STREAM[1]
        go_on.set()


@pytest.mark.parametrize("kind", ["audio/mpeg", "application/x-ndjson"])
async def test_what_is_no_json_is_not_held_back_either(tmp_path, kind):
    go_on = asyncio.Event()

    async def answer(request, body):
        out = web.StreamResponse(headers={"Content-Type": kind})
        await out.prepare(request)
        await out.write(b"first")
        await asyncio.wait_for(go_on.wait(), 10)
        await out.write(b"second")
        return out

    async with (
        Upstream(answer) as upstream,
        proxied(upstream, library(tmp_path, NOTE)) as client,
        client.post("/v1/audio/speech", json={}) as response,
    ):
        assert await asyncio.wait_for(response.content.readany(), 5) == b"first"
        go_on.set()
        assert await response.content.read() == b"second"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_cancels_the_server(tmp_path, stream):
    async def forever(request, body):
        if stream:
            await streaming(STREAM[:2])(request, body)
        await asyncio.sleep(3600)

    async with Upstream(forever) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(client, {**CHAT, "stream": stream})
        await asyncio.wait_for(upstream.cancelled.wait(), 5)
        for _ in range(50):
            if client.server.in_flight == 0:
                break
            await asyncio.sleep(0.02)
        assert client.server.in_flight == 0
        line = lines(client.log)[-1]
        assert (line["error"], line["status"]) == ("client_gone", 499)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(429, {"Retry-After": "7", "x-ratelimit-remaining-requests": "0"}), (400, {}), (500, {}), (401, {})],
)
async def test_the_servers_errors_are_handed_on_as_they_are(tmp_path, status, headers):
    text = b'{"error": {"message": "no", "type": "x"}}'

    async def answer(request, body):
        return web.Response(status=status, body=text, headers={"Content-Type": "application/json", **headers})

    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        response = await ask(client)
        assert (response.status, response.body) == (status, text)
        assert headers.items() <= dict(response.headers).items()
        assert response.headers["x-tfgrpo-version"] == "v1" and "x-tfgrpo-error" not in response.headers


async def test_everything_else_passes_unread(tmp_path):
    async def answer(request, body):
        headers = {
            "X-Path": request.raw_path,
            "X-Method": request.method,
            "Set-Cookie": "a=b",
            "Connection": "x-hop",
            "x-hop": "1",
        }
        return web.Response(body=body[::-1], headers=headers)

    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        for method, path in (("GET", "/v1/models?a=%20b&c"), ("DELETE", "/v1/files/a%2Fb"), ("PUT", "/tokenize")):
            async with client.request(method, path, data=b"\x00\xffdata", headers={"Cookie": "secret"}) as response:
                assert await response.read() == b"atad\xff\x00"
                assert (response.headers["X-Method"], response.headers["X-Path"]) == (method, path)
                assert response.headers["Set-Cookie"] == "a=b" and "x-hop" not in response.headers
                assert "x-tfgrpo-experiences" not in response.headers
        assert all("Cookie" not in headers for _, _, headers, _ in upstream.seen)
        async with client.head("/v1/models") as response:
            assert response.status == 200


async def test_large_bodies_pass_in_pieces_both_ways(tmp_path):
    size, piece = 5 * 2**20, bytes(range(256)) * 256

    async def pieces():
        for _ in range(size // len(piece)):
            yield piece

    async def answer(request, body):
        assert len(body) == size
        return web.Response(body=pieces(), content_type="application/octet-stream")

    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        async with client.post("/v1/files", data=pieces()) as response:
            assert await response.read() == piece * (size // len(piece))
        assert lines(client.log)[-1]["bytes_in"] == size


async def test_an_empty_answer_stays_empty(tmp_path):
    async def answer(request, body):
        return web.Response(status=204)

    async with (
        Upstream(answer) as upstream,
        proxied(upstream, library(tmp_path, NOTE)) as client,
        client.delete("/v1/files/1") as response,
    ):
        assert (response.status, await response.read()) == (204, b"")


async def test_zipped_requests_are_read_and_zipped_answers_pass(tmp_path):
    reply = gzip.compress(json.dumps(completion("hi")).encode())

    async def answer(request, body):
        return web.Response(body=reply, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})

    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        body = gzip.compress(json.dumps(CHAT).encode())
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        async with client.post("/v1/chat/completions", data=body, headers=headers) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "hi"
            assert response.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in upstream.seen[0][2] and len(upstream.last["messages"]) == 2
        async with client.post("/v1/chat/completions", data=b"no gzip", headers=headers) as response:
            assert response.status == 400 and response.headers["x-tfgrpo-error"] == "broken_request"
        async with client.post("/v1/chat/completions", data=body, headers={"Content-Encoding": "br"}) as response:
            assert response.status == 200
        assert upstream.seen[-1][3] == body and upstream.seen[-1][2]["Content-Encoding"] == "br"


async def test_the_servers_key_takes_the_place_of_the_clients(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE), key="sk-of-the-server") as client:
        await ask(client, headers={"api-key": "other"})
        assert upstream.seen[0][2]["Authorization"] == "Bearer sk-of-the-server"
        assert "api-key" not in upstream.seen[0][2]


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/%2e%2E/admin", "/v1/./models", "/../x"])
async def test_a_path_does_not_leave_the_upstreams(tmp_path, path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.server.url.rpartition(":")[2]))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400") and b"bad_path" in answer
        assert not upstream.seen


async def test_an_absolute_target_goes_nowhere_else(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.server.url.rpartition(":")[2]))
        writer.write(b"GET http://127.0.0.1:9/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert upstream.seen[0][1] == "/v1/models"


async def test_passwords_of_this_machine_go_nowhere(tmp_path, monkeypatch):
    """A ~/.netrc that names the server is the user's, and none of the client's requests."""
    (tmp_path / "netrc").write_text("machine 0.0.0.0 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with Upstream() as upstream:
        place = upstream.url.replace("127.0.0.1", "0.0.0.0")  # here too, by a name that is not loopback's
        async with proxied(place, library(tmp_path, NOTE)) as client:
            assert (await ask(client)).status == 200
            async with client.get("/v1/models") as response:
                assert response.status == 200
        assert upstream.seen[0][2]["Authorization"] == f"Bearer {KEY}" and "Authorization" not in upstream.seen[1][2]


async def test_the_environments_http_proxy_is_used(tmp_path, monkeypatch):
    async with Upstream() as upstream:
        for address in (upstream.url.removesuffix("/v1"), upstream.url.removeprefix("http://").removesuffix("/v1")):
            monkeypatch.setenv("http_proxy", address)
            async with proxied("http://model.example/v1", library(tmp_path, NOTE)) as client:
                assert (await ask(client)).status == 200
        assert [path for _, path, _, _ in upstream.seen] == ["http://model.example/v1/chat/completions"] * 2
        monkeypatch.setenv("no_proxy", "model.example")
        assert proxy_of_environment(URL("http://model.example/v1")) is None
        assert proxy_of_environment(URL("http://127.0.0.1:8000/v1")) is None


async def test_keep_alive_connections_serve_one_request_after_the_other(tmp_path):
    """Answers of different requests on the same connections, all at once: none is lost or exchanged."""
    async with Upstream() as upstream, proxied(upstream, library(tmp_path)) as client:

        async def one(n):
            response = await ask(client, {"model": "m", "messages": [{"role": "user", "content": f"number {n}"}]})
            assert response.words == f"number {n}"

        for _ in range(3):
            await asyncio.gather(*(one(n) for n in range(100)))
        assert len(upstream.seen) == 300


async def test_a_stream_that_breaks_off_never_looks_whole(tmp_path):
    async with (
        Upstream(streaming(STREAM[:2], pause_s=0.05, end=False)) as upstream,
        proxied(upstream, library(tmp_path, NOTE)) as client,
    ):
        async with client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            got = b""
            with pytest.raises(ClientPayloadError):
                async for piece in response.content.iter_any():
                    got += piece
        assert got.startswith(b"".join(STREAM[:2]))
        event = json.loads(got.removeprefix(b"".join(STREAM[:2])).removeprefix(b"data: "))
        assert event["error"]["code"] == "upstream_broke"


async def test_a_stream_that_breaks_off_within_an_event_gets_nothing_appended(tmp_path):
    async with (
        Upstream(streaming(STREAM[1:4], pause_s=0.05, end=False)) as upstream,
        proxied(upstream, library(tmp_path, NOTE)) as client,
    ):
        async with client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            got = b""
            with pytest.raises(ClientPayloadError):
                async for piece in response.content.iter_any():
                    got += piece
        assert got == b"".join(STREAM[1:4])
