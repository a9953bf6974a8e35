"""Rewards by name: one row each. A new one is a file and a row."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.rewards.base import Reward, group_reward, reward
from tfgrpo.rewards.json_schema import json_schema
from tfgrpo.rewards.judge import judge
from tfgrpo.rewards.math_equal import math_equal
from tfgrpo.rewards.simple import contains, exact, numeric, regex
from tfgrpo.rewards.trl import from_trl, looks_like_trl
from tfgrpo.user_code import load_object

REWARDS: dict[str, Callable[..., Reward]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "math_equal": math_equal,
    "regex": regex,
    "json_schema": json_schema,
    "judge": judge,
}

_PLAIN = (str, int, float, list, tuple, dict)
ACCEPTED = "fn(problem, completion), fn(problem, completions), or TRL's fn(prompts, completions, **columns)"


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
    factory = REWARDS[spec]
    parameters = inspect.signature(factory).parameters
    for name in options:
        if name not in parameters:
            raise unknown_name(f"option of reward {spec!r}", name, parameters)
    lacking = [n for n, p in parameters.items() if p.default is p.empty and n not in options]
    if lacking:
        raise InputError(f"reward {spec!r} needs {', '.join(lacking)}: resolve_reward({spec!r}, {lacking[0]}=...)")
    return _labelled(factory(**options), spec, options)


def _labelled(made: Reward, spec: str, options: Mapping[str, Any]) -> Reward:
    """With its options in its name, so that runs that score differently are told apart."""
    known = {n: o if isinstance(o, _PLAIN) else getattr(o, "name", None) for n, o in options.items()}
    said = ", ".join(f"{n}={_short(o)}" for n, o in known.items() if o is not None)
    return dataclasses.replace(made, name=f"{spec}({said})") if said and dataclasses.is_dataclass(made) else made


def _short(option: Any) -> str:
    text = json.dumps(option, sort_keys=True, default=str)
    return text if len(text) <= 40 else f"{text[:24]}...{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def as_reward(found: Any, spec: str = "reward") -> Reward:
    """A user's object as a reward: one already, or a function recognised by its parameters."""
    if not callable(found):
        raise InputError(f"reward {spec!r}: expected a function, {ACCEPTED}; got {found!r}")
    if isinstance(found, Reward):
        return found
    parameters = list(inspect.signature(found).parameters.values())
    if looks_like_trl(found):
        return from_trl(found)
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) == 2:
        return group_reward(found) if _takes_a_group(found, needed[1]) else reward(found)
    raise InputError(
        f"reward {spec!r}: expected {ACCEPTED}; got the parameters ({', '.join(p.name for p in parameters)})"
    )


def _takes_a_group(fn: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    if parameter.name in ("completions", "answers", "group"):
        return True
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return annotation.startswith(("Sequence[", "list[", "tuple[", "List[", "collections.abc.Sequence["))
    origin = typing.get_origin(annotation)
    return origin is not None and issubclass(origin, typing.Sequence)
