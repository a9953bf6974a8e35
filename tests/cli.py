"""For tests of the command line: calls in this process, and a server in a thread of its own."""

import asyncio
import contextlib
import io
import json
import threading
from dataclasses import dataclass
from pathlib import Path

import flagworld
from servers import ChatServer

import experience_store
from tfgrpo.cli.main import main


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def call(*args):
    """Run a command here; its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in args])
        except SystemExit as end:
            code = end.code
    return Said(code or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def served(answer=flagworld.answer, **options):
    """A running `ChatServer`; commands have an event loop of their own, so it cannot share the test's."""
    server, ready = ChatServer(answer, **options), threading.Event()
    loop = asyncio.new_event_loop()

    async def serve():
        await server.start()
        ready.set()
        await server_stops.wait()
        await server.stop()

    server_stops = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(server_stops.set)
        thread.join(20)
        loop.close()


def flag_file(folder, count=60):
    path = Path(folder) / "flags.jsonl"
    rows = [{"id": p.id, "prompt": p.question, "answer": p.answer} for p in flagworld.problems(0, count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def empty_store(folder):
    """A store with the embedder that loads no model."""
    place = Path(folder) / "store"
    experience_store.open(place, embedder="hashing").close()
    return place


def learn_args(folder, server, *more, calls=120):
    """The command line that learns the flags in a folder."""
    return (
        "learn", flag_file(folder), "--reward", "contains", "--model", "openai/solver", "--base-url", server.url,
        "--max-tokens", 16, "--store", Path(folder) / "store", "--runs", Path(folder) / "runs", "--budget-calls", calls,
        "--concurrency", 16, *more,
    )  # fmt: skip
