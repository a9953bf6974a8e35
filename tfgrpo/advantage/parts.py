"""From the named parts of a score to one reward or one advantage: where objectives are weighed against each other.

Legend: N rollouts, K parts. A part that is NaN is not applicable to that rollout: it adds nothing and is in no mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfgrpo.advantage import segments
from tfgrpo.advantage.centers import one_over
from tfgrpo.advantage.chain import Tagged, tagged
from tfgrpo.advantage.segments import Values
from tfgrpo.advantage.table import Scope, Table
from tfgrpo.errors import InputError, unknown_name

Weights = Mapping[str, float]


def sum_parts(weights: Weights | None = None) -> Tagged:
    r"""`r_i = sum_k w_k r_ik`, by which one objective can be bought with another. All parts, weight 1, unless told.

    Example:
        >>> table = Table.of_columns(reward=[0, 0], group=[0, 0], parts={"polite": [0.9, 0.8], "safe": [0.2, 0.9]})
        >>> sum_parts({"polite": 0.5, "safe": 0.5})(table).reward.round(2).tolist()
        [0.55, 0.85]

    Raises:
        InputError: (when called) the table has no parts, or none of a name in `weights`.
    """

    def run(table: Table) -> Table:
        chosen = _weighed(table, weights, "sum_parts")
        return table.with_reward(_total([w * table.parts[name] for name, w in chosen.items()]))

    return tagged("sum_parts()", run, "begins from parts", "shapes rewards", needs=_names(weights))


def decoupled(weights: Weights | None = None, by: Scope = "group", *, ddof: int = 1, eps: float = 1e-6) -> Tagged:
    r"""`A_i = sum_k w_k (r_ik - mean(r_k)) / (std(r_k) + eps)`: GDPO, arXiv 2601.05242, before its whitening.

    Each objective is normalised alone, so that weights act on comparable numbers and (1, 0) is told from (2, 0). An
    objective that is equal in the whole set adds 0. It makes nothing safe: an answer that is polite and unsafe can
    still come out on top; gate first (`conditional`).

    Example:
        >>> table = Table.of_columns(reward=[0, 0], group=[0, 0], parts={"right": [0, 1], "short": [0, 1]})
        >>> decoupled(eps=0.0)(table).advantage.round(4).tolist()
        [-1.4142, 1.4142]

    Raises:
        InputError: (when called) the table has no parts, or none of a name in `weights`.
    """

    def run(table: Table) -> Table:
        chosen = _weighed(table, weights, "decoupled")
        scores = [w * _standardised(table, table.parts[name], by, ddof, eps) for name, w in chosen.items()]
        return table.with_advantage(_balanced(_total(scores), scores))

    return tagged(f"decoupled({by!r})", run, "begins from parts", "makes advantages", needs=_names(weights))


def _standardised(table: Table, values: Values, by: Scope, ddof: int, eps: float) -> Values:
    sets, used = table.sets(by), table.used(values)
    middle = segments.mean(values, sets, used)
    off = sets.minus(values, middle)
    squares = segments.squares(off, sets, used)
    deviation = segments.root(squares, middle, segments.count(sets, used), ddof)
    return sets.times(off, one_over(deviation, eps), into=off)


def conditional(part: str, given: str, *, at_least: float = 1.0) -> Tagged:
    r"""`r_i,part <- 0 where r_i,given < at_least`: a part is paid only where another one is reached (GDPO, 3.2).

    Weights cannot do this: an easy objective is learned first whatever it weighs. Where `given` is not applicable the
    part stays.

    Example:
        >>> table = Table.of_columns(reward=[0, 0], group=[0, 0], parts={"right": [0, 1], "short": [1, 0.5]})
        >>> conditional("short", "right")(table).parts["short"].tolist()
        [0.0, 0.5]
    """

    def run(table: Table) -> Table:
        lacking = _part(table, given, "conditional") < at_least
        paid = np.where(lacking, 0.0, _part(table, part, "conditional"))
        return table.with_columns(parts={**table.parts, part: paid})

    return tagged(f"conditional({part!r}, {given!r})", run, "changes parts", needs=(part, given))


def hard_gate(part: str, *, at_least: float = 0.5, otherwise: float = 0.0) -> Tagged:
    r"""`r_i <- otherwise where r_i,part < at_least`: no amount of anything else makes up for it. Safety's default.

    Example:
        >>> table = Table.of_columns(reward=[0.65, 0.6], group=[0, 0], parts={"safe": [0.2, 0.9]})
        >>> hard_gate("safe")(table).reward.tolist()
        [0.0, 0.6]

    Raises:
        InputError: (when called) there is no such part, it is missing for a scored rollout, or a reward that passed
            lies below `otherwise`, so that failing the gate would be the better choice.
    """

    def run(table: Table) -> Table:
        values = _part(table, part, "hard_gate")
        if (~np.isfinite(values) & np.isfinite(table.reward)).any():
            raise InputError(f"hard_gate needs part {part!r} of every scored rollout; some have none")
        shut = values < at_least
        if (table.reward[~shut] < otherwise).any():
            raise InputError(
                f"a rollout that passes the gate {part!r} got {np.nanmin(table.reward[~shut])}, less than the "
                f"{otherwise} of one that fails it; set otherwise= below every reward"
            )
        return table.with_reward(np.where(shut & np.isfinite(table.reward), otherwise, table.reward))

    return tagged(f"hard_gate({part!r})", run, "shapes rewards", needs=(part,))


def adaptive_sum(by: Scope = "group") -> Tagged:
    r"""`r_i = sum_k w_ik (r_ik - min(r_k)) / (max(r_k) - min(r_k))` with the problem's own weights: GDPO-SR's reward.

    The weight of the part "x" is the column "weight/x", which a reward gives as a part and differs from problem to
    problem. A part that is equal in the whole set adds 0 (the released code divides by 0 there).

    Example:
        >>> parts = {"psnr": [20, 25, 30], "look": [0.9, 0.5, 0.1], "weight/psnr": [0.8] * 3, "weight/look": [0.2] * 3}
        >>> adaptive_sum()(Table.of_columns(reward=[0] * 3, group=[0] * 3, parts=parts)).reward.round(2).tolist()
        [0.2, 0.5, 0.8]

    Raises:
        InputError: (when called) no part has a weight column.
    """

    def run(table: Table) -> Table:
        columns = {**table.parts, **table.extras}
        names = [name for name in table.parts if f"weight/{name}" in columns]
        if not names:
            raise InputError(
                f"adaptive_sum needs a column 'weight/NAME' for each part NAME to be weighed; the parts are: "
                f"{', '.join(table.parts) or 'none'}"
            )
        return table.with_reward(
            _total([columns[f"weight/{name}"] * _min_max(table, table.parts[name], by) for name in names])
        )

    return tagged(f"adaptive_sum({by!r})", run, "begins from parts", "shapes rewards", needs=("parts", "weight/*"))


def _min_max(table: Table, values: Values, by: Scope) -> Values:
    sets, used = table.sets(by), table.used(values)
    low, high = segments.minimum(values, sets, used), segments.maximum(values, sets, used)
    equal = high - low <= segments.ZERO_DEVIATION * np.maximum(np.abs(low), np.abs(high))
    return (values - sets.spread(low)) * sets.spread(one_over(np.where(equal, 0.0, high - low), 0.0))


def _names(weights: Weights | None) -> tuple[str, ...]:
    return ("parts",) if weights is None else tuple(weights)


def _weighed(table: Table, weights: Weights | None, who: str) -> dict[str, float]:
    if not table.parts:
        raise InputError(
            f"{who} needs scores with named parts and these have none; give Score(parts={{...}}), or use grpo"
        )
    if weights is None:
        return dict.fromkeys(table.parts, 1.0)
    for name in weights:
        _part(table, name, who)
    return dict(weights)


def _part(table: Table, name: str, who: str) -> Values:
    if name not in table.parts:
        raise unknown_name(f"part of {who}", name, table.parts)
    return table.parts[name]


def _balanced(total: Values, columns: list[Values]) -> Values:
    """0 where the columns cancel but for rounding, which whitening would make as large as a real advantage."""
    if len(columns) == 1:
        return total
    size = np.abs(np.nan_to_num(columns[0]))
    for column in columns[1:]:
        size += np.abs(np.nan_to_num(column))
    return np.where(np.abs(total) <= segments.ZERO_DEVIATION * size, 0.0, total)


def _total(columns: list[Values]) -> Values:
    """The sum of columns [N], in which NaN adds nothing; NaN where all are."""
    total = columns[0] if len(columns) == 1 else sum(np.nan_to_num(c) for c in columns)
    if len(columns) == 1 or all(np.isfinite(c).all() for c in columns):
        return np.asarray(total)
    return np.where(np.any([np.isfinite(c) for c in columns], axis=0), total, np.nan)
