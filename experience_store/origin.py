"""Where an experience comes from, as a chain of hashes: experience -> the answers it was read from -> their scores.

    source["origin"] = {
        "experience": content hash of what was learned,
        "run": "...",
        "groups": [{"group": 3, "problem": "p1", "rollouts": [{"answer": hash of prompt and answer, "score": 1.0}]}],
        "hash": SHA-256 of all the rest,
    }

It stands in the store and in every export, so that a copy can be checked against the records of the run. Hashes find
what was changed or mixed up; they are no signature, so whoever can rewrite a file can also hash it anew. An export made
before origins were kept has none and stays readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experience_store.codec import ERASED, is_erased
from experience_store.types import Experience

State = Literal["whole", "unknown", "erased", "broken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What an experience's own chain says: *whole*, *unknown* (nothing was kept), *erased*, or *broken* and why."""

    label: str
    state: State
    why: str = ""


def digest(value: Any) -> str:
    """SHA-256 of JSON in one canonical form."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def origin(experience: str, run: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record for a source; `experience` is a content hash.

    Example:
        >>> made = origin("ab", "run-1", [{"group": 1, "problem": "p", "rollouts": []}])
        >>> made["hash"] == digest({k: v for k, v in made.items() if k != "hash"})
        True
    """
    data: dict[str, Any] = {"experience": experience, "run": run, "groups": [dict(g) for g in groups]}
    return {**data, "hash": digest(data)}


def check(experience: Experience) -> Check:
    """Whether an experience is what its origin says was learned, and the origin is what was written."""
    found, label = experience.source.get("origin"), experience.label
    if is_erased(experience) or (isinstance(found, Mapping) and ERASED in json.dumps(found, default=_plain)):
        return Check(label=label, state="erased")
    if not isinstance(found, Mapping):
        return Check(label=label, state="unknown", why="nothing says from which answers it comes")
    if found.get("hash") != digest({k: v for k, v in found.items() if k != "hash"}):
        return Check(label=label, state="broken", why="its answers or scores are not those that were written")
    if found.get("experience") != experience.hash:
        return Check(label=label, state="broken", why="its text is not the one that was learned from them")
    return Check(label=label, state="whole")


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else list(value)
