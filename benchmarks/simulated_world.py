"""What the benchmarks on a simulated provider share: its start, presets, and one price list. Standard library only."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PRESETS: dict[str, dict[str, float]] = {
    "easy": {},
    "drift": {"q_tip": 0.35},
    "decoy": {"q_emit": 0.3, "q_decoy": 0.4},
    "contrast": {"contrast": 0.25},
}
PRICES = {"solver": (0.40, 1.60), "critic": (2.00, 8.00)}
"""Dollars per million prompt and completion tokens, without a discount for cached ones."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark on the simulated provider."""
    parser.add_argument("--world", required=True, help="folder of stub_server.py and ruleworld.py")
    parser.add_argument("--preset", choices=PRESETS, default="easy")
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--seeds", default="10-19")
    parser.add_argument("--latency", default="0.2/1.0", help="seconds of a solver and a critic call")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, so that no two runs share a world")


def post(url: str, body: dict[str, Any]) -> Any:
    """A JSON request to the simulator."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@contextmanager
def simulator(options: argparse.Namespace) -> Iterator[str]:
    """The running server's URL."""
    folder = Path(options.world).resolve()
    solve, _, reflect = options.latency.partition("/")
    port = options.port or _free_port()
    command = [sys.executable, str(folder / "stub_server.py"), "--port", str(port)]
    server = subprocess.Popen([*command, "--lat-task", solve, "--lat-reflect", reflect], cwd=folder)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_for(base)
        yield base
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(base: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{base}/v1/models").close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"no simulator at {base}")


def worlds(options: argparse.Namespace, base: str) -> Iterator[tuple[int, Any, dict[str, float]]]:
    """For each seed: the seed, the world's object, and its exact base and oracle scores; the server is reset to it."""
    sys.path.insert(0, str(Path(options.world).resolve()))
    world = __import__("ruleworld")
    first, _, last = options.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        knobs = {"seed": seed, **PRESETS[options.preset]}
        yield seed, world.World(world.Cfg(**knobs)), post(f"{base}/reset", knobs)
