"""Learning and speed on a simulated provider whose answers really depend on learned text, beside other optimisers.

The world is not part of this project: give the folder that holds `stub_server.py` and `ruleworld.py`.

    python benchmarks/ruleworld.py --world FOLDER --preset easy --calls 600 --seeds 10-19

One row per seed: exact expected test accuracy of what would be served (no sampling noise), solver and critic calls,
tokens, dollars by the price list below, wall seconds and the share of busy slots. Learning and speed are of the same
run, with simulated latencies of 0.2 s (solver) and 1.0 s (critic).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from typing import Any

from simulated_world import PRICES, add_options, post, simulator, worlds

import experience_store
from tfgrpo import Budget, Price, Problem, Sampling, Task, alearn, connect, reward
from tfgrpo.record import RunRecord


@reward
def holds_code(problem: Problem, completion: Any) -> bool:
    """Whether the code stands in the answer."""
    return str(problem.answer) in completion.text


def price_of(role: str) -> Price:
    """A row of the price list."""
    prompt, completion = PRICES[role]
    return Price(prompt_usd_per_mtok=prompt, completion_usd_per_mtok=completion)


def world_task(world: Any, sampler: str) -> Task:
    """The world's learning and validation problems; its test split is scored exactly instead."""

    def problems(split: str) -> tuple[Problem, ...]:
        items = world.splits[split]
        return tuple(Problem(id=i.id, messages=({"role": "user", "content": i.text},), answer=i.answer) for i in items)

    return Task(
        name="ruleworld",
        learn=problems("train"),
        gate=problems("val"),
        reward=holds_code,
        sampling=Sampling(temperature=1.0, max_tokens=64),
        sampler=sampler,
    )


async def one(base: str, world: Any, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run of the SDK with its defaults."""
    with tempfile.TemporaryDirectory() as folder:
        store = experience_store.open(f"{folder}/store", embedder="hashing")
        solver = connect(f"{base}/v1#stub-task", api_key="none", price=price_of("solver"))
        critic = connect(f"{base}/v1#stub-reflect", api_key="none", price=price_of("critic"))
        began, cpu = time.monotonic(), time.process_time()
        report = await alearn(
            world_task(world, options.sampler),
            model=solver,
            critic=critic,
            store=store,
            budget=Budget(calls=options.calls),
            group=options.group,
            seed=seed,
            concurrency=options.slots,
            gate=options.gate,
            runs=f"{folder}/runs",
        )
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        text = store.render(f"v{report.final}")
        if options.events:
            record = RunRecord.open(report.folder, read_only=True)
            for event in record.events():
                if event.name in options.events:
                    print(event.name, dict(event.data))
        store.close()
        await solver.aclose()
        await critic.aclose()
    used = post(f"{base}/score", {"text": text})
    spend = report.spend
    return {
        "seed": seed,
        "score": round(used["score"], 4),
        "solver_calls": sum(row["solver_calls"] for row in spend.values()),
        "critic_calls": spend.get("critic", {}).get("calls", 0),
        "usd": round(sum(row["usd"] for row in spend.values()), 4),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "busy": round(report.busy_share, 3),
        "open_groups": report.open_groups,
        "gate": report.gate.get("verdict"),
        "served": len(report.learned),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--group", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--gate", default="evidence")
    parser.add_argument("--sampler", default="least_covered", help="which problem is asked next: see tfgrpo methods")
    parser.add_argument("--events", nargs="*", default=[], help="print the events of these names")
    options = parser.parse_args()
    rows = []
    with simulator(options) as base:
        for seed, world, bounds in worlds(options, base):
            row = asyncio.run(one(base, world, options, seed))
            rows.append({**row, "base": round(bounds["base"], 3), "oracle": round(bounds["oracle"], 3)})
            print(json.dumps(rows[-1]), flush=True)
    print(summary(rows, options))


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Means over seeds."""

    def mean(name: str) -> float:
        return statistics.mean(row[name] for row in rows)

    scores = [row["score"] for row in rows]
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return (
        f"{options.preset} {options.calls}: score {mean('score'):.3f} sd {spread:.3f} worst {min(scores):.3f} "
        f"(base {mean('base'):.2f}), solver {mean('solver_calls'):.0f} critic {mean('critic_calls'):.0f} calls, "
        f"${mean('usd'):.3f}, {mean('wall_s'):.1f} s (CPU {mean('cpu_s'):.1f} s), busy {mean('busy'):.0%}, "
        f"open groups {rows[0]['open_groups']}"
    )


if __name__ == "__main__":
    main()
