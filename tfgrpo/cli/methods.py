"""`tfgrpo methods`: every method that has a name; `tfgrpo methods NAME`: all that is said of one."""

from __future__ import annotations

import argparse
from pathlib import Path

from tfgrpo.cli.output import add_output, hint, show, table
from tfgrpo.errors import InputError
from tfgrpo.methods import as_json, find, kinds, left_out, markdown, methods, renewed


def configure(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(kind.name for kind in kinds())
    parser.add_argument("name", metavar="NAME", nargs="?", help="one method, such as rloo or advantage/rloo")
    parser.add_argument("--kind", metavar="KIND", help=f"only those of one kind: {known}")
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        nargs="?",
        const="-",
        help="print the tables for the documentation, or renew them in FILE between its two markers",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    if args.markdown is not None:
        return _markdown(args.markdown)
    if args.name is not None:
        name = f"{args.kind}/{args.name}" if args.kind else args.name
        rows = find(name)
        show(args, as_json(rows), "\n".join(row.words() for row in rows))
        return 0
    rows = methods(args.kind)
    lines = [(row.kind, row.name, row.source, row.confidence, row.formula) for row in rows]
    show(args, as_json(rows), table(("KIND", "NAME", "SOURCE", "CONFIDENCE", "FORMULA"), lines))
    hint(args, "One of them in full: tfgrpo methods NAME")
    for reason in left_out().values() if args.kind is None else ():
        hint(args, f"Not shown: {reason}")
    return 0


def _markdown(place: str) -> int:
    if place == "-":
        print(markdown(), end="")
        return 0
    path = Path(place)
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {place!r}: {error}") from error
    path.write_text(renewed(page), encoding="utf-8")
    return 0
