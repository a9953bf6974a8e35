"""Upkeep: dropping unlisted rows, erasing content for good, computing vectors anew."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experience_store.chroma import Row
from experience_store.codec import ERASED, SCHEMA, Record, record_to_text, row_metadata
from experience_store.commit import Request, commit
from experience_store.errors import EditError, WriteError
from experience_store.shelf import Shelf, digest, parsed
from experience_store.types import Edit, Experience

_QUOTE = 16  # characters from which a text inside another one is a quotation
_VACUUM = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=60); c.execute('VACUUM'); c.close()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Blot:
    """What must not stand anywhere any more: entries about `keys`, strings with a `word`, quotations of `texts`."""

    keys: frozenset[str]
    words: frozenset[str]
    texts: frozenset[str]

    def over(self, value: Any) -> Any:
        """The value with every such entry and string replaced by "[erased]"."""
        if isinstance(value, Mapping):
            hidden = self.keys | self.words
            return {(ERASED if k in hidden else k): (ERASED if k in hidden else self.over(v)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.over(v) for v in value]
        return ERASED if isinstance(value, str) and self._in(value) else value

    def _in(self, value: str) -> bool:
        if value in self.texts or any(len(t) >= _QUOTE and t in value for t in self.texts):
            return True
        return any(w in value and re.search(rf"(?<!\w){re.escape(w)}(?!\w)", value) for w in self.words)


def gc(shelf: Shelf, older_than_s: float, erase: str | None) -> dict[str, int]:
    counts = {"rows_dropped": _drop_unlisted(shelf, older_than_s)}
    if erase is not None:
        if not erase.strip():
            raise EditError(
                "nothing to erase: give an experience id, or a problem id or person that stands in a source."
            )
        counts |= _erase(shelf, erase)
    return counts


def _drop_unlisted(shelf: Shelf, older_than_s: float) -> int:
    """Rows are listed before versions, so that a row committed in between is seen as listed."""
    before = time.time() - older_than_s
    rows = shelf.steady(lambda: shelf.rows.get())
    listed = {row for r in all_records(shelf) for row in r.version.rows}
    old = [i for i, row in rows.items() if i not in listed and float(str(row.meta.get("written", 0))) < before]
    if old:
        shelf.steady(lambda: shelf.rows.delete(old))
    return len(old)


def all_records(shelf: Shelf) -> list[Record]:
    return shelf.records(range(1, shelf.head_number() + 1))


def rebuild_vectors(shelf: Shelf) -> int:
    """Writes the rows anew with vectors computed from their texts."""
    with shelf.connection.turn():
        rows = shelf.steady(lambda: shelf.rows.get())
        _rewrite_rows(shelf, rows)
    return len(rows)


def _rewrite_rows(shelf: Shelf, rows: Mapping[str, Row]) -> None:
    texts = [str(r.meta.get("question") or r.text) for r in rows.values()]
    vectors = shelf.vectors_of(texts)
    done = [replace(r, vector=tuple(v)) for r, v in zip(rows.values(), vectors, strict=True)]
    _replace_table(shelf, "experiences", done, len(rows))


def _replace_table(shelf: Shelf, table: str, rows: Sequence[Row], seen: int) -> None:
    current = {"experiences": shelf.rows, "versions": shelf.versions}[table]
    if current.count() != seen:
        raise WriteError("another process wrote meanwhile; nothing was changed. Stop the other writers and try again.")
    meta = {"schema": SCHEMA, "embedder": shelf.embedder.name, "holds": table}
    shelf.connection.rewrite(f"{shelf.namespace}.{table}", meta, rows)
    shelf.refresh()


def _erase(shelf: Shelf, what: str) -> dict[str, int]:
    """Drops the experiences from the head, then replaces their words everywhere and gives the space back."""
    ids = _ids_about(shelf, what)
    live = [i for i in ids if i in {_id_of(r) for r in shelf.record(shelf.head_number()).version.rows}]
    if live:
        drops = tuple(Edit(op="drop", id=i, reason="erased") for i in live)
        commit(shelf, Request(edits=drops, note=f"erased {len(live)}", writer="gc"))
    with shelf.connection.turn():
        return _blank(shelf, ids, what)


def _blank(shelf: Shelf, ids: set[str], what: str) -> dict[str, int]:
    """Replaces the words of `ids` in rows and versions; `what` itself too, where it stands in evidence and notes."""
    rows = shelf.steady(lambda: shelf.rows.get())
    hit = {i: r for i, r in rows.items() if str(r.meta.get("experience")) in ids}
    texts = {t for r in hit.values() for t in (r.text, str(r.meta.get("question", ""))) if t and t != ERASED}
    blot = Blot(keys=frozenset(ids), words=frozenset({what} - ids), texts=frozenset(texts))
    done = {i: _blank_row(r) if i in hit else _blotted_row(r, blot) for i, r in rows.items()}
    if done != rows:
        _rewrite_rows(shelf, done)
    versions = _erase_in_versions(shelf, ids, blot)
    if shelf.connection.path is not None and (done != rows or versions):
        _vacuum(shelf)
    return {"experiences_erased": len(ids), "rows_erased": len(hit), "versions_erased": versions}


def _ids_about(shelf: Shelf, what: str) -> set[str]:
    """The experience of that id, and those whose source holds the text as a value, in any version."""
    found = {
        i
        for row in shelf.steady(lambda: shelf.rows.get()).items()
        for i in [str(row[1].meta.get("experience"))]
        if i == what or _mentions(_source(row[1]), what)
    }
    edits = (e for r in all_records(shelf) for e in r.version.edits if e.op in ("add", "revise"))
    return found | {e.id for e in edits if e.id == what or _mentions(e.source, what)}


def _source(row: Row) -> Any:
    return json.loads(str(row.meta.get("source", "{}")))


def _mentions(value: Any, what: str) -> bool:
    return any(v == what for v in _values(value))


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _values(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner)
    else:
        yield value


def _blank_row(row: Row) -> Row:
    blank = Experience(
        id=str(row.meta["experience"]),
        revision=int(row.meta["revision"]),
        text=ERASED,
        kind=row.meta["kind"],
        source={"erased": True},
    )
    return Row(row.id, ERASED, {**row_metadata(blank), "written": row.meta.get("written", 0.0)})


def _blotted_row(row: Row, blot: Blot) -> Row:
    """Another experience's row, whose provenance may quote what is erased."""
    old = _source(row)
    new = blot.over(old)
    return row if new == old else replace(row, meta={**row.meta, "source": json.dumps(new, ensure_ascii=False)})


def _erase_in_versions(shelf: Shelf, ids: set[str], blot: Blot) -> int:
    stored = shelf.steady(lambda: shelf.versions.get())
    changed = 0
    rows: list[Row] = []
    for row in stored.values():
        record = parsed(row)
        blank = _blank_record(record, ids, blot)
        if blank != record:
            changed += 1
            text = record_to_text(blank)
            row = replace(row, text=text, meta={**row.meta, "hash": digest(text)})
        rows.append(replace(row, vector=(1.0, 0.0)))
    if changed:
        _replace_table(shelf, "versions", rows, len(stored))
    return changed


def _blank_record(record: Record, ids: set[str], blot: Blot) -> Record:
    version = record.version
    edits = tuple(_blank_edit(e) if e.id in ids else _blotted_edit(e, blot) for e in version.edits)
    evidence, note = blot.over(version.evidence), blot.over(version.note)
    return replace(record, version=replace(version, edits=edits, evidence=evidence, note=note))


def _blank_edit(edit: Edit) -> Edit:
    text = ERASED if edit.text else ""
    return Edit(op=edit.op, id=edit.id, text=text, kind=edit.kind, trial=edit.trial, taint=edit.taint)


def _blotted_edit(edit: Edit, blot: Blot) -> Edit:
    return replace(edit, reason=blot.over(edit.reason), source=blot.over(edit.source))


def _id_of(row: str) -> str:
    return row.partition("@")[0]


def _vacuum(shelf: Shelf) -> None:
    """Gives freed pages back, so that erased words are not left in the file; in a process of its own, because two
    copies of SQLite in one process would drop each other's locks.

    The index folders go too: the sync threshold keeps vectors out of them, but Chroma writes them from memory that it
    does not clear, so they can hold words that the process once read. They are made again when they are needed.
    """
    path = shelf.connection.path
    assert path is not None
    file = path / "chroma.sqlite3"
    shelf.connection.close()
    for header in path.glob("*/header.bin"):
        shutil.rmtree(header.parent, ignore_errors=True)
    try:
        done = subprocess.run([sys.executable, "-c", _VACUUM, str(file)], capture_output=True, text=True, check=False)
    finally:
        shelf.refresh()
    if done.returncode:
        raise WriteError(
            f"the content was erased, but the free pages of {file} were not cleared ({done.stderr.strip()[-200:]}); "
            "stop other processes that use it and call gc again with the same `erase`."
        )
