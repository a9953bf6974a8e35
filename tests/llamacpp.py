"""llama.cpp's own OpenAI-compatible server, of the wheel `xllamacpp`: a program for that environment, and its start.

python llamacpp.py MODEL.gguf PORT
"""

import asyncio
import contextlib
import os
import socket
import sys
import time
from urllib.request import urlopen


@contextlib.asynccontextmanager
async def llamacpp(python, model):
    """The server, running: its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        python, __file__, str(model), str(port), env={**os.environ, "PYTHONPATH": ""},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            assert process.returncode is None, "the llama.cpp server ended"
            if await asyncio.to_thread(_healthy, port):
                break
            await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _healthy(port):
    with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
        return response.status == 200
    return False


def main():
    import xllamacpp  # of another environment than the tests'

    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
    params.n_parallel, params.n_ctx, params.warmup, params.use_jinja = 4, 8192, False, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    while server is not None:
        time.sleep(3600)


if __name__ == "__main__":
    main()
