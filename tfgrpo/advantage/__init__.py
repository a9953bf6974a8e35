"""From scored groups to one number per rollout: how much better than its siblings it was.

    Table.of(groups) --step--> Table --step--> Table ...        steps joined by `chain` are an Advantage

A *step* is any function from a table to a table: it shapes `reward`, filters rows by `in_stats` and `in_loss`, or
changes `advantage`. Presets are rows of ADVANTAGES and FILTERS. What needs tensors per token is a loss, in `hybrid`.

Example:
    >>> table = Table.of_rewards([[1.0, 0.0, 0.0, 0.0]])
    >>> resolve_advantage("dr_grpo")(table).tolist()
    [0.75, -0.25, -0.25, -0.25]
    >>> def best_is_one(table: Table) -> Table:
    ...     best = segments.maximum(table.reward, table.sets("group"))
    ...     return table.with_advantage(table.reward / table.sets("group").spread(best))
    >>> chain(best_is_one)(table).tolist()
    [1.0, 0.0, 0.0, 0.0]
"""

from tfgrpo.advantage import segments
from tfgrpo.advantage.centers import (
    center,
    center_log_mean_exp,
    center_median,
    leave_one_out,
    pass_at_k,
    rank_gauss,
    scale,
    scale_mad,
    scale_mean,
    shift,
    softmax,
    virtual_best,
    whiten,
)
from tfgrpo.advantage.chain import REFUSALS, Advantage, Refusal, Step, Tag, Tagged, chain, tagged
from tfgrpo.advantage.filters import (
    FILTERS,
    all_correct,
    ambiguous,
    dynamic_sampling,
    kept_groups,
    median_pivot,
    overlong,
    resolve_filter,
    zero_variance,
)
from tfgrpo.advantage.parts import adaptive_sum, conditional, decoupled, hard_gate, sum_parts
from tfgrpo.advantage.presets import ADVANTAGES, resolve_advantage
from tfgrpo.advantage.segments import Flags, Labels, Sets, Values
from tfgrpo.advantage.shapers import (
    asymmetric,
    drop_surplus,
    entity_partial,
    exp_weight,
    semantic_entropy,
    unlikeliness,
    value_anchor,
    weighted,
)
from tfgrpo.advantage.table import ALWAYS, Scope, Table

__all__ = [
    "ADVANTAGES",
    "ALWAYS",
    "FILTERS",
    "REFUSALS",
    "Advantage",
    "Flags",
    "Labels",
    "Refusal",
    "Scope",
    "Sets",
    "Step",
    "Table",
    "Tag",
    "Tagged",
    "Values",
    "adaptive_sum",
    "all_correct",
    "ambiguous",
    "asymmetric",
    "center",
    "center_log_mean_exp",
    "center_median",
    "chain",
    "conditional",
    "decoupled",
    "drop_surplus",
    "dynamic_sampling",
    "entity_partial",
    "exp_weight",
    "hard_gate",
    "kept_groups",
    "leave_one_out",
    "median_pivot",
    "overlong",
    "pass_at_k",
    "rank_gauss",
    "resolve_advantage",
    "resolve_filter",
    "scale",
    "scale_mad",
    "scale_mean",
    "segments",
    "semantic_entropy",
    "shift",
    "softmax",
    "sum_parts",
    "tagged",
    "unlikeliness",
    "value_anchor",
    "virtual_best",
    "weighted",
    "whiten",
    "zero_variance",
]
