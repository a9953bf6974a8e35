"""`tfgrpo.wrap(..., strategy=)` around real clients of the openai package, over HTTP."""

import asyncio
import contextlib
import itertools
import json

import openai
import pytest
from aiohttp import web
from answering import ASK, TOOL, async_client, sync_client
from pydantic import BaseModel
from upstreams import NOTE, Upstream, completion, library

import tfgrpo
from tfgrpo.errors import InputError
from tfgrpo.rewards.simple import exact
from tfgrpo.serving.following import Use
from tfgrpo.strategies import adaptive, best

VOTE = {"strategy": "vote(n=3, reading=auto)", "calls": 3, "why": "2 of 3 agree"}


class Metres(BaseModel):
    metres: int


@pytest.fixture
def file(tmp_path):
    return library(tmp_path, NOTE)


def saying(*replies):
    """Answers one after another, over and over: words, a whole completion, a status, or a connection that breaks."""
    left = itertools.cycle(replies)

    async def answer(request, body):
        said = next(left)
        if said is None:
            request.transport.abort()
            return web.Response()
        if isinstance(said, int):
            return web.json_response({"error": {"message": f"status {said}"}}, status=said)
        return web.json_response(completion(said) if isinstance(said, str) else said)

    return answer


def calling(city):
    reply = completion(None)
    function = {"name": "convert", "arguments": json.dumps({"city": city})}
    reply["choices"][0]["message"]["tool_calls"] = [{"id": city, "type": "function", "function": function}]
    return reply


def bodies(upstream):
    return [json.loads(body) for _, _, _, body in upstream.seen]


async def test_one_of_several_answers_in_every_form_that_the_async_client_has(file):
    async with (
        Upstream(saying("5", "7", "5")) as upstream,
        tfgrpo.wrap(async_client(upstream), file, strategy="vote:3") as client,
    ):
        chat = client.chat.completions
        whole = await chat.create(model="m", messages=ASK, seed=7, extra_body={"top_k": 3})
        assert whole.choices[0].message.content == "5" and whole.usage.total_tokens == 3 * 97
        assert whole.usage.prompt_tokens_details.cached_tokens == 3 * 64
        assert client.experience.last == Use(version="v1", labels=("E1@1",), model="m", **VOTE)
        assert sorted(body["seed"] for body in bodies(upstream)) == [7, 8, 9]
        assert all(NOTE in b["messages"][0]["content"] and b["top_k"] == 3 for b in bodies(upstream))
        raw = await chat.with_raw_response.create(model="m", messages=ASK)
        assert raw.headers["x-tfgrpo-why"] == "2 of 3 agree" and raw.parse().choices[0].message.content == "5"
        asked = chat.with_streaming_response.create(model="m", messages=ASK, stream=True)
        async with asked as response:
            assert "[DONE]" in "".join([line async for line in response.iter_lines()])
        copy = client.with_options(timeout=7, max_retries=0)
        assert (await copy.chat.completions.create(model="m", messages=ASK)).choices[0].message.content == "5"
        assert len(upstream.seen) == 12


async def test_streams_are_of_one_chunk_that_the_package_reads(file):
    async with (
        Upstream(saying("5", "7", "5")) as upstream,
        tfgrpo.wrap(async_client(upstream), file, strategy="vote:3") as client,
    ):
        chat = client.chat.completions
        pieces = await chat.create(model="m", messages=ASK, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in pieces]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "5"
        assert [c.usage.prompt_tokens for c in chunks if c.usage] == [270]
        assert not any("stream" in body or "stream_options" in body for body in bodies(upstream))
        async with chat.stream(model="m", messages=ASK) as events:
            assert (await events.get_final_completion()).choices[0].message.content == "5"


async def test_tool_calls_and_structured_output_are_voted_on(file):
    async with (
        Upstream(saying(calling("Rome"), calling("Oslo"), calling("Oslo"))) as upstream,
        tfgrpo.wrap(async_client(upstream), file, strategy="vote:3") as client,
    ):
        reply = await client.chat.completions.create(model="m", messages=ASK, tools=[TOOL])
        assert reply.choices[0].message.tool_calls[0].id == "Oslo"
        assert all(body["tools"] == [TOOL] for body in bodies(upstream))
    words = ('{"metres": 7}', '{"metres":5000}', '{ "metres": 5000 }')
    async with (
        Upstream(saying(*words)) as upstream,
        tfgrpo.wrap(async_client(upstream), file, strategy="vote:3") as client,
    ):
        parsed = await client.chat.completions.parse(model="m", messages=ASK, response_format=Metres)
        assert parsed.choices[0].message.parsed == Metres(metres=5000)
        assert all(body["response_format"]["type"] == "json_schema" for body in bodies(upstream))


@pytest.mark.parametrize("in_a_loop", [False, True])
async def test_the_sync_client_asks_in_threads_also_where_a_loop_runs(file, in_a_loop):
    gate = asyncio.Event()
    said = saying("5", "7", "5")

    async def together(request, body):
        if upstream.in_flight == 3:
            gate.set()
        await gate.wait()
        return await said(request, body)

    def use():
        async def within():
            return asked()

        return asyncio.run(within()) if in_a_loop else asked()

    def asked():
        with tfgrpo.wrap(sync_client(upstream), file, strategy="vote:3") as client:
            chat = client.chat.completions
            whole = chat.create(model="m", messages=ASK)
            chunks = chat.create(model="m", messages=ASK, stream=True)
            pieces = "".join(c.choices[0].delta.content or "" for c in chunks)
            raw = chat.with_raw_response.create(model="m", messages=ASK).parse()
            words = [reply.choices[0].message.content for reply in (whole, raw)]
            return [*words, pieces], client.experience.last

    async with Upstream(together) as upstream:
        words, last = await asyncio.to_thread(use)
    assert words == ["5"] * 3 and last == Use(version="v1", labels=("E1@1",), model="m", **VOTE)


async def test_what_a_strategy_does_not_take_is_asked_once(file):
    async with (
        Upstream(saying("5")) as upstream,
        tfgrpo.wrap(async_client(upstream), file, strategy="vote:3") as client,
    ):
        chat = client.chat.completions
        await chat.create(model="m", messages=ASK, n=2)
        await chat.create(model="m", messages=ASK, temperature=0)
        await chat.create(model="m", messages=ASK, extra_headers={"X-Tfgrpo-Strategy": "none"})
        await client.responses.with_raw_response.create(model="m", input="5 km in m?")
        assert len(upstream.seen) == 4
        assert not any("x-tfgrpo-strategy" in headers for _, _, headers, _ in upstream.seen)
        assert client.experience.last == Use(version="v1", labels=("E1@1",), api="responses", model="m")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
        (None, openai.APIConnectionError),
        ({"no": "completion"}, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("make", [async_client, sync_client])
async def test_a_failure_is_its_samples_own_until_all_fail(file, failure, error, make):
    async with Upstream(saying(failure, "5", "5")) as upstream, closed(make(upstream, max_retries=0)) as given:
        client = tfgrpo.wrap(given, file, strategy="vote:3")
        assert (await create(client)).choices[0].message.content == "5"
        upstream.answer, upstream.seen = saying(failure), []
        with pytest.raises(error) as raised:
            await create(client)
        assert len(upstream.seen) == 3
        if isinstance(failure, int):
            assert raised.value.status_code == failure and f"status {failure}" in raised.value.message
        if make is async_client:
            assert client.experience.last == Use(version="v1", labels=("E1@1",), model="m")


@contextlib.asynccontextmanager
async def closed(client):
    try:
        yield client
    finally:
        closing = client.close()
        if closing is not None:
            await closing


@pytest.mark.parametrize("make", [async_client, sync_client])
async def test_a_sample_that_is_slow_times_out_as_the_client_is_set_up_to(file, make):
    numbers = itertools.count()

    async def first_is_slow(request, body):
        if next(numbers) in slow:
            await asyncio.sleep(30)
        return web.json_response(completion("5"))

    async with (
        Upstream(first_is_slow) as upstream,
        closed(make(upstream, max_retries=0, timeout=0.5)) as given,
    ):
        client, slow = tfgrpo.wrap(given, file, strategy="vote:3"), {0}
        assert (await create(client)).choices[0].message.content == "5"
        slow = range(3, 6)
        with pytest.raises(openai.APITimeoutError):
            await create(client)


async def create(client):
    if isinstance(client, openai.AsyncOpenAI):
        return await client.chat.completions.create(model="m", messages=ASK)
    return await asyncio.to_thread(client.chat.completions.create, model="m", messages=ASK)


async def test_each_sample_is_tried_again_by_the_package(file):
    async with (
        Upstream(saying(503, "5", 503, "5")) as upstream,
        tfgrpo.wrap(async_client(upstream, max_retries=1), file, strategy="vote:2") as client,
    ):
        await client.chat.completions.create(model="m", messages=ASK)
        assert len(upstream.seen) in (3, 4) and client.experience.last.calls == 2


async def test_a_judge_is_asked_by_the_same_client(file):
    said = itertools.count(1)

    async def judging(request, body):
        question = json.loads(body)["messages"][-1]["content"]
        if "<answer-" in question:
            text = question.split("<answer-")[1].split("\n")[1]
            return web.json_response(completion(json.dumps({"reason": "", "score": len(text)})))
        return web.json_response(completion("x" * next(said)))

    async with (
        Upstream(judging) as upstream,
        tfgrpo.wrap(async_client(upstream), file, strategy="best:3", strategy_judge="grader") as client,
    ):
        reply = await client.chat.completions.create(model="m", messages=ASK, tools=[TOOL], max_tokens=9)
        assert reply.choices[0].message.content == "xxx" and reply.usage.prompt_tokens == 6 * 90
        assert sorted(body["model"] for body in bodies(upstream)) == ["grader"] * 3 + ["m"] * 3
        assert all(("tools" in body) == (body["model"] == "m") for body in bodies(upstream))
        assert client.experience.last.calls == 6


async def test_a_mean_is_kept_over_the_threads_of_a_sync_client(file):
    numbers = itertools.count()

    async def never_twice(request, body):
        return web.json_response(completion(f"answer {next(numbers)}"))

    async with Upstream(never_twice) as upstream, closed(sync_client(upstream)) as given:
        client = tfgrpo.wrap(given, file, strategy=adaptive(8, mean=3))
        await asyncio.gather(*(create(client) for _ in range(12)))
        assert len(upstream.seen) <= 3 * 12


async def test_a_call_that_is_given_up_gives_up_its_samples(file):
    async def slow(request, body):
        await asyncio.sleep(30)

    async with Upstream(slow) as upstream, tfgrpo.wrap(async_client(upstream), file, strategy="vote:4") as client:
        asking = asyncio.ensure_future(create(client))
        await upstream.holding(4)
        asking.cancel()
        for _ in range(300):
            if not upstream.in_flight:
                break
            await asyncio.sleep(0.01)
        assert upstream.in_flight == 0


async def test_kinds_of_clients(file):
    class Mine(openai.AsyncOpenAI):
        def __init__(self, place):
            super().__init__(base_url=place, api_key="sk-client")

    async with Upstream(saying("5")) as upstream:
        azure = openai.AsyncAzureOpenAI(
            azure_endpoint=upstream.url, api_key="k", api_version="1", azure_deployment="dep"
        )
        for given in (Mine(upstream.url), azure):
            async with tfgrpo.wrap(given, file, strategy="vote:2") as client:
                assert (await create(client)).choices[0].message.content == "5"
        assert "/openai/deployments/dep/chat/completions" in upstream.seen[-1][1]


async def test_each_of_the_packages_transports(file):
    httpx2 = pytest.importorskip("httpx2", reason="a second transport of the package, which is optional")
    async with Upstream(saying("5", "7", "5", 429)) as upstream:
        for transport in (openai.DefaultAioHttpClient(), httpx2.AsyncClient()):
            given = async_client(upstream, http_client=transport, max_retries=0)
            async with tfgrpo.wrap(given, file, strategy="vote:4") as client:
                upstream.answer = saying("5", "7", "5", 429)
                assert (await create(client)).choices[0].message.content == "5"
                assert client.experience.last.why == "2 of 3 agree"
                upstream.answer = saying(429)
                with pytest.raises(openai.RateLimitError):
                    await create(client)


def test_what_cannot_choose_is_refused_when_it_is_wrapped(file):
    bare = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1")
    for options, words in (
        ({"strategy": "vot:3"}, "did you mean 'vote'"),
        ({"strategy": "oracle:3"}, "reference answers"),
        ({"strategy": "vote:3", "strategy_judge": "grader"}, "asks no judge"),
        ({"strategy_judge": "grader"}, "needs strategy="),
        ({"strategy": best(3, by=exact())}, "reference answer"),
        (
            {"strategy": best(3, caller=tfgrpo.LateCaller(tfgrpo.connect("http://127.0.0.1:9/v1#judge")))},
            "at the same server",
        ),
    ):
        with pytest.raises(InputError, match=words):
            tfgrpo.wrap(bare, file, **options)
