"""Does what was learned with a hint help without it? Gates and transfer tests on numbers.

Legend: G rollouts of one group, H hints of one problem, N solved hinted answers, T tokens of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfgrpo.errors import InputError

Values: TypeAlias = NDArray[np.floating[Any]]

TEMPERATURE = 0.3
REFUSED = -0.2
LEAST_SAMPLES = 4


def mixed_gate(p: ArrayLike, group: int) -> Values:
    """`1 - (1 - p)^G - p^G`: the chance that a group holds both solved and unsolved answers; largest at p = 1/2.

    Args:
        p: pass rates in 0..1, any shape.
        group: G.

    Source: SAGE, arXiv 2602.03143.

    Example:
        >>> mixed_gate([0.01, 0.05, 0.125, 0.5, 0.9], 8).round(4).tolist()
        [0.0773, 0.3366, 0.6564, 0.9922, 0.5695]

    Raises:
        InputError: a rate outside 0..1, or a group below 1.
    """
    rates = np.asarray(p, dtype=np.float64)
    if group < 1 or not np.all((rates >= 0) & (rates <= 1)):
        raise InputError(f"pass rates must lie in 0..1 and a group have at least 1 rollout, got {p!r} and {group}")
    return np.asarray(1.0 - (1.0 - rates) ** group - rates**group)


def hint_reliance(bare: Sequence[ArrayLike], hinted: Sequence[ArrayLike]) -> float | None:
    """`D = mean over solved answers of (mean_t log p(y_t | q) - mean_t log p(y_t | q, hint))`, usually below 0.

    Args:
        bare: log-probs in nats of the tokens of each solved hinted answer under the prompt without the hint. [N][T]
        hinted: the same tokens under the prompt that they were sampled from. [N][T]

    Returns:
        None where nothing was solved: reliance is then undefined.

    Source: HiLL, arXiv 2604.00698 (code).

    Example:
        >>> hint_reliance([[-1.0, -0.8], [-0.5]], [[-0.4, -0.2], [-0.5]])
        -0.3

    Raises:
        InputError: the two do not hold the same tokens, an answer is empty, or a log-prob is not finite.
    """
    rows = [
        (np.asarray(b, dtype=np.float64), np.asarray(h, dtype=np.float64)) for b, h in zip(bare, hinted, strict=False)
    ]
    if len(bare) != len(hinted) or any(b.shape != h.shape or b.ndim != 1 or not b.size for b, h in rows):
        raise InputError(
            "the log-probs with and without the hint must be of the same answers, one per token, none empty"
        )
    if not all(np.isfinite(b).all() and np.isfinite(h).all() for b, h in rows):
        raise InputError("a log-prob is not finite; leave out answers that the model cannot produce")
    return float(np.mean([b.mean() - h.mean() for b, h in rows])) if rows else None


def transfer_weight(reliance: float, temperature: float = TEMPERATURE) -> float:
    """`w = exp(min(D, 0) / T)`: 1 for a hint that is not leaned on, towards 0 for one that carries the answer.

    Source: HiLL, arXiv 2604.00698 (code), T = 0.3.

    Example:
        >>> round(transfer_weight(-0.6), 4), transfer_weight(0.1)
        (0.1353, 1.0)

    Raises:
        InputError: a temperature that is not above 0.
    """
    if temperature <= 0:
        raise InputError(f"the temperature of a transfer weight must be above 0, got {temperature}")
    return float(np.exp(min(reliance, 0.0) / temperature))


def hint_reward(
    solved: int, group: int, reliance: float | None, *, temperature: float = TEMPERATURE, refused: bool = False
) -> float:
    """What a hint is worth: `(1 - p^G - (1 - p)^G) * w`, p = solved / G; 0 at p = 0 and 1, -0.2 for one that leaks.

    Args:
        solved: of the group's answers with the hint.
        group: G.
        reliance: as from `hint_reliance`; None where nothing was solved.
        temperature: of the weight.
        refused: the hint did not pass a gate: it leaks, is too long or could not be read.

    Source: HiLL, arXiv 2604.00698 (code).

    Example:
        >>> [round(hint_reward(s, 8, d), 4) for s, d in ((4, -0.6), (2, -0.1), (1, -0.05), (8, -0.01), (0, None))]
        [0.1343, 0.6448, 0.5556, 0.0, 0.0]

    Raises:
        InputError: more solved than there are.
    """
    if refused:
        return REFUSED
    if not 0 <= solved <= group:
        raise InputError(f"{solved} of {group} answers cannot be solved")
    if reliance is None or solved in (0, group):
        return 0.0
    return float(mixed_gate(solved / group, group)) * transfer_weight(reliance, temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lift:
    """The no-hint lift test of what was learned from hinted answers. Rates are of successes."""

    bare: float  # without hint and without it
    told: float  # without hint, with it
    hinted: float | None  # with the hint
    weight: float  # exp(-(hinted - told)+ / T): how much of the hint's help it carries over

    @property
    def lift(self) -> float:
        """`told - bare`."""
        return self.told - self.bare

    @property
    def accepted(self) -> bool:
        """Whether it helps where no hint stands. A point estimate: the run's gate has the interval."""
        return self.lift > 0


def no_hint_lift(
    bare: ArrayLike, told: ArrayLike, hinted: ArrayLike | None = None, *, temperature: float = TEMPERATURE
) -> Lift:
    """The transfer test by sampling, for models without log-probs: is it the hint or the lesson that helps?

    Accept what was learned only if `mean(told) > mean(bare)`, both without hint; `exp(-(p_hint - p_told)+ / T)` takes
    the place of HiLL's log-prob weight. In a run every entry on trial goes through this test by randomised
    inclusion in prompts without hints; this function is for a sample of one's own.

    Args:
        bare: successes or rewards in 0..1 of at least 4 answers without hint and without the lesson.
        told: the same with the lesson.
        hinted: the same with the hint; None leaves the weight at 1.
        temperature: of the weight.

    Source: ours, after arXiv 2604.00698.

    Example:
        >>> test = no_hint_lift([0, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1])
        >>> test.lift, test.accepted, round(test.weight, 4)
        (0.5, True, 0.4346)

    Raises:
        InputError: fewer than 4 samples of one kind, or values outside 0..1.
    """
    rates = [_rate(name, sample) for name, sample in (("bare", bare), ("told", told))]
    shown = None if hinted is None else _rate("hinted", hinted)
    weight = 1.0 if shown is None else transfer_weight(rates[1] - shown, temperature)
    return Lift(bare=rates[0], told=rates[1], hinted=shown, weight=weight)


def _rate(name: str, sample: ArrayLike) -> float:
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or values.size < LEAST_SAMPLES or not np.all((values >= 0) & (values <= 1)):
        raise InputError(
            f"a transfer test needs at least {LEAST_SAMPLES} samples in 0..1 of each kind; {name} is {sample!r}"
        )
    return float(values.mean())
