"""What choosing the next problem buys per call: every sampler on the same simulated worlds, paired by seed.

The world is not part of this project: give the folder that holds `stub_server.py` and `ruleworld.py`.

    python benchmarks/samplers.py --world FOLDER --preset easy --calls 600 1200 --seeds 10-14

One JSON row per run, then a table: mean and worst exact expected test accuracy of what would be served, and the
difference to the default with a 95 % interval over seeds (Student's t, the unit is the seed). All runs have the same
calls; a sampler that does not say how large a group is keeps `--group`. With few seeds the interval is wide: that it
holds 0 does not show that there is no difference.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulated_world import add_options, simulator, worlds

from tfgrpo.samplers import DEFAULT, SAMPLERS

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 20: 2.093}
"""Student's t by the number of seeds; between two entries the larger one is taken."""


def one_run() -> Callable[..., Any]:
    """`one` of the file beside this one; the world's module has the same name."""
    spec = importlib.util.spec_from_file_location("learning_in_a_world", Path(__file__).with_name("ruleworld.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run: Callable[..., Any] = module.one
    return run


def runs(options: argparse.Namespace, done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every sampler, number of calls and seed that `done` does not hold yet, one after the other."""
    known = {(row["sampler"], row["calls"], row["seed"]) for row in done}
    rows, one = list(done), one_run()
    with simulator(options) as base:
        for calls in options.calls:
            for name in options.samplers:
                asked = argparse.Namespace(**{**vars(options), "calls": calls, "sampler": name})
                for seed, world, _ in worlds(options, base):
                    if (name, calls, seed) not in known:
                        row = asyncio.run(one(base, world, asked, seed))
                        rows.append({"sampler": name, "calls": calls, **row})
                        print(json.dumps(rows[-1]), flush=True)
    return rows


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences."""
    n, mean = len(differences), statistics.mean(differences)
    if n < 2:
        return mean, -math.inf, math.inf
    t = T_975[max(k for k in T_975 if k <= n)]
    half = t * statistics.stdev(differences) / n**0.5
    return mean, mean - half, mean + half


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per sampler and number of calls."""
    scores = {(row["sampler"], row["calls"], row["seed"]): row["score"] for row in rows}
    lines = [
        "| calls | sampler | mean | worst | difference to the default (95 %) | critic calls |",
        "|---|---|---|---|---|---|",
    ]
    for calls in sorted({row["calls"] for row in rows}):
        for name in dict.fromkeys(row["sampler"] for row in rows):
            mine = [row for row in rows if (row["sampler"], row["calls"]) == (name, calls)]
            if not mine:
                continue
            own = [row["score"] for row in mine]
            critic = statistics.mean(row["critic_calls"] for row in mine)
            pairs = [
                row["score"] - scores[DEFAULT, calls, row["seed"]]
                for row in mine
                if (DEFAULT, calls, row["seed"]) in scores
            ]
            said = "–"
            if name != DEFAULT and pairs:
                said = "{:+.3f} ({:+.3f}..{:+.3f})".format(*interval(pairs))
            lines.append(f"| {calls} | {name} | {statistics.mean(own):.3f} | {min(own):.3f} | {said} | {critic:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds="10-14", calls=[600, 1200])
    for action in parser._actions:
        if action.dest == "calls":
            action.nargs = "+"
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--group", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--gate", default="evidence")
    parser.add_argument("--events", nargs="*", default=[])
    parser.add_argument("--rows", type=Path, help="a file of JSON rows of earlier runs, which are not run again")
    options = parser.parse_args()
    earlier = options.rows.read_text().splitlines() if options.rows and options.rows.exists() else []
    print(table(runs(options, [json.loads(line) for line in earlier if line.startswith("{")])))


if __name__ == "__main__":
    main()
