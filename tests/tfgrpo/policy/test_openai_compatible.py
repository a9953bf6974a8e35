"""The policy against a real server on loopback: replies, faults, refusals, keys."""

import asyncio
import time
import traceback
from email.utils import formatdate

import pytest
from servers import ChatServer, Fault, error_body

from tfgrpo.errors import AuthError, RequestError, TransportError
from tfgrpo.policy import Price, Sampling, connect
from tfgrpo.policy.chat import ChatPolicy
from tfgrpo.policy.openai_compatible import is_loopback, openai_wire, shown_url

ASK = ({"role": "user", "content": "6 * 7?"},)
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
def policy_of():
    """Policies on a server with a short back-off; closed by the test's `async with closing(...)`."""

    def make(server, *, api_key=None, max_retries=3, timeout_s=5.0, price=None):
        return ChatPolicy(
            openai_wire(server.url, api_key, foreign=True), name=f"{server.url}#m", model="m", where=server.url,
            price=price, timeout_s=timeout_s, max_retries=max_retries, backoff_s=0.01,
        )  # fmt: skip

    return make


@pytest.fixture
async def policy(chat_server, policy_of):
    policy = policy_of(chat_server)
    policy.notices = []
    policy.on_notice(policy.notices.append)
    yield policy
    await policy.aclose()


async def test_a_reply_with_its_usage_cost_model_and_reason(chat_server):
    chat_server.usage = {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 30},
    }  # fmt: skip
    chat_server.finish_reason = "length"
    price = Price(prompt_usd_per_mtok=1, completion_usd_per_mtok=10, cached_usd_per_mtok=0.5)
    policy = connect(f"{chat_server.url}#m", price=price)
    got = await policy.complete(ASK, Sampling(seed=5, stop=("END",), max_tokens=7, extra={"top_k": 3}))
    await policy.aclose()
    assert (got.usage.prompt_tokens, got.usage.cached_tokens, got.usage.reasoning_tokens) == (100, 40, 30)
    assert got.cost_usd == pytest.approx((60 * 1 + 40 * 0.5 + 50 * 10) / 1e6)
    assert (got.model, got.finish_reason, got.policy) == ("served-model", "length", f"{chat_server.url}#m")
    assert got.prompt == ASK and got.messages == ({"role": "assistant", "content": got.text},)
    assert 0 < got.latency_s < 1
    assert chat_server.requests == [{
        "model": "m", "messages": [{"role": "user", "content": "6 * 7?"}], "max_tokens": 7, "temperature": 1.0,
        "top_p": 1.0, "seed": 5, "stop": ["END"], "top_k": 3,
    }]  # fmt: skip
    assert chat_server.headers[0]["Authorization"] == "Bearer EMPTY"


async def test_tool_calls_empty_refused_and_unknown_replies_are_completions(chat_server, policy):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        ({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls", "", "tool_calls"),
        ({"role": "assistant", "content": ""}, "stop", "", "stop"),
        ({"role": "assistant", "content": None, "refusal": "I will not"}, "stop", "I will not", "content_filter"),
        ({"role": "assistant", "content": "x", "reasoning_content": "hm"}, "weird", "x", "unknown"),
    ]
    for message, reason, text, mapped in messages:
        chat_server.answer, chat_server.finish_reason = (lambda body, m=message: m), reason
        got = await policy.complete(ASK, Sampling())
        assert (got.text, got.finish_reason) == (text, mapped)
    chat_server.answer = lambda body: {"role": "assistant", "content": None, "tool_calls": [call]}
    assert (await policy.complete(ASK, Sampling())).messages[0]["tool_calls"] == [call]
    await policy.complete((*ASK, got.messages[0]), Sampling())
    assert "reasoning_content" in got.messages[0] and "reasoning_content" not in chat_server.requests[-1]["messages"][1]


async def test_missing_usage_is_estimated_flagged_and_told_once(chat_server, policy):
    chat_server.usage = False
    for _ in range(2):
        got = await policy.complete(ASK, Sampling())
    assert got.usage.estimated and got.usage.prompt_tokens == 26 and got.usage.completion_tokens == 7
    assert [n.name for n in policy.notices] == ["usage_missing"]


TRANSIENT = [
    Fault(kind="drop"), Fault(kind="half"), Fault(kind="garbage"), Fault(500), Fault(503), Fault(408), Fault(409),
    Fault(429), Fault(429, headers={"Retry-After": "0"}), Fault(200, {"error": {"code": 502, "message": "upstream"}}),
    Fault(200, {"choices": []}), Fault(200, "[]"),
]  # fmt: skip


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda f: f"{f.kind}-{f.status}-{str(f.body)[:12]}")
async def test_transient_faults_are_retried_and_end_as_missing_data(chat_server, policy, fault):
    chat_server.faults = [fault, fault]
    assert (await policy.complete(ASK, Sampling())).text.startswith("answer")
    chat_server.faults = [fault] * 50
    with pytest.raises(TransportError, match=r"no reply from 'm' at http://127.0.0.1:\d+/v1 after \d+ tries"):
        await policy.complete(ASK, Sampling())


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(401, error_body("bad key")), AuthError, "refuses the key.*bad key.*set a valid key"),
        (Fault(403, error_body("no access")), AuthError, "no access"),
        (Fault(429, error_body("no credit", code="insufficient_quota")), AuthError, "no credit left"),
        (Fault(404, error_body("model not found")), RequestError, "model not found.*HTTP 404.*model's name"),
        (Fault(400, error_body("maximum context length is 10")), RequestError, "maximum context"),
        (Fault(422, {"detail": [{"msg": "bad"}]}), RequestError, "bad"),
        (Fault(500, error_body("never"), {"x-should-retry": "false"}), RequestError, "never"),
        (Fault(400, "plain words"), RequestError, "plain words"),
    ],
)
async def test_what_cannot_be_helped_by_asking_again_is_asked_once(chat_server, policy, fault, kind, words):
    chat_server.faults = [fault] * 3
    with pytest.raises(kind, match=words):
        await policy.complete(ASK, Sampling())
    assert len(chat_server.requests) == 1


async def test_a_hanging_server_is_a_time_out(chat_server, policy_of):
    policy = policy_of(chat_server, max_retries=1, timeout_s=0.2)
    chat_server.faults = [Fault(kind="hang")] * 2
    with pytest.raises(TransportError, match=r"0\.2 s.*raise timeout_s"):
        await policy.complete(ASK, Sampling())
    assert (await policy.complete(ASK, Sampling())).text
    await policy.aclose()


async def test_a_server_that_is_not_there_is_told_soon(policy_of):
    server = await ChatServer().start()
    await server.stop()
    policy = policy_of(server, max_retries=50)
    with pytest.raises(TransportError, match=r"after 3 tries.*is the server running"):
        await policy.complete(ASK, Sampling())
    await policy.aclose()


async def test_a_server_that_comes_back_is_waited_for(policy_of):
    server = await ChatServer().start()
    policy = policy_of(server, max_retries=12)
    await policy.complete(ASK, Sampling())
    await server.stop()
    asked = asyncio.create_task(policy.complete(ASK, Sampling()))
    await asyncio.sleep(0.1)
    again = await ChatServer().start(server.port)
    assert (await asked).text.startswith("answer")
    await policy.aclose()
    await again.stop()


@pytest.mark.parametrize("header", ["seconds", "date", "ms"])
async def test_retry_after_is_honoured_by_all_calls(chat_server, policy, header):
    wait_s = {"seconds": 0.5, "date": 2.0, "ms": 0.5}[header]
    value = {"seconds": {"Retry-After": "0.5"}, "date": {"Retry-After": formatdate(time.time() + 2, usegmt=True)},
             "ms": {"retry-after-ms": "500"}}[header]  # fmt: skip
    chat_server.faults = [Fault(429, error_body("slow"), value)]
    started = time.monotonic()
    first = asyncio.create_task(policy.complete(ASK, Sampling()))
    await asyncio.sleep(0.05)
    await asyncio.gather(first, policy.complete(ASK, Sampling(seed=1)))
    assert time.monotonic() - started > wait_s - 1.05 * (header == "date")  # a date has whole seconds
    assert len(chat_server.requests) == 3
    assert policy.notices[0].name == "rate_limited" and policy.notices[0].data["said"] == "slow"


async def test_a_429_storm_slows_down_and_loses_nothing(chat_server, policy):
    chat_server.max_in_flight, chat_server.latency_s = 4, 0.005
    replies = await asyncio.gather(*(policy.complete(ASK, Sampling(seed=n)) for n in range(120)))
    assert len(replies) == chat_server.replies == 120
    assert policy._retries.pacer.limit < 20
    assert sum(chat_server.counts.values()) < 120 * 4


REFUSALS = {
    "temperature": "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value",
    "top_p": "Unsupported parameter: 'top_p' is not supported with this model.",
    "seed": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'}]",
    "stop": "Unsupported parameter: 'stop' is not supported with this model.",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
}


async def test_refused_parameters_are_given_up_once_remembered_and_told(chat_server, policy):
    chat_server.refuse = dict(REFUSALS)
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=1, stop=("x",), max_tokens=9)
    assert (await policy.complete(ASK, sampling)).text.startswith("answer")
    assert len(chat_server.requests) == 6
    assert chat_server.requests[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert chat_server.requests[-1]["max_completion_tokens"] == 9
    await asyncio.gather(*(policy.complete(ASK, sampling) for _ in range(5)))
    assert len(chat_server.requests) == 11
    assert {n.data["parameter"]: n.data["instead"] for n in policy.notices} == {
        "temperature": "nothing", "top_p": "nothing", "seed": "nothing", "stop": "nothing",
        "max_tokens": "max_completion_tokens",
    }  # fmt: skip


async def test_many_calls_in_flight_learn_together(chat_server, policy):
    chat_server.refuse, chat_server.latency_s = dict(REFUSALS), 0.01
    await asyncio.gather(*(policy.complete(ASK, Sampling(seed=n, temperature=0.5)) for n in range(20)))
    assert len(policy.notices) == len({n.data["parameter"] for n in policy.notices}) == 4


async def test_a_schema_degrades_to_json_object_and_then_to_words(chat_server, policy):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    first = await policy.complete(ASK, Sampling(schema=schema))
    assert chat_server.requests[-1]["response_format"]["json_schema"]["schema"] == schema
    assert first.prompt == ASK
    chat_server.refuse = {"response_format.json_schema": "response_format of type 'json_schema' is not supported"}
    second = await policy.complete(ASK, Sampling(schema=schema))
    assert chat_server.requests[-1]["response_format"] == {"type": "json_object"}
    assert "JSON schema" in second.prompt[-1]["content"] and second.prompt[-1]["content"].startswith("6 * 7?")
    chat_server.refuse = {"response_format": "unknown field response_format"}
    third = await policy.complete(ASK, Sampling(schema=schema))
    assert "response_format" not in chat_server.requests[-1] and third.prompt == second.prompt
    assert [n.data["instead"] for n in policy.notices] == ["json_object", "words"]
    assert chat_server.requests[-1]["messages"] == [dict(m) for m in third.prompt]


async def test_a_value_out_of_range_is_not_silently_dropped(chat_server, policy):
    chat_server.refuse = {"max_tokens": "'max_tokens' is too large: 99. This model's maximum context length is 50"}
    with pytest.raises(RequestError, match="too large"):
        await policy.complete(ASK, Sampling(max_tokens=99))
    chat_server.refuse = {"temperature": "temperature must be between 0 and 2, got 3"}
    with pytest.raises(RequestError, match="between 0 and 2"):
        await policy.complete(ASK, Sampling(temperature=3))


async def test_no_key_appears_anywhere_even_when_the_server_echoes_it(chat_server, policy_of):
    chat_server.api_key = KEY
    echo = f"you sent Bearer {KEY}"
    policy = policy_of(chat_server, api_key=KEY, max_retries=0)
    seen = []
    policy.on_notice(seen.append)
    chat_server.answer = lambda body: echo
    texts = [repr(policy), repr(vars(policy)), repr(vars(policy._wire)), str(await policy.complete(ASK, Sampling()))]
    for status in (400, 401, 404, 429, 500):
        chat_server.faults = [Fault(status, error_body(echo) if status != 500 else echo)]
        with pytest.raises((AuthError, RequestError, TransportError)) as caught:
            await policy.complete(ASK, Sampling())
        texts += traceback.format_exception(caught.value)
        error = caught.value
        while error is not None:
            texts += [repr(error), str(error)]
            error = error.__context__
    wrong = policy_of(chat_server, api_key=KEY + "-wrong", max_retries=0)
    with pytest.raises(AuthError) as caught:
        await wrong.complete(ASK, Sampling())
    texts += [str(caught.value), *map(repr, seen)]
    await policy.aclose()
    await wrong.aclose()
    assert seen and "[key]" in "".join(texts) and not [t for t in texts if KEY in t]


def test_one_policy_serves_several_event_loops():
    async def ask(server_url, policy):
        got = await policy.complete(ASK, Sampling())
        await policy.aclose()
        return got.text

    async def session(policy, port):
        server = await ChatServer().start(port)
        text = await ask(server.url, policy or connect(f"{server.url}#m"))
        await server.stop()
        return text, server

    text, server = asyncio.run(session(None, 0))
    policy = connect(f"{server.url}#m")
    assert [asyncio.run(session(policy, server.port))[0] for _ in range(2)] == [text, text]


def test_urls_are_shown_without_secrets():
    assert shown_url("https://me:pw@host:8443/v1?token=x") == "https://host:8443/v1"
    assert is_loopback("http://[::1]:80/v1") and not is_loopback("https://host/v1")
