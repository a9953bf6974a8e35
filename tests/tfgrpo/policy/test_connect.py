import subprocess
import sys

import pytest

from tfgrpo.errors import AuthError, InputError
from tfgrpo.policy import Price, Sampling, connect

ASK = ({"role": "user", "content": "6 * 7?"},)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "TFGRPO_API_KEY",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "model",
    ["", "gpt-4.1", "openai/", "/x", "http://host:1/v1", "ftp://host/v1#m", "http://#m", "http://u:pw@host/v1#m"],
)
def test_malformed_names_list_the_forms(model):
    with pytest.raises(InputError, match=r"openai/NAME|http://HOST:PORT/v1#NAME|api_key") as caught:
        connect(model)
    assert "pw" not in str(caught.value)


def test_a_missing_key_says_which():
    with pytest.raises(AuthError, match="set OPENAI_API_KEY"):
        connect("openai/gpt-4.1-mini")
    with pytest.raises(InputError, match="AZURE_OPENAI_ENDPOINT"):
        connect("azure/d")
    with pytest.raises(AuthError, match="set AZURE_OPENAI_API_KEY"):
        connect("azure/d", base_url="https://x")


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it():
    with pytest.raises(AuthError) as caught:
        connect("openai/x", api_key="sk-with space")
    assert "sk-with" not in str(caught.value)


def test_prices_belong_to_the_official_server_only():
    assert connect("openai/gpt-4.1-mini", api_key="sk-x").price.completion_usd_per_mtok == 1.6
    assert connect("openai/gpt-4.1-mini", base_url="http://127.0.0.1:1/v1").price is None
    assert connect("http://127.0.0.1:1/v1#gpt-4.1-mini").price is None
    own = connect("http://127.0.0.1:1/v1#x", price="0/0").price
    assert own == Price(prompt_usd_per_mtok=0, completion_usd_per_mtok=0)


async def test_openai_with_a_base_url_sends_its_key_and_a_plain_url_does_not(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment\n")
    named = connect("openai/m", base_url=chat_server.url)
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    by_env, plain = connect("openai/m"), connect(f"http://127.0.0.1:{chat_server.port}#m")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    for policy in (named, by_env, plain):
        await policy.complete(ASK, Sampling())
        await policy.aclose()
    sent = [h["Authorization"] for h in chat_server.headers]
    assert sent[:2] == ["Bearer sk-from-environment"] * 2 and "sk-from" not in sent[2]
    told = ["openai-organization" in {name.lower() for name in h} for h in chat_server.headers]
    assert told == [True, True, False]
    assert plain.name == f"http://127.0.0.1:{chat_server.port}/v1#m"


async def test_azure_asks_the_deployment_with_its_own_header(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_VERSION", "2099-01-01")
    policy = connect("azure/my-deployment", base_url=f"http://127.0.0.1:{chat_server.port}", api_key="azure-key-12345")
    got = await policy.complete(ASK, Sampling())
    await policy.aclose()
    assert got.policy == "azure/my-deployment"
    assert chat_server.paths == ["/openai/deployments/my-deployment/chat/completions?api-version=2099-01-01"]
    assert chat_server.headers[0]["api-key"] == "azure-key-12345"
    assert chat_server.requests[0]["max_completion_tokens"] == 1024


def test_importing_the_policies_loads_no_heavy_package():
    heavy = ("openai", "litellm", "torch", "aiohttp", "httpx", "chromadb", "transformers")
    script = f"import sys, tfgrpo.policy, tfgrpo.caller; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
