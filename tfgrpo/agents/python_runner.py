"""A `python` tool: runs model-written code in a process of its own, which nothing survives.

Each run gets an empty folder that goes with it, an empty environment, no input, and limits of time, memory, CPU, file
size, processes and output. Where the system grants namespaces (Linux, most machines and many containers) it also has no
network, sees no other process and no file but Python and the system's libraries, read-only, and cannot outlive its
time by any means. Elsewhere (`isolation` "process") the network is open, files that the user can read can be
read, and a process that is hostile enough to hunt down its keeper can survive: run such code in a container.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from tfgrpo.errors import InputError

Isolation: TypeAlias = Literal["namespaces", "process"]

WORKER = Path(__file__).with_name("python_worker.py")
START_S = 20.0  # a busy machine may take this long to start Python
GRACE_S = 1.0
TIME_OVER, KILLED = 124, 128
PROBE = "import decimal\ndecimal.Decimal(6) * 7"


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonLimits:
    """Limits of one run. Memory is per process; what is written into the folder counts against `files_mb`."""

    seconds: float = 10.0
    memory_mb: int = 512
    files_mb: int = 32
    processes: int = 16
    output_chars: int = 6000


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a run printed, with notes in brackets on what happened to it; `ok` when it ended by itself without error."""

    text: str
    ok: bool


class PythonRunner:
    """Runs code; runs share nothing and at most `concurrency` are under way at once.

    Args:
        limits: of one run.
        packages: whether the code may import the packages that are installed beside this one (numpy, sympy, ...).
        isolation: "namespaces" or "process"; None: the first where the system grants it.
        concurrency: None: one for each CPU.

    Example:
        >>> runner = PythonRunner()
        >>> asyncio.run(runner.run("x = 6\\nx * 7")).text
        '42'
    """

    def __init__(
        self,
        *,
        limits: PythonLimits | None = None,
        packages: bool = False,
        isolation: Isolation | None = None,
        concurrency: int | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise InputError("the python tool needs a Unix system; on Windows run it inside WSL")
        self.limits = limits or PythonLimits()
        self.packages = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) if packages else ()
        self._wanted, self._isolation = isolation, None if isolation is None else isolation
        self._checked = False
        self._concurrency = concurrency or os.cpu_count() or 1
        self._slots: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, code: str) -> Ran:
        """The output of the code and the value of its last line, as text.

        Raises:
            InputError: the system refuses the isolation that was asked for, or any.
        """
        isolation = await self.isolation()
        async with self._slots_of_this_loop():
            return await self._run(code, isolation)

    async def isolation(self) -> Isolation:
        """What keeps the code in; tried once, with a run that imports and computes."""
        if self._isolation is None or not self._checked:
            choices: tuple[Isolation, ...] = (self._wanted,) if self._wanted else ("namespaces", "process")
            said = ""
            for choice in choices:
                tried = await self._run(PROBE, choice)
                if tried.ok and tried.text == "Decimal('42')":
                    self._isolation, self._checked = choice, True
                    return choice
                said = tried.text
            raise InputError(
                f"model-written code cannot be run here with isolation by {' or '.join(choices)}: {said[-300:]}; "
                f"use a Python that other users can read, or a container that allows namespaces"
            )
        return self._isolation

    def _slots_of_this_loop(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._slots is None or self._loop is not loop:
            self._slots, self._loop = asyncio.Semaphore(self._concurrency), loop
        return self._slots

    async def _run(self, code: str, isolation: Isolation) -> Ran:
        folder = _new_folder(isolation)
        try:
            return await self._in_folder(code, folder, isolation)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _in_folder(self, code: str, folder: str, isolation: Isolation) -> Ran:
        settings = {
            **asdict(self.limits),
            "namespaces": isolation == "namespaces",
            "folder": folder,
            "readable": [sys.base_prefix, sys.base_exec_prefix, *self.packages],
            "packages": self.packages,
        }
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:  # no pipe that a survivor can hold
            source.write(code.encode("utf-8", "replace"))
            source.seek(0)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-B", "-u", str(WORKER), json.dumps(settings)),
                stdin=source,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder,
                env={"LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
            over = False
            try:
                async with asyncio.timeout(START_S + self.limits.seconds):
                    await process.wait()
            except TimeoutError:
                over = True
            finally:
                await _ended(process)
            return self._told(output, TIME_OVER if over else process.returncode)

    def _told(self, output: IO[bytes], code: int | None) -> Ran:
        text = _cut(_ends(output, 4 * self.limits.output_chars).strip("\n"), self.limits.output_chars)
        note = ""
        if code == TIME_OVER:
            note = f"[stopped after {self.limits.seconds:g} s: it takes too long]"
        elif code and output.tell() >= self.limits.files_mb << 20:
            note = f"[stopped: it printed more than {self.limits.files_mb} MB]"
        elif code is not None and (code > KILLED or code < 0):
            note = f"[killed by {_signal(code)}: too much CPU time or memory]"
        elif not text:
            note = "[no output: print what you want to see]"
        return Ran(text="\n".join(filter(None, (text, note))), ok=code == 0)


def python_tool(
    *,
    limits: PythonLimits | None = None,
    packages: bool = False,
    isolation: Isolation | None = None,
    concurrency: int | None = None,
) -> Callable[[str], Awaitable[str]]:
    """The tool for an agent: `react([python_tool()])`; the arguments are those of `PythonRunner`."""
    runner = PythonRunner(limits=limits, packages=packages, isolation=isolation, concurrency=concurrency)

    async def python(code: str) -> str:
        """Run a Python program and get what it prints and the value of its last line. Each program starts afresh.

        Args:
            code: the whole program.
        """
        return (await runner.run(code)).text

    return python


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Ends it, its keeper and its group for certain, also where the rollout that waits for it was cancelled."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _new_folder(isolation: Isolation) -> str:
    folder = tempfile.mkdtemp(prefix="tfgrpo-python-")
    if isolation == "process":
        Path(folder).chmod(0o777)  # a root user's code runs as somebody else
    return folder


def _ends(output: IO[bytes], limit: int) -> str:
    """What was written, without the middle of what is far too long to be shown."""
    size = output.seek(0, os.SEEK_END)
    output.seek(0)
    if size <= 2 * limit:
        return output.read().decode(errors="replace")
    head = output.read(limit).decode(errors="replace")
    output.seek(size - limit)
    return f"{head}\n[{size - 2 * limit} bytes left out]\n{output.read().decode(errors='replace')}"


def _cut(text: str, limit: int) -> str:
    """Both ends of a long text, with a note between them."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}\n[{len(text) - limit} characters left out]\n{text[head - limit :]}"


def _signal(code: int) -> str:
    number = -code if code < 0 else code - KILLED
    names = {s.value: s.name for s in signal.Signals}
    return names.get(number, f"signal {number}")
