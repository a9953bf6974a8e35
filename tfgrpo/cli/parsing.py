"""Argument parsing whose errors are one line and name what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from tfgrpo.errors import unknown_name

_CHOICE = re.compile(r"argument (?P<what>\S+): invalid choice: '?(?P<got>[^']*)'? \(choose from (?P<known>.*)\)")


class Parser(argparse.ArgumentParser):
    """No abbreviations, so that a new option never changes what an old command means."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        found = _CHOICE.search(message)
        if found:
            known = [word.strip(" '\"") for word in found["known"].split(",")]
            what = "command" if not found["what"].startswith("-") else f"value of {found['what']}"
            message = str(unknown_name(what, found["got"], known))
        print(f"tfgrpo: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def all_options(parser: argparse.ArgumentParser) -> list[str]:
    """Every option of a parser and of its commands that were set up."""
    found: list[str] = []
    for action in parser._actions:
        found += [option for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            found += [option for inner in action.choices.values() for option in all_options(inner)]
    return sorted(set(found))


def unknown_arguments(extra: Sequence[str], known: Iterable[str]) -> str:
    """What to say about arguments that no parser took."""
    option = next((argument for argument in extra if argument.startswith("-")), None)
    if option is None:
        return f"did not expect {' '.join(map(repr, extra))}; put quotes around a value that holds spaces"
    name = option.partition("=")[0]
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"unknown option {name!r}; " + (f"did you mean {' or '.join(map(repr, near))}?" if near else "see --help")


def number(low: float, *, whole: bool = True) -> Callable[[str], float]:
    """An argument type: a number of at least `low`."""

    def parse(text: str) -> float:
        kind = "a whole number" if whole else "a number"
        try:
            value = int(text.replace("_", "")) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {kind}, got {text!r}") from None
        if not value >= low:
            raise argparse.ArgumentTypeError(f"expected {kind} of at least {low:g}, got {text!r}")
        return value

    return parse


def commands_of(
    parser: argparse.ArgumentParser, table: dict[str, tuple[str, Callable[[Any], None], Callable[[Any], int]]]
) -> None:
    """Sub-commands from rows of help line, `configure` and `run`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser, required=True)
    for name, (line, configure, run) in table.items():
        command = commands.add_parser(name, help=line, description=f"{line[:1].upper()}{line[1:]}.")
        configure(command)
        command.set_defaults(run=run)
