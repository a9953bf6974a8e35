"""A scripted server behind the proxy, a proxy in this process, and libraries for both."""

import asyncio
import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, web

import experience_store
from experience_store import Edit
from tfgrpo.serving.library_source import open_source
from tfgrpo.serving.logs import Log
from tfgrpo.serving.server import Settings, running

CHAT = {"model": "m", "messages": [{"role": "user", "content": "What is 5 km in m?"}]}
NOTE = "Check the units."
KEY = "sk-client-secret-0123456789"


class Upstream:
    """Records what arrives; `answer(request, body)` makes the reply of every path."""

    def __init__(self, answer=None):
        self.answer = answer or self.echo
        self.seen = []  # (method, path with query, headers, body)
        self.cancelled = asyncio.Event()
        self.in_flight = 0

    async def __aenter__(self):
        app = web.Application(client_max_size=2**27)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _handle(self, request):
        body = await request.read()
        self.seen.append((request.method, request.raw_path, request.headers.copy(), body))
        self.in_flight += 1
        try:
            return await self.answer(request, body)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.in_flight -= 1

    async def holding(self, count):
        """Until so many requests are in flight."""
        for _ in range(1000):
            if self.in_flight >= count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.in_flight} requests in flight, not {count}")

    @property
    def last(self):
        """The last body as JSON."""
        return json.loads(self.seen[-1][3])

    @staticmethod
    async def echo(request, body):
        """A completion whose content is the text of the request's first message."""
        data = json.loads(body) if body else {}
        messages = data.get("messages") or [{"content": data.get("instructions", "")}]
        return web.json_response(completion(str(messages[0].get("content"))))


def completion(content, **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": 90,
        "completion_tokens": 7,
        "total_tokens": 97,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "served-model", "choices": [choice],
        "usage": usage, **more,
    }  # fmt: skip


def library(folder, *texts, name="library.json", **commit):
    """An exported file with these lessons."""
    with experience_store.open(Path(folder) / f"{name}.store", embedder="hashing") as store:
        if texts:
            store.commit([Edit(op="add", text=text) for text in texts], **commit)
        return str(store.export("head", Path(folder) / name))


@contextlib.asynccontextmanager
async def proxied(upstream, place, *, namespaces=("default",), contents=False, out=None, **settings):
    """A proxy in this process: a client session at its address, with `.log` and `.sources`."""
    places = place if isinstance(place, dict) else dict.fromkeys(namespaces, place)
    sources = {space: open_source(where, namespace=_own(space, where)) for space, where in places.items()}
    url = upstream if isinstance(upstream, str) else upstream.url
    log = Log(out or io.StringIO(), contents=contents)
    settings = {"port": 0, "poll_s": 0.05, "drain_s": 1.0, **settings}
    try:
        async with (
            running(Settings(upstream=url, sources=sources, **settings), log) as server,
            ClientSession(server.url, timeout=ClientTimeout(total=20)) as client,
        ):
            client.__dict__.update(log=log, sources=sources, server=server)
            yield client
    finally:
        for source in sources.values():
            source.close()


def _own(namespace, place):
    return "default" if Path(place).is_file() else namespace


@contextlib.asynccontextmanager
async def serving(*args, **env):
    """The command, running: its process, with the URL that it printed."""
    command = (sys.executable, "-m", "tfgrpo.cli.main", "serve", "--port", "0", *map(str, args))
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert line.startswith("tfgrpo serves at "), line + (await process.stderr.read()).decode()
        process.url = line.split()[3].rstrip(",")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class Answer:
    status: int
    headers: object
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def words(self):
        return self.json["choices"][0]["message"]["content"]


async def ask(client, body=CHAT, path="/v1/chat/completions", **options):
    """The answer as a whole."""
    headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
    async with client.post(path, json=body, headers=headers, **options) as response:
        return Answer(response.status, response.headers, await response.read())


def lines(log):
    """What was logged, as JSON."""
    log.flush()
    return [json.loads(line) for line in log._out.getvalue().splitlines()]
