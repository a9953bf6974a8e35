"""Many at once and many in a row: 500 streams that stay whole and apart, and nothing that stays behind."""

import asyncio
import gc
import json

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from upstreams import CHAT, NOTE, Upstream, ask, library, proxied, serving

from tfgrpo.serving.strategy import Several
from tfgrpo.strategies import resolve_strategy

pytestmark = pytest.mark.slow
STREAMS, PIECES = 500, 4


def asked(n, **more):
    return {**CHAT, "messages": [{"role": "user", "content": f"question {n}"}], **more}


def pieces(n):
    return [f"data: {json.dumps({'piece': k, 'of': n})}\n\n".encode() for k in range(PIECES)] + [b"data: [DONE]\n\n"]


async def test_500_streams_at_once_are_whole_and_each_is_its_own(tmp_path, many_sockets):
    """No stream goes on before all have begun; every tenth client leaves, and its server is told."""
    go_on, left = asyncio.Event(), asyncio.Semaphore(0)

    async def answer(request, body):
        data = json.loads(body)
        assert NOTE in data["messages"][0]["content"]
        first, *others = pieces(int(data["messages"][-1]["content"].split()[-1]))
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        try:
            await out.write(first)
            await go_on.wait()
            for piece in others:
                await out.write(piece)
        except asyncio.CancelledError:
            left.release()
            raise
        return out

    async def one(session, n, begun):
        async with session.post("chat/completions", json=asked(n, stream=True)) as response:
            got = await response.content.readany()
            begun.release()
            if n % 10 == 0:
                return b""
            return got + await response.content.read()

    options = ("--store", library(tmp_path, NOTE), "--log", "none")
    async with (
        Upstream(answer) as upstream,
        serving(*options, "--upstream", upstream.url) as process,
        ClientSession(process.url + "/", connector=TCPConnector(limit=0), timeout=ClientTimeout(total=100)) as session,
    ):
        begun = asyncio.Semaphore(0)
        streams = [asyncio.create_task(one(session, n, begun)) for n in range(STREAMS)]
        async with asyncio.timeout(100):
            for _ in range(STREAMS):
                await begun.acquire()
            for _ in range(STREAMS // 10):
                await left.acquire()
            assert upstream.in_flight == STREAMS - STREAMS // 10
            go_on.set()
            got = await asyncio.gather(*streams)
    assert all(text == b"".join(pieces(n)) for n, text in enumerate(got) if n % 10)


@pytest.fixture
def many_sockets():
    """Enough of them for both ends of all streams; where the system does not allow it, the test is skipped."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * STREAMS
    if hard not in (resource.RLIM_INFINITY,) and hard < wanted:
        pytest.skip(f"this system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def resting(server):
    while server.in_flight:  # noqa: ASYNC110 - a count of the server's own
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("strategy", [None, "vote:2"])
async def test_a_request_leaves_nothing_behind(tmp_path, strategy):
    """Whole answers, streams, refusals, errors and clients that leave: not one object stays for each of them."""

    async def answer(request, body):
        data = json.loads(body)
        if data.get("wait"):
            await asyncio.sleep(30)
        if data.get("fail"):
            return web.json_response({"error": {}}, status=429)
        if not data.get("stream"):
            return await Upstream.echo(request, body)
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        for piece in pieces(0):
            await out.write(piece)
        return out

    several = None if strategy is None else Several(resolve_strategy(strategy))
    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE), several=several) as client:

        async def rounds(count):
            for n in range(count):
                await asyncio.gather(
                    ask(client, asked(n, model=f"model {n}")),
                    ask(client, asked(n, stream=True)),
                    ask(client, asked(n, fail=True)),
                    ask(client, asked(n), headers={"Host": "evil.example"}),
                    ask(client, {"input": f"question {n}"}, "/v1/responses"),
                )
                leaving = asyncio.create_task(ask(client, asked(n, wait=True)))
                await upstream.holding(1)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                async with asyncio.timeout(20):
                    await resting(client.server)
                upstream.seen.clear()
            client.log.flush()
            gc.collect()
            return len(gc.get_objects())

        await rounds(60)  # caches of a fixed size are full
        before = await rounds(20)
        after = await rounds(40)
    assert after - before < 40, f"{after - before} objects more after 40 rounds of 6 requests"
