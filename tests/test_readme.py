"""What the README shows works: its Python runs against a loopback server, its commands and links exist."""

import asyncio
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import flagworld
import pytest
from servers import ChatServer

import experience_store
from tfgrpo.cli.main import _parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text, program):
    """Arguments of every line of a shell block that starts with the program, comments left out."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")]


@contextmanager
def serving(answer):
    """A chat server in a thread of its own."""
    loop, server = asyncio.new_event_loop(), ChatServer(answer)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_code_stands_before_line_30():
    assert README.splitlines().index("```python") < 30


def test_the_python_runs(tmp_path):
    """All blocks in their order and one folder, each a program of its own, as a reader would try them."""
    rows = [{"prompt": p.question, "answer": p.answer} for p in flagworld.problems(0, 100)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    experience_store.open(tmp_path / "experience", embedder="hashing").close()  # loads no embedding model
    with serving(flagworld.answer) as server:
        env = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none", "PYTHONWARNINGS": "default"}
        printed = []
        for code in blocks(README, "python"):
            done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{code}\n{done.stderr}"
            printed.append(done.stdout)
    learned, own, estimator, agent, application = printed
    assert "test " in learned and "->" in learned and "gain" in learned
    assert "solver calls" in own or "calls" in own
    assert "share_of_best" in estimator and "vas" in estimator
    assert "accepted" in agent
    assert re.search(r"It is \w+\. \('E\d+@\d+'", application)
    assert server.requests


@pytest.mark.parametrize("arguments", commands("".join(p.read_text() for p in PAGES if p.exists()), "tfgrpo"), ids=str)
def test_commands_parse(arguments):
    args, unknown = _parser(arguments[0]).parse_known_args(arguments)
    assert not unknown
    assert hasattr(args, "run")


@pytest.mark.parametrize("arguments", commands(README, "make"), ids=str)
def test_make_targets_exist(arguments):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{arguments[0]}:", makefile, flags=re.MULTILINE)


def test_extras_exist():
    known = set(importlib.metadata.metadata("tfgrpo").get_all("Provides-Extra"))
    named = {name for extras in re.findall(r"\.\[([\w,]+)\]", README) for name in extras.split(",")}
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [t for t in targets if "://" not in t and not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_modules_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:tfgrpo|experience_store|tasks|tests|benchmarks|docs)/[\w./]+\.(?:py|md))`", text)
    assert not [name for name in named if not (ROOT / name).exists()]
