"""Which prompts make up a group, and what is asked next once answers are there.

A grouping is a function `(problem, group_number) -> prompts`; whatever it returns is compared as one group. A staged
one also says what follows when the answers are scored. `GROUPINGS` has the presets, `resolve_grouping` one by name.
"""

from __future__ import annotations

from tfgrpo.grouping.anchors import anchors
from tfgrpo.grouping.base import (
    Grouping,
    GroupingSpec,
    Preparing,
    Stage,
    Staged,
    most_calls,
    repeat,
    spec_name,
)
from tfgrpo.grouping.drafts import best_draft, best_of
from tfgrpo.grouping.hints import hint_ladder, hints, hints_replace_one, make_hints
from tfgrpo.grouping.leaks import leaks
from tfgrpo.grouping.named import GROUPINGS, check_grouping, grouping_of, grouping_spec, resolve_grouping
from tfgrpo.grouping.prepare import prepare
from tfgrpo.grouping.roles import role_probabilities, roles
from tfgrpo.grouping.thinking import drop_thought, optional_thinking, thought_and_answer, token_budget
from tfgrpo.grouping.wording import (
    context_reset,
    make_paraphrases,
    paraphrase_set,
    paraphrases,
    refused_wordings,
    worded,
    wordings_notice,
)

__all__ = [
    "GROUPINGS",
    "Grouping",
    "GroupingSpec",
    "Preparing",
    "Stage",
    "Staged",
    "anchors",
    "best_draft",
    "best_of",
    "check_grouping",
    "context_reset",
    "drop_thought",
    "grouping_of",
    "grouping_spec",
    "hint_ladder",
    "hints",
    "hints_replace_one",
    "leaks",
    "make_hints",
    "make_paraphrases",
    "most_calls",
    "optional_thinking",
    "paraphrase_set",
    "paraphrases",
    "prepare",
    "refused_wordings",
    "repeat",
    "resolve_grouping",
    "role_probabilities",
    "roles",
    "spec_name",
    "thought_and_answer",
    "token_budget",
    "worded",
    "wordings_notice",
]
