"""What a step of training should take on several GPUs and hosts, by arithmetic. Nothing here was run on a GPU.

    python benchmarks/train_on_paper.py                 # tables for docs/training.md
    python benchmarks/train_on_paper.py --answers 512 --decode 0.3 --mfu 0.3

The hardware is an H200's: 989 TFLOP/s of dense bfloat16, 4.8 TB/s, 141 GB; 450 GB/s to each other GPU of its host, 50
GB/s (400 Gb/s of network) to those of others. --decode and --mfu are the shares of memory bandwidth and of peak that
are reached. Parts of a step, in seconds, of R ranks on B answers of C tokens to prompts of P tokens in groups of G:

    decode    C (2 W + K (B/R) (P/G + C/2)) / (share x bandwidth)       K: bytes of keys and values per token
    update    (6 W + 6 L H (P+C)) T / (share x peak),  T = (B/G P + B C)/R   prompts of a group stored once
    sum       ddp: 2 (R-1)/R 4 W / link, once per update, nothing overlaps it
    gather    fsdp: (R-1)/R (2 W x (2 passes x rows + 1 for sampling) + 4 W rows) / link, half of it behind the products
    optimise  30 W / bandwidth; fsdp: / R                               masters, gradients, moments; weights written

W counts weights, L layers, H hidden size. Groups are dealt whole, so R beyond B/G leaves ranks idle while decoding.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

PEAK, BANDWIDTH, MEMORY = 989e12, 4.8e12, 141e9
NEAR, FAR = 450e9, 50e9
ROW = 16_384  # tokens of one packed row


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model, as far as its cost goes."""

    weights: float
    layers: int
    hidden: int
    kv_bytes: int  # of one token in all layers, bfloat16


QWEN3 = {
    "0.6B": Shape(weights=0.596e9, layers=28, hidden=1024, kv_bytes=2 * 28 * 8 * 128 * 2),
    "1.7B": Shape(weights=1.72e9, layers=28, hidden=2048, kv_bytes=2 * 28 * 8 * 128 * 2),
    "8B": Shape(weights=8.19e9, layers=36, hidden=4096, kv_bytes=2 * 36 * 8 * 128 * 2),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The answers of one step, and what of the hardware is reached."""

    answers: int
    group: int
    prompt: int
    new: int
    decode: float
    mfu: float


def step(m: Shape, load: Load, ranks: int, *, per_host: int = 8, cut: bool = False) -> dict[str, float]:
    """Seconds of the parts of a step, and gigabytes a rank holds beside activations.

    Example:
        >>> load = Load(answers=64, group=8, prompt=512, new=512, decode=1.0, mfu=0.4)
        >>> found = step(QWEN3["0.6B"], load, 1)
        >>> round(found["decode"], 2), round(found["update"], 2), found["exchange"]
        (0.38, 0.35, 0.0)
    """
    groups = math.ceil(load.answers / load.group / ranks)  # of the rank with the most
    mine = groups * load.group
    kept = mine * (load.prompt / load.group + load.new / 2)
    decode = load.new * (2 * m.weights + kept * m.kv_bytes) / (load.decode * BANDWIDTH)
    tokens = (load.answers / load.group * load.prompt + load.answers * load.new) / ranks
    update = tokens * (6 * m.weights + 6 * m.layers * m.hidden * (load.prompt + load.new)) / (load.mfu * PEAK)
    link = NEAR if ranks <= per_host else FAR
    away, rows = (ranks - 1) / ranks, math.ceil(tokens / ROW)
    if cut:
        exchange = away * (2 * m.weights * (2 * rows + 1) + 4 * m.weights * rows) / link / 2
    else:
        exchange = 2 * away * 4 * m.weights / link
    share = ranks if cut else 1
    optimise = 30 * m.weights / BANDWIDTH / share
    held = (2 + 16 / share) * m.weights / 1e9
    whole = decode + update + exchange + optimise
    return {"decode": decode, "update": update, "exchange": exchange, "optimise": optimise, "step": whole, "GB": held}


def table(load: Load, *, weak: bool) -> list[str]:
    """Rows of a table: strong scaling shares the same answers, weak gives each rank as many."""
    lines = [
        "| model | GPUs x hosts | weights | decode | update | exchange | optimise | step | efficiency | GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, m in QWEN3.items():
        alone = step(m, load, 1, cut=False)["step"]
        for ranks in (1, 8, 16, 32):
            cut = (2 + 16) * m.weights > 0.8 * MEMORY
            mine = Load(**{**_fields(load), "answers": load.answers * ranks}) if weak else load
            found = step(m, mine, ranks, cut=cut)
            efficiency = alone / found["step"] / (1 if weak else ranks)
            seconds = " | ".join(f"{found[part]:.2f}" for part in ("decode", "update", "exchange", "optimise", "step"))
            size = f"{found['GB']:.0f}{'' if found['GB'] < MEMORY / 1e9 else ' (too much)'}"
            where = f"{min(ranks, 8)} x {max(1, ranks // 8)}"
            lines.append(f"| {name} | {where} | {'cut' if cut else 'whole'} | {seconds} | {efficiency:.0%} | {size} |")
    return lines


def _fields(load: Load) -> dict[str, float]:
    return {name: getattr(load, name) for name in load.__slots__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=256, help="of one step (%(default)s)")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=512)
    parser.add_argument("--decode", type=float, default=0.4, help="share of the memory bandwidth (%(default)s)")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of the peak (%(default)s)")
    given = vars(parser.parse_args())
    load = Load(**given)
    print(f"{load.answers} answers shared by all GPUs (strong scaling), seconds:\n")
    print("\n".join(table(load, weak=False)))
    print("\n64 answers for each GPU (weak scaling), seconds:\n")
    print("\n".join(table(Load(**{**given, "answers": 64}), weak=True)))


if __name__ == "__main__":
    main()
