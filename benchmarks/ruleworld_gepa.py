"""gepa on the same simulated provider, for the table beside `ruleworld.py`; run it where gepa is installed.

    python benchmarks/ruleworld_gepa.py --world FOLDER --preset easy --calls 600 --seeds 10-19 --minibatch 5 --val 15

Tuned settings (minibatch 5, 15 validation problems) are what gepa does best with here; its defaults are 3 and 40.
Metric calls are limited to `--calls`; gepa may end a little above, which the row shows.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from typing import Any

import gepa
from simulated_world import PRICES, add_options, post, simulator, worlds


class Model:
    """A chat model of the simulator by one kept connection; counts calls and dollars by the shared price list."""

    def __init__(self, base: str, name: str, role: str) -> None:
        self._connection = http.client.HTTPConnection(base.removeprefix("http://"))
        self.name, self.price = name, PRICES[role]
        self.calls, self.usd = 0, 0.0

    def __call__(self, messages: Any) -> str:
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        body = json.dumps({"model": self.name, "messages": asked, "temperature": 1.0})
        self._connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        reply = json.load(self._connection.getresponse())
        used = reply["usage"]
        self.calls += 1
        self.usd += (used["prompt_tokens"] * self.price[0] + used["completion_tokens"] * self.price[1]) / 1e6
        return str(reply["choices"][0]["message"]["content"])


def one(base: str, world: Any, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run of gepa."""

    def items(split: str, limit: int | None = None) -> list[dict[str, Any]]:
        return [{"input": i.text, "answer": i.answer, "additional_context": {}} for i in world.splits[split][:limit]]

    solver, reflector = Model(base, "stub-task", "solver"), Model(base, "stub-reflect", "critic")
    began = time.monotonic()
    result = gepa.optimize(
        seed_candidate={"system_prompt": "Find the handling code of the parcel."},
        trainset=items("train"),
        valset=items("val", options.val),
        task_lm=solver,
        reflection_lm=reflector,
        reflection_minibatch_size=options.minibatch,
        max_metric_calls=options.calls,
        logger=Silent(),
        seed=seed,
    )
    score = post(f"{base}/score", {"text": result.best_candidate["system_prompt"]})["score"]
    return {
        "seed": seed,
        "score": round(score, 4),
        "solver_calls": solver.calls,
        "critic_calls": reflector.calls,
        "usd": round(solver.usd + reflector.usd, 4),
        "wall_s": round(time.monotonic() - began, 2),
    }


class Silent:
    """A logger that says nothing."""

    def log(self, message: str) -> None:
        """Nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--minibatch", type=int, default=5)
    parser.add_argument("--val", type=int, default=15)
    options = parser.parse_args()
    rows = []
    with simulator(options) as base:
        for seed, world, _ in worlds(options, base):
            rows.append(one(base, world, options, seed))
            print(json.dumps(rows[-1]), flush=True)
    scores = [row["score"] for row in rows]
    means = {
        name: statistics.mean(row[name] for row in rows) for name in ("solver_calls", "critic_calls", "usd", "wall_s")
    }
    print(
        f"gepa {options.preset} {options.calls}: score {statistics.mean(scores):.3f} worst {min(scores):.3f}, "
        f"solver {means['solver_calls']:.0f} critic {means['critic_calls']:.0f} calls, ${means['usd']:.3f}, "
        f"{means['wall_s']:.1f} s"
    )


if __name__ == "__main__":
    main()
