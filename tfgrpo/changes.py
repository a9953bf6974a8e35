"""What measures and probes of a task say before and after, as a report keeps it."""

from __future__ import annotations

import numpy as np

from tfgrpo import stats
from tfgrpo.evaluation import Evaluation, compare
from tfgrpo.report import Change, Measured
from tfgrpo.stats import Array, Estimate


def changes(before: Evaluation | None, after: Evaluation | None, *, seed: int = 0) -> list[Change]:
    """One row for each measure of the evaluations, in their order; gains are paired by problem.

    A problem to which a measure does not apply is in no mean, so that n is the number of harmful prompts where only
    those are measured. A change inside the noise is called that, as a gain is.

    Example:
        >>> said = {"refuses": np.array([[1.0], [0.0], [np.nan]])}
        >>> none = np.zeros((3, 1))
        >>> once = Evaluation(problems=("a", "b", "c"), scores=none, success=none, beside=said)
        >>> [row.after.n for row in changes(None, once)]
        [2]
    """
    names = dict.fromkeys(name for side in (before, after) if side is not None for name in side.beside)
    return [_change(name, before, after, seed) for name in names]


def faults(*sides: Evaluation | None) -> list[str]:
    """What measures and probes could not do, in words for a report's notes."""
    known = [side for side in sides if side is not None]
    return list(dict.fromkeys(words for side in known for words in side.faults.values()))


def _change(name: str, before: Evaluation | None, after: Evaluation | None, seed: int) -> Change:
    old, new = (None if side is None else _one(side, side.beside[name]) for side in (before, after))
    gain, words = None, ""
    if old is not None and new is not None:
        found = compare(old, new, seed=seed)
        if found.gain.n:
            gain = _measured(found.gain, new.samples)
            words = found.gain.words(signed=True) + (", inside the noise" if found.inside_noise else "")
    sides = [None if s is None else _side(s, seed) for s in (old, new)]
    return Change(name=name, before=sides[0], after=sides[1], gain=gain, gain_words=words)


def _one(side: Evaluation, values: Array) -> Evaluation:
    """A measure's values as if they were the scores."""
    return Evaluation(problems=side.problems, scores=values, success=values)


def _side(side: Evaluation, seed: int) -> Measured | None:
    if not np.isfinite(side.scores).any():
        return None
    return _measured(stats.mean_interval(side.scores, seed=seed), side.samples)


def _measured(e: Estimate, samples: int) -> Measured:
    return Measured(mean=e.mean, low=e.low, high=e.high, n=e.n, samples=samples)
