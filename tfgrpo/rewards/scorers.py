"""What scores the heads of `safety`: a function, another reward by name, or a folder that a trained model was saved to.

A package that can load such folders names its loader by an entry point of the group "tfgrpo.scorers"; the folder says
in `scorer.json` of which kind it is.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError
from tfgrpo.rewards.base import Reward

ENTRY_POINTS = "tfgrpo.scorers"
DESCRIPTION = "scorer.json"


def looks_like_folder(spec: str | Path) -> bool:
    """Whether a scorer is meant as a folder rather than as a name or module:function.

    Example:
        >>> looks_like_folder("./safety-model"), looks_like_folder("judge"), looks_like_folder("mine:score")
        (True, False, False)
    """
    return isinstance(spec, Path) or Path(spec).is_dir() or (":" not in spec and "/" in spec)


def scorer_from(folder: str | Path) -> Reward:
    """The scorer of a folder, loaded by whichever package knows its kind.

    Raises:
        InputError: no scorer is there, or nothing that is installed can load it.
    """
    place = Path(folder).expanduser()
    try:
        said: Any = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
        kind = str(said["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{place} holds no scorer: its {DESCRIPTION} cannot be read ({type(error).__name__}); give a folder of: "
            f"tfgrpo safety-model train"
        ) from error
    entry = next(iter(importlib.metadata.entry_points(group=ENTRY_POINTS, name=kind)), None)
    if entry is None:
        raise InputError(f"{place} holds a scorer of the kind {kind!r}, which nothing that is installed can load")
    try:
        load: Callable[[Path], Reward] = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the loader of scorers {entry.value!r} could not be loaded: {error}; install it with: pip install "
            f"'tfgrpo[train,local]' (or does a file of yours have that name?)"
        ) from error
    return load(place)
