"""What a commit would change, computed without touching the store.

`plan` maps (record of the head, its live experiences, edits) to the new rows and the new record. It is pure, so a
writer that lost the race calls it again on the winner's record; ids of adds are then given anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experience_store.codec import Record
from experience_store.errors import Conflict, EditError, near_names
from experience_store.types import Edit, Experience

_ID = re.compile(r"E([1-9][0-9]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The state after the edits: live entries in prompt order, the rows to write, and the edits with their ids."""

    live: tuple[Experience, ...]
    new: tuple[Experience, ...]
    trial: tuple[str, ...]
    edits: tuple[Edit, ...]
    next_id: int
    revisions: Mapping[str, int]


@dataclass(slots=True)
class _State:
    live: dict[str, Experience]
    trial: dict[str, None]
    next_id: int
    revisions: dict[str, int]
    attempt: str
    new: dict[str, Experience]
    renamed: dict[str, str]


def plan(
    base: Record, live: Sequence[Experience], edits: Sequence[Edit], *, attempt: str, rebased: bool = False
) -> Plan:
    """Applies edits in order.

    Args:
        base: the record the edits are applied to.
        live: its experiences in prompt order.
        edits: what to do; an `add` without an id gets the next free one.
        attempt: short random text that makes the new rows' ids unique to this writer.
        rebased: ids that adds ask for are given anew instead of refused when they are taken.

    Raises:
        EditError: an edit speaks of an unknown id, or has no text.
    """
    state = _State(
        live={e.id: e for e in live},
        trial=dict.fromkeys(base.version.trial),
        next_id=base.next_id,
        revisions=dict(base.revisions),
        attempt=attempt,
        new={},
        renamed={},
    )
    done = tuple(_apply(state, edit, base.next_id, rebased) for edit in edits)
    return Plan(
        live=tuple(state.live.values()),
        new=tuple(e for e in state.live.values() if e.id in state.new),
        trial=tuple(state.trial),
        edits=done,
        next_id=state.next_id,
        revisions=state.revisions,
    )


def _apply(state: _State, edit: Edit, first_free: int, rebased: bool) -> Edit:
    check_text(edit)
    if edit.op == "add":
        return _add(state, edit, first_free, rebased)
    edit = replace(edit, id=state.renamed.get(edit.id, edit.id))
    if edit.id not in state.live:
        raise EditError(f"cannot {edit.op} {edit.id!r}: no such experience; {near_names(edit.id, state.live)}")
    if edit.op == "revise":
        return _revise(state, edit)
    if edit.op == "drop":
        del state.live[edit.id]
        state.new.pop(edit.id, None)
    state.trial.pop(edit.id, None)
    return edit


def check_text(edit: Edit) -> None:
    """Refuses an edit that no store could apply: an unknown operation, or no text where one is needed."""
    if edit.op not in ("add", "revise", "drop", "accept"):
        raise EditError(f"unknown operation {edit.op!r} in an edit; use add, revise, drop or accept.")
    if edit.op in ("add", "revise") and not edit.text.strip():
        raise EditError(f"cannot {edit.op} {edit.id or 'an experience'} with an empty text; use drop to take one out.")
    if edit.op == "add" and edit.id and not _ID.fullmatch(edit.id):
        raise EditError(f"the id of an added experience must look like 'E17', got {edit.id!r}; leave it empty.")


def _add(state: _State, edit: Edit, first_free: int, rebased: bool) -> Edit:
    given = edit.id
    number = state.next_id
    if given and not rebased:
        number = int(given[1:])
        if number < first_free or given in state.live or given in state.renamed:
            raise EditError(f"cannot add {given!r}: that id was given before; leave the id empty to get a new one.")
    name = f"E{number}"
    if given:
        state.renamed[given] = name
    state.next_id = max(state.next_id, number + 1)
    return _put(state, replace(edit, id=name), revision=1)


def _revise(state: _State, edit: Edit) -> Edit:
    old = state.live[edit.id]
    kind = edit.kind if edit.kind != "lesson" else old.kind
    edit = replace(edit, kind=kind, question=edit.question or old.question)
    revision = max(state.revisions.get(edit.id, 1), old.revision) + 1
    state.revisions[edit.id] = revision
    return _put(state, edit, revision=revision)


def _put(state: _State, edit: Edit, *, revision: int) -> Edit:
    experience = Experience(
        id=edit.id,
        revision=revision,
        text=edit.text,
        kind=edit.kind,
        question=edit.question,
        source={**edit.source, **({"reason": edit.reason} if edit.reason else {})},
        taint=edit.taint,
        row=f"{edit.id}@{revision}-{state.attempt}",
    )
    state.live[edit.id] = state.new[edit.id] = experience
    if edit.trial:
        state.trial[edit.id] = None
    else:
        state.trial.pop(edit.id, None)
    return edit


def check_rebase(
    edits: Sequence[Edit], at_parent: Sequence[Experience], at_head: Sequence[Experience], *, writers: str
) -> None:
    """Refuses to move edits onto a head where the entries they speak about are gone or were changed.

    Raises:
        EditError: an id was unknown already at the parent.
        Conflict: the entry was dropped or revised since; `writers` says by whom.
    """
    before, now = {e.id: e for e in at_parent}, {e.id: e for e in at_head}
    added = {e.id for e in edits if e.op == "add"}
    for edit in edits:
        check_text(edit)
        if edit.op == "add" or edit.id in added:
            continue
        if edit.id not in before:
            raise EditError(f"cannot {edit.op} {edit.id!r}: no such experience; {near_names(edit.id, before)}")
        if edit.id not in now:
            raise Conflict(f"cannot {edit.op} {edit.id!r}: it was dropped meanwhile; {writers}")
        if now[edit.id].row != before[edit.id].row:
            raise Conflict(f"cannot {edit.op} {edit.id!r}: it is {now[edit.id].label} by now; {writers}")
