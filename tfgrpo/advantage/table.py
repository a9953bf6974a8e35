"""Scored groups as columns: what every estimator reads and what its steps change.

Legend: N rollouts in the table; rows of one `group` are compared with each other, `variant` numbers the sub-groups
inside it (wordings, roles, hint levels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tfgrpo.advantage.segments import Flags, Labels, Sets, Values
from tfgrpo.errors import InputError
from tfgrpo.types import Completion, Group, Rollout

Scope: TypeAlias = Literal["group", "variant", "batch"]
ALWAYS = frozenset({"truncated", "cluster"})
"""Extra columns that `Table.of` makes of any groups."""
ARRAYS = ("reward", "group", "variant", "success", "in_stats", "in_loss", "weight", "length", "advantage")


def last_line(completion: Completion) -> str:
    """The last line of an answer, by which answers count as the same in `Table.of` unless told otherwise."""
    return completion.text.strip().casefold().rpartition("\n")[2].strip()


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Groups as columns [N]. Steps return a new table; arrays are never written to.

    A value that is NaN (or infinite) is missing: in `reward` no reward, in a part *not applicable*, in `advantage`
    nothing to learn from. `success` is the unshaped verdict; it stays what it is when a step shapes the reward.

    Example:
        >>> Table.of_rewards([[1.0, 0.0], [0.5]]).group.tolist()
        [0, 0, 1]
    """

    reward: Values
    group: Labels
    variant: Labels
    success: Flags
    in_stats: Flags  # moves means and deviations
    in_loss: Flags  # learned from
    weight: Values  # how much the row counts, 1.0 unless told
    length: Values  # tokens of the answer where the policy counted them for every row, else characters
    advantage: Values  # begins as the reward
    parts: Mapping[str, Values] = field(default_factory=dict)
    extras: Mapping[str, Values] = field(default_factory=dict)  # columns that one method needs: "logp", "cluster"
    _sets: dict[Scope, Sets] = field(default_factory=dict, repr=False)  # found once, shared by copies

    def __post_init__(self) -> None:
        rows = {name: getattr(self, name) for name in ARRAYS}
        rows |= {f"parts[{n!r}]": v for n, v in self.parts.items()}
        rows |= {f"extras[{n!r}]": v for n, v in self.extras.items()}
        for name, column in rows.items():
            if np.shape(column) != (len(self.reward),):
                raise InputError(
                    f"column {name} has the shape {np.shape(column)}, but the table has {len(self.reward)} rows: "
                    f"give one number per rollout"
                )

    # -- made from ----------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, groups: Sequence[Group], *, answer: Callable[[Completion], str] = last_line) -> Table:
        """One row per rollout, in the order of the groups; the group's place in the sequence is its label.

        Extras are "truncated" (1 where the answer was cut off), "cluster" (equal numbers in a group: equal `answer`)
        and, where the policy told log-probabilities, "logp": their mean over the trained tokens, in nats.
        """
        rows = [(g, r) for g, group in enumerate(groups) for r in group.rollouts]
        rollouts = [r for _, r in rows]
        names = dict.fromkeys(name for r in rollouts for name in r.score.parts)
        return cls.of_columns(
            reward=[r.score.value for r in rollouts],
            group=[g for g, _ in rows],
            variant=[r.variant for r in rollouts],
            success=[r.score.success for r in rollouts],
            length=_lengths(rollouts),
            parts={name: [r.score.parts.get(name, np.nan) for r in rollouts] for name in names},
            extras=_extras(rows, answer),
        )

    @classmethod
    def of_rewards(cls, rewards: Iterable[Sequence[float | None]]) -> Table:
        """A table from bare rewards, one inner sequence per group; None is a missing reward, success is >= 1."""
        rows = [(g, np.nan if r is None else r) for g, group in enumerate(rewards) for r in group]
        return cls.of_columns(reward=[r for _, r in rows], group=[g for g, _ in rows])

    @classmethod
    def of_columns(
        cls,
        *,
        reward: ArrayLike,
        group: ArrayLike,
        variant: ArrayLike | None = None,
        success: ArrayLike | None = None,
        length: ArrayLike | None = None,
        parts: Mapping[str, ArrayLike] | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Table:
        """A table from columns [N]; `group` and `variant` are any integers, success is a reward >= 1 unless told.

        Example:
            >>> Table.of_columns(reward=[1, 0], group=[7, 7]).success.tolist()
            [True, False]

        Raises:
            InputError: columns of different lengths, or labels that are no integers.
        """
        values = np.asarray(reward, dtype=np.float64)
        if values.ndim != 1:
            raise InputError(f"rewards have the shape {values.shape}; give one column [N] and the group of each row")
        known = np.isfinite(values)
        ones, zeros = np.ones(len(values)), np.zeros(len(values), dtype=np.int64)
        return cls(
            reward=values,
            group=_labels("group", group),
            variant=zeros if variant is None else _labels("variant", variant),
            success=values >= 1.0 if success is None else np.asarray(success, dtype=np.bool_),
            in_stats=known,
            in_loss=known,
            weight=ones,
            length=ones * np.nan if length is None else np.asarray(length, dtype=np.float64),
            advantage=values,
            parts={n: np.asarray(v, dtype=np.float64) for n, v in (parts or {}).items()},
            extras={n: np.asarray(v, dtype=np.float64) for n, v in (extras or {}).items()},
        )

    # -- read ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.reward)

    def sets(self, by: Scope = "group") -> Sets:
        """Which rows are compared with each other: those of a group, of one variant of a group, or all."""
        if by not in self._sets:
            self._sets[by] = self._found(by)
        return self._sets[by]

    def _found(self, by: Scope) -> Sets:
        if by == "batch":
            return Sets(np.zeros(len(self), dtype=np.int64))
        if by == "group":
            return Sets.of(self.group)
        variant = Sets.of(self.variant)
        return Sets.of(self.sets("group").labels * variant.size + variant.labels)

    def used(self, values: Values, among: Flags | None = None) -> Flags | None:
        """The rows whose value is known and in the statistics (or `among` others) [N]; None where that is all."""
        known = np.isfinite(values)
        chosen = self.in_stats if among is None else among
        if not chosen.all():
            return known & chosen
        return None if known.all() else known

    def column(self, name: str, who: str) -> Values:
        """A column that a method needs: an extra, or a part of that name that a reward gave.

        Raises:
            InputError: there is none; says which there are.
        """
        if name in self.extras:
            return self.extras[name]
        if name in self.parts:
            return self.parts[name]
        known = sorted({*self.extras, *self.parts})
        raise InputError(
            f"{who} needs the column {name!r} [N], which this table lacks (it has: {', '.join(known) or 'none'}). Give "
            f"it as a named part of the score, or with table.with_extras({_keyword(name)})"
        )

    # -- changed ------------------------------------------------------------------------------------------------------

    def with_columns(self, **columns: Any) -> Table:
        """A copy with some columns exchanged, such as `in_loss` after a filter."""
        if "group" in columns or "variant" in columns:
            columns["_sets"] = {}
        return replace(self, **columns)

    def with_reward(self, reward: Values) -> Table:
        """A copy with shaped rewards, from which the advantage begins again."""
        return replace(self, reward=reward, advantage=reward)

    def with_advantage(self, advantage: Values) -> Table:
        """A copy with other advantages."""
        return replace(self, advantage=advantage)

    def with_extras(self, **extras: ArrayLike) -> Table:
        """A copy with further columns."""
        return replace(self, extras={**self.extras, **{n: np.asarray(v, np.float64) for n, v in extras.items()}})

    def without(self, rows: Flags, *, stats: bool) -> Table:
        """A copy whose `rows` are not learned from and, with `stats`, do not move means and deviations either."""
        in_stats = self.in_stats & ~rows if stats else self.in_stats
        return replace(self, in_loss=self.in_loss & ~rows, in_stats=in_stats)


def _labels(name: str, labels: ArrayLike) -> Labels:
    numbers = np.asarray(labels)
    if len(numbers) and numbers.dtype.kind not in "iub":
        raise InputError(f"column {name} holds labels, which are integers; got {numbers.dtype}")
    return numbers.astype(np.int64, copy=False)


def _lengths(rollouts: Sequence[Rollout]) -> list[float]:
    tokens = [r.completion.usage.completion_tokens for r in rollouts]
    return [float(n) for n in (tokens if all(tokens) else (len(r.completion.text) for r in rollouts))]


def _extras(rows: Sequence[tuple[int, Rollout]], answer: Callable[[Completion], str]) -> dict[str, ArrayLike]:
    completions = [r.completion for _, r in rows]
    seen: dict[tuple[int, str], int] = {}
    clusters = [seen.setdefault((g, answer(r.completion)), len(seen)) for g, r in rows]
    extras: dict[str, ArrayLike] = {
        "truncated": [c.finish_reason == "length" for c in completions],
        "cluster": clusters,
    }
    logps = [[p for s in c.segments if s.train for p in s.logps] for c in completions]
    if any(logps):
        extras["logp"] = [sum(p) / len(p) if p else np.nan for p in logps]
    return extras


def _keyword(name: str) -> str:
    return f"{name}=..." if name.isidentifier() else f"**{{{name!r}: ...}}"
