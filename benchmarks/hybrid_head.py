"""Memory and time of log-probs and entropies of tokens, forward and backward: chunks of logits against all of them.

    python benchmarks/hybrid_head.py [--tokens 2048] [--hidden 576] [--vocab 49152] [--runs 3]

"whole" is what a trainer does that keeps logits [N, V]: log_softmax in float32, gather, entropy. Each measurement is a
process of its own, because a process never gives memory back; peak memory is the most it held above what it held
before the forward pass. "gradients" is what both must hold in the end: those of hidden states and output embedding.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

MIB = 2**20


def measured(way: str, tokens: int, hidden: int, vocab: int, dtype: str) -> tuple[float, float]:
    """Peak MiB above the start, and CPU seconds, of one forward and backward pass in this process."""
    import torch

    from hybrid.head import Head, token_scores

    kind = getattr(torch, dtype)
    h = torch.randn(tokens, hidden, dtype=kind, requires_grad=True)
    weight = torch.randn(vocab, hidden, dtype=kind).mul_(hidden**-0.5).requires_grad_()
    targets = torch.randint(vocab, (tokens,))
    token_scores(h[:2], targets[:2] % 64, Head(weight=weight[:64]))  # loads what is loaded at the first call
    before, begun = _peak(), time.process_time()
    if way == "chunked":
        logp, entropy = token_scores(h, targets, Head(weight=weight))
    elif way == "whole":
        logps = torch.log_softmax((h @ weight.T).float(), -1)
        logp, entropy = logps.gather(-1, targets[:, None])[:, 0], -(logps.exp() * logps).sum(-1)
    else:
        logp, entropy = (h * weight.sum(0)).sum(1), torch.zeros(())
    (logp.sum() + 0.01 * entropy.sum()).backward()
    return (_peak() - before) / MIB, time.process_time() - begun


def _peak() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = args.tokens, args.hidden, args.vocab
    if args.one:
        print(*measured(args.one[0], *sizes, args.one[1]))
        return
    print(f"{args.tokens} tokens, hidden size {args.hidden}, vocabulary {args.vocab}; medians of {args.runs}")
    for dtype in ("float32", "bfloat16"):
        found = {way: _median(way, dtype, args) for way in ("whole", "chunked", "gradients")}
        for way, (memory, seconds) in found.items():
            print(f"  {dtype:<9} {way:<10} {memory:8.0f} MiB  {seconds:6.2f} CPU-s")
        ratios = [found["chunked"][i] / found["whole"][i] for i in (0, 1)]
        print(f"  {dtype:<9} chunked / whole: memory {ratios[0]:.2f}, time {ratios[1]:.2f}")


def _median(way: str, dtype: str, args: argparse.Namespace) -> tuple[float, float]:
    command = [sys.executable, __file__, "--one", way, dtype]
    command += [f"--{name}={getattr(args, name)}" for name in ("tokens", "hidden", "vocab")]
    done = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(args.runs)
    ]
    columns = zip(*(map(float, line) for line in done), strict=True)
    memory, seconds = (statistics.median(column) for column in columns)
    return memory, seconds


if __name__ == "__main__":
    main()
