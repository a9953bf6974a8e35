"""Which experiences of a library one model is better off without: a small file, made for that model and no other.

    mask = Mask.load("mask.json")
    shorter, notices = mask.on(store.at("v7"), model="openai/gpt-4.1-nano")

An experience that was revised since is another text, of which nothing was measured: it stays, and that is said.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experience_store import Snapshot
from tfgrpo.errors import InputError

FORMAT = "tfgrpo mask"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """An experience that is left out: its id, the hash of its text, and why in words."""

    id: str
    hash: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mask:
    """What a model does not see of a library.

    Example:
        >>> mask = Mask(model="local/smollm2", library="./experience@v3", out=())
        >>> mask.words()
        'local/smollm2 sees all of ./experience@v3'
    """

    model: str
    library: str
    out: Sequence[Masked]

    @staticmethod
    def load(file: str | Path) -> Mask:
        """Read a mask from its file.

        Raises:
            InputError: there is no such file, or it is no mask.
        """
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the mask {str(file)!r}: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("schema") != SCHEMA:
            raise InputError(f"{str(file)!r} is no mask of schema {SCHEMA}; tfgrpo compare --transfer writes one")
        try:
            return Mask.from_json(data)
        except (KeyError, TypeError) as error:
            raise InputError(f"the mask {str(file)!r} is damaged ({type(error).__name__}: {error})") from error

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Mask:
        """A mask from `as_json`."""
        rows = tuple(Masked(**row) for row in data["out"])
        return Mask(model=str(data["model"]), library=str(data["library"]), out=rows)

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        rows = [dataclasses.asdict(row) for row in self.out]
        return {"format": FORMAT, "schema": SCHEMA, "model": self.model, "library": self.library, "out": rows}

    def save(self, file: str | Path) -> Path:
        """Write the file, whole or not at all; its path.

        Raises:
            InputError: it cannot be written.
        """
        path = Path(file)
        spare = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            spare.write_text(json.dumps(self.as_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
            spare.replace(path)
        except OSError as error:
            raise InputError(f"cannot write the mask {str(path)!r}: {error.strerror or error}") from error
        return path

    def on(self, snapshot: Snapshot, *, model: str) -> tuple[Snapshot, list[str]]:
        """The version without what is masked, and what is to be said of it.

        Raises:
            InputError: it was measured for another model.
        """
        if model != self.model:
            raise InputError(
                f"the mask was measured for {self.model!r}, and {model!r} answers; what harms one model may help "
                f"another: tfgrpo compare STORE --transfer {model}"
            )
        there = {e.id: e.hash for e in snapshot.experiences}
        out = [row.id for row in self.out if there.get(row.id) == row.hash]
        stale = [row.id for row in self.out if there.get(row.id) not in (None, row.hash)]
        said = [f"the mask leaves out {_list(out)} of {len(snapshot.served)} experiences"]
        said += [f"the mask knows another wording of {_list(stale)}, which stays"] if stale else []
        return snapshot.without(out), said

    def words(self) -> str:
        """In a line."""
        if not self.out:
            return f"{self.model} sees all of {self.library}"
        return f"{self.model} does not see {_list([row.id for row in self.out])} of {self.library}"


def _list(ids: Sequence[str]) -> str:
    return ", ".join(ids) or "none"
