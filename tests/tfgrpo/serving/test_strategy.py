"""A strategy before a server, over real HTTP: what goes out, what comes back, what it cost, and its failures."""

import asyncio
import gzip
import itertools
import json

import openai
import pytest
from aiohttp import web
from cli import call
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from upstreams import CHAT, KEY, NOTE, Upstream, ask, completion, library, lines, proxied

from tfgrpo.errors import InputError
from tfgrpo.rewards.simple import exact, regex
from tfgrpo.serving.refusal import Refused
from tfgrpo.serving.reply import Reply
from tfgrpo.serving.strategy import Several
from tfgrpo.strategies import adaptive, best, oracle, refine, resolve_strategy, tournament, vote

KEYS = st.sampled_from(
    ["content", "role", "tool_calls", "function", "arguments", "name", "text", "type", "total_tokens"]
)


def saying(*texts, **more):
    """Answers one request after another with these; a number is a status, an exception is a broken connection."""
    left = list(texts)

    async def answer(request, body):
        text = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(text, int):
            return web.json_response({"error": {"message": f"status {text}"}}, status=text)
        if text is None:
            request.transport.abort()
            return web.Response()
        return web.json_response(text if isinstance(text, dict) else completion(text, **more))

    return answer


def several(spec, judge="", **options):
    return Several(resolve_strategy(spec, **options), judge=judge)


def bodies(upstream):
    return [json.loads(body) for _, _, _, body in upstream.seen]


async def test_the_answer_of_most_comes_back_with_the_usage_of_all(tmp_path):
    async with (
        Upstream(saying("7", "5", "9", "5.", "5")) as upstream,
        proxied(upstream, library(tmp_path, NOTE), several=several("vote:5")) as client,
    ):
        response = await ask(client, {**CHAT, "seed": 40, "max_tokens": 9})
        assert response.status == 200 and response.words in ("5", "5.")
        assert response.json["usage"] == {
            "prompt_tokens": 450, "completion_tokens": 35, "total_tokens": 485,
            "prompt_tokens_details": {"cached_tokens": 320},
        }  # fmt: skip
        assert response.headers["x-tfgrpo-strategy"] == "vote(n=5, reading=auto)"
        assert response.headers["x-tfgrpo-calls"] == "5" and response.headers["x-tfgrpo-why"] == "3 of 5 agree"
        assert response.headers["x-tfgrpo-version"] == "v1"
        asked = bodies(upstream)
        assert sorted(body["seed"] for body in asked) == [40, 41, 42, 43, 44]
        assert all(NOTE in body["messages"][0]["content"] and body["max_tokens"] == 9 for body in asked)
        assert {headers["Authorization"] for _, _, headers, _ in upstream.seen} == {f"Bearer {KEY}"}
        (line,) = [row for row in lines(client.log) if row["event"] == "request"]
        assert (line["status"], line["prompt_tokens"], line["completion_tokens"]) == (200, 450, 35)


@pytest.mark.parametrize("usage", [False, True])
async def test_a_streamed_request_gets_one_chunk_that_real_clients_read(tmp_path, usage):
    async with (
        Upstream(saying("5", "5", "7")) as upstream,
        proxied(upstream, library(tmp_path), several=several("vote:3")) as client,
    ):
        options = {"stream_options": {"include_usage": True}} if usage else {}
        async with openai.AsyncOpenAI(base_url=f"{client.server.url}/v1", api_key=KEY) as own:
            stream = await own.chat.completions.create(**CHAT, stream=True, **options)
            chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "5"
        assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, "stop"]
        assert [c.usage.prompt_tokens for c in chunks if c.usage] == [270] * usage
        assert all("stream" not in body and "stream_options" not in body for body in bodies(upstream))


async def test_tool_calls_are_voted_on_and_streamed(tmp_path):
    def calling(city):
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        reply = completion(None)
        reply["choices"][0]["message"]["tool_calls"] = [{"id": city, "type": "function", "function": function}]
        return reply

    async with (
        Upstream(saying(calling("Rome"), calling("Oslo"), calling("Oslo"))) as upstream,
        proxied(upstream, library(tmp_path), several=several("vote:3")) as client,
    ):
        response = await ask(client, {**CHAT, "stream": True})
        chunk = json.loads(response.body.split(b"\n\n")[0].removeprefix(b"data: "))
        (made,) = chunk["choices"][0]["delta"]["tool_calls"]
        assert (made["index"], made["id"]) == (0, "Oslo")
        assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({**CHAT, "n": 2}, {}),
        ({**CHAT, "temperature": 0}, {}),
        (CHAT, {"x-tfgrpo-strategy": "none"}),
        ({"model": "m", "messages": [{"role": "system", "content": "x"}]}, {}),
        ({"model": "m", "messages": [{"role": "user", "content": 1}]}, {}),
        ({"model": "m", "messages": "hi"}, {}),
        ([1], {}),
    ],
)
async def test_what_is_asked_once_passes_through(tmp_path, body, headers):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path), several=several("vote:3")) as client:
        response = await ask(client, body, headers=headers)
        assert len(upstream.seen) == 1 and "x-tfgrpo-strategy" not in response.headers
        assert json.loads(upstream.seen[0][3]) == body


async def test_other_apis_pass_through(tmp_path):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path), several=several("vote:3")) as client:
        await ask(client, {"model": "m", "input": "hi"}, "/v1/responses")
        await ask(client, {"model": "m", "input": "hi"}, "/v1/embeddings")
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("failure", [500, 429, 400, None, {"no": "completion"}, {"choices": [{"message": "x"}]}])
async def test_a_failed_sample_is_its_own_loss(tmp_path, failure):
    async with (
        Upstream(saying(failure, "5", "5", "7")) as upstream,
        proxied(upstream, library(tmp_path), several=several("vote:4")) as client,
    ):
        response = await ask(client)
        assert response.status == 200 and response.words == "5" and len(upstream.seen) >= 4


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_when_all_fail_the_servers_own_error_comes_back(tmp_path, status):
    async with (
        Upstream(saying(status)) as upstream,
        proxied(upstream, library(tmp_path), several=several("vote:3")) as client,
    ):
        response = await ask(client)
        assert response.status == status and response.json == {"error": {"message": f"status {status}"}}
        assert "x-tfgrpo-error" not in response.headers and response.headers["x-tfgrpo-version"]


@pytest.mark.parametrize("broken", [None, {"no": "completion"}])
async def test_when_nothing_whole_comes_it_is_a_bad_gateway(tmp_path, broken):
    async with (
        Upstream(saying(broken)) as upstream,
        proxied(upstream, library(tmp_path), several=several("adaptive:3")) as client,
    ):
        response = await ask(client)
        assert response.status == 502 and response.headers["x-tfgrpo-error"] == "upstream_broke"


async def test_a_zipped_answer_is_read(tmp_path):
    async def zipped(request, body):
        data = gzip.compress(json.dumps(completion("5")).encode())
        return web.Response(body=data, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    async with Upstream(zipped) as up, proxied(up, library(tmp_path), several=several("vote:2")) as client:
        assert (await ask(client)).words == "5"
        assert up.seen[0][2]["Accept-Encoding"] == "identity"


async def test_a_client_that_goes_away_cancels_every_sample(tmp_path):
    async def slow(request, body):
        await asyncio.sleep(30)

    async with Upstream(slow) as upstream, proxied(upstream, library(tmp_path), several=several("vote:4")) as client:
        asking = asyncio.ensure_future(ask(client))
        await upstream.holding(4)
        asking.cancel()
        for _ in range(300):
            if not upstream.in_flight:
                break
            await asyncio.sleep(0.01)
        assert upstream.in_flight == 0 and client.server.in_flight == 0


def judging(request, body):
    """Solves by saying one thing after another, and judges longer answers to be better."""
    data = json.loads(body)
    question = data["messages"][-1]["content"]
    judging.models.append(data["model"])
    if "<answer-" in question:
        text = question.split("<answer-")[1].split("\n")[1]
        return web.json_response(completion(json.dumps({"reason": "", "score": len(text)})))
    judging.said += 1
    return web.json_response(completion("x" * judging.said))


@pytest.mark.parametrize(("judge", "asked"), [("", "m"), ("grader", "grader")])
async def test_a_judge_is_asked_at_the_same_server(tmp_path, judge, asked):
    judging.models, judging.said = [], 0

    async def answer(request, body):
        return judging(request, body)

    async with (
        Upstream(answer) as upstream,
        proxied(upstream, library(tmp_path), several=several("best:3", judge=judge)) as client,
    ):
        response = await ask(client)
        assert response.words == "xxx" and response.headers["x-tfgrpo-calls"] == "6"
        assert judging.models == ["m"] * 3 + [asked] * 3
        assert response.json["usage"]["prompt_tokens"] == 6 * 90
        assert {headers["Authorization"] for _, _, headers, _ in upstream.seen} == {f"Bearer {KEY}"}


async def test_options_that_a_judge_refuses_are_left_out(tmp_path):
    async def picky(request, body):
        data = json.loads(body)
        if "<answer-" in data["messages"][-1]["content"]:
            if "temperature" in data:
                return web.json_response({"error": {"message": "unsupported: temperature"}}, status=400)
            return web.json_response(completion('{"reason": "", "score": 5}'))
        return web.json_response(completion("5"))

    async with Upstream(picky) as up, proxied(up, library(tmp_path), several=several("best:2")) as client:
        response = await ask(client)
        assert response.status == 200 and "scored 0.5 to 0.5" in response.headers["x-tfgrpo-why"]


async def test_a_draft_is_refined(tmp_path):
    async def answer(request, body):
        question = json.loads(body)["messages"][-1]["content"]
        return web.json_response(completion("better" if "<draft>\nworse\n</draft>" in question else "worse"))

    async with Upstream(answer) as up, proxied(up, library(tmp_path), several=several("refine:2")) as client:
        assert (await ask(client, {**CHAT, "temperature": 0})).words == "better"


async def test_a_tournament_by_the_same_server(tmp_path):
    async def answer(request, body):
        data = json.loads(body)
        if data["messages"][0]["role"] == "system":
            first, second = (part.split("\n")[1] for part in data["messages"][1]["content"].split("\n\n")[1:3])
            return web.json_response(completion(json.dumps({"reason": "", "first": int(first), "second": int(second)})))
        return web.json_response(completion(str(data["seed"])))

    async with Upstream(answer) as up, proxied(up, library(tmp_path), several=several("tournament:4")) as client:
        response = await ask(client, {**CHAT, "seed": 2})
        assert response.words == "5" and response.headers["x-tfgrpo-calls"] == str(4 + 2 * 3)


async def test_a_mean_is_kept_over_requests(tmp_path):
    numbers = iter(range(10_000))

    async def never_twice(request, body):
        return web.json_response(completion(f"answer {next(numbers)}"))

    strategy = adaptive(8, mean=3)
    async with Upstream(never_twice) as up, proxied(up, library(tmp_path), several=Several(strategy)) as client:
        calls = [int((await ask(client)).headers["x-tfgrpo-calls"]) for _ in range(12)]
        assert sum(calls) <= 3 * 12 and max(calls) <= 8 and sum(calls) == len(up.seen)


async def test_readings_of_fields(tmp_path):
    answers = ['{"why": "a", "answer": 5}', '{"why": "b", "answer": 7}', '{"why": "c", "answer": 5}']
    chosen = several("vote:3", reading="json:answer")
    async with Upstream(saying(*answers)) as up, proxied(up, library(tmp_path), several=chosen) as client:
        response = await ask(client)
        assert json.loads(response.words)["answer"] == 5 and response.headers["x-tfgrpo-why"] == "2 of 3 agree"


async def test_what_needs_a_task_is_refused_at_the_start(tmp_path):
    for strategy, words in (
        (oracle(3), "reference answers"),
        (best(3, by="task"), "for an evaluation"),
        (best(3, by=exact()), "sees no reference answer"),
    ):
        with pytest.raises(InputError, match=words):
            async with proxied(
                "http://127.0.0.1:9/v1", library(tmp_path, name=strategy.name), several=Several(strategy)
            ):
                pass
    with pytest.raises(InputError, match="asks no judge"):
        Several(vote(3), judge="grader")
    await Several(best(3, by=regex(pattern=r"\d"))).check()
    await Several(tournament(3)).check()
    await Several(refine(2)).check()


def test_the_command_line_refuses_what_cannot_work(tmp_path):
    place = library(tmp_path, NOTE)
    base = ["serve", "--store", place, "--upstream", "http://127.0.0.1:9/v1", "--port", 0, "--log", "none"]
    for args, words in (
        (["--strategy", "vot:3"], "did you mean 'vote'"),
        (["--strategy", "oracle:3"], "reference answers"),
        (["--strategy", "vote:3", "--strategy-judge", "m"], "asks no judge"),
        (["--strategy-judge", "m"], "needs --strategy"),
        (["--strategy", "vote:3", "--strategy-option", "reading=nothing"], "unknown reading"),
    ):
        refused = call(*base, *args)
        assert refused.code == 2 and words in refused.err, refused.err


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries({"content": st.text(max_size=8) | st.none()}, optional={"tool_calls": JSON})
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "tool", "assistant"])}, optional={"content": JSON}
    ),
    max_size=3,
)
REPLIES = JSON | st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"message": JSON | MESSAGE}, optional={"finish_reason": JSON}))},
    optional={"usage": JSON},
)


@settings(max_examples=150, deadline=None)
@given(
    spec=st.sampled_from(["vote:3", "adaptive:3", "best:2", "tournament:3", "refine:2"]),
    body=st.fixed_dictionaries(
        {"messages": MESSAGES}, optional=dict.fromkeys(("seed", "n", "stream", "temperature"), JSON)
    ),
    replies=st.lists(st.tuples(st.sampled_from([200, 200, 200, 400, 500]), REPLIES), min_size=1, max_size=4),
)
def test_nothing_that_is_sent_or_answered_is_a_fault_of_ours(spec, body, replies):
    """Whatever a client asks and a server says, there is an answer of the server, or a refusal."""
    left = itertools.cycle(replies)

    async def send(data):
        status, reply = next(left)
        raw = json.dumps(reply).encode()
        return Reply(status=status, headers=CIMultiDict(), body=raw, plain=raw)

    one = several(spec)
    if one.takes(body, {}):
        try:
            reply = asyncio.run(one.answer(body, send, "r"))
        except Refused as refused:
            assert refused.status == 502
        else:
            assert reply.body and (reply.status >= 400 or reply.headers["x-tfgrpo-calls"])
