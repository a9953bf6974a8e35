"""What other packages bring to the command line by entry points, found by name and loaded when it is used."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import tfgrpo
from tfgrpo.errors import InputError

COMMANDS = "tfgrpo.commands"
REPORTS = "tfgrpo.reports"
"""Functions `(run_folder, out) -> path` that write the page of a run; the name is the run's kind."""


def entries(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of a group by name; nothing is loaded."""
    return {entry.name: entry for entry in sorted(metadata.entry_points(group=group), key=lambda e: e.name)}


def ships(entry: metadata.EntryPoint) -> bool:
    """Whether it comes with this package."""
    return entry.dist is not None and entry.dist.name == "tfgrpo"


def load(entry: metadata.EntryPoint, what: str) -> Any:
    """The object behind an entry point.

    Raises:
        InputError: a file or folder of the user's hides the package that it is in.
    """
    if ships(entry):
        ours, package = Path(tfgrpo.__file__).resolve().parent.parent, entry.module.partition(".")[0]
        found = importlib.util.find_spec(package)
        origin = (found.origin if found else None) or "a folder without __init__.py"
        if Path(origin).resolve().parent != ours / package:
            raise InputError(f"{what} is in the package {ours / package}, but {origin} hides it; rename that")
    return entry.load()
