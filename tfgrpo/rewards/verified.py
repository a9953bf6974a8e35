"""The verifiable rewards with what is known of each: formula, source, confidence."""

from __future__ import annotations

from collections.abc import Callable

from tfgrpo.method import Method
from tfgrpo.rewards.base import Reward
from tfgrpo.rewards.entities import entity_match
from tfgrpo.rewards.sql import sql_contrastive, sql_execution, sql_partial
from tfgrpo.rewards.tool_calls import tool_calls

VERIFIED_REWARDS: dict[str, Method[Callable[..., Reward]]] = {
    "sql_execution": Method(
        make=sql_execution,
        formula="1[rows(query) = rows(reference)], a multiset, ordered where the reference orders",
        source="arXiv 1809.08887",
        confidence="ours",
        note="execution accuracy as the field measures it; time, row and memory limits and the rule for empty "
        "results (only the reference itself counts) are ours",
    ),
    "sql_partial": Method(
        make=sql_partial,
        formula="(3 exec + [exec=0] w judge + w syntax + w J(schema) + w J(bigrams) + w format) / max",
        source="arXiv 2503.23157",
        confidence="reconstruction",
        note="weights of a re-implementation (judge 2, others 1) scaled by 0.4, so that no wrong query outranks a "
        "right one; THIRD_PARTY_WEIGHTS gives them unscaled; needs sqlglot",
    ),
    "sql_contrastive": Method(
        make=sql_contrastive,
        formula="(exec + 0.1 format + 0.4 max(0, cos(q, sql) - mean cos(q', sql))) / sum of weights",
        source="arXiv 2510.13827",
        confidence="reconstruction",
        note="formula and weights are ours; the query is embedded in words; other languages need a multilingual "
        "embedder; without other questions the contrast does not apply",
    ),
    "tool_calls": Method(
        make=tool_calls,
        formula="(R + 3) / 6, R = 6 (J(names) + sum best [J(keys) + equal values]) / (1 + sum (1 + keys)) - 3",
        source="arXiv 2601.05242",
        confidence="code",
        note="unit=False gives R in [-3, 3]; calls that cannot be read get the lowest value",
    ),
    "entity_match": Method(
        make=entity_match,
        formula="1 if right, alpha gamma_i / max_j gamma_j if wrong, 0 if cut off; alpha = 0.3",
        source="arXiv 2510.24694",
        confidence="third party",
        note="the best wrong answer of a group always gets alpha; supported=True counts only entities that a tool's "
        "reply holds too",
    ),
}
