"""What is built from commits: rollback, tags, import, statistics."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from experience_store.codec import Record, is_erased
from experience_store.commit import Request, commit, live
from experience_store.errors import Conflict
from experience_store.library import Library
from experience_store.render import tokens
from experience_store.shelf import Shelf
from experience_store.types import Edit, Experience, Op, Version


def rollback(shelf: Shelf, to: int, note: str, writer: str) -> Version:
    """Lists the rows of an earlier version again; nothing is copied, ids and revisions are the old ones."""
    target, wanted = shelf.record(to).version, live(shelf, to)
    with shelf.connection.turn():
        return _race(shelf, target, wanted, note, writer)


def _race(shelf: Shelf, target: Version, wanted: Sequence[Experience], note: str, writer: str) -> Version:
    for _ in range(1000):
        base = shelf.record(shelf.head_number())
        token = secrets.token_hex(6)
        version = Version(
            number=base.version.number + 1,
            parent=base.version.number,
            rows=target.rows,
            trial=target.trial,
            edits=_edits_between(live(shelf, base.version.number), wanted, target, base.version),
            layout=target.layout,
            note=note or f"rollback to {target.name}",
            evidence={"rollback_to": target.number},
            writer=writer,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        known = {**{e.id: e.revision for e in live(shelf, base.version.number) if e.revision > 1}, **base.revisions}
        won = shelf.write_record(Record(version=version, attempt=token, next_id=base.next_id, revisions=known))
        if won.attempt == token:
            return won.version
    raise Conflict("gave up the rollback: other writers commit all the time.")


def _edits_between(
    now: Sequence[Experience], then: Sequence[Experience], target: Version, base: Version
) -> tuple[Edit, ...]:
    """The edits that lead from one state to the other, for the log."""
    reason = f"rollback to {target.name}"
    old, new = {e.id: e for e in now}, {e.id: e for e in then}
    edits = [Edit(op="drop", id=i, reason=reason) for i in old if i not in new]
    for e in then:
        on_trial = e.id in target.trial
        if e.id not in old or old[e.id].row != e.row:
            op: Op = "revise" if e.id in old else "add"
            edits.append(_edit(op, e, reason=reason, trial=on_trial))
        elif e.id in base.trial and not on_trial:
            edits.append(Edit(op="accept", id=e.id, reason=reason))
    return tuple(edits)


def _edit(op: Op, e: Experience, *, id: str | None = None, reason: str = "", trial: bool) -> Edit:
    return Edit(
        op=op,
        id=e.id if id is None else id,
        text=e.text,
        kind=e.kind,
        question=e.question,
        reason=reason,
        trial=trial,
        taint=e.taint,
    )


def tag(shelf: Shelf, name: str, ref: int | str) -> int:
    number = shelf.resolve(ref)
    shelf.put_tag(name, number, secrets.token_hex(6))
    return number


def import_library(shelf: Shelf, library: Library, file: str, note: str, writer: str) -> Version:
    """Commits what is new here. An empty store takes over ids and layout; another one gives new ids."""
    head = shelf.record(shelf.head_number()).version
    here = {e.hash for e in live(shelf, head.number)}
    fresh = head.number == 0
    edits = []
    for e in library.experiences:
        if e.hash in here or is_erased(e):
            continue
        here.add(e.hash)
        on_trial = e.id in library.version.trial
        origin = {**e.source, "imported": e.label, "file": file}
        edits.append(replace(_edit("add", e, id=e.id if fresh else "", trial=on_trial), source=origin))
    if not edits and not fresh:
        return head
    request = Request(
        edits=tuple(edits),
        layout=library.layout if fresh else None,
        note=note or f"import of {file}",
        evidence={"imported_from": library.version.name, "evidence": dict(library.version.evidence)},
        writer=writer,
    )
    return commit(shelf, replace(request, parent=head.number))


def stats(shelf: Shelf) -> dict[str, Any]:
    """Counts of everything; `tokens` is what the head adds to a prompt when all of it is shown."""
    version = shelf.record(shelf.head_number()).version
    entries = live(shelf, version.number)
    served = [e for e in entries if e.id not in version.trial and not is_erased(e)]
    records = shelf.records(range(1, version.number + 1))
    reachable = {row for r in records for row in r.version.rows}
    written = set(shelf.steady(lambda: shelf.rows.ids()))
    kinds: dict[str, int] = {}
    for e in entries:
        kinds[e.kind] = kinds.get(e.kind, 0) + 1
    path = shelf.connection.path
    return {
        "location": shelf.connection.location,
        "namespace": shelf.namespace,
        "embedder": shelf.embedder.name,
        "head": version.number,
        "experiences": len(entries),
        "on_trial": len(version.trial),
        "kinds": kinds,
        "untrusted": sum(e.taint == "untrusted" for e in entries),
        "tokens": tokens(served, version.layout),
        "rows": len(written),
        "unlisted_rows": len(written - reachable),
        "tags": shelf.all_tags(),
        "bytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path else None,
    }
