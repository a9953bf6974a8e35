"""The slots of a loss: what fills them is a small record with a function and what is to be known of it.

Legend: B answers of a micro-batch, T tokens. All functions see `Tokens.clean()`: zeros outside the mask, advantage
[B, T].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from hybrid.batch import Tokens, Totals
from hybrid.losses.aggregate import Named
from tfgrpo.errors import InputError

Seen: TypeAlias = Mapping[str, Tensor]
"""What a part counted at each token [B, T]; its mean over all tokens becomes a metric."""


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Ratio level x clip or mask x weight: the policy's own term."""

    name: str
    run: Callable[[Tokens], tuple[Tensor, Seen]]  # token losses [B, T]
    needs: frozenset[str] = frozenset()
    whole_answers: bool = False  # one ratio for all tokens of an answer, which a token's own advantage contradicts


@dataclass(frozen=True, kw_only=True)
class Credit:
    """A step from the advantages [B, T] that were given to those that are learned from."""

    name: str
    run: Callable[[Tokens, Totals], Tensor]
    needs: frozenset[str] = frozenset()
    heat: Callable[[float], float] | None = None
    """From the policy's entropy to the temperature, in sampling temperatures, at which `tempered` is scored."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Weights [B, T] of the policy's term where another engine sampled; they have no gradient."""

    name: str
    run: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Seen]]  # old, sampler, mask


@dataclass(frozen=True, kw_only=True)
class Regulariser:
    """`coefficient` times an aggregate of `run`, beside the policy's term; aggregated like it unless told otherwise."""

    name: str
    coefficient: float
    run: Callable[[Tokens], Tensor]  # [B, T], or [B, 1] with an aggregate of answers
    needs: frozenset[str] = frozenset()
    aggregate: Named | None = None
    silent_at_first: bool = False  # 0, with gradient 0, until the policy has moved


def at_least(name: str, value: float, least: float) -> float:
    """The value.

    Raises:
        InputError: it is smaller, or NaN.
    """
    if not value >= least:
        raise InputError(f"{name} must be at least {least:g}, got {value}")
    return value


def bounds(low: float, high: float) -> tuple[float, float]:
    """How far below and above 1 a ratio may lie.

    Raises:
        InputError: low outside 0..1, or a negative high.
    """
    if not 0 <= low <= 1:
        raise InputError(f"a ratio may fall to 1 - low, so low must lie in 0..1; got {low}")
    return low, at_least("high", high, 0.0)
