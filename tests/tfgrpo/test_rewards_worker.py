"""Processes that may be killed: late ones, dead ones, ones that never start; what they see of us."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfgrpo.errors import RewardError
from tfgrpo.rewards.worker import Workers

SCRIPT = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    time.sleep(asked.get("sleep", 0))
    if asked.get("die"):
        os._exit(3)
    print(json.dumps({"pid": os.getpid(), "home": os.environ.get("HOME"), "echo": asked.get("echo")}), flush=True)
"""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    (tmp_path / "echo.py").write_text(SCRIPT)
    made = Workers(tmp_path / "echo.py", purpose="echo", size=2)
    yield made
    made.close()


async def test_a_process_is_kept_and_sees_no_environment(workers: Workers) -> None:
    first = await workers.ask({"echo": "\ud800 ü"}, 20)
    second = await workers.ask({}, 20)
    assert first and second and first["pid"] == second["pid"] and first["echo"] == "\ud800 ü" and first["home"] is None


async def test_a_late_one_is_killed_and_the_others_go_on(workers: Workers) -> None:
    await workers.ask({}, 20)
    started = time.perf_counter()
    late, *others = await asyncio.gather(
        workers.ask({"sleep": 60}, 0.3), *(workers.ask({"echo": n}, 20) for n in range(4))
    )
    assert late is None and [o["echo"] for o in others if o] == [0, 1, 2, 3]
    assert time.perf_counter() - started < 20


async def test_a_dead_one_costs_one_request_and_an_idle_dead_one_none(workers: Workers) -> None:
    assert await workers.ask({"die": 1}, 20) is None
    alive = await workers.ask({}, 20)
    assert alive
    os.kill(alive["pid"], signal.SIGKILL)
    await asyncio.sleep(0.2)
    again = await workers.ask({}, 20)
    assert again and again["pid"] != alive["pid"]


async def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('no such thing')")
    workers = Workers(tmp_path / "broken.py", purpose="broken")
    with pytest.raises(RewardError, match="broken could not start its process: no such thing"):
        await workers.ask({}, 20)
    workers.close()
