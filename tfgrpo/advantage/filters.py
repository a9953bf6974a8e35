"""Which rollouts are learned from: steps that change `in_stats` and `in_loss`, and the presets of them.

Legend: N rollouts. A dropped group leaves statistics and loss, so that it does not move a batch's mean either.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfgrpo.advantage import segments
from tfgrpo.advantage.chain import Tagged, make_row, tagged
from tfgrpo.advantage.segments import Flags
from tfgrpo.advantage.table import Scope, Table
from tfgrpo.method import Method


def zero_variance(by: Scope = "group") -> Tagged:
    """Drop the groups whose rewards are all equal: nothing to compare.

    Example:
        >>> zero_variance()(Table.of_rewards([[1, 1], [1, 0]])).in_loss.tolist()
        [False, False, True, True]
    """

    def run(table: Table) -> Table:
        sets = table.sets(by)
        spread = segments.deviation(table.reward, sets, table.used(table.reward))
        return table.without(sets.spread(spread == 0), stats=True)

    return tagged(f"zero_variance({by!r})", run, "drops uniform groups", "changes statistics")


def dynamic_sampling() -> Tagged:
    """Drop the groups that are all right or all wrong by their unshaped verdict: DAPO, arXiv 2503.14476.

    DAPO draws further problems until the batch is full again; `kept_groups` tells how many are left.

    Example:
        >>> dynamic_sampling()(Table.of_rewards([[1, 1], [1, 0], [0, 0]])).in_loss.tolist()
        [False, False, True, True, False, False]
    """

    def run(table: Table) -> Table:
        sets, used = table.sets(), table.used(table.reward)
        uniform = segments.every(table.success, sets, used) | segments.every(~table.success, sets, used)
        return table.without(sets.spread(uniform), stats=True)

    return tagged("dynamic_sampling()", run, "drops uniform groups", "changes statistics")


def all_correct() -> Tagged:
    """Drop only the groups that are all right: what NGRPO does, which learns from all-wrong ones (arXiv 2509.18851).

    Example:
        >>> all_correct()(Table.of_rewards([[1, 1], [1, 0], [0, 0]])).in_loss.tolist()
        [False, False, True, True, True, True]
    """

    def run(table: Table) -> Table:
        sets = table.sets()
        right = segments.every(table.success, sets, table.used(table.reward))
        return table.without(sets.spread(right), stats=True)

    return tagged("all_correct()", run, "changes statistics")


def median_pivot(by: Scope = "group") -> Tagged:
    """Take the first rollout that holds its group's median out of the loss, not out of the statistics.

    Its advantage is 0 and of G + 1 rollouts G are left: MC-GRPO, arXiv 2601.22582.

    Example:
        >>> median_pivot()(Table.of_rewards([[0.2, 0.9, 0.4, 0, 0.6]])).in_loss.tolist()
        [True, True, False, True, True]
    """

    def run(table: Table) -> Table:
        sets, used = table.sets(by), table.used(table.reward)
        pivot = table.reward == sets.spread(segments.lower_median(table.reward, sets, used))
        return table.without(segments.first(pivot if used is None else pivot & used, sets), stats=False)

    return tagged(f"median_pivot({by!r})", run)


def overlong(max_length: float | None = None) -> Tagged:
    """Take answers that were cut off, or longer than `max_length`, out of the loss but not out of the statistics.

    So a reward of 0 for running out of space still lowers the mean, but no token of it is pushed down: DAPO
    (arXiv 2503.14476), E-GRPO. `max_length` is in the unit of the table's `length`.

    Example:
        >>> table = Table.of_columns(reward=[1, 0], group=[0, 0], length=[10, 99])
        >>> overlong(50)(table).in_loss.tolist()
        [True, False]

    Raises:
        InputError: (when called) neither a limit nor the column "truncated" is there.
    """

    def run(table: Table) -> Table:
        if max_length is not None:
            return table.without(table.length > max_length, stats=False)
        return table.without(table.column("truncated", "overlong") > 0, stats=False)

    return tagged("overlong()", run, needs=("truncated",) if max_length is None else ())


def ambiguous(*, theta: float = 0.2, column: str = "fine") -> Tagged:
    r"""Take right i and wrong j out of the loss where `u_i - u_j < theta`: DaGRPO's mask, arXiv 2512.06337.

    Reads `column`: a finer score u of each rollout, 0..1, such as a judge's. Statistics keep them. Reconstruction from
    the abstract: neither theta nor the form of the comparison is published.

    Example:
        >>> table = Table.of_columns(reward=[1, 1, 0, 0], group=[0] * 4, extras={"fine": [0.9, 0.45, 0.4, 0.1]})
        >>> ambiguous()(table).in_loss.tolist()
        [True, False, False, True]

    Raises:
        InputError: (when called) no such column.
    """

    def run(table: Table) -> Table:
        sets, fine = table.sets(), table.column(column, "ambiguous")
        known = np.isfinite(fine) & np.isfinite(table.reward)
        best_wrong = sets.spread(segments.maximum(fine, sets, known & ~table.success))
        worst_right = sets.spread(segments.minimum(fine, sets, known & table.success))
        close = np.where(table.success, fine - best_wrong < theta, worst_right - fine < theta)
        return table.without(close & known, stats=False)

    return tagged("ambiguous()", run, needs=(column,))


def kept_groups(table: Table) -> Flags:
    """Which groups still have a rollout in the loss [S], by their label: what a sampler has to refill.

    Example:
        >>> kept_groups(dynamic_sampling()(Table.of_rewards([[1, 1], [1, 0], [0, 0]]))).tolist()
        [False, True, False]
    """
    return table.sets().sum(table.in_loss.astype(np.float64)) > 0


FILTERS: dict[str, Method[Callable[..., Tagged]]] = {
    "zero_variance": Method(
        make=zero_variance,
        formula="drop groups with std(r) = 0",
        source="folklore; arXiv 2503.14476",
        confidence="code",
        note="after a step that shapes rewards, and never with ngrpo",
    ),
    "dynamic_sampling": Method(
        make=dynamic_sampling,
        formula="drop groups with p in {0, 1}",
        source="arXiv 2503.14476 (DAPO)",
        confidence="code",
        note="a sampler refills the batch; cap its rounds",
    ),
    "all_correct": Method(
        make=all_correct, formula="drop groups with p = 1", source="arXiv 2509.18851 (NGRPO)", confidence="code"
    ),
    "median_pivot": Method(
        make=median_pivot,
        formula="in_loss = 0 for the first i with r_i = median(r)",
        source="arXiv 2601.22582 (MC-GRPO)",
        confidence="code",
        note="which of several equal rollouts is dropped is not specified; ours is the first",
    ),
    "overlong": Method(
        make=overlong,
        formula="in_loss = 0 where truncated; statistics keep it",
        source="arXiv 2510.24694 (E-GRPO), arXiv 2503.14476 (DAPO)",
        confidence="paper",
    ),
    "ambiguous": Method(
        make=ambiguous,
        formula="in_loss = 0 for right i and wrong j with u_i - u_j < theta",
        source="arXiv 2512.06337 (DaGRPO)",
        confidence="reconstruction",
        note="needs a finer score of each rollout; theta is ours",
    ),
}


def resolve_filter(name: str, **options: object) -> Tagged:
    """The filter of that name with its options.

    Raises:
        InputError: unknown name or option; near ones are listed.
    """
    return make_row("filter", name, FILTERS, options)
