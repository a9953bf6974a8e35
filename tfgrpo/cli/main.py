"""`tfgrpo COMMAND ...`: finds the command's module, loads only that one, and runs it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import tfgrpo
from tfgrpo.cli import brought
from tfgrpo.cli.parsing import Parser, all_options, unknown_arguments
from tfgrpo.errors import InputError, unknown_name

COMMANDS = {
    "demo": ("tfgrpo.cli.demo", "watch a small real model get better at a small task, offline"),
    "learn": ("tfgrpo.cli.learn", "make a model better at a task, without training"),
    "evaluate": ("tfgrpo.cli.evaluate", "measure a model, with a version of a store, another one, or none"),
    "compare": ("tfgrpo.cli.compare", "two versions, models or runs, paired; or what helps another model"),
    "serve": ("tfgrpo.cli.serve", "an OpenAI-compatible proxy that puts what was learned into requests"),
    "ui": ("tfgrpo.cli.ui", "a local web page: what was learned, its history, runs and their rollouts"),
    "store": ("tfgrpo.cli.store", "look at, compare, roll back, export and erase what was learned"),
    "tasks": ("tfgrpo.cli.tasks", "list the tasks that come by name, or check one"),
    "methods": ("tfgrpo.cli.methods", "list every method that has a name, or all that is said of one"),
    "runs": ("tfgrpo.cli.runs", "list the runs in a folder"),
    "report": ("tfgrpo.cli.report", "one HTML file about a run"),
}
BROUGHT = {
    "safety-model": "train, calibrate and measure a model that scores how safe and how good answers are",
    "retire": "leave out the experiences that a trained model no longer needs in its prompt",
    "improve": "learn, decide whether to train, train, and compare both on held-out problems",
    "train": "make a model better at a task, by training its weights",
}
"""Help lines of commands that come with this package and are found by entry points, so that they are not loaded."""
EPILOG = "tfgrpo COMMAND --help tells more. Exit codes: 0 done, 2 input, 3 no answer from the model, 130 stopped."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:  # while modules were being loaded
        print("tfgrpo: stopped before anything was begun", file=sys.stderr)
        return 130


def _run(argv: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream that a caller put there may have no encoding
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    name = next((argument for argument in given if not argument.startswith("-")), "")
    parser = _parser(name)
    if not given:
        parser.print_help()
        return 0
    args, extra = parser.parse_known_args(given)
    if extra:
        parser.error(unknown_arguments(extra, all_options(parser)))
    if not hasattr(args, "run"):
        parser.error("which command? One of: " + ", ".join(_known()))
    guard = importlib.import_module("tfgrpo.cli.faults")
    code: int = guard.guarded(args.run, args, debug=debug)
    return code


def _parser(chosen: str) -> argparse.ArgumentParser:
    parser = Parser(prog="tfgrpo", description="Your model gets better at your task.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"tfgrpo {tfgrpo.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    known = _known()
    if chosen and chosen not in known:
        parser.error(str(unknown_name("command", chosen, known)))
    for name, line in known.items():
        command = commands.add_parser(name, help=line, description=f"{line[:1].upper()}{line[1:]}.")
        if name == chosen:
            module = _module(name, parser)
            module.configure(command)
            if hasattr(module, "run"):  # else its sub-commands have one each
                command.set_defaults(run=module.run)
    return parser


def _known() -> dict[str, str]:
    """Every command with its line of help; those of other packages are named and not loaded."""
    ours = {name: line for name, (_, line) in COMMANDS.items()}
    return {**ours, **{name: _line(entry) for name, entry in _entries().items() if name not in ours}}


def _module(name: str, parser: argparse.ArgumentParser) -> Any:
    if name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0])
    try:
        return brought.load(_entries()[name], f"the command {name!r}")
    except InputError as error:
        parser.error(str(error))


def _entries() -> dict[str, metadata.EntryPoint]:
    return brought.entries(brought.COMMANDS)


def _line(entry: metadata.EntryPoint) -> str:
    if brought.ships(entry) and entry.name in BROUGHT:
        return BROUGHT[entry.name]
    return f"from the package {entry.dist.name}" if entry.dist else f"from {entry.module}"


if __name__ == "__main__":
    sys.exit(main())
