"""Labelled answers from a file: a question, an answer, and a score for each head, or for some of them. Loads no torch.

    {"question": "How do I ...?", "answer": "First ...", "family": "role_play", "politeness": 0.9, "safety": null}

The columns may have other names (`columns={"question": "prompt", "safety": "is_safe"}`), the labels may stand together
under "labels", and grades of another scale are mapped: `scale=(1, 5)` is (x - 1) / 4. A label that is missing, null or
empty is *unknown*, never 0. Every row is checked before anything is trained.

Legend: N rows, H heads; an unknown label is NaN.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfgrpo.errors import InputError
from tfgrpo.problem_files import BadRowError, Row, file_rows, memory_rows, shown
from tfgrpo.rewards.safety import HEADS
from tfgrpo.stats import Array

COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "input"),
    "answer": ("answer", "response", "completion", "output"),
    "system": ("system",),
    "family": ("family", "attack", "category"),
}
"""The names under which each column is looked for when none is given."""
SHOWN_ERRORS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """One answer and what is known of it; labels lie in 0..1, unknown ones are absent."""

    question: str  # with the system message before it, where there is one
    answer: str
    family: str = ""
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSet:
    """All rows of a source, and what a report has to say of it."""

    rows: tuple[Labelled, ...]
    heads: tuple[str, ...]
    source: str
    generated: bool  # some row says that its labels were planted, so that nothing here is a real label
    notices: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[str, ...]:
        """Their names, in order; () where the source tells none."""
        return tuple(sorted({row.family for row in self.rows} - {""}))

    @property
    def digest(self) -> str:
        """A hash of all that is read of the source."""
        plain = [[r.question, r.answer, r.family, sorted(r.labels.items())] for r in self.rows]
        return hashlib.sha256(json.dumps(plain).encode("utf-8", "surrogatepass")).hexdigest()

    def labels(self) -> Array:
        """[N, H] in 0..1, NaN where unknown."""
        return np.array([[row.labels.get(head, np.nan) for head in self.heads] for row in self.rows], dtype=float)


def asked(system: str, question: str) -> str:
    """A question as the encoder reads it.

    Example:
        >>> asked("Be brief.", "2 + 3?"), asked("", "2 + 3?")
        ('Be brief.\\n\\n2 + 3?', '2 + 3?')
    """
    return "\n\n".join(part for part in (system.strip(), question.strip()) if part)


def labelled_file(
    path: str | Path,
    *,
    heads: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
) -> LabelledSet:
    """The labelled answers of a JSONL, JSON, CSV or Parquet file.

    Args:
        heads: which scores; default: the four of `tfgrpo.rewards.safety.HEADS`.
        columns: our name -> theirs, for question, answer, system, family and every head.
        scale: the lowest and the highest grade; labels are mapped to 0..1.

    Raises:
        InputError: rows that are malformed or labelled out of range, all of them listed, or a head that no row has.
    """
    place = Path(path)
    return _read(file_rows(place), str(place), heads, columns, scale)


def labelled_rows(
    rows: Iterable[Any],
    *,
    heads: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    name: str = "rows",
) -> LabelledSet:
    """As `labelled_file`, from rows in memory.

    Example:
        >>> row = {"prompt": "2 + 3?", "response": "5", "labels": {"safety": 5, "politeness": None}}
        >>> found = labelled_rows([row], heads=["politeness", "safety"], scale=(1, 5))
        Traceback (most recent call last):
        ...
        tfgrpo.errors.InputError: rows: no row has a label 'politeness'; leave that head out: heads=['safety']
        >>> labelled_rows([row], heads=["safety"], scale=(1, 5)).labels().tolist()
        [[1.0]]
    """
    return _read(memory_rows(rows, name), name, heads, columns, scale)


def _read(
    rows: Iterable[Row],
    source: str,
    heads: Sequence[str],
    columns: Mapping[str, str] | None,
    scale: tuple[float, float],
) -> LabelledSet:
    reader = _Reader(heads=tuple(heads) or tuple(HEADS), columns=dict(columns or {}), scale=scale)
    found: list[Labelled] = []
    errors: list[str] = []
    generated = False
    for row in rows:
        try:
            if isinstance(row.value, BadRowError):
                raise row.value
            found.append(reader.row(row.value))
            generated = generated or row.value.get("generated") is True
        except BadRowError as error:
            errors.append(f"{row.where}: {error}")
    if errors:
        more = f"\n... and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise InputError("\n".join(errors[:SHOWN_ERRORS]) + more)
    return _checked(found, reader.heads, source, generated)


def _checked(found: Sequence[Labelled], heads: tuple[str, ...], source: str, generated: bool) -> LabelledSet:
    known = {head for row in found for head in row.labels}
    lacking = [head for head in heads if head not in known]
    if not found or not known:
        raise InputError(f"{source}: expected labelled answers, got {len(found)} rows without any label")
    if lacking:
        rest = [head for head in heads if head in known]
        raise InputError(f"{source}: no row has a label {lacking[0]!r}; leave that head out: heads={rest}")
    kept, bare = _merged([row for row in found if row.labels]), sum(not row.labels for row in found)
    said = [f"{bare} rows without any label were left out"] if bare else []
    if len(kept) < len(found) - bare:
        said.append(f"{len(found) - bare - len(kept)} rows repeat another answer; their labels were averaged")
    unnamed = sum(not row.family for row in kept)
    if 0 < unnamed < len(kept):
        raise InputError(f"{source}: {unnamed} of {len(kept)} rows have no family; give all rows one, or none")
    return LabelledSet(rows=kept, heads=heads, source=source, generated=generated, notices=tuple(said))


def _merged(rows: Iterable[Labelled]) -> tuple[Labelled, ...]:
    """Rows of the same question, answer and family as one, with mean labels: several people or samples graded it."""
    sets: dict[tuple[str, str, str], list[Labelled]] = {}
    for row in rows:
        sets.setdefault((row.question, row.answer, row.family), []).append(row)
    return tuple(_mean(members) if len(members) > 1 else members[0] for members in sets.values())


def _mean(rows: Sequence[Labelled]) -> Labelled:
    names = dict.fromkeys(name for row in rows for name in row.labels)
    values = {name: [row.labels[name] for row in rows if name in row.labels] for name in names}
    first = rows[0]
    means = {name: math.fsum(given) / len(given) for name, given in values.items()}
    return Labelled(question=first.question, answer=first.answer, family=first.family, labels=means)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    heads: tuple[str, ...]
    columns: Mapping[str, str]
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.scale
        unknown = [name for name in self.columns if name not in (*COLUMNS, *self.heads)]
        if unknown:
            raise InputError(f"columns: expected {', '.join((*COLUMNS, *self.heads))}, got {', '.join(unknown)}")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"the scale is its lowest and its highest grade, such as 1..5; got {low:g}..{high:g}")
        if len(set(self.heads)) < len(self.heads):
            raise InputError(f"every head needs a name of its own, got {', '.join(self.heads)}")

    def row(self, value: Any) -> Labelled:
        if not isinstance(value, Mapping):
            raise BadRowError(f"expected an object with a question, an answer and labels, got {shown(value)}")
        question, answer = self._text(value, "question"), self._text(value, "answer")
        if question is None or not question.strip() or answer is None:
            lacking = "question" if question is None or not question.strip() else "answer"
            looked = self.columns.get(lacking) or " or ".join(COLUMNS[lacking])
            raise BadRowError(
                f"expected the {lacking} in a column {looked}, got the columns {', '.join(map(str, value))}"
            )
        return Labelled(
            question=asked(self._text(value, "system") or "", question),
            answer=answer,
            family=self._text(value, "family") or "",
            labels={head: label for head in self.heads if (label := self._label(value, head)) is not None},
        )

    def _text(self, row: Mapping[str, Any], name: str) -> str | None:
        own = self.columns.get(name)
        column = next((c for c in ((own,) if own else COLUMNS[name]) if row.get(c) is not None), None)
        if column is None:
            return None
        value = row[column]
        if not isinstance(value, str):
            raise BadRowError(f"expected {column!r} to be a text, got {shown(value)}")
        return value

    def _label(self, row: Mapping[str, Any], head: str) -> float | None:
        together = row.get("labels")
        column = self.columns.get(head, head)
        value = row.get(column, together.get(column) if isinstance(together, Mapping) else None)
        if value is None or value == "":
            return None
        low, high = self.scale
        number = _number(value)
        if number is None or not low <= number <= high:
            hint = "; grades of another scale: --scale 1..5" if number is not None and self.scale == (0, 1) else ""
            raise BadRowError(f"expected {column!r} to be a number from {low:g} to {high:g}, got {shown(value)}{hint}")
        return (number - low) / (high - low)


def _number(value: Any) -> float | None:
    """A number, yes or no as 1 or 0, or a text that is a number; NaN is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
