"""`tfgrpo report RUN`: one static HTML file."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path

from tfgrpo.cli import brought
from tfgrpo.cli.output import add_output, show
from tfgrpo.errors import InputError
from tfgrpo.html_contrast import write_contrast
from tfgrpo.html_report import write_report
from tfgrpo.html_transfer import write_transfer
from tfgrpo.runs import DEFAULT_FOLDER, find_run, kind_of

OURS: Mapping[str, Callable[[Path, Path], Path]] = {
    "learn": write_report,
    "evaluate": write_report,
    "compare": write_contrast,
    "transfer": write_transfer,
}
"""Kinds of runs whose page is written here; those of other packages are found by entry points."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help='a run\'s folder, its name, the beginning of it, or "last"')
    parser.add_argument("--out", metavar="FILE", help="default: report.html in the run's folder")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--runs", metavar="FOLDER", default=DEFAULT_FOLDER, help="where run folders are kept (./runs)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    folder = find_run(args.run_name, args.runs)
    out = Path(args.out) if args.out else folder / "report.html"
    try:
        written = writer_of(kind_of(folder))(folder, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    show(args, {"run": str(folder), "file": str(written)}, str(written))
    if args.open:
        webbrowser.open(written.resolve().as_uri())
    return 0


def writer_of(kind: str) -> Callable[[Path, Path], Path]:
    """The function that writes the page of a run of a kind.

    Raises:
        InputError: nothing that is installed does.
    """
    if kind in OURS:
        return OURS[kind]
    known = brought.entries(brought.REPORTS)
    if kind not in known:
        raise InputError(
            f"nothing that is installed writes the report of a run of the kind {kind!r} (known: "
            f"{', '.join((*OURS, *known))}); install the package that made the run"
        )
    writer: Callable[[Path, Path], Path] = brought.load(known[kind], f"the report of the kind {kind!r}")
    return writer
