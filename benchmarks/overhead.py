"""What a recorded, budgeted call costs over the bare client: wall, CPU per call, memory.

    python benchmarks/overhead.py             # 100 problems x 5 calls at 0.5 and 2 s, 128 in flight; 20,000 calls
    python benchmarks/overhead.py --quick     # 0.5 s only, 4,000 calls

The server runs in a process of its own and answers after a fixed latency. Both sides send the same messages from a
fresh process: *bare* is `openai.AsyncOpenAI` on its aiohttp transport behind a semaphore, *ours* is `Caller` with the
record on disk and a budget for calls, tokens and dollars. CPU is user + system time of the client process from the
first to the last call, after one call that loads and connects. Pairs alternate; the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

RULES = "Answer the question. Think step by step, keep to the point, and end with the answer on a line of its own. " * 8
ANSWER = "First the parts are added up, then the sum is doubled, and so on until nothing is left to do. " * 4
TARGETS = {"wall_ratio": 1.15, "cpu_ms_over_bare": 1.0, "rss_mb": 200.0, "rss_growth_mb": 10.0}


def messages(problem: int) -> tuple[dict[str, str], ...]:
    return ({"role": "system", "content": RULES}, {"role": "user", "content": f"Question {problem}: {'data ' * 40}"})


# -- the server -------------------------------------------------------------------------------------------------------


async def serve(latency_s: float) -> None:
    from aiohttp import web

    message = {"role": "assistant", "content": ANSWER}
    usage = {"prompt_tokens": 260, "completion_tokens": 90, "total_tokens": 350}
    reply = json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }).encode()  # fmt: skip

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if latency_s:
            await asyncio.sleep(latency_s)
        return web.Response(body=reply, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


# -- the clients ------------------------------------------------------------------------------------------------------


async def bare(url: str, calls: int, in_flight: int, meter: Meter) -> None:
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=0, http_client=openai.DefaultAioHttpClient())
    slots = asyncio.Semaphore(in_flight)

    async def ask(n: int) -> None:
        async with slots:
            await client.chat.completions.create(
                model="m", messages=messages(n // 5), temperature=1.0, top_p=1.0, max_tokens=256
            )  # fmt: skip
        meter.done()

    await ask(-1)
    await in_order(ask, calls, in_flight, meter)
    await client.close()


async def ours(url: str, calls: int, in_flight: int, meter: Meter) -> None:
    from tfgrpo.budget import Budget, Ledger
    from tfgrpo.caller import Caller, CallKey
    from tfgrpo.policy import Sampling, connect
    from tfgrpo.record import RunRecord

    with tempfile.TemporaryDirectory() as folder, RunRecord.open(folder) as record:
        ledger = Ledger(Budget(calls=calls + 1, tokens=10**9, usd=1000.0))
        policy = connect(f"{url}#m", price="0.4/1.6")
        caller = Caller(policy, record=record, ledger=ledger, concurrency=in_flight, seed=1)
        sampling = Sampling(max_tokens=256)

        async def ask(n: int) -> None:
            key = CallKey(purpose="solve", problem=str(n // 5), sample=n % 5)
            await caller.complete(messages(n // 5), key, sampling)
            meter.done()

        await ask(-1)
        await in_order(ask, calls, in_flight, meter)
        await caller.aclose()
        assert ledger.spend.calls == calls + 1


async def in_order(ask: Any, calls: int, in_flight: int, meter: Meter) -> None:
    """All at once for the small runs; a bounded window for the long one: 20,000 waiting tasks are memory too."""
    meter.start()
    if calls <= 2000:
        await asyncio.gather(*(ask(n) for n in range(calls)))
    else:
        numbers = iter(range(calls))

        async def worker() -> None:
            for n in numbers:
                await ask(n)

        await asyncio.gather(*(worker() for _ in range(in_flight)))
    meter.stop()


class Meter:
    """Time, CPU and memory of this process; memory also on the way."""

    def __init__(self, every: int) -> None:
        import psutil

        self.process, self.every, self.count, self.rss_mb = psutil.Process(), every, 0, []

    def done(self) -> None:
        self.count += 1
        if self.count % self.every == 0:
            self.rss_mb.append(round(self.process.memory_info().rss / 2**20, 1))

    def start(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.rss_mb.append(round(self.process.memory_info().rss / 2**20, 1))

    def report(self, calls: int) -> dict[str, Any]:
        return {"wall_s": self.wall, "cpu_ms_per_call": 1000 * self.cpu / calls, "rss_mb": self.rss_mb}


# -- one measurement, and all of them ---------------------------------------------------------------------------------


def measure(client: str, port: int, calls: int, in_flight: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--client", client, "--port", str(port), "--calls", str(calls)]
    out = subprocess.run([*command, "--in-flight", str(in_flight)], check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(out)
    return result


def compare(latency_s: float, calls: int, in_flight: int, repeats: int) -> dict[str, Any]:
    with Server(latency_s) as port:
        runs: dict[str, list[dict[str, Any]]] = {"bare": [], "ours": []}
        for _ in range(repeats):
            for client, found in runs.items():
                found.append(measure(client, port, calls, in_flight))
    row: dict[str, Any] = {"latency_s": latency_s, "calls": calls, "in_flight": in_flight}
    for client, found in runs.items():
        row[f"{client}_wall_s"] = statistics.median(r["wall_s"] for r in found)
        row[f"{client}_cpu_ms"] = statistics.median(r["cpu_ms_per_call"] for r in found)
        row[f"{client}_rss_mb"] = max(max(r["rss_mb"]) for r in found)
    row["wall_ratio"] = row["ours_wall_s"] / row["bare_wall_s"]
    row["cpu_ms_over_bare"] = row["ours_cpu_ms"] - row["bare_cpu_ms"]
    return row


class Server:
    """The fixed-latency server in a process of its own."""

    def __init__(self, latency_s: float) -> None:
        command = [sys.executable, __file__, "--serve", str(latency_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def show(rows: list[dict[str, Any]], long: dict[str, Any]) -> None:
    print(f"{'latency s':>9} {'calls':>6} | {'wall s bare':>11} {'ours':>6} {'ratio':>6} |"
          f" {'CPU ms bare':>11} {'ours':>6} {'over':>6} | {'RSS MB bare':>11} {'ours':>6}")  # fmt: skip
    for r in rows:
        print(f"{r['latency_s']:>9} {r['calls']:>6} | {r['bare_wall_s']:>11.2f} {r['ours_wall_s']:>6.2f}"
              f" {r['wall_ratio']:>6.3f} | {r['bare_cpu_ms']:>11.2f} {r['ours_cpu_ms']:>6.2f}"
              f" {r['cpu_ms_over_bare']:>6.2f} | {r['bare_rss_mb']:>11.0f} {r['ours_rss_mb']:>6.0f}")  # fmt: skip
    print(f"{long['calls']} calls: RSS MB at every tenth {long['rss_mb']}, growth after the first tenth"
          f" {long['rss_growth_mb']:.1f}; {long['cpu_ms_per_call']:.2f} ms CPU per call")  # fmt: skip
    print(f"targets: {TARGETS}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", action="store_true")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--calls", type=int, default=500)
    options.add_argument("--in-flight", type=int, default=128)
    for hidden in ("--serve", "--client", "--port"):
        options.add_argument(hidden, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve:
        asyncio.run(serve(float(given.serve)))
    elif given.client:
        meter = Meter(max(1, given.calls // 10))
        run = {"bare": bare, "ours": ours}[given.client]
        asyncio.run(run(f"http://127.0.0.1:{given.port}/v1", given.calls, given.in_flight, meter))
        print(json.dumps(meter.report(given.calls)))
    else:
        rows = [
            compare(latency_s, given.calls, given.in_flight, given.repeats)
            for latency_s in ([0.5] if given.quick else [0.5, 2.0])
        ]
        many = 4_000 if given.quick else 20_000
        with Server(0.002) as port:
            long = {"calls": many, **measure("ours", port, many, given.in_flight)}
        long["rss_growth_mb"] = long["rss_mb"][-1] - long["rss_mb"][0]
        if given.json:
            print(json.dumps({"rows": rows, "long": long, "targets": TARGETS}))
        else:
            show(rows, long)


if __name__ == "__main__":
    main()
