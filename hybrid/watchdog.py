"""Ends a job of several processes in which one does not come back, and says which one and in which phase.

A collective operation waits for its slowest rank, for ever if that rank hangs. So every rank writes into the store that
torchrun keeps what it is doing and, every few seconds, that it is alive. A rank that is in one phase for longer than
allowed, or whose signs of life stop, ends the process that notices it, and torchrun ends the others. What was recorded
and the last checkpoint stay as they are: the same command goes on from there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Protocol

IDLE = "waiting for the next job"
"""Has no limit: rank 0 may be scoring answers, or measuring."""
EXIT_CODE = 75
BEAT_S = 5.0


class Store(Protocol):
    """What is needed of a `torch.distributed` store."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


class Watchdog:
    """Watches this rank and the others from a thread of its own.

    Args:
        limit_s: seconds in one phase, or without a sign of life, after which the job is ended.
    """

    def __init__(self, store: Store, rank: int, size: int, *, limit_s: float) -> None:
        self._store, self._rank, self._size, self._limit_s = store, rank, size, limit_s
        self._phase, self._since = "start", time.monotonic()
        self._beats: dict[int, tuple[bytes, float]] = {}
        self._over = threading.Event()
        self._tell()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, phase: str) -> str:
        """Notes what this rank does from now on; what it did before."""
        before, self._phase, self._since = self._phase, phase, time.monotonic()
        self._tell()
        return before if before != "start" else IDLE

    def close(self) -> None:
        """Stops watching."""
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        self._store.set(f"phase/{self._rank}", self._phase)

    def _run(self) -> None:
        count = 0
        while not self._over.wait(min(BEAT_S, self._limit_s / 4)):
            count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(count))
                wrong = self._own_phase() or self._silent()
            except RuntimeError as error:  # torch's DistStoreError
                wrong = f"the store that torchrun keeps for all ranks is gone ({error})"
            if wrong and not self._over.is_set():
                print(f"tfgrpo: {wrong}; the job ends. Its record and last checkpoint are whole", file=sys.stderr)
                sys.stderr.flush()
                os._exit(EXIT_CODE)

    def _own_phase(self) -> str:
        phase, spent = self._phase, time.monotonic() - self._since
        if phase in (IDLE, "start") or spent <= self._limit_s:
            return ""
        others = [f"rank {n}: {self._read(f'phase/{n}')}" for n in range(self._size)]
        return f"rank {self._rank} has been in the phase {phase!r} for {spent:.0f} s. All ranks: {'; '.join(others)}"

    def _silent(self) -> str:
        """A rank that stopped altogether shows no sign of life."""
        now = time.monotonic()
        for other in range(self._size):
            beat = self._read(f"beat/{other}").encode()
            seen, since = self._beats.get(other, (b"", now))
            self._beats[other] = (beat, now if beat != seen else since)
            if now - self._beats[other][1] > self._limit_s:
                phase = self._read(f"phase/{other}")
                return f"rank {other} has given no sign of life for {self._limit_s:g} s; its last phase was {phase!r}"
        return ""

    def _read(self, key: str) -> str:
        """What stands under a key, "-" if nothing does: `get` would wait for it."""
        return self._store.get(key).decode() if self._store.check([key]) else "-"
