"""An exported version: one readable JSON file that renders with the standard library alone.

{"format": "experience-library", "schema": 1, "embedder": ..., "version": {...},
 "experiences": [{"id", "revision", "kind", "text", ..., "hash"}, ...], "hash": "sha256 of all the rest"}
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from experience_store.codec import layout_from_json, layout_to_json
from experience_store.embed import HashingEmbedder
from experience_store.errors import LibraryError, WriteError
from experience_store.rank import Rank, by_vectors, lexical, matched_text
from experience_store.render import Applied, Message
from experience_store.snapshot import Snapshot
from experience_store.types import Experience, Kind, Layout, Taint, Version

FORMAT = "experience-library"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """A pinned set of experiences to ship inside an application; needs no store and no dependency.

    A retrieving layout ranks by word overlap here, or as the store did when its embedder is "hashing".

    Example:
        library = Library.load("experience.json")
        messages = library.apply([{"role": "user", "content": "..."}]).messages
    """

    snapshot: Snapshot
    embedder: str = ""

    @classmethod
    def load(cls, file: str | Path) -> Library:
        """Reads an exported file and checks every hash in it.

        Raises:
            LibraryError: not such a file, changed by hand, or written by a newer release.
        """
        data = _read(Path(file))
        experiences = tuple(_experience(entry, f"{file}: entry {n}") for n, entry in enumerate(data["experiences"], 1))
        embedder = str(data.get("embedder", ""))
        rank: Rank = _hashing_rank() if embedder == HashingEmbedder.name else lexical
        trial = tuple(str(e["id"]) for e in data["experiences"] if e.get("trial"))
        try:
            version = _version(data["version"], experiences, trial)
        except (KeyError, TypeError, ValueError) as error:
            raise LibraryError(
                f"{file}: its version cannot be read ({type(error).__name__}: {error}); export again."
            ) from error
        return cls(snapshot=Snapshot(version=version, experiences=experiences, rank=rank), embedder=embedder)

    @property
    def version(self) -> Version:
        return self.snapshot.version

    @property
    def experiences(self) -> tuple[Experience, ...]:
        return self.snapshot.experiences

    @property
    def served(self) -> tuple[Experience, ...]:
        return self.snapshot.served

    @property
    def layout(self) -> Layout:
        return self.snapshot.layout

    def apply(
        self, messages: Sequence[Message], include: Sequence[str] | None = None, *, layout: Layout | None = None
    ) -> Applied:
        """The same rendering as `Snapshot.apply`."""
        return self.snapshot.apply(messages, include, layout=layout)

    def text(self, question: str | None = None) -> str:
        """The block of notes as it would stand in a prompt."""
        return self.snapshot.text(question)


def save(snapshot: Snapshot, file: str | Path, *, embedder: str = "") -> Path:
    """Writes the file as a whole or not at all; the same version gives the same bytes."""
    version = snapshot.version
    data: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA,
        "embedder": embedder,
        "version": {
            "number": version.number,
            "parent": version.parent,
            "note": version.note,
            "writer": version.writer,
            "time": version.time,
            "layout": layout_to_json(version.layout),
            "evidence": dict(version.evidence),
        },
        "experiences": [_entry(e, e.id in version.trial) for e in snapshot.experiences],
    }
    data["hash"] = content_digest(data)
    path = Path(file)
    spare = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        spare.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        spare.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            spare.unlink(missing_ok=True)
        raise WriteError(
            f"cannot write {path} ({error}); the store is not touched. Free space or name another file."
        ) from error
    return path


def content_digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of everything but the hash itself, in canonical JSON."""
    rest = {k: v for k, v in data.items() if k != "hash"}
    return hashlib.sha256(
        json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _entry(e: Experience, on_trial: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"id": e.id, "revision": e.revision, "kind": e.kind, "text": e.text}
    if e.question:
        data["question"] = e.question
    data |= {"taint": e.taint, "source": dict(e.source), "hash": e.hash}
    if on_trial:
        data["trial"] = True
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LibraryError(f"cannot read {path}: {error}.") from error
    except ValueError as error:
        raise LibraryError(f"{path} is no exported library: {error}. Make one with store.export(...).") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("experiences"), list):
        raise LibraryError(
            f"{path} is no exported library: 'format' must be {FORMAT!r}. Make one with store.export(...)."
        )
    schema = data.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise LibraryError(f"{path} has schema {schema!r}; this release reads up to {SCHEMA}: upgrade tfgrpo.")
    if data.get("hash") != content_digest(data):
        raise LibraryError(
            f"{path} does not match its hash: it was changed or cut off after the export. Change experiences in a "
            "store and export again."
        )
    return data


def _experience(data: Any, where: str) -> Experience:
    try:
        experience = Experience(
            id=str(data["id"]),
            revision=int(data["revision"]),
            text=str(data["text"]),
            kind=data["kind"],
            question=str(data.get("question", "")),
            source=dict(data["source"]),
            taint=data["taint"],
            row=f"{data['id']}@{int(data['revision'])}-{data['hash']}",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LibraryError(f"{where} cannot be read ({type(error).__name__}: {error}); export again.") from error
    if experience.kind not in get_args(Kind) or experience.taint not in get_args(Taint):
        raise LibraryError(f"{where}: unknown kind {experience.kind!r} or taint {experience.taint!r}; upgrade tfgrpo.")
    if data["hash"] != experience.hash:
        raise LibraryError(f"{where}: {experience.label} does not match its content hash; export again.")
    return experience


def _version(data: Mapping[str, Any], experiences: Sequence[Experience], trial: tuple[str, ...]) -> Version:
    return Version(
        number=int(data["number"]),
        parent=int(data["parent"]),
        rows=tuple(e.row for e in experiences),
        trial=trial,
        layout=layout_from_json(data["layout"]),
        note=str(data["note"]),
        evidence=dict(data["evidence"]),
        writer=str(data["writer"]),
        time=str(data["time"]),
    )


def _hashing_rank() -> Rank:
    embed = HashingEmbedder().embed
    return by_vectors(lambda question: embed([question])[0], lambda entries: embed([matched_text(e) for e in entries]))
