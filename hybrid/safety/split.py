"""Which rows are trained on, which choose when to stop and how to calibrate, and which are held out.

Attack families are held out whole: a model that has seen the manner of an attack says little about a new one. The part
that validates is made of other families than those trained on as well, where there are enough of them. No question of a
held-out row is ever trained on. Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.safety.data import LabelledSet
from tfgrpo.errors import InputError

ENOUGH = 4  # families that are left after holding out, from which on validation takes whole ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Row numbers of each part, and the families behind them; `unit` is what was dealt as a whole."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    held: tuple[str, ...]
    unit: str  # "family" or "question"
    dropped: int = 0  # rows whose question stands in another part as well

    @property
    def seen(self) -> tuple[int, ...]:
        """All rows that the model was made with."""
        return (*self.train, *self.validation)


def deal(
    data: LabelledSet, *, held: Sequence[str] = (), share: float = 0.3, validation: float = 0.2, seed: int = 0
) -> Split:
    """Families in an order drawn by `seed`: the first ones are held out, the next ones validate, the rest trains.

    Without families the questions are dealt, which measures less, and `unit` says so.

    Args:
        held: the families to hold out, by name; default: as many as hold at least `share` of the rows.
        share: of the rows, to be held out.
        validation: of the other rows, to validate.

    Raises:
        InputError: an unknown family, shares out of range, or too few families or questions for three parts.
    """
    if not 0 < share < 1 or not 0 < validation < 1:
        raise InputError(f"the shares held out and validated lie between 0 and 1, got {share} and {validation}")
    unknown = [name for name in held if name not in data.families]
    if unknown:
        raise InputError(
            f"no family {unknown[0]!r} to hold out; {data.source} has {', '.join(data.families) or 'none'}"
        )
    unit = "family" if data.families else "question"
    units = [row.family if data.families else row.question for row in data.rows]
    order = sorted(set(units), key=lambda name: _draw(name, seed))
    if (len(order) < 3 and unit == "question") or len(order) < 2:
        raise InputError(
            f"{data.source} has {len(order)} {'family' if unit == 'family' else 'questions'}: nothing can be held out "
            f"and trained on at once; give answers of more, or leave the family out to hold out questions"
        )
    chosen = list(held) or _first(order, units, share * len(units), most=len(order) - 1)
    rest = [name for name in order if name not in set(chosen)]
    if not rest:
        raise InputError(f"all {len(order)} families are held out, so nothing is left to train on")
    test = [n for n, name in enumerate(units) if name in set(chosen)]
    others = [n for n, name in enumerate(units) if name not in set(chosen)]
    whole = len(rest) >= ENOUGH or unit == "question"
    finer = units if whole else [row.question for row in data.rows]
    inner = rest if whole else sorted({finer[n] for n in others}, key=lambda name: _draw(name, seed))
    if len(inner) < 2:
        raise InputError(f"{data.source} has too few questions outside the held-out families to validate with")
    validating = set(_first(inner, [finer[n] for n in others], validation * len(others), most=len(inner) - 1))
    validated = [n for n in others if finer[n] in validating]
    trained = [n for n in others if finer[n] not in validating]
    return _apart(data, trained, validated, test, tuple(sorted(chosen)) if unit == "family" else (), unit)


def _apart(
    data: LabelledSet, trained: list[int], validated: list[int], test: list[int], held: tuple[str, ...], unit: str
) -> Split:
    """Rows leave training and validation when their question is held out, and training when it validates."""
    tested = {data.rows[n].question for n in test}
    validating = {data.rows[n].question for n in validated} | tested
    kept = [n for n in trained if data.rows[n].question not in validating]
    checked = [n for n in validated if data.rows[n].question not in tested]
    dropped = len(trained) + len(validated) - len(kept) - len(checked)
    if not kept or not checked:
        raise InputError(
            f"{data.source}: the questions of the held-out rows stand in the others too, so that nothing is left to "
            f"train or validate with; hold out other families (--hold-out NAME)"
        )
    return Split(train=tuple(kept), validation=tuple(checked), test=tuple(test), held=held, unit=unit, dropped=dropped)


def _first(order: Sequence[str], units: Sequence[str], wanted: float, *, most: int) -> list[str]:
    """So many of the names, in their order, that they hold at least `wanted` rows; at least one."""
    chosen: list[str] = []
    rows = 0
    for name in order[:most]:
        if chosen and rows >= wanted:
            break
        chosen.append(name)
        rows += sum(unit == name for unit in units)
    return chosen


def _draw(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\x1f{name}".encode("utf-8", "surrogatepass")).digest()
