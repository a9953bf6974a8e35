"""Maps the raw scores of a head to what such scores turned out to be worth: monotone, and fitted on validation only.

Legend: N answers; x raw scores in 0..1, y labels in 0..1, both [N].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.stats import Array

KINDS = ("auto", "isotonic", "platt", "none")
ENOUGH = 100  # labels from which on "auto" is "isotonic"; with fewer it is "platt"
EDGE = 1e-6  # scores are kept this far from 0 and 1 before their logit is taken
RIDGE = 1e-3  # pulls the slope to 1 and the shift to 0 where labels do not say otherwise
STEPS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """One head's map. `knots` are (slope, shift) for "platt", and rows of (x, value) for "isotonic"."""

    kind: str
    knots: tuple[tuple[float, float], ...] = ()

    def __call__(self, x: Array) -> Array:
        """Raw scores [N] -> scores [N] in 0..1, in the same order or level."""
        if self.kind == "none":
            return x
        if self.kind == "platt":
            (slope, shift) = self.knots[0]
            return _sigmoid(slope * _logit(x) + shift)
        at, value = zip(*self.knots, strict=True)
        found: Array = np.interp(x, at, value)
        return found

    @property
    def flat(self) -> bool:
        """Whether it maps every score to the same: the head told nothing about the validation labels."""
        return (self.kind == "platt" and self.knots[0][0] == 0) or (self.kind == "isotonic" and len(self.knots) == 1)

    def as_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {"kind": self.kind, "knots": [list(knot) for knot in self.knots]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Calibration:
        """The opposite of `as_json`."""
        return Calibration(kind=str(data["kind"]), knots=tuple((float(a), float(b)) for a, b in data["knots"]))


def calibrated(kind: str, x: Array, y: Array) -> Calibration:
    """The map of that kind fitted to raw scores and labels; without known labels none.

    "auto" is isotonic where there are labels enough for its many levels, and the two numbers of Platt otherwise.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in KINDS:
        raise unknown_name("calibration", kind, KINDS)
    known = np.isfinite(y)
    if kind == "none" or not known.any():
        return Calibration(kind="none")
    steps = kind == "isotonic" or (kind == "auto" and known.sum() >= ENOUGH)
    return (isotonic if steps else platt)(x[known], y[known])


def platt(x: Array, y: Array) -> Calibration:
    """sigmoid(a logit(x) + b), a >= 0, with the least cross-entropy to y (Platt 1999; labels may be graded).

    Where the scores run against the labels, a is 0 and all scores become the mean label. A strictly rising map changes
    no order, so that rank correlation and AUC stay what they were.

    Example:
        >>> shrunk = platt(np.array([0.02, 0.02, 0.98, 0.98]), np.array([0.2, 0.2, 0.8, 0.8]))
        >>> shrunk(np.array([0.02, 0.5, 0.98])).round(2).tolist()
        [0.2, 0.5, 0.8]
    """
    z = _logit(x)
    weights = np.array([1.0, 0.0])
    design = np.stack([z, np.ones_like(z)], axis=1)
    for _ in range(STEPS):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - y) / len(y) + RIDGE * (weights - [1.0, 0.0])
        curve = (design * (p * (1 - p))[:, None]).T @ design / len(y) + RIDGE * np.eye(2)
        step = np.linalg.solve(curve, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        weights = np.array([0.0, float(_logit(np.array([y.mean()]))[0])])
    return Calibration(kind="platt", knots=((float(weights[0]), float(weights[1])),))


def isotonic(x: Array, y: Array) -> Calibration:
    """The rising step function with the least squared error to y, joined by straight lines between its blocks.

    Neighbours that fall are pooled until none does (Barlow et al. 1972). Needs many labels: with few it has few levels,
    and answers on one level cannot be told apart.

    Example:
        >>> fitted = isotonic(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.0, 0.6, 0.4, 1.0]))
        >>> fitted(np.array([0.0, 0.1, 0.25, 0.9])).round(2).tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    blocks: list[tuple[float, float, float]] = []  # weight, sum of x, sum of y
    for at in np.unique(x):
        here = x == at
        blocks.append((float(here.sum()), float(x[here].sum()), float(y[here].sum())))
        while len(blocks) > 1 and blocks[-2][2] / blocks[-2][0] >= blocks[-1][2] / blocks[-1][0]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
    return Calibration(kind="isotonic", knots=tuple((sx / weight, sy / weight) for weight, sx, sy in blocks))


def check_kinds(found: Sequence[Calibration]) -> None:
    """Refuses maps of a kind that this version does not know, as a damaged file may hold."""
    odd = [c.kind for c in found if c.kind not in KINDS[1:]]
    if odd:
        raise InputError(f"expected calibrations of the kinds {', '.join(KINDS[1:])}, got {odd[0]!r}")


def _logit(x: Array) -> Array:
    kept = np.clip(x, EDGE, 1 - EDGE)
    found: Array = np.log(kept / (1 - kept))
    return found


def _sigmoid(z: Array) -> Array:
    found: Array = 1 / (1 + np.exp(-np.clip(z, -math.log(1e12), math.log(1e12))))
    return found
