"""What a teacher costs: time and memory of SRPO's update against plain GRPO's on the same answers, half of them taught.

    python benchmarks/srpo_step.py [--prompts 2] [--group 8] [--tokens 96] [--runs 5] [--ways grpo live ema]

Answers of the packaged model to real questions are sampled once; every other one is called right, so that the wrong
half of each group is taught by a right sibling's answer. Updates of all ways take turns in one process, so that a busy
machine is busy for all of them: CPU seconds on a CPU, seconds on a GPU. Memory is measured in a process for each way.
With `--layers` the model is a llama with random weights, for a GPU: `--device cuda --layers 28 --hidden 2048`.

The ratio is the median over turns of SRPO's time over GRPO's of the same turn, with the range of all turns.
"""

from __future__ import annotations

import argparse
import asyncio
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

GIB = 2**30
TEACHERS = {"live": "live", "ema": "ema", "trust": "trust_region"}


def sampled(args: argparse.Namespace, folder: Path) -> list[Any]:
    """Groups of real answers, the first of each pair called right."""
    from hybrid.model import load_trainable
    from hybrid.parallel import Ranks
    from hybrid.rollouts import LiveRollouts, Worker, training_sampling
    from hybrid.writing import Writer
    from tasks.word_sorting import task
    from tfgrpo.policy.base import Sampling
    from tfgrpo.types import Group, Problem, Rollout, Score

    async def answered() -> list[Any]:
        worker = Worker()
        writer = Writer(load_trainable(folder, settings(args)), Ranks(), nullcontext)
        rollouts = LiveRollouts(writer, worker)
        asked = training_sampling(Sampling(temperature=1.0, max_tokens=args.tokens))
        groups = []
        for problem in task(learn=args.prompts, gate=0, test=2).learn:
            asks = (rollouts.complete(problem.messages, with_seed(asked, n)) for n in range(args.group))
            answers = await asyncio.gather(*asks)
            scored = [Rollout(completion=a, score=Score(value=float(n % 2 == 0))) for n, a in enumerate(answers)]
            groups.append(Group(problem=Problem(id=problem.id, messages=problem.messages), rollouts=tuple(scored)))
        await rollouts.aclose()
        await worker.aclose()
        return groups

    return asyncio.run(answered())


def with_seed(sampling: Any, seed: int) -> Any:
    from dataclasses import replace

    return replace(sampling, seed=seed)


def settings(args: argparse.Namespace) -> Any:
    from hybrid.settings import Settings

    return Settings(device=args.device, dtype=args.dtype, threads=args.threads, drift=1e9, lr=1e-7)


def prepared(way: str, args: argparse.Namespace, folder: Path, groups: Sequence[Any]) -> tuple[Any, Any]:
    """A trainer with a model of its own, and its batch."""
    from hybrid.answers import Batch
    from hybrid.losses import resolve_loss
    from hybrid.model import load_trainable
    from hybrid.recipes import resolve_recipe
    from hybrid.reprompt import with_teachers
    from hybrid.trainer import Trainer
    from tfgrpo.advantage import Table, resolve_advantage

    loaded = load_trainable(folder, settings(args))
    distill = None if way == "grpo" else resolve_recipe("srpo", teacher=TEACHERS[way]).distill
    trainer = Trainer(loaded, resolve_loss("dapo"), settings(args), temperature=1.0, distill=distill)
    batch = Batch.of(groups, resolve_advantage("dr_grpo").columns(Table.of(groups)))
    return trainer, batch if distill is None else with_teachers(batch, groups, distill, loaded, (0, 0))


def clock(args: argparse.Namespace) -> float:
    if args.device != "cuda":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def raced(args: argparse.Namespace, folder: Path, groups: Sequence[Any]) -> dict[str, list[float]]:
    """Seconds of each way's updates, turn by turn, after one to warm up."""
    ready = {way: prepared(way, args, folder, groups) for way in args.ways}
    taken: dict[str, list[float]] = {way: [] for way in args.ways}
    for turn in range(args.runs + 1):
        for way, (trainer, batch) in ready.items():
            begun = clock(args)
            told = trainer.update(batch, max_tokens=args.tokens)
            if turn:
                taken[way].append(clock(args) - begun)
            elif way != "grpo":
                shown = [t for t in batch.teachers if t is not None]
                read = len({t.prompt: len(t.prompt) for t in shown}), sum(len(t.tokens) for t in shown)
                print(
                    f"  {way}: {told['route/taught']:.0f} of {told['answers']:.0f} answers taught, "
                    f"{told['packed_tokens']:.0f} tokens packed, the teacher reads {read[0]} prompts of "
                    f"{statistics.mean(len(t.prompt) for t in shown):.0f} tokens and {read[1]} tokens of answers"
                )
    return taken


def peak(way: str, args: argparse.Namespace, folder: Path, groups: Sequence[Any]) -> float:
    """The most GiB that this process, or the GPU, holds during two updates."""
    import torch

    trainer, batch = prepared(way, args, folder, groups)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: loading is over
    for _ in range(2):
        trainer.update(batch, max_tokens=args.tokens)
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB


def random_model(args: argparse.Namespace, folder: Path) -> Path:
    """A llama with random weights and the packaged model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tfgrpo.policy.packaged_models import packaged_model

    tokenizer = AutoTokenizer.from_pretrained(packaged_model())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 3,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=max(1, args.hidden // 256),
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=["grpo", *TEACHERS], default=["grpo", "live", "ema"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=0, help="of a model with random weights; 0: the packaged one")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "MODEL", "GROUPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(peak(args.one[0], args, Path(args.one[1]), pickle.loads(Path(args.one[2]).read_bytes())))
        return
    with tempfile.TemporaryDirectory() as made:
        from tfgrpo.policy.packaged_models import packaged_model

        folder = random_model(args, Path(made) / "model") if args.layers else packaged_model()
        groups = sampled(args, folder)
        kept = Path(made) / "groups"
        kept.write_bytes(pickle.dumps(groups))
        written = [r.completion.usage.completion_tokens for g in groups for r in g.rollouts]
        print(f"{args.prompts} problems x {args.group} answers of {statistics.mean(written):.0f} tokens, {args.dtype}")
        memory = {way: _in_process(way, folder, kept) for way in args.ways}
        seconds = raced(args, folder, groups)
    for way in args.ways:
        ratios = sorted(mine / plain for mine, plain in zip(seconds[way], seconds["grpo"], strict=True))
        print(
            f"  {way:<6} {statistics.median(seconds[way]):7.2f} s, x {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f}..{ratios[-1]:.3f}, {len(ratios)} turns); {memory[way]:.2f} GiB, "
            f"x {memory[way] / memory['grpo']:.3f}"
        )


def _in_process(way: str, folder: Path, groups: Path) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(folder), str(groups)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
