"""What a grouping is: which prompts make up a group, and what is asked next once answers are there.

    plain     (problem, number) -> prompts
    staged    the same, then  (problem, number, stage, rollouts) -> Stage | None  until it returns None

Everything is a pure function of what is known, so that a run that was killed and goes on walks the same path through
its recorded replies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Completion, Message, Problem, Prompt, Rollout, message_text


class Grouping(Protocol):
    """The prompts of group number `number`; whatever it returns is compared as one group. A function is one."""

    def __call__(self, problem: Problem, number: int, /) -> tuple[Prompt, ...]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a staged grouping does next. Without `prompts` the group is complete once this is done.

    `keep` are the places of the rollouts that stay in the group, in the order in which they were handed over; the
    others are no longer compared. `given` are answers that nobody has to be asked for, such as a reference solution;
    one that the reward does not call solved is left out.

    Example:
        >>> Stage(keep=(0, 2)).prompts
        ()
    """

    prompts: tuple[Prompt, ...] = ()
    keep: tuple[int, ...] = ()
    given: tuple[Completion, ...] = ()


@runtime_checkable
class Staged(Protocol):
    """A grouping that looks at the answers before it asks further. Its first stage is number 0.

    `max_calls` is the most answers that one group may ask for, over all stages: what the budget is divided by.
    """

    @property
    def max_calls(self) -> int: ...

    def __call__(self, problem: Problem, number: int, /) -> tuple[Prompt, ...]: ...

    def then(self, problem: Problem, number: int, stage: int, rollouts: Sequence[Rollout], /) -> Stage | None:
        """What follows stage `stage`, given the scored answers that are in the group now; None: it is complete.

        Not called after a stage of which no answer was scored: without answers nothing is known.
        """
        ...


class Asks(Protocol):
    """The part of a `Caller` that is needed to ask a model for wordings or hints."""

    async def complete(self, messages: Sequence[Message], key: CallKey, sampling: Sampling) -> Completion: ...


class Embeds(Protocol):
    """The part of a store's embedder that is needed to compare meanings."""

    @property
    def duplicate_threshold(self) -> float: ...
    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


@runtime_checkable
class Preparing(Protocol):
    """A grouping that needs something made once for each problem before the first group is asked."""

    def __call__(self, problem: Problem, number: int, /) -> tuple[Prompt, ...]: ...

    async def prepare(self, problem: Problem, caller: Asks, embedder: Embeds | None) -> Problem:
        """The problem with what was made: more variants, or `meta["hints"]`."""
        ...


GroupingSpec: TypeAlias = Callable[[int], Grouping] | str | None
"""How a task names its grouping: a preset, or a function of the group size. None is `repeat`."""


def repeat(n: int) -> Grouping:
    """The problem as it is, `n` times.

    Example:
        >>> len(repeat(5)(Problem(id="p", messages=({"role": "user", "content": "?"},)), 0))
        5
    """
    check_size(n)

    def grouping(problem: Problem, number: int) -> tuple[Prompt, ...]:
        return (Prompt(messages=problem.messages),) * n

    return grouping


def check_size(n: int, least: int = 1, what: str = "a group needs at least {} rollout per wording") -> None:
    """Refuses a group that is too small."""
    if n < least:
        raise InputError(f"{what.format(least)}, got {n}")


def most_calls(grouping: Grouping, problems: Iterable[Problem]) -> int:
    """The most answers that one group of these problems asks for.

    Example:
        >>> most_calls(repeat(4), [Problem(id="p", messages=({"role": "user", "content": "?"},))])
        4

    Raises:
        InputError: it asks for none.
    """
    if isinstance(grouping, Staged):
        most = grouping.max_calls
    else:
        most = max((len(grouping(problem, 0)) for problem in problems), default=0)
    if most < 1:
        raise InputError(f"the grouping {grouping!r} asks for no answer to any problem; return at least one prompt")
    return most


def failed(rollouts: Sequence[Rollout]) -> bool:
    """Whether there are answers and all of them failed."""
    return bool(rollouts) and not any(r.score.success for r in rollouts)


def with_words(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The messages with `words` after the last user message.

    Example:
        >>> with_words([{"role": "user", "content": "2 + 3?"}], "Hint: count.")[0]["content"]
        '2 + 3?\\n\\nHint: count.'
    """
    last = last_user(messages)
    content = messages[last].get("content")
    if isinstance(content, str) or content is None:
        changed: object = f"{content or ''}\n\n{words}"
    else:  # a list of parts, perhaps with an image
        changed = [*content, {"type": "text", "text": words}]
    return (*messages[:last], {**messages[last], "content": changed}, *messages[last + 1 :])


def with_system(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The messages with `words` at the end of the system message, or as one."""
    if messages and messages[0].get("role") == "system":
        first = {**messages[0], "content": f"{message_text(messages[0])}\n\n{words}".strip()}
        return (first, *messages[1:])
    return ({"role": "system", "content": words}, *messages)


def last_user(messages: Sequence[Message]) -> int:
    """The place of the last user message.

    Raises:
        InputError: there is none.
    """
    found = [i for i, m in enumerate(messages) if m.get("role") == "user"]
    if not found:
        raise InputError("a problem needs a user message that its grouping can change; it has none")
    return found[-1]


def spec_name(spec: GroupingSpec) -> str:
    """What identifies a grouping in a run: its name, with its options where it has some.

    Example:
        >>> spec_name("hints"), spec_name(None), spec_name(partial(repeat))
        ('hints', 'repeat', 'tfgrpo.grouping.base.repeat')
    """
    if spec is None or isinstance(spec, str):
        return spec or "repeat"
    if isinstance(spec, partial):
        preset = spec.args[0] if spec.args and isinstance(spec.args[0], str) else ""
        given = [*map(_short, spec.args[bool(preset) :])]
        given += [f"{k}={_short(v)}" for k, v in sorted(spec.keywords.items())]
        name = preset or spec_name(spec.func)
        return f"{name}({', '.join(given)})" if given else name
    return f"{getattr(spec, '__module__', '')}.{getattr(spec, '__qualname__', type(spec).__qualname__)}"


def _short(option: object) -> str:
    name = getattr(option, "name", None)
    return name if isinstance(name, str) else json.dumps(option, sort_keys=True, default=lambda o: type(o).__qualname__)
