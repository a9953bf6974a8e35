"""Processes that do for a reward what could run for ever or exhaust memory, and that can therefore be killed.

A script of this folder reads one JSON object per line and answers each with one JSON line, after a first line "ready".
A request that takes too long costs its process and nothing else; the next one gets a new process.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tfgrpo.errors import RewardError

START_TIMEOUT_S = 120.0
_KEPT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH")


class Workers:
    """At most `size` processes of one script, started when first needed; they see no environment of ours.

    Example:
        >>> workers = Workers("math_worker.py", purpose="math_equal")
        >>> reply = await workers.ask({"gold": "1/2", "answer": "0.5", "boxed": False}, 5.0)  # doctest: +SKIP
        >>> reply  # doctest: +SKIP
        {'equal': True}
    """

    def __init__(self, script: str | Path, *, purpose: str, size: int = 1) -> None:
        self._script = Path(__file__).parent / script
        self._purpose, self._size = purpose, size
        self._pool: ThreadPoolExecutor | None = None
        self._idle: deque[_Process] = deque()
        self._all: set[_Process] = set()

    async def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """The reply, or None when it took longer than `timeout_s` or cost the process its life.

        The time runs while a process works on the request, not while the request waits for one.

        Raises:
            RewardError: the process does not start; the message holds what it complained about.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=self._size, thread_name_prefix=self._purpose)
            atexit.register(self.close)
        line = json.dumps(request)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, line, timeout_s)

    def close(self) -> None:
        """Ends all processes."""
        for process in tuple(self._all):
            self._drop(process)

    def _answer(self, line: str, timeout_s: float) -> dict[str, Any] | None:
        while self._idle:
            process = self._idle.pop()
            if process.alive():
                break
            self._drop(process)
        else:
            process = self._started()
        reply, late = process.exchange(line, timeout_s)
        if reply and not late:
            self._idle.append(process)
        else:
            self._drop(process)
        found: dict[str, Any] | None = json.loads(reply) if reply else None
        return found

    def _started(self) -> _Process:
        process = _Process(self._script)
        self._all.add(process)
        reply, _ = process.exchange("", START_TIMEOUT_S)
        if reply != "ready\n":
            complaint = self._drop(process)
            raise RewardError(f"{self._purpose} could not start its process: {complaint[-500:] or 'no reply'}")
        return process

    def _drop(self, process: _Process) -> str:
        self._all.discard(process)
        return process.end()


class _Process:
    def __init__(self, script: Path) -> None:
        folders = os.pathsep.join(p for p in sys.path if p)
        kept = {name: value for name, value in os.environ.items() if name in _KEPT}
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**kept, "PYTHONPATH": folders, "PYTHONIOENCODING": "utf-8:surrogatepass"},
        )

    def alive(self) -> bool:
        return self._popen.poll() is None

    def exchange(self, line: str, timeout_s: float) -> tuple[str, bool]:
        """Sends a line, if any, and reads one: the reply, empty when there was none, and whether time ran out."""
        stdin, stdout = self._popen.stdin, self._popen.stdout
        if stdin is None or stdout is None:
            return "", False
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._popen.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            if line:
                stdin.write(line + "\n")
                stdin.flush()
            reply = stdout.readline()
        except (BrokenPipeError, ValueError):
            reply = ""
        finally:
            timer.cancel()
        return reply if reply.endswith("\n") else "", late.is_set()

    def end(self) -> str:
        """Ends the process and returns what it complained about."""
        self._popen.kill()
        try:
            return self._popen.communicate()[1]
        except ValueError:  # ended before
            return ""
