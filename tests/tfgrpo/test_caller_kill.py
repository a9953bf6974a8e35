"""Kill -9 at any moment, then the same command: no reply that reached disk is asked for again."""

import asyncio
import hashlib
import json
import random
import signal
import sys
from pathlib import Path

import pytest
from servers import ChatServer, Fault

from tfgrpo.record import RunRecord

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")]
CALLS = 150
WORKER = f"""
import asyncio, hashlib, sys
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller, CallKey
from tfgrpo.policy import Sampling, connect
from tfgrpo.record import RunRecord

async def main(folder, model):
    with RunRecord.open(folder) as record:
        ledger = Ledger(Budget(calls={CALLS}))
        caller = Caller(connect(model), record=record, ledger=ledger, concurrency=16, seed=7)
        messages = ({{"role": "user", "content": "6 * 7?"}},)
        keys = [CallKey(purpose="solve", problem=f"p{{n // 5}}", sample=n % 5) for n in range({CALLS})]
        replies = await asyncio.gather(*(caller.complete(messages, key, Sampling()) for key in keys))
        await caller.aclose()
        assert ledger.spend.solver_calls == {CALLS} and ledger.remaining.calls == 0
    print(hashlib.sha256("".join(r.text for r in replies).encode()).hexdigest())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def server():
    server = await ChatServer(latency_s=0.03).start()
    yield server
    await server.stop()


async def start(folder, server):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(folder), f"{server.url}#m", stdout=asyncio.subprocess.PIPE
    )


def texts_on_disk(folder):
    if not (Path(folder) / "run.sqlite").exists():
        return set()
    with RunRecord.open(folder, read_only=True) as record:
        return {call.completion.text for call in record.calls()}


def counts_by_answer(server):
    return {"answer " + digest[:12]: count for digest, count in server.counts.items()}


async def test_a_killed_run_asks_for_nothing_twice_that_reached_disk(tmp_path, server):
    fresh = await start(tmp_path / "uninterrupted", server)
    expected = (await fresh.communicate())[0]
    assert len(expected) > 60 and server.replies == CALLS
    server.counts.clear()
    draw = random.Random(3)
    asked_again = 0
    folder = tmp_path / "killed"
    for stop_after in (1, 40, 75, 110):
        before, on_disk = counts_by_answer(server), texts_on_disk(folder)
        worker = await start(folder, server)
        while sum(server.counts.values()) < stop_after + asked_again:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await asyncio.sleep(draw.uniform(0, 0.04))
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
        assert all(counts_by_answer(server)[text] == before[text] for text in on_disk)
        asked_again = sum(server.counts.values()) - len(texts_on_disk(folder))
        assert asked_again <= 16 * 4
    before, on_disk = counts_by_answer(server), texts_on_disk(folder)
    assert 20 < len(on_disk) < CALLS
    last = await start(folder, server)
    assert (await last.communicate())[0] == expected
    assert all(counts_by_answer(server)[text] == before[text] for text in on_disk)
    idle = sum(server.counts.values())
    assert (await (await start(folder, server)).communicate())[0] == expected
    assert sum(server.counts.values()) == idle  # a finished run asks for nothing


async def test_the_same_with_a_server_that_fails_now_and_then(tmp_path, server):
    def fault_of(body, number):
        drawn = int(hashlib.sha256(json.dumps([body["seed"], number]).encode()).hexdigest()[:4], 16)
        return Fault(kind="drop") if drawn % 10 == 0 else Fault(500) if drawn % 10 == 1 else None

    expected = (await (await start(tmp_path / "a", server)).communicate())[0]
    server.fault_of = fault_of
    assert (await (await start(tmp_path / "b", server)).communicate())[0] == expected
