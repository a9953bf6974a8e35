"""Optimistic commits: rows first, the version record last; whoever added the record first has won.

A crash between the two leaves rows that no version lists; gc drops them. A loser plans again on the winner's version.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from experience_store.codec import Record
from experience_store.errors import Conflict, EditError
from experience_store.plan import Plan, check_rebase, check_text, plan
from experience_store.rank import matched_text
from experience_store.shelf import Shelf
from experience_store.types import Edit, Experience, Layout, Version

_ATTEMPTS = 10_000
OnConflict = Literal["rebase", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a caller wants to commit."""

    edits: tuple[Edit, ...]
    parent: int | None = None
    layout: Layout | None = None
    note: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    writer: str = ""
    on_conflict: OnConflict = "rebase"


def commit(shelf: Shelf, request: Request) -> Version:
    """Writes one version and returns it, with the ids that adds were given in `version.edits`."""
    check(request)
    head = shelf.head_number()
    parent = head if request.parent is None else request.parent
    if not 0 <= parent <= head:
        raise EditError(f"the parent v{parent} does not exist; the last version is v{head}.")
    before = live(shelf, parent)
    vectors: dict[str, list[float]] = {}
    _embed_new(shelf, request.edits, vectors)
    with shelf.connection.turn():
        return _race(shelf, request, parent, before, vectors)


def _race(
    shelf: Shelf, request: Request, parent: int, before: Sequence[Experience], vectors: dict[str, list[float]]
) -> Version:
    """Plans and writes until our record is the first with its number, or the edits no longer fit."""
    for _ in range(_ATTEMPTS):
        head = shelf.head_number()
        base = shelf.record(head)
        if head != parent:
            _allow_rebase(shelf, request, parent, base, before)
        token = secrets.token_hex(6)
        todo = plan(base, live(shelf, head), request.edits, attempt=token, rebased=head != parent)
        _write_rows(shelf, todo, vectors)
        won = shelf.write_record(_record(base, todo, request, token))
        if won.attempt == token:
            return won.version
        shelf.steady(lambda gone=[e.row for e in todo.new]: shelf.rows.delete(gone))  # type: ignore[misc]
    raise Conflict(f"gave up after {_ATTEMPTS} attempts: other writers commit all the time.")


def check(request: Request) -> None:
    """Refuses what could not be written, before anything is."""
    if request.on_conflict not in ("rebase", "fail"):
        raise EditError(f"on_conflict must be 'rebase' or 'fail', got {request.on_conflict!r}.")
    try:
        json.dumps([request.evidence, *(e.source for e in request.edits)], allow_nan=False, default=_refuse)
    except (TypeError, ValueError) as error:
        raise EditError(f"evidence and sources must be plain JSON: {error}.") from error
    for text in (request.note, request.writer, *(t for e in request.edits for t in (e.text, e.question, e.reason))):
        if not isinstance(text, str) or any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise EditError(f"texts must be valid Unicode strings, got {text!r:.80}.")


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} {value!r:.60} cannot be written")


def live(shelf: Shelf, number: int) -> tuple[Experience, ...]:
    """The experiences of a version, in prompt order."""
    version = shelf.record(number).version
    return shelf.experiences(version.rows, version.name)


def _allow_rebase(shelf: Shelf, request: Request, parent: int, base: Record, before: Sequence[Experience]) -> None:
    others = sorted({r.version.writer or "unnamed" for r in shelf.records(range(parent + 1, base.version.number + 1))})
    writers = (
        f"{request.writer or 'this writer'!r} started from v{parent}, and v{base.version.number} was committed by "
        f"{', '.join(map(repr, others))}. Read the new head and decide again."
    )
    if request.on_conflict == "fail":
        raise Conflict(f"the head moved: {writers}")
    check_rebase(request.edits, before, live(shelf, base.version.number), writers=writers)


def _embed_new(shelf: Shelf, edits: Sequence[Edit], vectors: dict[str, list[float]]) -> None:
    """Before the turn is taken: embedding is the slow part. What a plan changes later is embedded then."""
    for edit in edits:
        check_text(edit)
    texts = list(dict.fromkeys(e.question or e.text for e in edits if e.op in ("add", "revise")))
    vectors |= dict(zip(texts, shelf.vectors_of(texts), strict=True))


def _write_rows(shelf: Shelf, todo: Plan, vectors: dict[str, list[float]]) -> None:
    if not todo.new:
        return
    texts = [matched_text(e) for e in todo.new]
    unseen = [t for t in dict.fromkeys(texts) if t not in vectors]
    vectors |= dict(zip(unseen, shelf.vectors_of(unseen), strict=True))
    shelf.write_rows(todo.new, [vectors[t] for t in texts])


def _record(base: Record, todo: Plan, request: Request, token: str) -> Record:
    version = Version(
        number=base.version.number + 1,
        parent=base.version.number,
        rows=tuple(e.row for e in todo.live),
        trial=todo.trial,
        edits=todo.edits,
        layout=request.layout or base.version.layout,
        note=request.note,
        evidence=dict(request.evidence),
        writer=request.writer,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    return Record(version=version, attempt=token, next_id=todo.next_id, revisions=todo.revisions)
