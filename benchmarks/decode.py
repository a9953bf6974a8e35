"""Tokens per second of the decoders beside what the memory of the machine allows, on whatever device there is.

    python benchmarks/decode.py [--model local/smollm2] [--rows 8 32 64] [--prompt 64] [--new 64] [--group 8]
    python benchmarks/decode.py --random qwen3-0.6b --rows 64 --prompt 512 --new 512       # no weights needed

A step of decoding reads all weights, and the keys and values of every row. So B answers of C tokens after prompts of P
tokens take at least C (W + B (P + C/2) k) / bandwidth, with W bytes of weights and k of one token's keys and values.
"bound" is that, with the bandwidth of a large copy on this device; a decoder that shares prompts in a group of G reads
only B/G P of the prompts, "shared bound" is that. On a CPU arithmetic takes longer than reading.

Answers are forced to their full length. Prompts are read before the clock starts; the first run of each decoder warms
up. Decoders take turns; medians.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.decode_check import check_model
from hybrid.folders import model_folder
from hybrid.rollouts import DECODERS
from tfgrpo.policy.local_attention import ATTENTION
from tfgrpo.policy.local_engine import Row
from tfgrpo.policy.local_loading import load_model

QWEN3 = {
    "vocab_size": 151_936,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40_960,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {**QWEN3, "hidden_size": 1024, "intermediate_size": 3072},
    "qwen3-1.7b": {**QWEN3, "hidden_size": 2048, "intermediate_size": 6144},
    "tiny": {**QWEN3, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512},
}
COPIED = {"cpu": 2**28}
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Answers that are written at the same time."""

    rows: int  # B
    prompt: int  # P
    new: int  # C
    group: int  # G

    def answers(self, words: int, seed: int) -> list[Row]:
        """The same for the same seed."""
        numbers = random.Random(seed)
        prompts = [tuple(numbers.randrange(words) for _ in range(self.prompt)) for _ in range(self.rows)]
        return [
            Row(
                prompt=prompts[n // self.group],
                temperature=1.0,
                top_p=1.0,
                max_tokens=self.new,
                rng=random.Random(seed * 1000 + n),
                logprobs=True,
            )
            for n in range(self.rows)
        ]

    def bound_s(self, weights: int, token: int, bandwidth: float, *, shared: bool) -> float:
        """Seconds that reading alone takes, from the second token on."""
        prompts = -(-self.rows // self.group) if shared else self.rows
        tokens = prompts * self.prompt + self.rows * self.new / 2
        return (self.new - 1) * (weights + tokens * token) / bandwidth


def random_model(shape: str, device: str, dtype: str) -> Any:
    """A Qwen3 of this shape with random weights."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            Qwen3Config(**SHAPES[shape]), dtype=getattr(torch, dtype), attn_implementation=ATTENTION
        ).eval()


def weight_bytes(model: Any) -> int:
    """What every step reads: an input embedding of its own is not, it is looked up."""
    read = {id(p): p.nbytes for p in model.parameters()}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return sum(read.values()) - (0 if embedding is head else embedding.nbytes)


def bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.zeros(COPIED.get(device.type, 2 * GIB), dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    times = []
    for _ in range(7):
        begun = now(device)
        target.copy_(source)
        times.append(now(device) - begun)
    return 2 * source.nbytes / statistics.median(times[2:])


def now(device: torch.device) -> float:
    """Seconds; of one thread on a CPU its own time, which says the same on a busy machine."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def decode_s(decoder: Any, load: Load, words: int, seed: int) -> tuple[float, float]:
    """Seconds to read the prompts with first tokens, and for all other tokens."""
    device = decoder.model.device
    rows = load.answers(words, seed)
    begun = now(device)
    decoder.add(rows)
    read = now(device)
    while decoder.running:
        decoder.step()
    ended = now(device)
    assert all(len(row.tokens) == load.new for row in rows)
    decoder.forget()
    return read - begun, ended - read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="local/smollm2")
    parser.add_argument("--random", choices=SHAPES, help="random weights of this shape instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--decoders", nargs="+", default=["slots", "static"], choices=DECODERS)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    if args.random:
        model = random_model(args.random, args.device, args.dtype)
    else:
        model = load_model(model_folder(args.model), device=args.device, dtype=args.dtype, threads=None).model
    geometry = check_model(model)
    weights, speed = weight_bytes(model), bandwidth(geometry.device)
    threads = f"{torch.get_num_threads()} CPU thread(s)"
    where = torch.cuda.get_device_name() if geometry.device.type == "cuda" else threads
    print(f"{args.random or args.model}, {args.dtype}, {where}; torch {torch.__version__}; copy {speed / 1e9:.1f} GB/s")
    print(f"weights {weights / GIB:.2f} GiB, keys and values {geometry.token_bytes / 1024:.0f} KiB per token")
    for rows in args.rows:
        compare(model, Load(rows=rows, prompt=args.prompt, new=args.new, group=args.group), args, weights, speed)


def compare(model: Any, load: Load, args: argparse.Namespace, weights: int, speed: float) -> None:
    """One line per decoder."""
    words, token = model.config.vocab_size, check_model(model).token_bytes
    prefill = 512 if model.device.type == "cpu" else 8192
    made = {n: DECODERS[n](model, set(), max_rows=load.rows, prefill_tokens=prefill) for n in args.decoders}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for run in range(args.runs + 1):
        for name, decoder in made.items():
            found[name].append(decode_s(decoder, load, words, seed=run))
    plain, shared = (load.bound_s(weights, token, speed, shared=one) for one in (False, True))
    print(f"{load.rows} rows, {load.prompt} + {load.new} tokens, groups of {load.group}; n={args.runs}")
    print(f"  bound {plain:.2f} s, shared bound {shared:.2f} s")
    for name, times in found.items():
        read, wrote = (statistics.median(column) for column in zip(*times[1:], strict=True))
        low, high = min(t for _, t in times[1:]), max(t for _, t in times[1:])
        tokens = load.rows * (load.new - 1)
        print(
            f"  {name:<9} prompts {read:6.2f} s  answers {wrote:6.2f} s ({low:.2f}..{high:.2f})  "
            f"{tokens / wrote:7.0f} tokens/s  {plain / wrote:6.1%} of the bound, {shared / wrote:6.1%} of the shared"
        )


if __name__ == "__main__":
    main()
