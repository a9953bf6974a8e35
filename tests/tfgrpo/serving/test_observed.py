"""What is told of requests: logs, metrics, traces; and that no key or content is in them."""

import asyncio
import io
import json
import threading
import time
from collections import deque

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from upstreams import CHAT, KEY, NOTE, Upstream, ask, completion, library, lines, proxied

from tfgrpo.serving.exchange import Exchange, Tail, Tokens, tokens_of
from tfgrpo.serving.logs import MAX_WAITING, Log, opened
from tfgrpo.serving.strategy import Several
from tfgrpo.serving.tracing import Tracing
from tfgrpo.strategies import resolve_strategy

SERVER_KEY = "sk-server-secret-987654"
TOKEN = "proxy-token-secret-1"


async def test_one_line_for_every_request(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        answer = await ask(client)
        async with client.get("/v1/models?key=secret-in-query") as response:
            await response.read()
        chat, models = lines(client.log)
        assert chat["event"] == "request" and chat["id"] == answer.headers["x-tfgrpo-request"]
        expected = {
            "namespace": "default", "method": "POST", "path": "/v1/chat/completions", "status": 200, "model": "m",
            "stream": False, "version": "v1", "experiences": ["E1@1"], "prompt_tokens": 90, "cached_tokens": 64,
            "completion_tokens": 7,
        }  # fmt: skip
        assert expected.items() <= chat.items()
        assert 0 < chat["upstream_ms"] <= chat["ms"]
        assert models["path"] == "/v1/models" and "model" not in models


async def test_contents_stand_in_the_log_only_when_asked_for(tmp_path):
    question = CHAT["messages"][0]["content"]
    for contents in (False, True):
        async with Upstream() as upstream:
            place = library(tmp_path, NOTE, name=f"{contents}.json")
            async with proxied(upstream, place, contents=contents) as client:
                await ask(client)
                client.log.flush()
                text = client.log._out.getvalue()
        assert (question in text) == (NOTE in text) == contents
        if contents:
            line = json.loads(text)
            assert question in line["request"] and "served-model" in line["answer"]


async def test_all_of_a_stream_stands_in_the_log_when_asked_for(tmp_path):
    async def answer(request, body):
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        for n in range(50):
            await out.write(f"data: piece {n}\n\n".encode())
            await asyncio.sleep(0)
        return out

    async with Upstream(answer) as upstream, proxied(upstream, library(tmp_path, NOTE), contents=True) as client:
        got = await ask(client, {**CHAT, "stream": True})
        assert lines(client.log)[-1]["answer"] == got.body.decode()


async def test_a_model_may_have_any_name(tmp_path):
    exporter = InMemorySpanExporter()
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        _traced(client, exporter)
        await ask(client, {**CHAT, "model": "x" * 100_000})
        assert len(upstream.last["model"]) == 100_000
    assert len(exporter.get_finished_spans()[0].name) < 300


def test_two_flushes_at_once_lose_and_double_nothing():
    class Slow(deque):
        def popleft(self):
            time.sleep(0.002)
            return super().popleft()

    log = Log(io.StringIO())
    log._waiting = Slow()
    for n in range(20):
        log.write({"n": n})
    threads = [threading.Thread(target=log.flush) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["n"] for line in lines(log)] == list(range(20))


async def test_keys_stand_nowhere(tmp_path, caplog):
    """Keys of the client, the server and the proxy: not in logs, metrics, traces, pages, errors or answers."""
    exporter = InMemorySpanExporter()

    async def answer(request, body):
        if request.path.endswith("broken"):
            request.transport.abort()
        return web.json_response(completion("hi"))

    places = {"default": library(tmp_path, NOTE)}
    tokens = {TOKEN: "default", "operator-token-0": "*"}
    texts = []
    async with Upstream(answer) as upstream:
        for key, spent in ((SERVER_KEY, {"Authorization": f"Bearer {TOKEN}"}), (None, {"X-Tfgrpo-Token": TOKEN})):
            async with proxied(upstream, places, tokens=tokens, key=key, contents=True) as client:
                _traced(client, exporter)
                for path in ("/v1/chat/completions", "/v1/broken", f"/v1/models?api_key={KEY}"):
                    got = await ask(client, path=path, headers={"api-key": KEY, **spent})
                    texts += [got.body.decode(), str(got.headers)]
                texts.append((await ask(client, headers={"Authorization": f"Bearer {KEY}"})).body.decode())
                for path in ("/metrics", "/readyz", "/healthz"):
                    async with client.get(path, headers={"Authorization": "Bearer operator-token-0"}) as response:
                        texts.append(await response.text())
                client.log.flush()
                texts.append(client.log._out.getvalue())
                texts.append(repr(client.server))
    texts += [span.to_json() for span in exporter.get_finished_spans()]
    assert len(exporter.get_finished_spans()) == 2
    for secret in (KEY, SERVER_KEY, TOKEN):
        assert not [text for text in (*texts, caplog.text) if secret in text]


def _traced(client, exporter):
    """The tracer in a running proxy, with spans kept here."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client.server.proxy.observers.append(Tracing(provider, host="api.openai.com", port=443))


async def test_a_head_that_cannot_be_read_is_logged_without_its_words(tmp_path, caplog):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.server.url.rpartition(":")[2]))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\x00\r\n\r\n"
        writer.write(head.encode())
        assert b" 400 " in await reader.readline()
        writer.close()
        (line,) = lines(client.log)
        assert line["event"] == "server_error" and line["error"] == "BadHttpMessage"
        assert KEY not in str(line) and KEY not in caplog.text and not upstream.seen


async def test_a_bug_of_ours_is_a_500_and_a_line_that_says_where(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        client.server.proxy.observers.append(Buggy())
        assert (await ask(client)).status == 500
        request, fault = lines(client.log)
        assert (request["status"], request["error"]) == (500, "bug")
        assert fault["error"] == "KeyError" and "test_observed.py" in fault["at"] and KEY not in str(fault)


class Buggy:
    def sending(self, exchange, headers):
        raise KeyError(headers["authorization"])

    def ended(self, exchange):
        return None


async def test_metrics_count_tokens_cached_ones_and_experiences(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE, "Check the sign.")) as client:
        for _ in range(3):
            await ask(client)
        await ask(client, headers={"Host": "evil.example"})
        async with client.get("/metrics") as response:
            text = await response.text()
        rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        at = 'namespace="default"'
        assert float(rows[f'tfgrpo_tokens_total{{kind="cached",{at}}}']) == 192
        assert float(rows[f'tfgrpo_tokens_total{{kind="prompt",{at}}}']) == 270
        assert float(rows[f"tfgrpo_experiences_total{{{at}}}"]) == 6
        assert float(rows[f'tfgrpo_requests_total{{error="",{at},route="chat",status="200"}}']) == 3
        assert float(rows['tfgrpo_requests_total{error="foreign_host",namespace="",route="chat",status="403"}']) == 1
        assert float(rows[f'tfgrpo_added_seconds_count{{{at},route="chat"}}']) == 3
        assert float(rows["tfgrpo_in_flight"]) == 0 and float(rows[f"tfgrpo_library_version{{{at}}}"]) == 1


async def test_calls_of_a_strategy_are_counted_also_when_all_fail(tmp_path):
    async def failing(request, body):
        return web.json_response({"error": {}}, status=503)

    several = Several(resolve_strategy("vote:3"))
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE), several=several) as client:
        await ask(client)
        await ask(client, {**CHAT, "temperature": 0})  # asked once, by no strategy
        upstream.answer = failing
        assert (await ask(client)).status == 503
        async with client.get("/metrics") as response:
            rows = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines())
        assert float(rows['tfgrpo_strategy_calls_total{namespace="default"}']) == 6 == len(upstream.seen) - 1
        assert float(rows['tfgrpo_strategy_requests_total{namespace="default"}']) == 2
        told = [line.get("calls") for line in lines(client.log) if line.get("path", "").startswith("/v1")]
        assert told == [3, None, 3]


async def test_nothing_a_client_invents_becomes_a_label(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        for n in range(5):
            await ask(client, {**CHAT, "model": f"invented-{n}"})
            async with client.request("PATCH", f"/invented/{n}") as response:
                await response.read()
        async with client.get("/metrics") as response:
            assert "invented" not in await response.text()


async def test_spans_follow_the_conventions_and_continue_the_clients_trace(tmp_path):
    exporter = InMemorySpanExporter()
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        _traced(client, exporter)
        trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        await ask(client, headers={"traceparent": f"00-{trace}-{parent}-01"})
        async with client.get("/v1/models") as response:
            await response.read()
        (span,) = exporter.get_finished_spans()
        assert (span.name, span.kind.name) == ("chat m", "CLIENT")
        assert f"{span.context.trace_id:032x}" == trace and f"{span.parent.span_id:016x}" == parent
        assert upstream.seen[0][2]["traceparent"] == f"00-{trace}-{span.context.span_id:016x}-01"
        expected = {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m",
            "gen_ai.response.model": "served-model", "gen_ai.usage.input_tokens": 90, "gen_ai.usage.output_tokens": 7,
            "gen_ai.usage.cache_read.input_tokens": 64, "server.address": "api.openai.com", "server.port": 443,
            "tfgrpo.version": "v1", "tfgrpo.experiences": ("E1@1",), "http.response.status_code": 200,
        }  # fmt: skip
        assert expected.items() <= dict(span.attributes).items()
        assert 0 < span.end_time - span.start_time < 10e9


async def test_a_failed_call_is_a_failed_span(tmp_path):
    exporter = InMemorySpanExporter()

    async def refuse(request, body):
        return web.json_response({}, status=429)

    async with Upstream(refuse) as upstream, proxied(upstream, library(tmp_path, NOTE)) as client:
        _traced(client, exporter)
        await ask(client)
        (span,) = exporter.get_finished_spans()
        assert span.attributes["error.type"] == "429" and span.status.status_code.name == "ERROR"


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (
            b'{"usage": {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 9}}}',
            (5, 2, 5),
        ),
        (b'data: {"usage":{"prompt_tokens":5,"completion_tokens":0}}\n\ndata: [DONE]\n\n', (5, 0, 0)),
        (b'{"usage":{"prompt_tokens":5,"prompt_cache_hit_tokens":3}}', (5, 0, 3)),
        (b'{"usage":{"prompt_tokens":5}}..."usage":null', (5, 0, 0)),
        (b'"content":"\\"usage\\": {\\"prompt_tokens\\": 666}"', None),
        (b'"usage":{"prompt_tokens":', None),
        (b'"usage":{"prompt_tokens":true}', None),
        (b'"usage":' + b"[" * 100_000, None),
        (b"", None),
    ],
)
def test_usage_is_found_at_the_end_of_either_apis_answer(end, expected):
    found = tokens_of(end)
    assert found == (expected and Tokens(prompt=expected[0], completion=expected[1], cached=expected[2]))


def test_a_tail_keeps_the_end_and_no_more():
    tail = Tail()
    data = bytes(range(256)) * 1000
    for start in range(0, len(data), 777):
        tail.add(data[start : start + 777])
    assert tail.bytes_seen == len(data) and tail.end == data[-8192:] and tail.head == data[:8192]
    assert sum(map(len, tail._parts)) <= 5 * 8192


def test_a_log_that_nobody_reads_is_bounded_and_tells_what_it_dropped():
    log = Log(io.StringIO())
    exchange = Exchange(id="1", route="other", method="GET", path="/", started=0.0)
    for _ in range(MAX_WAITING + 5):
        log.ended(exchange)
    log.flush()
    text = log._out.getvalue().splitlines()
    assert len(text) == MAX_WAITING + 1 and json.loads(text[-1]) == {"event": "log_lines_dropped", "count": 5}


def test_a_log_whose_reader_went_away_ends_quietly(tmp_path):
    file = opened(str(tmp_path / "log"))
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    log = Log(file)
    file.close()
    log.write({"event": "x"})
    log.flush()
