"""Groupings by name: one row each. A new one is a function of the group size and a row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.grouping.anchors import anchors
from tfgrpo.grouping.base import Grouping, GroupingSpec, repeat
from tfgrpo.grouping.drafts import best_draft
from tfgrpo.grouping.hints import hints, hints_replace_one
from tfgrpo.grouping.roles import roles
from tfgrpo.grouping.thinking import optional_thinking, token_budget
from tfgrpo.grouping.wording import context_reset, paraphrase_set
from tfgrpo.method import Method
from tfgrpo.types import Problem
from tfgrpo.user_code import load_object

GROUPINGS: dict[str, Method[Callable[..., Grouping]]] = {
    "repeat": Method(
        make=repeat,
        formula="the problem n times",
        source="arXiv 2402.03300",
        confidence="paper and code",
        note="the default",
    ),
    "paraphrases": Method(
        make=paraphrase_set,
        formula="ceil(n / each) wordings, n answers spread over them; variant v is the v-th wording",
        source="arXiv 2510.04392",
        confidence="reconstruction",
        note="made once, label-blind, checked by numbers, opposites, leak gate, embedder and judge. An advantage that "
        "compares within a wording needs each >= 2",
    ),
    "context_reset": Method(
        make=context_reset,
        formula="paraphrases, each in a conversation of its own without earlier turns",
        source="arXiv 2512.12858",
        confidence="reconstruction",
        note="equal to paraphrases for problems of one turn",
    ),
    "roles": Method(
        make=roles,
        formula="P(role) = softmax(relevance + alpha mean(1 - cos(role, other roles))); n answers over 3 roles",
        source="arXiv 2507.20187",
        confidence="paper",
        note="without an embedder all roles are equally likely; one conversation per role is ours",
    ),
    "hints": Method(
        make=hints,
        formula="all failed -> ask all n again with one shared hint of level 1, 2, .. L, until one is solved",
        source="arXiv 2602.03143",
        confidence="paper and code",
        note="up to n (1 + L) answers; needs meta['hints'] or meta['solution']; hinted answers measure no effects",
    ),
    "hints_replace_one": Method(
        make=hints_replace_one,
        formula="all failed -> one answer per level until one is solved; G' = G - {a failed one} + {it}",
        source="arXiv 2510.19807",
        confidence="paper and code",
        note="up to n + L answers; the group mixes two prompts, which `hints` avoids",
    ),
    "best_draft": Method(
        make=best_draft,
        formula="d = argmax r over n/2 drafts; the group: n/2 refinements of the problem with d",
        source="arXiv 2602.09000",
        confidence="paper",
        note="as many answers as a plain group; drafts measure effects, refinements do not",
    ),
    "anchors": Method(
        make=anchors,
        formula="all failed -> G' = G + {reference solution}, if the reward calls it solved",
        source="arXiv 2512.06337",
        confidence="reconstruction",
        note="needs meta['solution'], meta['gold'] or a text as answer",
    ),
    "token_budget": Method(
        make=token_budget,
        formula="the problem with 'at most B(t) tokens', B(t) = max(1, floor(B0 g^floor(t / T)))",
        source="arXiv 2508.08940",
        confidence="paper",
        note="t counts groups; served prompts state no budget",
    ),
    "optional_thinking": Method(
        make=optional_thinking,
        formula="the problem, told that the thought before the answer may stay empty",
        source="kokolerk/TON",
        confidence="reconstruction",
        note="the source trains a model on traces with dropped thoughts (`drop_thought`); the prompt is ours",
    ),
}


def resolve_grouping(spec: str, n: int, **options: Any) -> Grouping:
    """The grouping of that name for groups of `n`, or the user's own, "module:function", called with `n`.

    Example:
        >>> resolve_grouping("hints", n=4, levels=2).max_calls
        12

    Raises:
        InputError: unknown name or option (near ones are listed), a wrong value, or user code that does not load.
    """
    return grouping_of(grouping_spec(spec, **options), n)


def grouping_spec(spec: str, **options: Any) -> GroupingSpec:
    """What a task names: the preset itself, or with options a function of the group size.

    Example:
        >>> from tfgrpo.grouping.base import spec_name
        >>> spec_name(grouping_spec("hints", levels=2))
        'hints(levels=2)'

    Raises:
        InputError: unknown name or option (near ones are listed).
    """
    if ":" in spec:
        if options:
            raise InputError(f"grouping {spec!r} is your own and takes no options here, got {', '.join(options)}")
        return spec
    if spec not in GROUPINGS:
        raise unknown_name("grouping", spec, [*GROUPINGS, "module:function"])
    known = [n for n in inspect.signature(GROUPINGS[spec].make).parameters if n != "n"]
    for name in options:
        if name not in known:
            raise unknown_name(f"option of grouping {spec!r}", name, known)
    return partial(_made, spec, **options) if options else spec


def _made(spec: str, n: int, **options: Any) -> Grouping:
    return GROUPINGS[spec].make(n, **options)


def grouping_of(spec: GroupingSpec, n: int) -> Grouping:
    """The grouping that a task names, for groups of `n`.

    Raises:
        InputError: unknown name, `n` too small for it, or something that is no grouping.
    """
    if spec is None:
        return repeat(n)
    if isinstance(spec, str):
        make = load_object(spec, kind="grouping") if ":" in spec else _made_by_name(spec)
    else:
        make = spec
    if not callable(make):
        raise InputError(f"a grouping is a name or a function of the group size, got {make!r}")
    found = make(n)
    if not callable(found):
        raise InputError(f"the grouping {spec!r} must return (problem, number) -> prompts for a size, got {found!r}")
    made: Grouping = found
    return made


def _made_by_name(spec: str) -> Callable[..., Grouping]:
    if spec not in GROUPINGS:
        raise unknown_name("grouping", spec, [*GROUPINGS, "module:function"])
    return GROUPINGS[spec].make


def check_grouping(grouping: Grouping, problems: Sequence[Problem]) -> None:
    """Lets a grouping refuse problems that it can do nothing with, before anything is spent.

    Raises:
        InputError: it says what is lacking.
    """
    check = getattr(grouping, "check", None)
    if callable(check):
        check(problems)
