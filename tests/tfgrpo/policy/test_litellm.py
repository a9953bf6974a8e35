"""litellm against the loopback server; the package itself is real."""

from importlib.util import find_spec

import pytest
from servers import Fault, error_body

from tfgrpo.errors import AuthError, InputError, RequestError, TransportError
from tfgrpo.policy import Sampling, connect

ASK = ({"role": "user", "content": "6 * 7?"},)
KEY = "sk-planted-0123456789"
# Looked for and not imported: litellm asks the network for prices when it is imported without what `load_litellm` sets.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # its warnings are its own
]


async def test_replies_refusals_faults_and_keys(chat_server):
    policy = connect("hosted_vllm/m", base_url=chat_server.url, api_key=KEY, max_retries=1, timeout_s=2.0)
    notices = []
    policy.on_notice(notices.append)
    got = await policy.complete(ASK, Sampling(seed=1))
    assert got.text.startswith("answer") and got.model == "served-model" and got.usage.prompt_tokens > 0
    assert chat_server.requests[0] == {
        "model": "m", "messages": [dict(ASK[0])], "max_tokens": 1024, "seed": 1,
    }  # fmt: skip
    chat_server.refuse = {"seed": "Unsupported parameter: 'seed'"}
    await policy.complete(ASK, Sampling(seed=1))
    assert notices[0].data["parameter"] == "seed"
    for faults, kind in (
        ([Fault(401, error_body(f"wrong {KEY}"))], AuthError),
        ([Fault(404, error_body(f"no model {KEY}"))], RequestError),
        ([Fault(500)] * 2, TransportError),
        ([Fault(kind="garbage")] * 2, TransportError),
    ):
        chat_server.faults = list(faults)
        with pytest.raises(kind) as caught:
            await policy.complete(ASK, Sampling())
        assert KEY not in str(caught.value) and chat_server.faults == []
    await policy.aclose()


async def test_a_parameter_that_litellm_refuses_itself_is_given_up():
    policy = connect("anthropic/claude-sonnet-4-5", base_url="http://127.0.0.1:9", api_key="k", max_retries=0)
    notices = []
    policy.on_notice(notices.append)
    with pytest.raises(TransportError):
        await policy.complete(ASK, Sampling(seed=1))
    assert [n.data["parameter"] for n in notices] == ["seed"]
    assert policy.price is None and connect("anthropic/claude-sonnet-4-5", api_key="k").price.prompt_usd_per_mtok == 3.0
    await policy.aclose()


def test_a_provider_nobody_knows():
    with pytest.raises(InputError, match=r"no such provider.*openai/NAME"):
        connect("nosuchprovider/model")
