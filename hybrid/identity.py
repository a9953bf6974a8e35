"""Whether a folder holds the run that is asked for, so that going on with it is right. Light: nothing is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgrpo.errors import RunStateError
from tfgrpo.record import RunRecord

TAIL = 1 << 20
"""Bytes at the end of a file of weights that stand for all of it."""


def check_same(
    record: RunRecord,
    config: Mapping[str, Any],
    out: Path,
    *,
    kind: str = "run",
    parts: Mapping[str, str] | None = None,
) -> None:
    """Keeps the configuration of a run that begins; one that goes on must have the same.

    Args:
        record: of the run.
        config: all that decides what the run does, as JSON values.
        out: its folder, for the words.
        kind: what it is called.
        parts: entries of `config` of which single options are named, and what one is called: {"settings": "setting"}.

    Raises:
        RunStateError: naming what differs.
    """
    known, now = record.get_state("config"), json.loads(json.dumps(config, default=str))
    if known is None:
        record.put_state("config", now)
        return
    odd = [name for name in now if known.get(name) != now[name]]
    for part, word in (parts or {}).items():
        if part in odd and now[part] and known.get(part):
            odd += [f"{word} {name}" for name in now[part] if known[part].get(name) != now[part][name]]
            odd.remove(part)
    if odd:
        raise RunStateError(
            f"{out} holds a {kind} with another {', '.join(odd)}; give the same to go on with it, or another folder "
            f"(out=..., --out) for a new one"
        )


def digest_of(folder: Path) -> str:
    """A hash of a model's files by name, size and end: cheap, and different for different weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".bin", ".json") and path.is_file():
            with path.open("rb") as handle:
                handle.seek(max(0, path.stat().st_size - TAIL))
                digest.update(f"{path.name} {path.stat().st_size}".encode() + handle.read())
    return digest.hexdigest()
