"""What both sides of a training benchmark share: how a step is measured, what is asked, and how the parent talks.

A side is a process of its own. It says hello on its standard output once it is ready, and then makes one step for
every line on its standard input and answers each with one line of JSON. So a parent can let two of them step in turn,
and the noise of a busy machine meets both.

How memory is counted, on both sides alike:

    imports   what the process held after its imports, before a model was loaded (resident; freed pages given back)
    state     bytes of all parameters, float32 masters, gradients and AdamW moments, counted tensor by tensor
    peak      the most the process held during a phase: VmHWM, set back by /proc/self/clear_refs when a phase begins
    above     peak - imports - state: activations, logits, key/value buffers, whatever an allocator did not give back

On a GPU peak is torch's own count of allocated bytes, and imports are 0.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

LR, BETAS, CLIP = 1e-5, (0.9, 0.999), 1.0
WORDS = [
    "red",
    "blue",
    "green",
    "small",
    "large",
    "round",
    "flat",
    "old",
    "new",
    "warm",
    "cold",
    "light",
    "dark",
    "soft",
    "hard",
    "quick",
    "slow",
    "near",
    "far",
    "high",
]


class Meter:
    """CPU seconds, wall seconds and peak memory of the phases of a step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.imports = resident() if device == "cpu" else 0
        self.state = 0
        self.phases: dict[str, dict[str, float]] = {}
        self._now: tuple[str, float, float] | None = None

    def switch(self, name: str | None) -> None:
        """Ends the phase that runs, begins the next; None: begins none."""
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        if self._now is not None:
            last, cpu_then, wall_then = self._now
            row = self.phases.setdefault(last, {"cpu_s": 0.0, "wall_s": 0.0, "peak": 0.0})
            row["cpu_s"] += cpu - cpu_then
            row["wall_s"] += wall - wall_then
            row["peak"] = max(row["peak"], self._peak())
        self._reset()
        self._now = None if name is None else (name, time.process_time(), time.perf_counter())

    def taken(self) -> dict[str, Any]:
        """The phases since the last call, and the floor below their peaks."""
        phases, self.phases = self.phases, {}
        return {"phases": phases, "imports": self.imports, "state": self.state}

    def count(self, tensors: Iterable[Any]) -> None:
        """Remembers the bytes of the tensors that training cannot do without; each storage once."""
        unique = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self.state = max(self.state, sum(unique.values()))

    def _wait(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()

    def _peak(self) -> int:
        if self.device == "cpu":
            return status("VmHWM")
        import torch

        return int(torch.cuda.max_memory_allocated())

    def _reset(self) -> None:
        if self.device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")
            return
        import torch

        torch.cuda.reset_peak_memory_stats()


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field + ":"))


def resident() -> int:
    """Bytes that this process holds after what it does not need was given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return status("VmRSS")


def optimizer_tensors(optimizer: Any) -> Iterator[Any]:
    """Parameters, gradients and moments of a torch optimiser."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            yield p
            if p.grad is not None:
                yield p.grad
            yield from (t for name, t in optimizer.state[p].items() if name != "step")


# -- what is asked, and what it is worth ------------------------------------------------------------------------------


def question(number: int, words: int) -> list[dict[str, str]]:
    """A user message of a given length; each number another one, all of equal length."""
    draw = random.Random(number)
    return [{"role": "user", "content": " ".join(draw.choice(WORDS) for _ in range(words))}]


def worth(tokens: Sequence[int]) -> float:
    """A reward that tells any two answers apart, so that no group is without a signal and nothing can be skipped."""
    return zlib.crc32(json.dumps(list(tokens)).encode()) / 2**32


# -- how a side talks -------------------------------------------------------------------------------------------------


class Line:
    """Answers of a side to its parent; whatever libraries print goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, **what: Any) -> None:
        print(json.dumps(what), file=self._out, flush=True)

    def heard(self) -> dict[str, Any] | None:
        """What to do next; None: nothing more."""
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else None


def fingerprint(layers: int, gradient_of: Callable[[str], Any]) -> list[float]:
    """Gradients of some weights of the middle and the end of a model, as numbers that two processes can compare."""
    names = ("model.norm.weight", f"model.layers.{layers // 2}.self_attn.q_proj.weight")
    return [x for name in names for x in gradient_of(name).float().flatten()[:1024].tolist()]


def side_options(words: str | None) -> argparse.Namespace:
    """What a side is started with."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--model", required=True, help="a folder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=1, help="groups of one step")
    parser.add_argument("--group", type=int, default=8, help="answers of one group")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer, neither more nor less")
    parser.add_argument("--words", type=int, default=32, help="of the user message")
    parser.add_argument("--settings", default="{}", help="JSON, further settings of this side")
    return parser.parse_args()
