"""`tfgrpo serve --store ./experience@best --upstream URL`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from experience_store.location import NAMESPACE
from experience_store.render import CHARS_PER_TOKEN
from tfgrpo.cli.options import DEFAULT_STORE, add_strategy, strategy_of
from tfgrpo.cli.parsing import number
from tfgrpo.errors import InputError
from tfgrpo.policy.kinds import OPENAI_URL, checked_key
from tfgrpo.serving.access import OPERATOR, TOKENS_VARIABLE, tokens_of
from tfgrpo.serving.library_source import POLL_S, LibrarySource, open_source
from tfgrpo.serving.limits import MIB, Limits
from tfgrpo.serving.logs import Log, opened
from tfgrpo.serving.server import Running, Settings, running
from tfgrpo.serving.strategy import Several

STORE_TOKEN = "TFGRPO_STORE_TOKEN"
_NAMED = re.compile(rf"({NAMESPACE.pattern})=(.+)", re.DOTALL)
FILES = 65_536  # open sockets wanted: two for each request in flight


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Point a client's base URL at http://127.0.0.1:8100/v1. Its own key goes on to the server, unless "
        "--upstream-key-env names one. Response headers x-tfgrpo-version and x-tfgrpo-experiences say what was used; "
        "/healthz, /readyz, /metrics and /openapi.json are the proxy's own pages."
    )
    default = Limits()
    group = parser.add_argument_group("what is served")
    group.add_argument(
        "--store", metavar="[NAMESPACE=]PLACE[@REF]", action="append",
        help=f"an exported file, or a store: @v7 is pinned, a tag or the head is followed; may be given for each "
        f"namespace ({DEFAULT_STORE}; {STORE_TOKEN} for a Chroma server that wants a token)",
    )  # fmt: skip
    group.add_argument("--namespace", metavar="NAME", default="default", help="whose library, when there are no tokens")
    group.add_argument(
        "--poll-seconds", metavar="S", type=number(0.05, whole=False), default=POLL_S,
        help="how often the store is looked at (%(default)s)",
    )  # fmt: skip
    group = parser.add_argument_group("the server behind it")
    group.add_argument("--upstream", metavar="URL", help="default: OPENAI_BASE_URL, else OpenAI")
    group.add_argument(
        "--upstream-key-env", metavar="VARIABLE", help="where its key stands, such as OPENAI_API_KEY; never shown"
    )
    add_strategy(parser)
    parser.add_argument(
        "--strategy-judge", metavar="MODEL", help="of best and tournament, at the same server; default: the request's"
    )
    group = parser.add_argument_group("who may ask")
    group.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="others than loopback need tokens")
    group.add_argument("--port", metavar="N", type=number(0), default=8100, help="0 takes a free one (%(default)s)")
    group.add_argument(
        "--tokens", metavar="FILE",
        help=f"one 'TOKEN NAMESPACE' a line; also {TOKENS_VARIABLE}=TOKEN=NAMESPACE,...; namespace * reads /metrics",
    )  # fmt: skip
    group = parser.add_argument_group("limits")
    group.add_argument("--max-body-mb", metavar="N", type=number(1), default=default.body_bytes // MIB)
    group.add_argument("--max-in-flight", metavar="N", type=number(1), default=default.in_flight, help="of all")
    group.add_argument("--max-in-flight-each", metavar="N", type=number(0), default=0, help="of one namespace")
    group.add_argument(
        "--timeout-s", metavar="S", type=number(0.1, whole=False), default=default.timeout_s,
        help="for a whole answer, or between two pieces of a stream (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--drain-s", metavar="S", type=number(0, whole=False), default=30.0,
        help="how long requests in flight may take after SIGTERM (%(default)g)",
    )  # fmt: skip
    group = parser.add_argument_group("what is told")
    group.add_argument("--log", metavar="FILE", default="-", help="JSON lines; - is standard error, 'none' is nowhere")
    group.add_argument("--log-contents", action="store_true", help="what is said stands in the log too")
    group.add_argument(
        "--trace", choices=("none", "otlp"), default="none", help="OTEL_EXPORTER_OTLP_ENDPOINT says where"
    )


def run(args: argparse.Namespace) -> int:
    with ExitStack() as stack:
        tokens, warnings = tokens_of(os.environ.get(TOKENS_VARIABLE), args.tokens)
        sources = _sources(stack, args, tokens)
        log = None if args.log == "none" else Log(stack.enter_context(_closing(args.log)), contents=args.log_contents)
        settings = Settings(
            upstream=args.upstream or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL,
            key=_key(args.upstream_key_env),
            sources=sources,
            host=args.host,
            port=args.port,
            tokens=tokens,
            namespace=args.namespace,
            limits=Limits(
                body_bytes=args.max_body_mb * MIB,
                in_flight=args.max_in_flight,
                in_flight_each=args.max_in_flight_each,
                timeout_s=args.timeout_s,
            ),
            poll_s=args.poll_seconds,
            drain_s=args.drain_s,
            trace=args.trace == "otlp",
            several=_several(args),
        )
        for warning in warnings:
            print(f"tfgrpo: warning: {warning}", file=sys.stderr)
        _many_sockets()
        asyncio.run(_serve(settings, log))
    return 0


async def _serve(settings: Settings, log: Log | None) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number_ in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows; a thread that is not the main one
            loop.add_signal_handler(number_, stop.set)
    async with running(settings, log) as server:
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not look at it again, which takes milliseconds
        print(_words(settings, server), flush=True)
        await stop.wait()
        if server.in_flight:
            print(f"finishing {server.in_flight} requests", flush=True)


def _words(settings: Settings, server: Running) -> str:
    lines = [f"tfgrpo serves at {server.url}/v1, in front of {settings.upstream}"]
    for namespace, source in settings.sources.items():
        served, status = source.current(), source.status()
        core, pool = len(served.prepared.core.entries), len(served.prepared.pool)
        tokens = len(served.prepared.core.text) // CHARS_PER_TOKEN
        shown = f"{core} experiences in every request (about {tokens} tokens)" if core or not pool else ""
        picked = f"the question picks from {pool}" if pool else ""
        what = ", ".join(part for part in (shown, picked) if part)
        lines.append(f"  {namespace}: {status.version} of {status.place}; {what}")
    if settings.several is not None:
        lines.append(f"  chat completions by {settings.several.strategy.name}")
    return "\n".join(lines)


def _sources(stack: ExitStack, args: argparse.Namespace, tokens: dict[str, str]) -> dict[str, LibrarySource]:
    """One library for every namespace that a request can belong to."""
    named, everywhere = _places(args.store or [DEFAULT_STORE])
    wanted = sorted(set(tokens.values()) - {OPERATOR}) if tokens else [args.namespace]
    sources: dict[str, LibrarySource] = {}
    for namespace in wanted:
        place = named.get(namespace, everywhere)
        if place is None:
            raise InputError(f"no library for the namespace {namespace!r}; add --store {namespace}=PLACE")
        own = namespace in named and Path(place).is_file()
        source = open_source(
            place, namespace="default" if own else namespace, token=os.environ.get(STORE_TOKEN) or None
        )
        stack.callback(source.close)
        sources[namespace] = source
    return sources


def _places(given: list[str]) -> tuple[dict[str, str], str | None]:
    """Places by namespace, and the one of all others."""
    named: dict[str, str] = {}
    rest: list[str] = []
    for spec in given:
        found = None if Path(spec).exists() else _NAMED.fullmatch(spec)
        if found is None:
            rest.append(spec)
        else:
            named[found[1]] = found[2]
    if len(rest) > 1:
        raise InputError(f"two stores for the same requests: {rest[0]} and {rest[1]}; write NAMESPACE=PLACE")
    return named, rest[0] if rest else None


def _several(args: argparse.Namespace) -> Several | None:
    strategy = strategy_of(args)
    if strategy is None and args.strategy_judge:
        raise InputError("--strategy-judge needs --strategy, such as --strategy best:4")
    return None if strategy is None else Several(strategy, judge=args.strategy_judge or "")


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = checked_key(os.environ.get(variable))
    if key is None:
        raise InputError(f"--upstream-key-env {variable}: that variable is not set or empty")
    return key


@contextlib.contextmanager
def _closing(place: str) -> Iterator[TextIO]:
    file = opened(place)
    try:
        yield file
    finally:
        if file is not sys.stderr:
            file.close()


def _many_sockets() -> None:
    """As many open files as the system allows."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
