"""Programs of other people that ask the proxy; they have an environment of their own (`make clients`)."""

import asyncio
import os
from pathlib import Path

import pytest

CLIENTS = Path(os.environ.get("TFGRPO_CLIENTS") or Path(__file__).parents[1] / ".venv-clients")


def installed(name):
    """The path of something in that environment; without it the test is skipped."""
    if not (CLIENTS / name).exists():
        pytest.skip(f"{name} is not installed; run: make clients")
    return str(CLIENTS / name)


async def run(*command, cwd=None, **env):
    """What a program prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, f"{out.decode()[-3000:]}\n{err.decode()[-2000:]}"
    return out.decode()
