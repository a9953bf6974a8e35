"""Strategies beside the plain answer on a simulated provider: accuracy, interval and cost of the same calls.

The world is not part of this project: give the folder that holds `stub_server.py` and `ruleworld.py`.

    python benchmarks/strategies.py --world FOLDER --seeds 10 --strategies vote:8 adaptive:16

Every problem of the test split, bare and with half of the world's rules in the prompt (`--known`). The simulated model
errs at random among thirty codes, so that wrong answers hardly ever agree: the best case of a vote, and no judge lives
there. The prices are those of the other benchmarks on it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
from typing import Any

from simulated_world import PRICES, add_options, post, simulator, worlds

from tfgrpo import Budget, Measurement, Price, Problem, Sampling, Task, aevaluate, connect, reward


@reward
def holds_code(problem: Problem, completion: Any) -> bool:
    """Whether the code stands in the answer."""
    return str(problem.answer) in completion.text


def world_task(world: Any, known: float, limit: int) -> Task:
    """Test problems, the first share of the world's rules in their system message."""
    rules = world.oracle_text().splitlines()[:-1]
    told = "\n".join(rules[: round(known * len(rules))])
    system = [{"role": "system", "content": told}] if told else []
    problems = tuple(
        Problem(id=item.id, messages=(*system, {"role": "user", "content": item.text}), answer=item.answer)
        for item in world.splits["test"][:limit]
    )
    sampling = Sampling(temperature=1.0, max_tokens=64)
    return Task(name="ruleworld", learn=(), test=problems, reward=holds_code, sampling=sampling)


async def one(base: str, task: Task, strategy: str) -> Measurement:
    """One strategy on one world."""
    spec, _, calls = strategy.partition("@")
    budget = Budget(calls=round(float(calls) * len(task.test))) if calls else None
    price = Price(prompt_usd_per_mtok=PRICES["solver"][0], completion_usd_per_mtok=PRICES["solver"][1])
    solver = connect(f"{base}/v1#stub-task", api_key="none", price=price)
    with tempfile.TemporaryDirectory() as folder:
        found = await aevaluate(task, model=solver, strategy=spec, budget=budget, runs=folder, seed=0)
    await solver.aclose()
    return dataclasses.replace(found, folder="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--strategies", nargs="+", default=["vote:8", "adaptive:16", "adaptive:16@4", "refine:2"],
                        help="NAME:N, or NAME:N@C for an adaptive one with C calls a problem on average")  # fmt: skip
    parser.add_argument("--known", type=float, nargs="+", default=[0.0, 0.5], help="shares of the rules in the prompt")
    parser.add_argument("--limit", type=int, default=400)
    options = parser.parse_args()
    with simulator(options) as base:
        for seed, world, knobs in worlds(options, base):
            for known in options.known:
                for strategy in options.strategies:
                    post(f"{base}/reset", {"seed": seed, "lat_task": 0.0})  # the same luck for each of them
                    print(f"seed {seed}, {known:.0%} of the rules known, base {knobs['base']:.3f}: {strategy}")
                    task = world_task(world, known, options.limit)
                    print(asyncio.run(one(base, task, strategy)), flush=True)


if __name__ == "__main__":
    main()
