"""Printing results: JSON for programs on stdout, words and tables for people."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from experience_store.quoting import visible


def add_output(parser: argparse.ArgumentParser, *, progress: bool = False) -> None:
    """--json, and --quiet for commands that take long."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    if progress:
        parser.add_argument("--quiet", action="store_true", help="no progress and no hints")


def show(args: argparse.Namespace, data: Any, text: str) -> None:
    """The data with --json, else the text."""
    print(as_text(data) if args.json else visible(text))


def as_text(data: Any) -> str:
    """Strict JSON: what is no number is null."""
    value = json.loads(json.dumps(data, default=plain), parse_constant=lambda _: None)
    return json.dumps(value, ensure_ascii=False, indent=2)


def plain(value: Any) -> Any:
    """For `json.dumps(default=...)`: dataclasses and mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if hasattr(value, "keys") else str(value)


def hint(args: argparse.Namespace, *lines: str) -> None:
    """What to do next, for people only."""
    if not args.json and not getattr(args, "quiet", False):
        for line in lines:
            print(line, file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns; the last one is cut to the width of a terminal, and left whole elsewhere."""
    cells = [[" ".join(visible(str(cell)).split()) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(header) - 1)]
    lines = ["  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in cells]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        lines = [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
    return "\n".join(line.rstrip() for line in lines)
