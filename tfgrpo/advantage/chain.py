"""Steps, and chains of them that are refused where two steps contradict each other.

A step maps a table to a table. Any function of your own is one; the steps of this package also say what they do, so
that `chain` can refuse what would give a wrong number without a word:

- "shapes rewards" changes `reward`, from which the advantage begins again;
- "changes parts" changes `parts`, which only a step that "begins from parts" reads;
- "makes advantages" and "changes advantages" change `advantage`; the former reads nothing of what stood there before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from tfgrpo.advantage.segments import Values
from tfgrpo.advantage.table import Table
from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method

Step: TypeAlias = Callable[[Table], Table]
Tag: TypeAlias = Literal[
    "shapes rewards",
    "changes parts",
    "begins from parts",
    "makes advantages",
    "changes advantages",
    "drops uniform groups",  # those whose rewards, or verdicts, are all equal
    "teaches uniform groups",  # makes a signal out of some of them
    "teaches all-wrong groups",  # the same, but only at the very end
    "changes statistics",  # takes rows out of `in_stats`
    "reads success rates",
]


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """A step with what is to be known of it; `needs` as in `Advantage`."""

    name: str
    run: Step
    tags: frozenset[Tag]
    needs: frozenset[str] = frozenset()

    def __call__(self, table: Table) -> Table:
        return self.run(table)


def tagged(name: str, run: Step, *tags: Tag, needs: tuple[str, ...] = ()) -> Tagged:
    """A step under its name."""
    return Tagged(name=name, run=run, tags=frozenset(tags), needs=frozenset(needs))


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A step with the tag `first` may not stand before one with the tag `then`."""

    first: Tag
    then: Tag
    why: str


REFUSALS = (
    Refusal(
        first="drops uniform groups",
        then="teaches uniform groups",
        why="the groups are dropped before they become informative: filter after it",
    ),
    Refusal(
        first="drops uniform groups",
        then="teaches all-wrong groups",
        why="all-wrong groups are what it learns from: drop only all-correct groups",
    ),
    Refusal(
        first="teaches all-wrong groups",
        then="drops uniform groups",
        why="all-wrong groups are what it learns from: drop only all-correct groups",
    ),
    Refusal(
        first="changes statistics",
        then="reads success rates",
        why="the filter changes the success rates that it reads: filter after it",
    ),
    Refusal(
        first="changes advantages",
        then="makes advantages",
        why="it does not read the advantages before it, which would be lost",
    ),
    Refusal(
        first="makes advantages",
        then="makes advantages",
        why="it does not read the advantages before it, which would be lost",
    ),
    Refusal(
        first="changes advantages",
        then="shapes rewards",
        why="advantages begin again from shaped rewards, those before it would be lost: shape rewards first",
    ),
    Refusal(
        first="makes advantages",
        then="shapes rewards",
        why="advantages begin again from shaped rewards, those before it would be lost: shape rewards first",
    ),
    Refusal(
        first="shapes rewards",
        then="begins from parts",
        why="it begins from the parts of the score, so the shaped reward would be lost: shape the sum after "
        "sum_parts(), or the parts with conditional()",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Advantage:
    """Steps one after the other, from scored rollouts to how much better each was than its siblings.

    Called with a table it returns the advantages [N], 0 for rows without one or not in the loss; `columns` returns the
    table after the last step, for its `in_loss` and `weight`.
    """

    steps: tuple[Step, ...]
    name: str = ""  # "grpo(scaling='batch')" where it was chosen by name, else those of its steps

    def __call__(self, table: Table) -> Values:
        return self.columns(table).advantage

    def columns(self, table: Table) -> Table:
        """The table after the last step; its advantages are finite, and 0 where a row is not in the loss."""
        table = table.with_advantage(table.reward)
        for step in self.steps:
            table = step(table)
        learned = table.used(table.advantage, table.in_loss)
        return table if learned is None else table.with_advantage(np.where(learned, table.advantage, 0.0))

    @property
    def needs(self) -> frozenset[str]:
        """What the steps read beyond the columns of every table, so that a run can refuse before it spends anything.

        Names of parts or extras, "parts" for any, "weight/*" for one beside each. `Table.of` gives those in ALWAYS.
        """
        return frozenset().union(*(s.needs for s in self.steps if isinstance(s, Tagged)))


def chain(*steps: Step | Advantage) -> Advantage:
    """Steps one after the other, beginning with the rewards; an `Advantage` among them stands for its steps.

    Example:
        >>> from tfgrpo.advantage import center, scale
        >>> chain(center(), scale("batch"))(Table.of_rewards([[1, 0], [1, 1]])).round(2).tolist()
        [1.0, -1.0, 0.0, 0.0]

    Raises:
        InputError: two steps contradict each other; says which and why.
    """
    flat = tuple(_flat(steps))
    known = [s for s in flat if isinstance(s, Tagged)]
    for place, step in enumerate(known):
        for earlier in known[:place]:
            _refuse(earlier, step)
        if "changes parts" in step.tags and not any("begins from parts" in s.tags for s in known[place + 1 :]):
            raise InputError(
                f"{step.name} changes the parts of the score, but no step after it reads them: "
                f"follow it with sum_parts() or decoupled()"
            )
    return Advantage(steps=flat, name=" + ".join(_name_of(step) for step in flat))


def _name_of(step: Step) -> str:
    return step.name if isinstance(step, Tagged) else str(getattr(step, "__name__", type(step).__name__))


def _flat(steps: tuple[Step | Advantage, ...]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Advantage):
            yield from step.steps
        else:
            yield step


def _refuse(earlier: Tagged, later: Tagged) -> None:
    for refusal in REFUSALS:
        if refusal.first in earlier.tags and refusal.then in later.tags:
            raise InputError(f"{later.name} cannot follow {earlier.name}: {refusal.why}")


T = TypeVar("T")


def make_row(kind: str, name: str, rows: Mapping[str, Method[Callable[..., T]]], options: Mapping[str, Any]) -> T:
    """What the row of that name makes with these options.

    Raises:
        InputError: unknown name or option (near ones are listed), or an option that must be given and is not.
    """
    if name not in rows:
        raise unknown_name(kind, name, rows)
    parameters = inspect.signature(rows[name].make).parameters
    for option in options:
        if option not in parameters:
            raise unknown_name(f"option of {kind} {name!r}", option, parameters)
    lacking = [n for n, p in parameters.items() if p.default is p.empty and n not in options]
    if lacking:
        raise InputError(f"{kind} {name!r} needs {' and '.join(lacking)}; got {', '.join(options) or 'no options'}")
    return rows[name].make(**options)
