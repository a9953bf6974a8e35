"""Rewards by name: one row each. A new one is a file and a row."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method
from tfgrpo.rewards.base import AnswerFunction, Reward, group_reward, reward
from tfgrpo.rewards.calling import parameters_of, required
from tfgrpo.rewards.group_level import GROUP_REWARDS
from tfgrpo.rewards.json_schema import json_schema
from tfgrpo.rewards.judge import judge
from tfgrpo.rewards.math_equal import math_equal
from tfgrpo.rewards.scorers import looks_like_folder, scorer_from
from tfgrpo.rewards.simple import contains, exact, numeric, regex
from tfgrpo.rewards.trl import from_trl, looks_like_trl
from tfgrpo.rewards.verified import VERIFIED_REWARDS
from tfgrpo.rewards.verifiers import from_verifiers, looks_like_rubric, looks_like_verifiers
from tfgrpo.rewards.verl import from_verl, looks_like_verl
from tfgrpo.user_code import load_object

REWARDS: dict[str, Method[Callable[..., Reward]]] = {
    "exact": Method(
        make=exact, formula="1[normal(answer) = normal(reference)]", source="arXiv 1606.05250", confidence="ours",
        note="exact match of reading comprehension, with our normal form",
    ),
    "contains": Method(
        make=contains, formula="1[the reference stands in the answer as whole words]", source="ours", confidence="ours"
    ),
    "numeric": Method(
        make=numeric, formula="1[|last number - reference| <= tolerance]", source="arXiv 2110.14168", confidence="ours",
        note="the last number of an answer is read as its result, as for grade-school word problems",
    ),
    "math_equal": Method(
        make=math_equal, formula="1[the final answer equals the reference as an expression]",
        source="arXiv 2103.03874", confidence="ours", note="compared by math-verify in a process that can be killed",
    ),
    "regex": Method(make=regex, formula="1[the pattern matches]", source="ours", confidence="ours"),
    "json_schema": Method(
        make=json_schema, formula="1[the first JSON object fits the schema]", source="ours", confidence="ours"
    ),
    "judge": Method(
        make=judge, formula="a model's grade by a rubric / top", source="arXiv 2306.05685", confidence="ours",
        note="a verdict that stays unreadable is missing, never 0",
    ),
    **VERIFIED_REWARDS,
    **GROUP_REWARDS,
}  # fmt: skip

INNER = ("with_", "alone", "diverse", "scorer")
"""Options that are rewards themselves."""

_PLAIN = (str, int, float, list, tuple, dict)
ACCEPTED = (
    "fn(problem, completion) or fn(problem, completions), TRL's fn(completions, **columns), verl's "
    "fn(data_source, solution_str, ground_truth, extra_info), or verifiers' fn(completion, answer, ...) or rubric"
)


def resolve_reward(spec: str, **options: Any) -> Reward:
    """The reward of that name with its options, or the user's own by "module:function".

    Example:
        >>> resolve_reward("numeric", tolerance=0.01).name
        'numeric(tolerance=0.01)'

    Raises:
        InputError: unknown name or option (near ones are listed), or user code that does not load.
    """
    if ":" in spec:
        if options:
            raise InputError(
                f"reward {spec!r} is a function of your own and takes no options, got {', '.join(options)}"
            )
        return as_reward(load_object(spec, kind="reward"), spec)
    if spec not in REWARDS:
        raise unknown_name("reward", spec, [*REWARDS, "module:function"])
    factory = REWARDS[spec].make
    parameters = inspect.signature(factory).parameters
    for name in options:
        if name not in parameters:
            raise unknown_name(f"option of reward {spec!r}", name, parameters)
    lacking = [n for n, p in parameters.items() if p.default is p.empty and n not in options]
    if lacking:
        raise InputError(f"reward {spec!r} needs {', '.join(lacking)}: resolve_reward({spec!r}, {lacking[0]}=...)")
    given = {name: _inner(name, option) for name, option in options.items()}
    named = {**options, **{name: given[name] for name in options if name == "scorer"}}  # by its weights, not its folder
    return _labelled(factory(**given), spec, named)


def _inner(name: str, option: Any) -> Any:
    """A reward that another one is made with may be given by name, too; what scores heads also as a folder."""
    if name == "scorer" and isinstance(option, str | Path):
        return resolve_scorer(option)
    return resolve_reward(option) if name in INNER and isinstance(option, str) else option


def resolve_scorer(spec: Reward | AnswerFunction | str | Path) -> Reward:
    """What scores the heads of `safety`: a reward, a function of one answer, a reward's name, "module:function", or a
    folder of `tfgrpo safety-model train`.

    Example:
        >>> resolve_scorer("exact").name
        'exact'

    Raises:
        InputError: no such thing, or it cannot be loaded.
    """
    if isinstance(spec, str | Path):
        return scorer_from(spec) if looks_like_folder(spec) else resolve_reward(str(spec))
    return spec if isinstance(spec, Reward) else reward(spec)


def _labelled(made: Reward, spec: str, options: Mapping[str, Any]) -> Reward:
    """With its options in its name, so that runs that score differently are told apart."""
    known = {n: o if isinstance(o, _PLAIN) else getattr(o, "name", None) for n, o in options.items()}
    said = ", ".join(f"{n}={_short(o)}" for n, o in known.items() if o is not None)
    return dataclasses.replace(made, name=f"{spec}({said})") if said and dataclasses.is_dataclass(made) else made


def _short(option: Any) -> str:
    text = json.dumps(option, sort_keys=True, default=str)
    return text if len(text) <= 40 else f"{text[:24]}...{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def as_reward(found: Any, spec: str = "reward") -> Reward:
    """A user's object as a reward: one already, a rubric, or a function recognised by its parameters."""
    if looks_like_rubric(found):
        return from_verifiers(found)
    if not callable(found):
        raise InputError(f"reward {spec!r}: expected a function, {ACCEPTED}; got {found!r}")
    if isinstance(found, Reward):
        return found
    adapter = next((adapt for looks, adapt in _FOREIGN if looks(found)), None)
    if adapter is not None:
        return adapter(found)
    names, needed = parameters_of(found), required(found)
    if len(needed) == 2:
        return group_reward(found) if _takes_a_group(found, names[needed[1]]) else reward(found)
    raise InputError(f"reward {spec!r}: expected {ACCEPTED}; got the parameters ({', '.join(names)})")


_FOREIGN: tuple[tuple[Callable[[Any], bool], Callable[[Any], Reward]], ...] = (
    (looks_like_verl, from_verl),
    (looks_like_trl, from_trl),
    (looks_like_verifiers, from_verifiers),
)


def _takes_a_group(fn: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    if parameter.name in ("completions", "answers", "group"):
        return True
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return annotation.startswith(("Sequence[", "list[", "tuple[", "List[", "collections.abc.Sequence["))
    origin = typing.get_origin(annotation)
    return origin is not None and issubclass(origin, typing.Sequence)
