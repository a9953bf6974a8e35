"""What `tfgrpo serve` costs: added latency, requests a second of one core, memory, streams; beside LiteLLM's proxy.

    python benchmarks/serving.py                                # all of it, with no proxy and ours; 3 to 5 minutes
    python benchmarks/serving.py --litellm /path/bin/litellm    # and LiteLLM's proxy, from an environment of its own
    python benchmarks/serving.py --only latency rate            # parts: latency rate memory streams store layout

Upstream, client and proxies are processes of their own; upstream and client are bare asyncio protocols that cost
little. The proxy serves a pinned library of 60 entries that stand in every request (about 1,000 tokens), with its log
and its metrics on. Sides take turns in short rounds, so that what else runs on the machine strikes all alike. CPU is
user + system time of the proxy, by which one core's rate is told also where the core is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import serving_load
from serving_load import CHUNKS, load

PARTS = ("latency", "rate", "memory", "streams", "store", "layout")
ENTRIES, IN_FLIGHT, LATENCY_S = 60, 50, 0.25
TARGETS = {
    "added_p50_ms": 3.0, "added_p99_ms": 15.0, "requests_per_core_s": 400, "streams": 500, "rss_growth_mb": 10.0,
    "search_p50_ms": 10.0, "start_s": 3.0,
}  # fmt: skip


# -- the sides --------------------------------------------------------------------------------------------------------


def measure(port: int, count: int, in_flight: int, *, stream: bool = False, spread_s: float = 0.0) -> list[float]:
    """`load` in a process of its own."""
    numbers = (port, count, in_flight, int(stream), spread_s)
    command = [sys.executable, serving_load.__file__, "load", *map(str, numbers)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: list[float] = json.loads(out)
    return found


class Side:
    """A port to ask, and the processes that answer there."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[str] | None) -> None:
        import psutil

        self.name, self.port = name, port
        self.processes = [] if process is None else [psutil.Process(process.pid)]

    def all(self) -> list[Any]:
        return [p for root in self.processes for p in (root, *root.children(recursive=True))]

    def cpu_s(self) -> float:
        return sum(t.user + t.system for t in (p.cpu_times() for p in self.all()))

    def rss_mb(self) -> float:
        return sum(p.memory_info().rss for p in self.all()) / 2**20


@contextlib.contextmanager
def upstream(latency_s: float) -> Iterator[int]:
    with started([sys.executable, serving_load.__file__, "upstream", str(latency_s)]) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def ours(folder: str, port: int) -> Iterator[Side]:
    command = [sys.executable, "-m", "tfgrpo.cli.main", "serve", "--store", f"{folder}/library.json", "--port", "0"]
    with started([*command, "--upstream", f"http://127.0.0.1:{port}/v1", "--log", f"{folder}/log"]) as process:
        assert process.stdout is not None
        own = int(process.stdout.readline().split("/v1")[0].rpartition(":")[2])
        yield Side("ours", own, process)


@contextlib.contextmanager
def litellm(program: str, folder: str, port: int) -> Iterator[Side]:
    """Its proxy with one model and nothing else switched on."""
    config = Path(folder) / "litellm.yaml"
    model = {"model": "openai/m", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "x"}
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": model}]}))
    own = _free_port()
    quiet = {
        **os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": "",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, as ours runs without tokens
    }  # fmt: skip
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(own)]
    with started([*command, "--telemetry", "False"], env=quiet) as process:
        _wait_for(own)
        yield Side("litellm", own, process)


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(240):
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            asyncio.run(load(port, 1, 1))
            return
        time.sleep(0.5)
    raise SystemExit(f"nothing answers on port {port}")


@contextlib.contextmanager
def sides(given: argparse.Namespace, folder: str, latency_s: float) -> Iterator[list[Side]]:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(upstream(latency_s))
        found = [Side("no proxy", port, None), stack.enter_context(ours(folder, port))]
        if given.litellm:
            found.append(stack.enter_context(litellm(given.litellm, folder, port)))
        for side in found:
            measure(side.port, 200, 20)  # connections, caches, lazy imports
        yield found


# -- the parts --------------------------------------------------------------------------------------------------------


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def latency(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Rounds of all sides in turn, 10 and 50 in flight, a server that takes 0.25 s: 40 and 200 requests a second.

    What a proxy adds is told by the medians of the rounds' quantiles, and by those of its best round.
    """
    with sides(given, folder, LATENCY_S) as found:
        return {
            "rounds": given.rounds,
            "upstream_s": LATENCY_S,
            **{f"{n} in flight": _added(found, given.rounds, n) for n in (10, IN_FLIGHT)},
        }


def _added(found: list[Side], rounds: int, in_flight: int) -> dict[str, Any]:
    count = 6 * in_flight
    taken: dict[str, list[list[float]]] = {side.name: [] for side in found}
    cpu = {side.name: -side.cpu_s() for side in found}
    for _ in range(rounds):
        for side in found:
            taken[side.name].append(measure(side.port, count, in_flight, spread_s=LATENCY_S))
    for side in found:
        cpu[side.name] += side.cpu_s()
    rows: dict[str, Any] = {name: {"cpu_ms": 1e3 * cpu[name] / (rounds * count)} for name in taken}
    for words, q in (("p50", 0.5), ("p99", 0.99)):
        bare = [quantile(values, q) for values in taken["no proxy"]]
        for name, each in taken.items():
            own = [quantile(values, q) for values in each]
            rows[name][f"{words}_ms"] = 1e3 * statistics.median(own)
            rows[name][f"added_{words}_ms"] = 1e3 * (statistics.median(own) - statistics.median(bare))
            rows[name][f"added_{words}_ms_best_round"] = 1e3 * (min(own) - min(bare))
    return {"requests_each": rounds * count, "rows": rows}


def rate(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """As fast as it goes, 50 in flight, a server that takes no time; what CPU time says of one core beside it."""
    with sides(given, folder, 0.0) as found:
        rows: dict[str, Any] = {side.name: {"per_s": [], "cpu_ms": []} for side in found}
        for _ in range(given.rounds):
            for side in found:
                count = 150 if side.name == "litellm" else 2000
                cpu = side.cpu_s()
                taken = measure(side.port, count, IN_FLIGHT)
                rows[side.name]["per_s"].append(IN_FLIGHT / statistics.mean(taken))
                rows[side.name]["cpu_ms"].append(1e3 * (side.cpu_s() - cpu) / count)
    for row in rows.values():
        row["per_s"], row["cpu_ms"] = statistics.median(row["per_s"]), statistics.median(row["cpu_ms"])
        row["per_core_s"] = 1e3 / row["cpu_ms"] if row["cpu_ms"] else None
    return {"rounds": given.rounds, "rows": rows}


def memory(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    with upstream(0.002) as port, ours(folder, port) as side:
        measure(side.port, 2000, IN_FLIGHT)
        found = [side.rss_mb()]
        for _ in range(10):
            measure(side.port, given.requests // 10, IN_FLIGHT)
            found.append(side.rss_mb())
    return {"requests": given.requests, "rss_mb": [round(x, 1) for x in found], "growth_mb": found[-1] - found[1]}


def streams(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """All at once, each of 20 pieces at 0.25 s; every byte is compared."""
    rows: dict[str, Any] = {}
    with upstream(0.05) as port, ours(folder, port) as side:
        for name, where in (("no proxy", port), ("ours", side.port)):
            cpu = side.cpu_s()
            taken = measure(where, 500, 500, stream=True)
            rows[name] = {"whole": len(taken), "p50_s": quantile(taken, 0.5), "max_s": max(taken)}
            if name == "ours":
                rows[name] |= {"cpu_ms_per_piece": 1e3 * (side.cpu_s() - cpu) / (500 * CHUNKS), "rss_mb": side.rss_mb()}
    return {"streams": 500, "pieces": CHUNKS, "rows": rows}


STORE = """
import sys, time
begun, cpu = time.perf_counter(), time.process_time()
import experience_store
from tfgrpo.serving.library_source import open_source
source = open_source(sys.argv[1])
start = time.perf_counter() - begun, time.process_time() - cpu
store = experience_store.open(sys.argv[1])
snapshot, search = store.at(), store._searcher
embed = [store.embedder.embed([f"word{n} word{n * 7 % 3000} word{n * 31 % 3000}"])[0] for n in range(60)]
search.search_vector(embed[0], snapshot, 5)
taken = []
for vector in embed[10:]:
    begun = time.perf_counter()
    search.search_vector(vector, snapshot, 5)
    taken.append(time.perf_counter() - begun)
begun = time.perf_counter()
for n in range(50):
    store.embedder.embed([f"word{n} word{n * 7 % 3000}"])
print(*start, sorted(taken)[len(taken) // 2], (time.perf_counter() - begun) / 50)
"""


def store(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """10,000 entries in Chroma: from the start of a process until it could serve, and a search given its vector."""
    import experience_store
    from experience_store import Edit

    place, draw = f"{folder}/large", random.Random(0)
    with experience_store.open(place, embedder="hashing") as large:
        for _ in range(5):
            texts = [" ".join(f"word{draw.randrange(3000)}" for _ in range(18)) for _ in range(2000)]
            large.commit([Edit(op="add", text=text) for text in texts])
    runs = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", STORE, place], check=True, capture_output=True, text=True).stdout
        runs.append([float(x) for x in out.split()])
    start, cpu, search, embed = (statistics.median(column) for column in zip(*runs, strict=True))
    return {
        "entries": 10_000,
        "start_s": start,
        "start_cpu_s": cpu,
        "search_p50_ms": 1e3 * search,
        "embed_ms": 1e3 * embed,
    }


def layout(given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Dollars of prompts under a provider's prompt cache (1,024 tokens or more, in steps of 128; characters / 4).

    One library of 400 entries and 300 questions whose words are drawn as words are used (a few often, most seldom): a
    stable core and a picked tail, beside picking everything anew for each question into the system message, under the
    same token budget. Prices: 0.40 and 0.10 (cached) dollars per million tokens.
    """
    from experience_store import Experience, Layout
    from experience_store.rank import lexical
    from experience_store.render import prepare

    draw, words = random.Random(1), [f"word{n}" for n in range(2000)]
    weights = [1 / (n + 20) for n in range(2000)]

    def some(count: int) -> str:
        return " ".join(draw.choices(words, weights, k=count))

    pool = [Experience(id=f"E{n}", text=f"{some(18)}.") for n in range(400)]
    asked = [f"{some(14)}?" for _ in range(300)]
    rows = {}
    for name, select in (("stable core, picked tail", "core"), ("picked anew for every question", "retrieve")):
        prepared = prepare(pool, Layout(select=select, max_tokens=4000), lexical)  # type: ignore[arg-type]
        rows[name] = _dollars([
            json.dumps(prepared.apply([{"role": "user", "content": question}]).messages) for question in asked
        ])  # fmt: skip
    return {"questions": len(asked), "rows": rows}


def _dollars(prompts: list[str]) -> dict[str, float]:
    """Every prompt, against the longest prefix that it shares with an earlier one."""
    seen: set[str] = set()
    total = cached = 0
    for prompt in prompts:
        total += len(prompt) // 4
        hit = 0
        for tokens in range(1024, len(prompt) // 4 + 1, 128):
            if prompt[: tokens * 4] not in seen:
                break
            hit = tokens
        cached += hit
        seen |= {prompt[: tokens * 4] for tokens in range(1024, len(prompt) // 4 + 1, 128)}
    usd = (total - cached) * 0.40e-6 + cached * 0.10e-6
    return {"tokens": total, "cached_share": cached / total, "usd_per_1000": 1000 * usd / len(prompts)}


def make_library(folder: str) -> None:
    import experience_store
    from experience_store import Edit

    with experience_store.open(f"{folder}/store", embedder="hashing") as made:
        made.commit([
            Edit(op="add", text=f"When the parcel is number {n}, use code X{n} and check its label first.")
            for n in range(ENTRIES)
        ])  # fmt: skip
        made.export("head", f"{folder}/library.json")


def _rounded(value: Any) -> Any:
    """Three digits behind the point."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--litellm", metavar="PROGRAM", help="of an environment with litellm[proxy]")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--requests", type=int, default=50_000, help="of the memory part")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_library(folder)
        for part in given.only:
            begun = time.perf_counter()
            result = globals()[part](given, folder)
            print(json.dumps({part: _rounded(result), "took_s": round(time.perf_counter() - begun, 1)}, indent=1))
            sys.stdout.flush()
    print(f"targets: {TARGETS}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
