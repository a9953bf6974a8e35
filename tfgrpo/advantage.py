"""From the rewards of a group to one number per rollout: how much better than its siblings it was.

Legend: N rollouts in the table, G rollouts in one group. A *step* maps values [N] to values [N]; `chain` joins steps.

Conventions, the same for every estimator:
- The deviation is the sample one (ddof 1) with `eps` 1e-6 added, and is divided by only where it is not 0.
- A group of one has nothing to be compared with: its advantage is 0.
- A rollout without a reward (NaN) leaves statistics and loss, and its advantage is 0.
- Rows with `in_stats` False do not move mean or deviation but are compared with them.

Example:
    >>> table = Table.of_rewards([[1.0, 0.0, 0.0, 0.0]])
    >>> ADVANTAGES["dr_grpo"](table).tolist()
    [0.75, -0.25, -0.25, -0.25]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfgrpo.errors import unknown_name
from tfgrpo.types import Group

Values: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Labels: TypeAlias = NDArray[np.int64]
Scope: TypeAlias = Literal["group", "variant", "batch"]

ZERO_DEVIATION = 1e-9
"""A deviation below this share of the largest reward is rounding noise and counts as none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Groups as columns [N]. `variant` numbers the wordings inside a group, `success` is the unshaped verdict."""

    reward: Values  # NaN: no reward
    group: Labels
    variant: Labels
    success: Flags
    in_stats: Flags
    in_loss: Flags

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Table:
        """One row per rollout, in the order of the groups; the group's place in the sequence is its label."""
        rows = [(g, r) for g, group in enumerate(groups) for r in group.rollouts]
        reward = np.array([r.score.value for _, r in rows], dtype=np.float64)
        return cls._filled(
            reward,
            np.array([g for g, _ in rows], dtype=np.int64),
            np.array([r.variant for _, r in rows], dtype=np.int64),
            np.array([r.score.success for _, r in rows], dtype=np.bool_),
        )

    @classmethod
    def of_rewards(cls, rewards: Iterable[Sequence[float | None]]) -> Table:
        """A table from bare rewards, one inner sequence per group; None is a missing reward, success is >= 1."""
        rows = [(g, np.nan if r is None else r) for g, group in enumerate(rewards) for r in group]
        reward = np.array([r for _, r in rows], dtype=np.float64)
        labels = np.array([g for g, _ in rows], dtype=np.int64)
        return cls._filled(reward, labels, np.zeros_like(labels), reward >= 1.0)

    @classmethod
    def _filled(cls, reward: Values, group: Labels, variant: Labels, success: Flags) -> Table:
        known = np.isfinite(reward)
        return cls(reward=reward, group=group, variant=variant, success=success, in_stats=known, in_loss=known.copy())

    def __len__(self) -> int:
        return len(self.reward)

    def labels(self, scope: Scope) -> Labels:
        """Which rows are compared with each other, as numbers 0..: one per group, per wording of a group, or one."""
        if scope == "batch":
            return np.zeros(len(self), dtype=np.int64)
        keys = self.group[:, None] if scope == "group" else np.stack([self.group, self.variant], axis=1)
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def with_columns(self, **columns: Any) -> Table:
        """A copy with some columns exchanged, such as `in_loss` after a filter."""
        return replace(self, **columns)


Step: TypeAlias = Callable[[Table, Values], Values]
Advantage: TypeAlias = Callable[[Table], Values]


def _sums(table: Table, values: Values, labels: Labels) -> tuple[Values, Values]:
    """Per row: the sum over, and the number of, the rows of its set that are in the statistics."""
    used = table.in_stats & np.isfinite(values)
    size = int(labels.max()) + 1 if len(labels) else 0
    total = np.bincount(labels, weights=np.where(used, values, 0.0), minlength=size)
    count = np.bincount(labels, weights=used.astype(np.float64), minlength=size)
    return total.astype(np.float64)[labels], count.astype(np.float64)[labels]


def center(by: Scope = "group") -> Step:
    r"""`A_i = r_i - mean(r)`, the mean over the set of `by`; 0 where fewer than two rows can be compared."""

    def step(table: Table, values: Values) -> Values:
        labels = table.labels(by)
        total, count = _sums(table, values, labels)
        centred = values - total / np.maximum(count, 1.0)
        alone = count - (table.in_stats & np.isfinite(values)) < 1
        return np.where(alone & np.isfinite(values), 0.0, centred)

    return step


def scale(by: Scope = "group", *, ddof: int = 1, eps: float = 1e-6) -> Step:
    r"""`A_i = v_i / (std(v) + eps)`, the deviation over the set of `by`; 0 where the deviation is 0."""

    def step(table: Table, values: Values) -> Values:
        labels = table.labels(by)
        total, count = _sums(table, values, labels)
        off = values - total / np.maximum(count, 1.0)
        squares, _ = _sums(table, off * off, labels)
        deviation = np.sqrt(squares / np.maximum(count - ddof, 1.0))
        largest = np.nanmax(np.abs(table.reward), initial=1.0)
        spread = (count > ddof) & (deviation > ZERO_DEVIATION * largest)
        scaled = values / np.where(spread, deviation + eps, 1.0)
        return np.where(spread | ~np.isfinite(values), scaled, 0.0)

    return step


def leave_one_out(by: Scope = "group") -> Step:
    r"""`A_i = r_i - mean_{j != i}(r_j)`; 0 where there is no other row."""

    def step(table: Table, values: Values) -> Values:
        total, count = _sums(table, values, table.labels(by))
        own = table.in_stats & np.isfinite(values)
        others = count - own
        baseline = (total - np.where(own, values, 0.0)) / np.maximum(others, 1.0)
        return np.where((others > 0) | ~np.isfinite(values), values - baseline, 0.0)

    return step


def chain(*steps: Step) -> Advantage:
    """Steps one after the other, beginning with the rewards; rows without a reward end as 0.

    Example:
        >>> batch_scaled = chain(center(), scale("batch"))
    """

    def advantage(table: Table) -> Values:
        values = np.where(np.isfinite(table.reward), table.reward, np.nan)
        for step in steps:
            values = step(table, values)
        return np.where(np.isfinite(values), values, 0.0)

    return advantage


ADVANTAGES: dict[str, Advantage] = {
    "grpo": chain(center(), scale()),  # (r - mean) / (std + eps)          arXiv 2402.03300
    "dr_grpo": chain(center()),  # r - mean                                arXiv 2503.20783
    "rloo": chain(leave_one_out()),  # r - mean of the others              arXiv 2402.14740
}


def resolve_advantage(name: str) -> Advantage:
    """The preset of that name; an unknown one is an error that lists the near ones."""
    if name not in ADVANTAGES:
        raise unknown_name("advantage", name, ADVANTAGES)
    return ADVANTAGES[name]
