"""What the pages on serving show works, and three commands go from problems to a served, improved model."""

import asyncio
import os
import re
import sys
from pathlib import Path

import flagworld
import openai
import pytest
from cli import call, flag_file, served
from upstreams import serving

import experience_store
import tfgrpo
from experience_store import Edit

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.slow
async def test_the_python_of_the_pages_runs(tmp_path):
    with experience_store.open(tmp_path / "experience", embedder="hashing") as store:
        store.commit([Edit(op="add", text="The flag of Amavia is red.")])
        store.tag("production", "head")
    printed = []
    with served() as server:
        env = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}
        pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("serving.md", "strategies.md"))
        for code in re.findall(r"^```python\n(.*?)^```", pages, flags=re.MULTILINE | re.DOTALL):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, cwd=tmp_path, env=env,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await process.communicate()
            assert process.returncode == 0, f"{code}\n{err.decode()}"
            printed.append(out.decode())
    asked, followed, chosen = printed
    assert asked.splitlines() == ["It is red.", "v1 ('E1@1',)"]
    assert followed.endswith("- The flag of Amavia is red. ('E1@1',)\n")
    assert chosen.startswith("It is red. ") and chosen.endswith("\n3 3 of 3 agree\n")


def right(client):
    """The share of the held-out problems that a client's model answers, one call each."""
    asked = flagworld.problems(60, 100)
    words = [
        client.chat.completions.create(model="m", messages=list(p.messages)).choices[0].message.content for p in asked
    ]
    return sum(str(p.answer) in text for p, text in zip(asked, words, strict=True)) / len(asked)


@pytest.mark.slow
async def test_from_problems_to_a_served_improved_model(tmp_path, monkeypatch):
    """`learn`, then `serve`, with nothing but the key and the place of a server; and the same library in code."""
    monkeypatch.chdir(tmp_path)
    experience_store.open("experience", embedder="hashing").close()  # loads no embedding model
    flag_file(tmp_path)
    with served() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        said = await asyncio.to_thread(
            call, "learn", "flags.jsonl", "--reward", "contains", "--model", "openai/m", "--store", "./experience",
            "--budget-calls", "400",
        )  # fmt: skip
        assert said.code == 0, said.err
        bare = openai.OpenAI()
        before = await asyncio.to_thread(right, bare)
        async with serving("--store", "./experience", "--upstream", server.url) as process:
            by_proxy = await asyncio.to_thread(right, openai.OpenAI(base_url=process.url))
        in_code = await asyncio.to_thread(right, tfgrpo.wrap(bare, "./experience"))
    assert before < 0.4 and by_proxy >= before + 0.2
    assert in_code == by_proxy, "the server's answers depend on the request alone, so both sent the same"
