"""What changed between two versions, as data and as plain text."""

from __future__ import annotations

from dataclasses import dataclass

from experience_store.codec import layout_to_json
from experience_store.quoting import one_line
from experience_store.snapshot import Snapshot
from experience_store.types import Experience

_WIDTH = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Diff:
    """Experiences by what happened to them; `print(diff)` shows it like a patch.

    `accepted` and `on_trial` list entries whose text stayed and whose trial ended or began.
    """

    before: str
    after: str
    added: tuple[Experience, ...] = ()
    dropped: tuple[Experience, ...] = ()
    revised: tuple[tuple[Experience, Experience], ...] = ()
    accepted: tuple[Experience, ...] = ()
    on_trial: tuple[Experience, ...] = ()
    moved: bool = False  # the entries that stayed stand in another order
    layout: tuple[tuple[str, str, str], ...] = ()  # (field, before, after)
    trial: tuple[str, ...] = ()  # ids on trial after

    def __bool__(self) -> bool:
        return bool(
            self.added or self.dropped or self.revised or self.accepted or self.on_trial or self.moved or self.layout
        )

    def __str__(self) -> str:
        lines = [f"{self.before} -> {self.after}"]
        lines += [f"+ {_line(e)}{' (on trial)' if e.id in self.trial else ''}" for e in self.added]
        for old, new in self.revised:
            lines += [f"- {_line(old)}", f"+ {_line(new)}{' (on trial)' if new.id in self.trial else ''}"]
        lines += [f"- {_line(e)}" for e in self.dropped]
        lines += [f"= {e.label} accepted" for e in self.accepted]
        lines += [f"= {e.label} on trial again" for e in self.on_trial]
        lines += ["= order changed"] if self.moved else []
        lines += [f"= layout.{name}: {old} -> {new}" for name, old, new in self.layout]
        return "\n".join(lines if len(lines) > 1 else [*lines, "no change"])


def between(before: Snapshot, after: Snapshot) -> Diff:
    """Compares two versions of one store, in either direction."""
    old, new = {e.id: e for e in before.experiences}, {e.id: e for e in after.experiences}
    same = [i for i in new if i in old and old[i].row == new[i].row]
    was, now = set(before.version.trial), set(after.version.trial)
    common = [i for i in old if i in new]
    a, b = layout_to_json(before.layout), layout_to_json(after.layout)
    return Diff(
        before=before.version.name,
        after=after.version.name,
        added=tuple(e for i, e in new.items() if i not in old),
        dropped=tuple(e for i, e in old.items() if i not in new),
        revised=tuple((old[i], e) for i, e in new.items() if i in old and old[i].row != e.row),
        accepted=tuple(new[i] for i in same if i in was and i not in now),
        on_trial=tuple(new[i] for i in same if i in now and i not in was),
        moved=common != [i for i in new if i in old],
        layout=tuple((name, str(a[name]), str(b[name])) for name in a if a[name] != b[name]),
        trial=after.version.trial,
    )


def _line(e: Experience) -> str:
    words = f"{e.question} => {e.text}" if e.question else e.text
    return f"{e.label} [{e.kind}] {one_line(words, _WIDTH)}"
