"""What a step of training costs by size of the model, length of answers, size of groups, vocabulary, and processes.

    python benchmarks/train_cost.py --plot docs/figures/train_cost.svg --json cost.json    # a CPU, some 5 minutes
    python benchmarks/train_cost.py --processes 2 --sweeps group          # and how two processes share it
    python benchmarks/train_cost.py --device cuda --base 1024x16x32768 --dtype bfloat16   # untested: no GPU was at hand

Random-initialised Llama shapes, answers of exactly the asked length, all weights trained, one thread. One thing
changes at a time from --base. A point is the median of --steps steps after one that is not counted. Memory is what a
step holds above imports, weights, gradients and moments (train_meter.py). `slope` is that of a line through the
logarithms: 1 means twice the size, twice the cost. With --processes, every point is measured with one process and with
several in turn; efficiency is the time of one divided by the number of processes and by their time, and by CPU seconds
of rank 0 too, which leaves out waiting and so means something on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train_sides import HERE, Side, row

SWEEPS: dict[str, tuple[str, list[int]]] = {
    "parameters": ("hidden size", [128, 256, 512, 768]),
    "tokens": ("new tokens of an answer", [16, 64, 256]),
    "group": ("answers of a group", [2, 8, 32]),
    "vocabulary": ("words of the vocabulary", [4096, 32768, 131072]),
}
"""What changes, and its values."""
SHARED = {
    "rollout_wall_s": "rollout",
    "update_wall_s": "update",
    "wall_s": "step",
    "rollout_cpu_s": "rollout's CPU",
    "update_cpu_s": "update's CPU",
}
COLUMNS = {"rollout": "rollout_cpu_s", "update": "update_cpu_s"}


def points(what: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One sweep: for each value the medians of the numbers of `train_sides.row`."""
    hidden, layers, vocabulary = map(int, options.base.split("x"))
    found = []
    for value in SWEEPS[what][1]:
        shape = {
            "parameters": f"{value}x{layers}x{vocabulary}",
            "vocabulary": f"{hidden}x{layers}x{value}",
        }.get(what, options.base)
        given = {"prompts": options.prompts, "group": 8, "tokens": 64, "words": 32}
        if what in given:
            given[what] = value
        point = measured(f"llama:{shape}", given, options)
        point["x"] = point["parameters"] / 1e6 if what == "parameters" else value
        found.append(point)
        told = "  ".join(f"{name} {point[column]:.2f} CPU-s" for name, column in COLUMNS.items())
        print(f"  {point['x']:>10.4g}  {told}  above {point['above']:.0f} MiB{shared(point)}", flush=True)
    return found


def measured(shape: str, given: Mapping[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """A point: one process, and several beside it where they are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, HERE / "train_models.py", folder, shape]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        told = {"model": folder, "dtype": options.dtype, "device": options.device, "threads": 1, **given}
        counts = [1] if options.processes == 1 else [1, options.processes]
        sides = [Side(f"ours x {count}", told, processes=count) for count in counts]
        try:
            for number in range(options.steps + 1):
                for side in sides if number % 2 else reversed(sides):
                    step = row(side.ask())
                    if number:
                        side.steps.append(step)
        finally:
            for side in sides:
                side.close()
    one = sides[0]
    found: dict[str, Any] = {name: statistics.median(step[name] for step in one.steps) for name in one.steps[0]}
    found["parameters"] = one.hello["parameters"]
    if len(sides) > 1:
        for name in SHARED:
            pairs = zip(one.steps, sides[1].steps, strict=True)
            shares = sorted(a[name] / (options.processes * b[name]) for a, b in pairs)
            found[f"efficiency_{name}"] = (statistics.median(shares), shares[0], shares[-1])
    return found


def shared(point: Mapping[str, Any]) -> str:
    """Efficiency of several processes, median and range."""
    told = []
    for name, words in SHARED.items():
        if f"efficiency_{name}" in point:
            median, low, high = point[f"efficiency_{name}"]
            told.append(f"{words} {median:.2f} ({low:.2f}..{high:.2f})")
    return f"  efficiency: {', '.join(told)}" if told else ""


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of log y over log x, by least squares."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(max(y, 1e-9)) for y in ys]).slope


def plot(found: Mapping[str, list[dict[str, Any]]], words: str, target: Path) -> None:
    """Seconds above, memory below, one column per sweep."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tfgrpo"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(3.2 * len(found), 5.4), squeeze=False, layout="constrained")
    for n, (what, rows) in enumerate(found.items()):
        xs = [point["x"] for point in rows]
        above, below = axes[0][n], axes[1][n]
        for name, column in COLUMNS.items():
            ys = [point[column] for point in rows]
            above.plot(xs, ys, marker="o", label=f"{name}, slope {slope(xs, ys):.2f}")
        below.plot(xs, [point["above"] for point in rows], marker="s", color="tab:gray")
        label = "million weights" if what == "parameters" else SWEEPS[what][0]
        above.set(xscale="log", yscale="log", title=what)
        below.set(xscale="log", xlabel=label, ylim=(0, None))
        for axis in (above, below):
            axis.set_xticks(xs, [f"{x:.3g}" if x < 1000 else f"{x:,.0f}" for x in xs])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        above.legend(fontsize=8)
    axes[0][0].set_ylabel("seconds of CPU per step")
    axes[1][0].set_ylabel("MiB above weights and moments")
    figure.suptitle(words, fontsize=10)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--base", default="384x8x16384", help="hidden size x layers x vocabulary (%(default)s)")
    parser.add_argument("--prompts", type=int, default=2, help="groups of one step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="measured beside one process")
    parser.add_argument("--json", type=Path, help="where all numbers go")
    parser.add_argument("--plot", type=Path, help="where the figure goes (needs matplotlib)")
    options = parser.parse_args()
    words = (
        f"Llama {options.base}, {options.dtype} on {options.device}, {options.prompts} prompts x 8 answers x 64 tokens"
    )
    print(words)
    found = {}
    for what in options.sweeps:
        print(f" by {SWEEPS[what][0] if what != 'parameters' else 'million weights'}", flush=True)
        found[what] = points(what, options)
        xs = [point["x"] for point in found[what]]
        slopes = {name: slope(xs, [point[column] for point in found[what]]) for name, column in COLUMNS.items()}
        print("  slope  " + ", ".join(f"{name} {value:.2f}" for name, value in slopes.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"words": words, "sweeps": found}))
    if options.plot:
        plot(found, words, options.plot)


if __name__ == "__main__":
    main()
