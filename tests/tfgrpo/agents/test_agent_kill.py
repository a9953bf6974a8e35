"""Kill -9 in the middle of agents' conversations, then the same command: no reply on disk is asked for again."""

import asyncio
import random
import signal
import sys

import pytest
from servers import ChatServer

from tfgrpo.record import RunRecord

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")]
ROLLOUTS, TURNS = 30, 4
WORKER = f"""
import asyncio, hashlib, sys
from tfgrpo import Budget, Problem, Sampling, connect
from tfgrpo.agents import Agent, AgentCaller
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller, CallKey
from tfgrpo.record import RunRecord
from tfgrpo.types import Prompt

async def agent(problem, client):
    print("ran", problem.id, file=sys.stderr)
    messages = list(problem.messages)
    for _ in range({TURNS - 2}):
        reply = await client.chat.completions.create(messages=messages)
        messages += [reply.choices[0].message, {{"role": "user", "content": "go on"}}]
    twins = await asyncio.gather(*(client.complete(messages) for _ in range(2)))
    return " | ".join(twins)

async def main(folder, model):
    with RunRecord.open(folder) as record:
        ledger = Ledger(Budget(calls={ROLLOUTS * TURNS}))
        caller = Caller(connect(model), record=record, ledger=ledger, concurrency=8, seed=7)
        solver = AgentCaller(caller, Agent(run=agent, max_calls={TURNS}))
        problem = Problem(id="p1", messages=({{"role": "user", "content": "6 * 7?"}},))
        keys = [CallKey(purpose="solve", problem="p1", sample=n) for n in range({ROLLOUTS})]
        prompt = Prompt(messages=problem.messages)
        replies = await asyncio.gather(*(solver.answer(problem, prompt, key, Sampling()) for key in keys))
        await caller.aclose()
        assert ledger.spend.solver_calls == {ROLLOUTS * TURNS} and ledger.remaining.calls == 0
    print(hashlib.sha256("".join(r.text for r in replies).encode()).hexdigest())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def server():
    server = await ChatServer(latency_s=0.02).start()
    yield server
    await server.stop()


async def start(folder, server):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, str(folder), f"{server.url}#m"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def on_disk(folder):
    if not (folder / "run.sqlite").exists():
        return set()
    with RunRecord.open(folder, read_only=True) as record:
        return {call.completion.text for call in record.calls()}


def counts(server):
    return {"answer " + digest[:12]: count for digest, count in server.counts.items()}


async def test_a_killed_run_goes_on_to_the_same_answers(tmp_path, server):
    fresh = await start(tmp_path / "straight", server)
    expected, told = await fresh.communicate()
    assert len(expected) > 60 and server.replies == ROLLOUTS * TURNS and told.count(b"ran") == ROLLOUTS
    server.counts.clear()
    folder, draw, asked = tmp_path / "killed", random.Random(5), 0
    for stop_after in (1, 30, 60, 95):
        before, known = counts(server), on_disk(folder)
        worker = await start(folder, server)
        while sum(server.counts.values()) < stop_after + asked:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await asyncio.sleep(draw.uniform(0, 0.04))
        worker.send_signal(signal.SIGKILL)
        await worker.communicate()
        assert all(counts(server)[text] == before[text] for text in known)
        asked = sum(server.counts.values()) - len(on_disk(folder))
        assert asked <= 8 * 4
    last = await start(folder, server)
    answer, told = await last.communicate()
    assert answer == expected and told.count(b"ran") < ROLLOUTS  # finished conversations are not even run again
    idle = sum(server.counts.values())
    answer, told = await (await start(folder, server)).communicate()
    assert answer == expected and sum(server.counts.values()) == idle and b"ran" not in told
