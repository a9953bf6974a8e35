"""A vLLM server of our own, with another server in its place: started, health-checked, restarted, stopped, outlived."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from realupstream import holds

from tfgrpo.errors import InputError, MissingExtraError
from tfgrpo.policy import Sampling, connect
from tfgrpo.policy.chat import ChatPolicy
from tfgrpo.policy.openai_compatible import openai_wire
from tfgrpo.policy.prices import FREE
from tfgrpo.policy.vllm import VLLMServer, VLLMWire, serve_command, server_environment

ASK = ({"role": "user", "content": "6 * 7?"},)
SERVERS = str(Path(__file__).parents[2] / "servers.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")


def fake(port):
    return [sys.executable, SERVERS, "--port", str(port)]


def policy_with(server):
    wire = VLLMWire(server, lambda url: openai_wire(url, None, foreign=True))
    return ChatPolicy(wire, name="vllm/m", model="m", where="vLLM", price=FREE, backoff_s=0.01)


def test_the_command_for_both_ways_of_packaging():
    served = serve_command("/py", "org/m", 81, distribution=True, extra=("--dtype", "bfloat16"))
    assert served[:5] == ["/py", "-m", "vllm.entrypoints.cli.main", "serve", "org/m"]
    assert served[-2:] == ["--dtype", "bfloat16"]
    options = dict(zip(served[5::2], served[6::2], strict=True))
    assert options["--port"] == "81" and options["--served-model-name"] == "org/m" and options["--host"] == "127.0.0.1"
    assert serve_command("/py", "m", 81, distribution=False)[2:5] == [
        "vllm.entrypoints.openai.api_server",
        "--model",
        "m",
    ]


def test_the_server_gets_no_keys_of_other_services():
    assert server_environment({"OPENAI_API_KEY": "x", "PATH": "y"}) == {
        "PATH": "y", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip


async def test_started_at_the_first_call_by_many_and_stopped_at_the_end():
    server = VLLMServer("m", command=fake)
    policy = policy_with(server)
    assert not server.running
    replies = await asyncio.gather(*(policy.complete(ASK, Sampling(seed=n)) for n in range(5)))
    assert server.running and {r.cost_usd for r in replies} == {0.0}
    await policy.aclose()
    assert not server.running
    server.stop()


async def test_a_server_that_dies_is_started_again_a_few_times():
    server = VLLMServer("m", command=fake)
    policy = policy_with(server)
    for _ in range(3):
        assert (await policy.complete(ASK, Sampling())).text
        os.killpg(server._process.pid, signal.SIGKILL)
        server._process.wait()
    with pytest.raises(InputError, match="died 3 times"):
        await policy.complete(ASK, Sampling())
    await policy.aclose()


async def test_a_server_that_cannot_start_says_why_to_everybody_once():
    script = "print('no such model: m'); raise SystemExit(3)"
    starts = []
    server = VLLMServer("m", command=lambda port: starts.append(port) or [sys.executable, "-c", script])
    policy = policy_with(server)
    results = await asyncio.gather(*(policy.complete(ASK, Sampling()) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(r, InputError) and "exit code 3" in str(r) and "no such model: m" in str(r) for r in results)
    assert len(starts) == 1


async def test_a_server_that_never_gets_healthy_is_stopped_and_its_log_shown():
    script = "import time; print('loading', flush=True); time.sleep(60)"
    server = VLLMServer("m", start_timeout_s=1.0, command=lambda port: [sys.executable, "-c", script])
    with pytest.raises(InputError, match=r"not healthy after 1 s.*[\s\S]*loading"):
        await server.start()
    assert not server.running


OWNER = """
import asyncio, os, signal, sys
from tfgrpo.policy.vllm import VLLMServer
server = VLLMServer("m", command=lambda port: [sys.executable, {servers!r}, "--port", str(port)])
print(asyncio.run(server.start()), server._process.pid, flush=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_it_does_not_outlive_its_owner(end):
    owner = subprocess.run([sys.executable, "-c", OWNER.format(servers=SERVERS), end], capture_output=True, text=True)
    group = int(owner.stdout.split()[1])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the server is still there")


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.delenv("TFGRPO_VLLM_PYTHON", raising=False)
    policy = connect("vllm/some-model")
    with pytest.raises(
        MissingExtraError, match=r"tfgrpo\[vllm\].*TFGRPO_VLLM_PYTHON|TFGRPO_VLLM_PYTHON.*tfgrpo\[vllm\]"
    ):
        asyncio.run(policy.complete(ASK, Sampling()))
    monkeypatch.setenv("TFGRPO_VLLM_PYTHON", sys.executable + "-not-there")
    with pytest.raises(InputError, match="cannot be run"):
        asyncio.run(connect("vllm/some-model").complete(ASK, Sampling()))


async def test_a_running_server_by_url(chat_server):
    policy = connect("vllm/m", base_url=chat_server.url)
    got = await policy.complete(ASK, Sampling())
    await policy.aclose()
    assert (got.policy, got.cost_usd, chat_server.requests[0]["model"]) == ("vllm/m", 0.0, "m")


@pytest.mark.slow
@pytest.mark.skipif("TFGRPO_VLLM_PYTHON" not in os.environ, reason="needs TFGRPO_VLLM_PYTHON and TFGRPO_VLLM_MODEL")
async def test_a_real_vllm(tmp_path, monkeypatch):
    """Asked as a policy, then through the proxy and a wrapped client: it takes a minute to start."""
    tools = "--enable-auto-tool-choice --tool-call-parser hermes"
    monkeypatch.setenv("TFGRPO_VLLM_ARGS", f"{os.environ.get('TFGRPO_VLLM_ARGS', '')} {tools}")
    model = os.environ["TFGRPO_VLLM_MODEL"]
    policy = connect(f"vllm/{model}")
    sampling = Sampling(max_tokens=8, seed=1, temperature=0.7, schema={"type": "object"})
    try:
        replies = await asyncio.gather(*(policy.complete(ASK, sampling) for _ in range(4)))
        assert all(r.usage.completion_tokens <= 8 and not r.usage.estimated for r in replies)
        await holds(policy._wire._server.url, model, tmp_path, idle=("/metrics", at_rest), calls_tools=True)
    finally:
        await policy.aclose()


def at_rest(metrics):
    """Whether a vLLM server's own page counts no request that runs."""
    return [float(n) for n in re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", metrics, re.MULTILINE)] == [0.0]
