"""`tfgrpo ui --store ./experience --runs runs`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import webbrowser
from pathlib import Path

from tfgrpo.cli.options import DEFAULT_STORE, add_namespace
from tfgrpo.cli.parsing import number
from tfgrpo.cli.report import writer_of
from tfgrpo.errors import InputError
from tfgrpo.runs import DEFAULT_FOLDER
from tfgrpo.serving.access import tokens_of
from tfgrpo.ui.catalog import Catalog
from tfgrpo.ui.server import Settings, running

STORE_TOKEN = "TFGRPO_STORE_TOKEN"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "After `tfgrpo demo`: tfgrpo ui --store demo/experience --runs demo/runs. Nothing leaves this machine."
    )
    parser.add_argument(
        "--store", metavar="PLACE", default=DEFAULT_STORE,
        help=f"a folder, or the URL of a Chroma server with its token in {STORE_TOKEN} (%(default)s)",
    )  # fmt: skip
    add_namespace(parser)
    parser.add_argument("--runs", metavar="FOLDER", default=DEFAULT_FOLDER, help="where run folders are kept (./runs)")
    parser.add_argument("--read-only", action="store_true", help="no tags and no rollback from the page")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    group = parser.add_argument_group("who may look")
    group.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="others than loopback need a token")
    group.add_argument("--port", metavar="N", type=number(0), default=8110, help="0 takes a free one (%(default)s)")
    group.add_argument("--tokens", metavar="FILE", help="one 'TOKEN NAMESPACE' a line, as `tfgrpo serve` reads it")


def run(args: argparse.Namespace) -> int:
    if "://" not in args.store and Path(args.store).is_file():
        raise InputError(
            f"{args.store} is an exported file; put it into a store: tfgrpo store import FOLDER {args.store}"
        )
    tokens, warnings = tokens_of(None, args.tokens)
    for warning in warnings:
        print(f"tfgrpo: warning: {warning}", file=sys.stderr)
    catalog = Catalog(args.store, namespace=args.namespace, token=os.environ.get(STORE_TOKEN) or None)
    settings = Settings(
        catalog=catalog,
        runs=Path(args.runs),
        writer_of=writer_of,
        host=args.host,
        port=args.port,
        tokens=tokens,
        may_change=not args.read_only,
    )
    with contextlib.closing(catalog):
        asyncio.run(_serve(settings, show=args.open))
    return 0


async def _serve(settings: Settings, *, show: bool) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows; a thread that is not the main one
            loop.add_signal_handler(signal_, stop.set)
    async with running(settings) as url:
        print(f"{url}  (store {settings.catalog.location}, runs {settings.runs}; Ctrl-C ends it)", flush=True)
        if show:
            await asyncio.to_thread(webbrowser.open, url)
        await stop.wait()
