"""What is compared: who answers, and with what in the prompt; or the answers that a finished run kept.

    none                                  no experiences
    ./experience@v3   library.json        a version of a store (number or tag), or an exported file
    v3   production                       a version or tag of the store that the other side names
    openai/gpt-4.1-mini   local/smollm2   a model, without experiences
    local/smollm2+./experience@v3         a model with a version
    runs/flags-3f9a2c1b7d                 what a finished run ended with; runs/NAME:before is how it began

Where no model is named, the model of the comparison answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import experience_store
from experience_store import ExperienceStore, Snapshot
from tfgrpo.errors import InputError
from tfgrpo.policy import Policy
from tfgrpo.record import FILE_NAME
from tfgrpo.recorded import Recorded, recorded_answers
from tfgrpo.running import opened
from tfgrpo.runs import DEFAULT_FOLDER
from tfgrpo.sides import Side, side_of

Place: TypeAlias = ExperienceStore | Snapshot | str | None
Given: TypeAlias = str | Policy | ExperienceStore | Snapshot | tuple[Policy | str | None, Place]
"""A word as above, a policy, an open store or snapshot, or a model with what stands in its prompt."""

NONE = "none"
WORDS = (
    "none, a version (./experience@v3), a model (openai/NAME), a model with a version (openai/NAME+./experience@v3), "
    "or the folder of a finished run"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What a word names. Without a model it is that of the comparison; `store` "none" is no experiences.

    `run` is the folder of a finished run, `stage` which side of it; then the others are empty.
    """

    model: str = ""
    store: str = NONE
    run: Path | None = None
    stage: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One side of a comparison. `identity` is equal for what is asked the same of the same model."""

    label: str
    model: str
    identity: str
    asked: tuple[Policy, Side] | None  # None: its answers are on record
    recorded: Recorded | None = None


def named(a: str, b: str, runs: str | Path = DEFAULT_FOLDER) -> tuple[Named, Named]:
    """What two words name; a bare version or tag is one of the store that the other word names.

    Example:
        >>> named("none", "openai/gpt-4.1-mini+./experience@v3")[1]
        Named(model='openai/gpt-4.1-mini', store='./experience@v3', run=None, stage='')
        >>> [side.store for side in named("v2", "./experience@v3")]
        ['./experience@v2', './experience@v3']

    Raises:
        InputError: a word names nothing.
    """
    found = [_named(word, Path(runs)) for word in (a, b)]
    return _or_ref(a, found[0], found[1]), _or_ref(b, found[1], found[0])


def _named(word: str, runs: Path) -> Named | None:
    """None: no word by itself."""
    if not word.strip():
        raise InputError(f"a side of a comparison is {WORDS}; got an empty word")
    if word == NONE:
        return Named()
    if (run := _run(word, runs)) is not None:
        return run
    if _is_place(word):
        return Named(store=word)
    if Path(word).parent in (runs, Path(DEFAULT_FOLDER)):
        raise InputError(f"there is no run at {word}; tfgrpo runs lists them")
    model, plus, store = word.rpartition("+")
    if plus and _is_model(model) and (_is_place(store) or store == NONE):
        return Named(model=model, store=store)
    return Named(model=word) if _is_model(word) else None


def _run(word: str, runs: Path) -> Named | None:
    """A run's folder by its path or its name, with a stage behind a colon."""
    base, colon, stage = word.rpartition(":")
    for name, which in ((word, ""), (base, stage if colon else "")):
        for folder in (Path(name), runs / name):
            if name and (folder / FILE_NAME).is_file():
                return Named(run=folder, stage=which)
    return None


def _is_place(word: str) -> bool:
    if word.startswith(("http://", "https://")):
        return "#" not in word  # a model on a server has its name behind a #
    return word.startswith((".", "/", "~")) or Path(experience_store.parse_ref(word)[0]).exists()


def _is_model(word: str) -> bool:
    return "/" in word and not word.startswith((".", "/", "~"))


def _or_ref(word: str, found: Named | None, other: Named | None) -> Named:
    if found is not None:
        return found
    if other is None or other.run is not None or other.store == NONE:
        raise InputError(f"{word!r} is no side of a comparison; it is {WORDS}")
    place, _ = experience_store.parse_ref(other.store)
    return Named(store=f"{place}@{word}")


async def contenders(
    stack: AsyncExitStack, given: tuple[Given, Given], model: Policy | str | None, runs: str | Path
) -> tuple[Contender, Contender]:
    """Both sides, opened; what was opened here is closed with the stack.

    Raises:
        InputError, StoreError, RunStateError: a side names nothing, or nobody is there to answer.
    """
    a, b = _resolved(given, runs)
    own = None if model is None else await opened(stack, model)
    cache = {model: own} if isinstance(model, str) and own is not None else {}
    return await _contender(stack, a, own, cache), await _contender(stack, b, own, cache)


def _resolved(given: tuple[Given, Given], runs: str | Path) -> list[Given | Named]:
    """Words as what they name."""
    words = [side if isinstance(side, str) else NONE for side in given]
    found = named(words[0], words[1], runs)
    return [name if isinstance(side, str) else side for side, name in zip(given, found, strict=True)]


async def _contender(
    stack: AsyncExitStack, given: Given | Named, own: Policy | None, cache: dict[str, Policy]
) -> Contender:
    if isinstance(given, Named) and given.run is not None:
        return _of_run(await asyncio.to_thread(recorded_answers, given.run, given.stage))
    model, place = _parts(given)
    if isinstance(model, str):
        model = cache[model] = cache.get(model) or await opened(stack, model)
    policy = model or own
    if policy is None:
        raise InputError(
            "which model answers? Give one for the sides that name none: model=..., --model openai/NAME; "
            "or name it with the version: openai/NAME+./experience@v3"
        )
    side = await asyncio.to_thread(side_of, stack, None if place == NONE else place)
    return Contender(
        label=side.label, model=policy.name, identity=f"{policy.name} {side.identity}", asked=(policy, side)
    )


def _parts(given: Given | Named) -> tuple[Policy | str | None, Place]:
    """Who answers (None: the model of the comparison), and with what."""
    if isinstance(given, Named):
        return given.model or None, given.store
    if isinstance(given, tuple):
        return given
    if isinstance(given, Snapshot | ExperienceStore | str):
        return None, given
    return given, None


def _of_run(found: Recorded) -> Contender:
    label = f"{found.folder}:{found.name} ({found.stage.what})"
    identity = f"{Path(found.folder).resolve()}:{found.name}"
    return Contender(label=label, model=found.stage.model, identity=identity, asked=None, recorded=found)


def told_apart(pair: Sequence[Contender]) -> list[Contender]:
    """The same with labels that name the model where two models answer."""
    if len({side.model for side in pair}) == 1:
        return list(pair)
    return [replace(side, label=f"{side.model}, {side.label}") for side in pair]
