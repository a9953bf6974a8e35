"""Who may ask: tokens, namespaces, and what a web page in the user's browser may not do."""

import pytest
from aiohttp import ClientSession
from upstreams import CHAT, KEY, Upstream, ask, library, proxied

from tfgrpo.errors import InputError
from tfgrpo.serving.access import Access, tokens_of

ALICE, BOB, OPERATOR = "token-of-alice-01", "token-of-bob-0001", "token-of-operator"
TOKENS = {ALICE: "alice", BOB: "bob", OPERATOR: "*"}


@pytest.fixture
def places(tmp_path):
    return {
        "alice": library(tmp_path, "Alice knows a secret way.", name="alice.json"),
        "bob": library(tmp_path, "Bob knows another.", name="bob.json"),
    }


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


async def test_each_token_sees_its_own_library_and_no_other(places):
    async with Upstream() as upstream, proxied(upstream, places, tokens=TOKENS) as client:
        alice, bob = await ask(client, headers=bearer(ALICE)), await ask(client, headers=bearer(BOB))
        assert "Alice" in alice.words and "Bob" not in alice.words
        assert "Bob" in bob.words and "Alice" not in bob.words
        for path in ("/readyz", "/metrics", "/openapi.json", "/healthz"):
            async with client.get(path, headers=bearer(ALICE)) as response:
                assert "bob" not in (await response.text()).lower()


async def test_the_proxys_token_is_never_handed_on(places):
    async with Upstream() as upstream, proxied(upstream, places, tokens=TOKENS) as client:
        assert (await ask(client, headers=bearer(ALICE))).status == 200
        assert "Authorization" not in upstream.seen[-1][2]
        assert (await ask(client, headers={**bearer(KEY), "X-Tfgrpo-Token": BOB})).status == 200
        assert upstream.seen[-1][2]["Authorization"] == f"Bearer {KEY}"
        assert "X-Tfgrpo-Token" not in upstream.seen[-1][2]
        for twice in ({**bearer(BOB)}, {"api-key": ALICE, **bearer(KEY)}, {"Authorization": f"bearer  {BOB}"}):
            assert (await ask(client, headers={**twice, "x-tfgrpo-token": BOB})).status == 200
            assert ALICE not in str(upstream.seen[-1][2]) and BOB not in str(upstream.seen[-1][2])
        assert (await ask(client, headers={"Authorization": f"bearer {BOB}"})).status == 200
    async with Upstream() as upstream, proxied(upstream, places, tokens=TOKENS, key="sk-server-0123") as client:
        await ask(client, headers=bearer(ALICE))
        assert upstream.seen[-1][2]["Authorization"] == "Bearer sk-server-0123"


@pytest.mark.parametrize(
    "headers",
    [{}, bearer(""), bearer(ALICE[:-1]), bearer(ALICE + "x"), bearer(ALICE.upper()),
     {"Authorization": f"Basic {ALICE}"}, {"x-tfgrpo-token": "wrong", **bearer(ALICE)}],
)  # fmt: skip
async def test_without_its_token_nobody_is_answered(places, headers):
    async with Upstream() as upstream, proxied(upstream, places, tokens=TOKENS) as client:
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/metrics")):
            async with client.request(method, path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert ALICE not in await response.text()
        assert not upstream.seen
        for path in ("/healthz", "/readyz"):
            async with client.get(path, headers=headers) as response:
                assert response.status == 200 and "libraries" not in await response.json()


async def test_the_operator_reads_the_pages_and_no_library(places):
    async with Upstream() as upstream, proxied(upstream, places, tokens=TOKENS) as client:
        async with client.get("/metrics", headers=bearer(OPERATOR)) as response:
            assert response.status == 200 and 'namespace="bob"' in await response.text()
        async with client.get("/metrics", headers=bearer(ALICE)) as response:
            assert response.status == 403
        async with client.get("/readyz", headers=bearer(OPERATOR)) as response:
            assert set((await response.json())["libraries"]) == {"alice", "bob"}
        answer = await ask(client, headers=bearer(OPERATOR))
        assert (answer.status, answer.json["error"]["code"]) == (403, "no_library")


async def test_a_page_of_another_host_learns_nothing_of_the_libraries(tmp_path):
    """By DNS rebinding a page reaches loopback under its own name, and may read what it gets."""
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, "x")) as client:
        async with client.get("/readyz", headers={"Host": "evil.example"}) as response:
            assert await response.json() == {"status": "ready"}
        async with client.get("/readyz") as response:
            assert "libraries" in await response.json()


async def test_an_address_that_others_reach_needs_tokens(tmp_path, places):
    file = library(tmp_path, "x", name="x.json")
    async with Upstream() as upstream:
        with pytest.raises(InputError, match="can be reached from other machines, so requests need tokens"):
            async with proxied(upstream, file, host="0.0.0.0"):
                pass
        async with proxied(upstream, places, host="0.0.0.0", tokens=TOKENS) as client:
            url = client.server.url.replace("0.0.0.0", "127.0.0.1")
            async with ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=CHAT) as response:
                assert response.status == 401


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "foreign_host"),
        ({"Host": "127.0.0.1.evil.example"}, "foreign_host"),
        ({"Host": "[::bad"}, "foreign_host"),
        ({"Origin": "https://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Host": "localhost:1", "Origin": "http://localhost:3000"}, ""),
        ({"Host": "127.0.0.1", "Origin": "http://[::1]:5"}, ""),
    ],
)
async def test_without_tokens_a_foreign_web_page_is_refused(tmp_path, headers, code):
    async with Upstream() as upstream, proxied(upstream, library(tmp_path, "x")) as client:
        for path in ("/v1/chat/completions", "/v1/models"):
            async with client.post(path, json=CHAT, headers=headers) as response:
                assert response.status == (403 if code else 200)
                assert response.headers.get("x-tfgrpo-error", "") == code
        assert bool(upstream.seen) == (not code)
        assert all("Origin" not in sent for _, _, sent, _ in upstream.seen)


def test_tokens_are_read_from_the_variable_and_a_file(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n\n{ALICE} alice\n{OPERATOR} *\n{'d' * 16}\n")
    file.chmod(0o600)
    found, warnings = tokens_of(f"{BOB}=bob, {'c' * 16}", str(file))
    assert found == {BOB: "bob", "c" * 16: "default", ALICE: "alice", OPERATOR: "*", "d" * 16: "default"}
    assert not warnings and tokens_of(None, None) == ({}, [])
    file.chmod(0o644)
    assert "chmod 600" in tokens_of(None, str(file))[1][0]
    assert Access(found).namespaces == ("alice", "bob", "default")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("short=a", "use at least 16"),
        (f"{ALICE}=a,{ALICE}=b", "two namespaces"),
        ("with space 0123456789=a", "at least 16"),
    ],
)
def test_bad_tokens_are_refused_and_not_shown(text, words):
    with pytest.raises(InputError, match=words) as told:
        tokens_of(text, None)
    assert text.partition("=")[0] not in str(told.value)


def test_a_token_file_that_is_not_there():
    with pytest.raises(InputError, match="cannot read the tokens in"):
        tokens_of(None, "/nonexistent/tokens")


def test_every_token_is_compared_before_the_answer():
    """The check does not stop at the first that fits: a token that stands first is no faster than the last one."""
    tokens = {f"{n:016d}": f"n{n}" for n in range(2000)}
    access = Access(tokens)
    assert all(access.of_token(token) == space for token, space in list(tokens.items())[:3] + list(tokens.items())[-3:])
    assert access.of_token("") is None and access.of_token("\udcff") is None
