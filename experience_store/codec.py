"""Types to and from JSON; the only place that knows how records look on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from experience_store.errors import DamagedError
from experience_store.types import Edit, Experience, Kind, Layout, Op, Taint, Version

SCHEMA = 1
ERASED = "[erased]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A version as it is written: the version itself and what the next commit needs to know.

    `attempt` is unique to the write, so that a writer can tell its own record from a winner's; `next_id` is the first
    experience number that was never given; `revisions` holds the highest revision of every id that has more than one.
    """

    version: Version
    attempt: str = ""
    next_id: int = 1
    revisions: Mapping[str, int] = field(default_factory=dict)


EMPTY = Record(version=Version(number=0, parent=0, rows=(), note="empty"))


def layout_to_json(layout: Layout) -> dict[str, Any]:
    return {
        "placement": layout.placement,
        "select": layout.select,
        "max_entries": layout.max_entries,
        "max_tokens": layout.max_tokens,
    }


def layout_from_json(data: Mapping[str, Any]) -> Layout:
    return Layout(
        placement=_one_of(str(data["placement"]), ("system", "user", "turns")),  # type: ignore[arg-type]
        select=_one_of(str(data["select"]), ("all", "retrieve", "core")),  # type: ignore[arg-type]
        max_entries=int(data["max_entries"]),
        max_tokens=int(data["max_tokens"]),
    )


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """Only what is set, so that records stay short and readable."""
    data: dict[str, Any] = {"op": edit.op, "id": edit.id}
    if edit.op in ("add", "revise"):
        data |= {"kind": edit.kind, "text": edit.text}
    for name in ("question", "reason"):
        if getattr(edit, name):
            data[name] = getattr(edit, name)
    if edit.trial:
        data["trial"] = True
    if edit.taint != "clean":
        data["taint"] = edit.taint
    if edit.source:
        data["source"] = dict(edit.source)
    return data


def edit_from_json(data: Mapping[str, Any]) -> Edit:
    return Edit(
        op=_one_of(str(data["op"]), get_args(Op)),  # type: ignore[arg-type]
        id=str(data["id"]),
        text=str(data.get("text", "")),
        kind=_one_of(str(data.get("kind", "lesson")), get_args(Kind)),  # type: ignore[arg-type]
        question=str(data.get("question", "")),
        reason=str(data.get("reason", "")),
        trial=bool(data.get("trial", False)),
        taint=_one_of(str(data.get("taint", "clean")), get_args(Taint)),  # type: ignore[arg-type]
        source=dict(data.get("source", {})),
    )


def version_to_json(version: Version) -> dict[str, Any]:
    return {
        "number": version.number,
        "parent": version.parent,
        "rows": list(version.rows),
        "trial": list(version.trial),
        "edits": [edit_to_json(e) for e in version.edits],
        "layout": layout_to_json(version.layout),
        "note": version.note,
        "evidence": dict(version.evidence),
        "writer": version.writer,
        "time": version.time,
    }


def version_from_json(data: Mapping[str, Any]) -> Version:
    return Version(
        number=int(data["number"]),
        parent=int(data["parent"]),
        rows=tuple(map(str, data["rows"])),
        trial=tuple(map(str, data["trial"])),
        edits=tuple(edit_from_json(e) for e in data["edits"]),
        layout=layout_from_json(data["layout"]),
        note=str(data["note"]),
        evidence=dict(data["evidence"]),
        writer=str(data["writer"]),
        time=str(data["time"]),
    )


def record_to_text(record: Record) -> str:
    data = {
        "schema": SCHEMA,
        **version_to_json(record.version),
        "attempt": record.attempt,
        "next_id": record.next_id,
        "revisions": dict(record.revisions),
    }
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def record_from_text(text: str, where: str) -> Record:
    """Parses one version record; `where` names it in the error."""
    try:
        data = json.loads(text)
        return Record(
            version=version_from_json(data),
            attempt=str(data["attempt"]),
            next_id=int(data["next_id"]),
            revisions={str(k): int(v) for k, v in data["revisions"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{where} cannot be read ({type(error).__name__}: {error}); it starts with {text[:80]!r}. The other "
            "versions are not affected: export the last good one and import it into a new namespace."
        ) from error


def row_metadata(experience: Experience) -> dict[str, Any]:
    """What stands beside a row's text. Chroma keeps scalars only, so the source is JSON."""
    return {
        "experience": experience.id,
        "revision": experience.revision,
        "kind": experience.kind,
        "question": experience.question,
        "source": json.dumps(dict(experience.source), ensure_ascii=False, allow_nan=False),
        "taint": experience.taint,
        "hash": experience.hash,
    }


def row_to_experience(row: str, text: str, data: Mapping[str, Any]) -> Experience:
    """Rebuilds an experience and checks that its text is the one that was written."""
    try:
        experience = Experience(
            id=str(data["experience"]),
            revision=int(data["revision"]),
            text=text,
            kind=_one_of(str(data["kind"]), get_args(Kind)),  # type: ignore[arg-type]
            question=str(data["question"]),
            source=json.loads(str(data["source"])),
            taint=_one_of(str(data["taint"]), get_args(Taint)),  # type: ignore[arg-type]
            row=row,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"row {row} cannot be read ({type(error).__name__}: {error}). Roll back to a version without it."
        ) from error
    if experience.hash != data.get("hash"):
        raise DamagedError(
            f"row {row} does not match its content hash: its text was changed outside of this package. "
            "Roll back to a version without it, or import an export that holds the right text."
        )
    return experience


def is_erased(experience: Experience) -> bool:
    """Whether the text was removed for good; such an entry is never rendered."""
    return bool(experience.source.get("erased")) and experience.text == ERASED


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value
