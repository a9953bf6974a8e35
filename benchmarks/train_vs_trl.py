"""Our training step against that of TRL's GRPOTrainer: same model, prompts, lengths, optimiser and precision.

    python benchmarks/train_vs_trl.py                      # SmolLM2-135M on a CPU, float32 and bfloat16
    python benchmarks/train_vs_trl.py --prompts 4 --words 100 --sides ours trl trl:plain
    python benchmarks/train_vs_trl.py --sides ours ours@/another/checkout      # before and after a change
    python benchmarks/train_vs_trl.py --device cuda --shape qwen3-0.6b --prompts 8 --tokens 512 --words 500 \
        --dtypes bfloat16 --trl-python python --trl-path WHEELS                 # untested: no GPU was at hand

Each side is a process (train_ours.py, train_trl.py), and they step in turn, in changing order. Both write answers of
exactly --tokens tokens: neither has a stop token. Both score them by the same function, which no two answers share,
so that no answer has an advantage of 0. First ours learns once from the answers and advantages of TRL's first step:
the gradients must agree. How time and memory are counted stands in train_meter.py; `above` is the most that was held
above imports, weights, gradients and moments. A ratio is the median over pairs of steps, with the least and the most.

Sides:  ours               as users get it
        ours:full, :none   all activations of a layer computed again, or none; see hybrid/recompute.py
        trl                as TRL's users get it: gradient checkpointing on; bfloat16 is autocast over float32 weights
        trl:plain          without gradient checkpointing
        trl:narrow         weights and moments in bfloat16 too (a learning rate of 1e-5 is then rounded away)
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from train_sides import Side, row

HERE = Path(__file__).parent
SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours:full": {"checkpointing": "full"},
    "ours:none": {"checkpointing": "none"},
    "trl": {},
    "trl:plain": {"gradient_checkpointing": False},
    "trl:narrow": {"narrow": True},
}


def begun(name: str, model: str, dtype: str, options: argparse.Namespace) -> Side:
    """A side by the name that the command line gives it."""
    kind, _, checkout = name.partition("@")
    given = {name: getattr(options, name) for name in ("device", "threads", "prompts", "group", "tokens", "words")}
    told = {"model": model, "dtype": dtype, "settings": json.dumps(SETTINGS[kind]), **given}
    if kind.startswith("ours"):
        return Side(name, told, path=checkout)
    return Side(name, told, python=options.trl_python, path=options.trl_path or str(HERE))


# -- one run ----------------------------------------------------------------------------------------------------------


def compare(model: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """All sides at one precision."""
    sides: list[Side] = []
    try:
        for name in options.sides:
            sides.append(begun(name, model, dtype, options))
        lengths = {side.name: side.hello["prompt_tokens"] for side in sides}
        if len(set(lengths.values())) != 1:
            raise SystemExit(f"the sides read prompts of different lengths: {lengths}")
        checked = same_work(sides)
        for number in range(options.steps):
            for side in sides if number % 2 else reversed(sides):
                side.steps.append(row(side.ask()))
    finally:
        for side in sides:
            side.close()
    hello = next((side.hello for side in sides if side.ours), sides[0].hello)
    return {"dtype": dtype, "hello": hello, "checked": checked, "steps": {side.name: side.steps for side in sides}}


def same_work(sides: list[Side]) -> dict[str, Any]:
    """The first step of TRL, its answers as ours sees them, and how far the gradients are apart."""
    first = {side.name: side.ask() for side in sides if not side.ours}
    reference = next(iter(first.values()), None)
    found: dict[str, Any] = {}
    for side in sides:
        if side.ours:
            if reference is not None:
                other = side.ask(answers=reference["answers"])
                found[side.name] = agreement(reference, other)
            side.ask()  # warms the sampler up
    return found


def agreement(trl: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    dot = math.sumprod(trl["gradient"], ours["gradient"]) if hasattr(math, "sumprod") else _dot(trl, ours)
    norms = math.hypot(*trl["gradient"]) * math.hypot(*ours["gradient"])
    return {
        "cosine": dot / norms,
        "norm_trl": trl["metrics"]["grad_norm"],
        "norm_ours": ours["metrics"]["grad_norm"],
        "entropy_trl": trl["metrics"]["entropy"],
        "entropy_ours": ours["metrics"]["entropy"],
    }


def _dot(a: dict[str, Any], b: dict[str, Any]) -> float:
    return sum(x * y for x, y in zip(a["gradient"], b["gradient"], strict=True))


# -- what it says -----------------------------------------------------------------------------------------------------


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    hello = found["hello"]
    print(
        f"\n{found['dtype']} on {options.device}, torch {hello['torch']}, {hello['parameters'] / 1e6:.1f} M weights: "
        f"{options.prompts} prompts of {hello['prompt_tokens']} tokens x {options.group} answers of {options.tokens}; "
        f"{options.steps} steps of each side in turn, medians"
    )
    for name, c in found["checked"].items():
        print(
            f"  same answers: {name} and trl: gradients' cosine {c['cosine']:.6f}, norms {c['norm_ours']:.5f} and "
            f"{c['norm_trl']:.5f}, entropy {c['entropy_ours']:.4f} and {c['entropy_trl']:.4f}"
        )
    print(f"  {'':<22}{'CPU-s':>8}{'rollout':>9}{'update':>8}{'wall s':>8}{'peak MiB':>10}{'floor':>7}{'above':>7}")
    for name, steps in found["steps"].items():
        columns = ("cpu_s", "rollout_cpu_s", "update_cpu_s", "wall_s", "peak", "floor", "above")
        m = [statistics.median(step[column] for step in steps) for column in columns]
        print(f"  {name:<22}{m[0]:8.2f}{m[1]:9.2f}{m[2]:8.2f}{m[3]:8.2f}{m[4]:10.0f}{m[5]:7.0f}{m[6]:7.0f}")
    if options.device != "cpu":
        for name, steps in found["steps"].items():
            print(f"  {name:<22}{of_the_bounds(steps, hello, options)}")
    names = list(found["steps"])
    for over in names[1:]:
        told = [f"{c} {ratio(found, names[0], over, c)}" for c in ("cpu_s", "rollout_cpu_s", "update_cpu_s", "above")]
        print(f"  {names[0]} / {over}: {', '.join(told)}")


def ratio(found: dict[str, Any], one: str, other: str, column: str) -> str:
    pairs = zip(found["steps"][one], found["steps"][other], strict=True)
    ratios = sorted(a[column] / b[column] for a, b in pairs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"


def of_the_bounds(steps: list[dict[str, float]], hello: dict[str, Any], options: argparse.Namespace) -> str:
    """Rollouts against memory bandwidth, the update against the peak of products (shared formulas in the docs)."""
    m = hello["shape"]
    answers, prompt, new = options.prompts * options.group, hello["prompt_tokens"], options.tokens
    kv_bytes = 2 * m["layers"] * m["kv_heads"] * m["head_dim"] * 2
    moved = new * (2 * hello["parameters"] + answers * (prompt + new / 2) * kv_bytes)
    tokens = statistics.median(step["packed_tokens"] for step in steps)
    tokens = answers * (prompt + new) if math.isnan(tokens) else tokens
    attention = 12 * m["layers"] * m["heads"] * m["head_dim"] * tokens * (prompt + new) / 2
    flops = 6 * hello["parameters"] * tokens + attention
    rollout, update = (statistics.median(step[f"{name}_wall_s"] for step in steps) for name in ("rollout", "update"))
    return (
        f"decode {answers * new / rollout:.0f} tokens/s, {moved / options.bandwidth_tbs / 1e12 / rollout:.0%} of the "
        f"bound; update {flops / update / options.peak_tflops / 1e12:.0%} of peak over {tokens:.0f} tokens"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", default=["ours", "trl"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=1, help="groups of one step")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=32, help="of a user message")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="", help="a folder; default: the packaged SmolLM2-135M")
    parser.add_argument("--shape", default="", help="a random-initialised model instead, see train_models.py")
    parser.add_argument("--trl-python", default=str(HERE.parent / ".venv-oracles/bin/python"))
    parser.add_argument("--trl-path", default="", help="PYTHONPATH of TRL's side")
    parser.add_argument("--bandwidth-tbs", type=float, default=4.8, help="of the GPU's memory; 4.8: an H200")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU, dense bfloat16")
    parser.add_argument("--json", type=Path, help="where all numbers go")
    options = parser.parse_args()
    if unknown := {name.partition("@")[0] for name in options.sides} - SETTINGS.keys():
        parser.error(f"unknown sides {sorted(unknown)}; known: {', '.join(SETTINGS)}")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or folder
        if options.shape:
            subprocess.run([sys.executable, HERE / "train_models.py", folder, options.shape], check=True)
        elif not options.model:
            from tfgrpo.policy.packaged_models import packaged_model

            model = str(packaged_model())
        found = [compare(model, dtype, options) for dtype in options.dtypes]
    for one in found:
        show(one, options)
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
