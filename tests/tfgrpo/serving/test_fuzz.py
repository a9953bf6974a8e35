"""schemathesis over the OpenAPI document: no 5xx of ours, and our own pages answer as they are described.

In an environment of its own: `make clients`.
"""

import pytest
from aiohttp import web
from clients import installed, run
from upstreams import NOTE, Upstream, library, lines, proxied

from tfgrpo.serving.limits import Limits

CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance"
pytestmark = pytest.mark.slow


async def takes_anything(request, body):
    return web.json_response({"ok": True})


@pytest.mark.parametrize("tokens", [{}, {"token-of-default-1": "default"}], ids=["open", "with tokens"])
async def test_no_request_makes_us_fail(tmp_path, tokens):
    limits = Limits(body_bytes=2**20)
    async with (
        Upstream(takes_anything) as upstream,
        proxied(upstream, library(tmp_path, NOTE), tokens=tokens, limits=limits) as client,
    ):
        headers = [f"--header=Authorization: Bearer {token}" for token in tokens]
        command = ["-m", "schemathesis.cli", "run", f"{client.server.url}/openapi.json", "--checks", CHECKS]
        out = await run(
            installed("bin/python"), *command, "--max-examples=150", "--no-color", "--seed=1", *headers, cwd=tmp_path
        )
        assert "Tested: 7" in out or "Tested: 6" in out, out
        told = lines(client.log)
        assert len(told) > 100
        assert not [line for line in told if line.get("status", 0) >= 500 or line.get("error") == "bug"]
        assert not [line for line in told if line["event"] == "server_error" and line["error"] != "BadHttpMessage"]
        assert any(line.get("experiences") for line in told), "some requests were whole"
