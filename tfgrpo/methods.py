"""Every method that has a name, in one table. docs/methods.md and `tfgrpo methods` are made of it.

The rows stand beside the code: each preset dict is `NAME -> Method(...)`. This module only gathers them, and loads them
when it is asked. Packages that build on this one add tables by an entry point of the group "tfgrpo.methods", which
names a tuple of kinds.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from tfgrpo.errors import InputError, MissingExtraError, missing_extra, unknown_name
from tfgrpo.method import Method

ENTRY_POINTS = "tfgrpo.methods"
BEGIN = "<!-- rows: made by `tfgrpo methods --markdown docs/methods.md`; edit the Method rows in the code instead -->"
END = "<!-- end of rows -->"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One table of methods: `name` is what a method of it is called, `place` the dicts that hold its rows."""

    name: str
    title: str
    places: tuple[str, ...]  # "module:DICT"
    about: str = ""


KINDS = (
    Kind(
        name="advantage",
        title="From rewards to advantages",
        places=("tfgrpo.advantage:ADVANTAGES",),
        about="`r` are the rewards of one group. Give one to a task by name, or your own `Table -> values`.",
    ),
    Kind(
        name="filter",
        title="Which rollouts count",
        places=("tfgrpo.advantage:FILTERS",),
        about="Steps on the columns of a table, before the advantage: what enters the statistics and what the loss.",
    ),
    Kind(
        name="grouping",
        title="From a problem to the prompts of its group",
        places=("tfgrpo.grouping:GROUPINGS",),
        about="What a group's rollouts are really asked. All answers of a group are compared with each other.",
    ),
    Kind(
        name="sampler",
        title="Which problem is asked next, and how often",
        places=("tfgrpo.samplers:SAMPLERS",),
        about="A sampler learns from finished groups in their order, so that a run that was killed goes the same way.",
    ),
    Kind(
        name="schedule",
        title="What changes with the steps of a run",
        places=("tfgrpo.samplers:SCHEDULES",),
    ),
    Kind(
        name="reward",
        title="From answers to scores",
        places=("tfgrpo.rewards.named:REWARDS", "tfgrpo.rewards.group_level:GROUP_REWARDS"),
        about="A reward scores all answers to one problem together. By name, or a function of your own.",
    ),
    Kind(
        name="strategy",
        title="From several answers to one",
        places=("tfgrpo.strategies.named:STRATEGIES",),
        about="What is asked when one answer is wanted and more may be paid for: `tfgrpo evaluate --strategy vote:5`, "
        "`tfgrpo serve --strategy vote:5`. None sees a reference answer, save the bound `oracle`.",
    ),
    Kind(
        name="aggregation",
        title="From several scores to one",
        places=("tfgrpo.rewards.group_level:AGGREGATIONS",),
        about="`r_k` are the named parts of an answer's score. Decoupled sums are advantages: `gdpo`.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is said of one method; `options` are written as in a call, `lines` is the docstring."""

    kind: str
    name: str
    formula: str
    source: str
    confidence: str
    note: str
    file: str
    options: tuple[str, ...]
    about: str
    example: str

    def words(self) -> str:
        """The whole row for people to read."""
        facts = {
            "formula": self.formula,
            "source": f"{self.source}  ({self.confidence})",
            "note": self.note,
            "options": ", ".join(self.options),
            "file": self.file,
        }
        lines = [f"  {name:<8} {text}" for name, text in facts.items() if text]
        example = f"\n{textwrap.indent(self.example, '  ')}\n" if self.example else ""
        return "\n".join([f"{self.kind} {self.name!r}", *lines, "", textwrap.indent(self.about, "  ")]) + f"\n{example}"


def methods(kind: str | None = None) -> tuple[Row, ...]:
    """All rows, or those of one kind, in the order in which they stand in the code.

    Example:
        >>> [row.name for row in methods("schedule")]
        ['length_budget']

    Raises:
        InputError: an unknown kind; the near ones are listed.
    """
    known = {k.name: k for k in kinds()}
    if kind is not None and kind not in known:
        raise unknown_name("kind of method", kind, known)
    absent = left_out() if kind is None else {}
    chosen = [k for k in known.values() if kind in (None, k.name) and k.name not in absent]
    return tuple(_row(k, name, made) for k in chosen for name, made in presets(k).items())


def kinds() -> tuple[Kind, ...]:
    """KINDS, and those of packages that build on this one.

    Raises:
        InputError: such a package cannot be loaded.
    """
    found = sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name)
    return (*KINDS, *(kind for entry in found for kind in _brought(entry)))


def _brought(entry: metadata.EntryPoint) -> tuple[Kind, ...]:
    try:
        loaded: tuple[Kind, ...] = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the methods {entry.value!r} could not be loaded: {error}; does a file of yours have that name?"
        ) from error
    return loaded


def left_out() -> dict[str, str]:
    """Kinds whose packages are not installed, and how to install them."""
    absent = {}
    for kind in kinds():
        try:
            presets(kind)
        except MissingExtraError as error:
            absent[kind.name] = str(error)
    return absent


def presets(kind: Kind) -> dict[str, Method[Any]]:
    """The presets of one kind by name.

    Raises:
        MissingExtraError: they need torch, which is not installed.
    """
    found: dict[str, Method[Any]] = {}
    for place in kind.places:
        module, _, name = place.partition(":")
        try:
            found.update(getattr(importlib.import_module(module), name))
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise missing_extra("torch", "train", f"the kind of method {kind.name!r}") from error
    return found


def find(name: str) -> tuple[Row, ...]:
    """The methods of that name, "rloo" or "advantage/rloo"; more than one only where kinds share a name.

    Raises:
        InputError: there is none; the near ones are listed.
    """
    kind, slash, plain = name.rpartition("/")
    rows = methods(kind if slash else None)
    found = tuple(row for row in rows if row.name == plain)
    if not found:
        raise unknown_name("method", plain, {row.name for row in rows})
    return found


def _row(kind: Kind, name: str, method: Method[Any]) -> Row:
    about, example = _docstring(method.make)
    return Row(
        kind=kind.name,
        name=name,
        formula=method.formula,
        source=method.source,
        confidence=method.confidence,
        note=method.note,
        file=_file(method.make),
        options=_options(method.make),
        about=about,
        example=example,
    )


def _plain(make: Any) -> Any:
    return _plain(make.func) if isinstance(make, functools.partial) else make


def _file(make: Any) -> str:
    """The file of the function, from the root of the project."""
    module = importlib.import_module(_plain(make).__module__)
    package = "/__init__" if hasattr(module, "__path__") else ""
    return f"{module.__name__.replace('.', '/')}{package}.py"


def _options(make: Any) -> tuple[str, ...]:
    """What may be given by name, with defaults, as in a call."""
    bound = set(make.keywords) if isinstance(make, functools.partial) else set()
    try:
        parameters = inspect.signature(_plain(make)).parameters.values()
    except (TypeError, ValueError):  # a callable without a readable signature
        return ()
    return tuple(
        p.name if p.default is p.empty else f"{p.name}={_shown(p.default)}"
        for p in parameters
        if p.name not in bound and (p.kind is p.KEYWORD_ONLY or p.default is not p.empty)
    )


def _shown(default: Any) -> str:
    name = getattr(default, "__name__", None)
    return name if callable(default) and name else repr(default)


def _docstring(make: Any) -> tuple[str, str]:
    """What the docstring says, and its example apart."""
    text = inspect.getdoc(_plain(make)) or ""
    before, _, after = text.partition("Example:\n")
    lines = after.splitlines()
    end = next((n for n, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    example, rest = "\n".join(lines[:end]), "\n".join(lines[end:])
    return "\n\n".join(part.strip() for part in (before, rest) if part.strip()), textwrap.dedent(example).strip()


def markdown() -> str:
    """All rows as the tables of docs/methods.md."""
    absent = left_out()
    return "\n\n".join(_section(kind) for kind in kinds() if kind.name not in absent) + "\n"


def _section(kind: Kind) -> str:
    header = ("preset", "formula", "source", "confidence", "where", "note")
    rows = [
        (f"`{r.name}`", r.formula, r.source, r.confidence, f"`{r.file}`", r.note or "–") for r in methods(kind.name)
    ]
    lines = [_cells(header), _cells("---" for _ in header), *(_cells(row) for row in rows)]
    about = f"{kind.about}\n\n" if kind.about else ""
    return f"## {kind.title}\n\n{about}" + "\n".join(lines)


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def renewed(page: str) -> str:
    """A page with the rows between its two markers written anew; everything else stays as it is.

    Raises:
        InputError: the markers are not there, in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the page needs the lines {BEGIN!r} and {END!r}, in that order; nothing was written")
    return f"{before}{BEGIN}\n\n{markdown()}\n{END}{after}"


def as_json(rows: Iterable[Row]) -> list[Mapping[str, Any]]:
    """Rows for programs."""
    return [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in rows]
