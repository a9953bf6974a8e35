"""Processes that make a step of training when told to, as their parents see them: train_ours.py and train_trl.py."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MIB = 2**20


class Side:
    """One process, or several that torchrun starts, that step when the parent asks.

    Args:
        name: what it is called; "ours..." is our trainer, "trl..." TRL's.
        told: its options by name, see `train_meter.side_options`.
        python: the interpreter.
        path: its PYTHONPATH.
        processes: of our side only.
    """

    def __init__(
        self, name: str, told: Mapping[str, Any], *, python: str = sys.executable, path: str = "", processes: int = 1
    ) -> None:
        self.name = name
        script = str(HERE / ("train_ours.py" if self.ours else "train_trl.py"))
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [python, *(several if processes > 1 else []), script, *(f"--{n}={v}" for n, v in told.items())]
        env = {**os.environ, "PYTHONPATH": path or str(HERE.parent), "OMP_NUM_THREADS": str(told.get("threads", 1))}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env
        )
        self.hello = self._heard()
        self.steps: list[dict[str, Any]] = []

    @property
    def ours(self) -> bool:
        return self.name.startswith("ours")

    def ask(self, **job: Any) -> dict[str, Any]:
        """One step."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self._heard()

    def close(self) -> None:
        self.process.communicate()
        self.log.close()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended early:\n{self.log.read()[-3000:]}")
        heard: dict[str, Any] = json.loads(line)
        return heard


def row(step: dict[str, Any]) -> dict[str, float]:
    """One step as flat numbers: seconds, and MiB above the floor."""
    floor = step["imports"] + step["state"]
    found = {"peak": max(phase["peak"] for phase in step["phases"].values()) / MIB, "floor": floor / MIB}
    found["above"] = found["peak"] - found["floor"]
    for name, phase in step["phases"].items():
        found |= {f"{name}_cpu_s": phase["cpu_s"], f"{name}_wall_s": phase["wall_s"]}
        found[f"{name}_above"] = (phase["peak"] - floor) / MIB
    for kind in ("cpu_s", "wall_s"):
        found[kind] = found[f"rollout_{kind}"] + found[f"update_{kind}"]
    found["packed_tokens"] = step["metrics"].get("packed_tokens", math.nan)
    return found
