"""Versions: the history, what one changed and on what evidence, the difference of two, tags and rollback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from experience_store import Edit, Experience, ExperienceStore, Version
from experience_store.diff import Diff
from experience_store.location import TAG, version_number
from tfgrpo.html_charts import interval_bar
from tfgrpo.html_page import facts
from tfgrpo.html_parts import Html, clean, count, join, section, tag, void
from tfgrpo.html_sections import TITLES
from tfgrpo.ui.catalog import Catalog, axis, beliefs_of
from tfgrpo.ui.frame import Asked, View, badge, empty, failed, form, heading, pager, place, row, said

SIZE, CHANGES = 50, 100
BRIEF = 1500
MAX_NOTE = 500
MAX_COMPARED = 200_000  # pairs of words; longer texts are shown one after the other
DONE = {
    "tagged": "The tag is set.",
    "rolled-back": "Rolled back: this new version serves what the earlier one did; nothing of the history was changed.",
}
WRITER = "page"
Cells: TypeAlias = tuple[object, object]  # the bar of an effect, and its numbers


@dataclass(frozen=True, slots=True)
class VersionPages:
    """What can be seen and done with the history of a store."""

    catalog: Catalog

    def index(self, asked: Asked) -> View:
        """The history, the newest first."""
        missing = self.catalog.missing()
        head = None if missing else self.catalog.store().head()
        if head is None or head.number == 0:
            learn = f"tfgrpo learn problems.jsonl --reward exact --model openai/NAME --store {self.catalog.location}"
            why = clean(missing or f"The store at {self.catalog.location} is empty.", 500)
            body = [heading("Versions"), empty("Nothing was committed yet", why, learn)]
            return View(title="Versions", active="versions", body=body)
        store = self.catalog.store()
        at = min(asked.page, -(-head.number // SIZE))
        shown = store.log(at * SIZE)[(at - 1) * SIZE :]
        names = tags_by_version(store)
        rows = tag("div", *(_line(v, names.get(v.number, ())) for v in shown), class_="rows versions")
        turn = pager(asked, head.number, SIZE, "version")
        about = f"{self.catalog.location}, namespace {self.catalog.namespace}"
        body = [
            heading("Versions", clean(about, 300)),
            _compare(f"v{max(0, head.number - 1)}", head.name),
            turn,
            rows,
            turn,
        ]
        return View(title="Versions", active="versions", body=body)

    def one(self, asked: Asked) -> View:
        """A version: what it changed and why, and what can be done with it."""
        store = self.catalog.store()
        version = store.version(asked.parts["ref"])
        names, head = tags_by_version(store), store.head()
        done = DONE.get(asked.query.get("done", ""))
        undo = None
        if asked.query.get("done") == "rolled-back":
            undo = tag("p", join(["To undo it, roll back to ", _link(f"v{version.parent}"), "."]))
        title = f"{version.name} of {version.time[:16].replace('T', ' ') or 'the beginning'}"
        who = f" ({version.writer})" if version.writer else ""
        links = [
            tag("a", f"What changed since v{version.parent}", href=_between(f"v{version.parent}", version.name)),
            tag("a", f"Compare with the head, {head.name}", href=_between(version.name, head.name))
            if version.number != head.number
            else None,
        ]
        body = [
            said(done) if done else None,
            undo,
            heading(
                title,
                clean(f"{version.note or 'no note'}{who}", 600),
                _badges(names.get(version.number, ()), head, version),
            ),
            tag("p", join([link for link in links if link], " · ")) if version.number else None,
            _actions(asked, version, head, sorted(store.tags())) if asked.may_change else None,
            _edits(asked, version, self._texts(version)),
            _evidence(version),
        ]
        return View(title=version.name, active="versions", body=body)

    def _texts(self, version: Version) -> Mapping[str, str]:
        """Words by id, for edits that do not repeat them."""
        wanted = {e.id for e in version.edits if not e.text}
        if not wanted or not version.number:
            return {}
        return {e.id: e.text for e in self.catalog.store().at(version.parent).experiences if e.id in wanted}

    def diff(self, asked: Asked) -> View:
        """What changed from one version to another, with what is known of the effects."""
        before, after = asked.query.get("before") or "v0", asked.query.get("after") or "head"
        store = self.catalog.store()
        diff = store.diff(before, after)
        first, last = store.version(before), store.version(after)
        changes = list(_changes(diff))
        page = min(asked.page, max(1, -(-len(changes) // CHANGES)))
        shown = changes[(page - 1) * CHANGES : page * CHANGES]
        known = beliefs_of(store, last, [c.new for c in shown if c.new]) | beliefs_of(
            store, first, [c.old for c in shown if c.old and not c.new]
        )
        reasons = _reasons(store, first, last)
        scale = axis(known.values())
        rows = [
            _change(c, _effect(known.get(c.id, {}), scale), reasons.get(c.id, ""), first if c.new is None else last)
            for c in shown
        ]
        notes = [f"layout.{name}: {old} → {new}" for name, old, new in diff.layout]
        notes += ["the order of those that stayed changed"] if diff.moved else []
        said_ = tag("p", clean("; ".join(notes), 500), class_="note") if notes else None
        nothing = empty("No difference", f"{diff.before} and {diff.after} hold the same experiences.")
        turn = pager(asked, len(changes), CHANGES, "change")
        list_ = [turn, tag("div", *rows, class_="rows changes"), turn] if rows else [nothing] if not notes else []
        body = [heading(f"{diff.before} → {diff.after}", _summary(diff)), _compare(before, after), said_, *list_]
        return View(title=f"{diff.before} → {diff.after}", active="versions", body=body)

    # -- what changes the store ---------------------------------------------------------------------------------------

    def tag(self, asked: Asked) -> View:
        """Names a version, or moves the name to it."""
        name = asked.form.get("name", "").strip()
        if not TAG.fullmatch(name) or version_number(name) is not None or name == "head":
            return failed(400, f"{name[:80]!r} is no name for a version: a letter, then letters, digits, '_', '.', '-'")
        number = self.catalog.store().tag(name, asked.parts["ref"])
        return View(go_to=f"{place('versions', f'v{number}')}?done=tagged")

    def rollback(self, asked: Asked) -> View:
        """A new version with what an earlier one served."""
        note = clean(asked.form.get("note", "").strip(), MAX_NOTE)
        version = self.catalog.store().rollback(asked.parts["ref"], note, writer=WRITER)
        return View(go_to=f"{place('versions', version.name)}?done=rolled-back")


def tags_by_version(store: ExperienceStore) -> dict[int, list[str]]:
    """The names of each version that has some."""
    names: dict[int, list[str]] = {}
    for name, number in store.tags().items():
        names.setdefault(number, []).append(name)
    return names


# -- the history ------------------------------------------------------------------------------------------------------


def _line(version: Version, names: Sequence[str]) -> Html:
    marks = tag("span", *(badge(clean(n, 60), "tag") for n in names), class_="badges") if names else None
    trial = f", {len(version.trial):,} on trial" if version.trial else ""
    since = tag("a", "diff", href=_between(f"v{version.parent}", version.name))
    return row(
        place("versions", version.name),
        version.name,
        tag("div", clean(version.note or "no note", 300), marks, class_="words"),
        tag("div", _counted(version.edits), class_="figure"),
        tag("div", f"{count(len(version.rows), 'experience')}{trial}", class_="figure"),
        tag("div", version.time[:16].replace("T", " "), class_="figure"),
        tag("div", since, class_="figure"),
    )


def _between(before: str, after: str) -> str:
    return f"/diff?before={before}&after={after}"


def _counted(edits: Sequence[Edit]) -> str:
    kinds = [(title, sum(e.op == op for e in edits)) for op, title in TITLES.items()]
    return ", ".join(f"{n:,} {title}" for title, n in kinds if n) or "no edits"


def _badges(names: Sequence[str], head: Version, version: Version) -> Html | None:
    made = [badge(clean(n, 60), "tag") for n in names]
    made += [badge("head", "good")] if version.number == head.number else []
    return tag("span", *made, class_="badges") if made else None


def _compare(before: str, after: str) -> Html:
    fields = [
        tag("label", tag("span", words), void("input", name=name, value=clean(value, 80), maxlength=70))
        for name, words, value in (("before", "From", before), ("after", "To", after))
    ]
    return tag("form", *fields, tag("button", "Compare", type="submit"), method="get", action="/diff", class_="search")


# -- one version ------------------------------------------------------------------------------------------------------


def _link(name: str) -> Html:
    return tag("a", name, href=place("versions", name))


def _actions(asked: Asked, version: Version, head: Version, known: Sequence[str]) -> Html:
    to = place("versions", version.name)
    field = void(
        "input", name="name", placeholder="best", aria_label="tag", required="required", maxlength=61, list="known-tags"
    )
    names = tag("datalist", *(tag("option", value=clean(n, 61)) for n in known), id="known-tags")
    parts = [form(asked, f"{to}/tag", field, names, tag("button", "Tag", type="submit"), class_="inline")]
    for name in known[:6]:
        hidden = void("input", type="hidden", name="name", value=name)
        button = tag("button", f"Move {clean(name, 61)} here", type="submit")
        parts.append(form(asked, f"{to}/tag", hidden, button, class_="inline"))
    if version.number != head.number:
        button = tag("button", f"Roll back to {version.name}", type="submit", class_="strong")
        parts.append(form(asked, f"{to}/rollback", button, class_="inline"))
    return tag("div", *parts, class_="actions")


def _edits(asked: Asked, version: Version, texts: Mapping[str, str]) -> Html:
    if not version.edits:
        return section("What it changed", tag("p", "Nothing.", class_="quiet"))
    page = min(asked.page, -(-len(version.edits) // CHANGES))
    effects = version.evidence.get("effects") or {}
    shown = version.edits[(page - 1) * CHANGES : page * CHANGES]
    known = {e.id: effects.get(e.id) or {} for e in shown}
    scale = axis(known.values())
    rows = [_edit(e, texts.get(e.id, ""), _effect(known[e.id], scale), version) for e in shown]
    turn = pager(asked, len(version.edits), CHANGES, "change")
    return section("What it changed", turn, tag("div", *rows, class_="rows changes"))


def _edit(edit: Edit, text: str, effect: Cells, version: Version) -> Html:
    words = f"{edit.question}\n→ {edit.text}" if edit.question else edit.text or text
    title = TITLES.get(edit.op, edit.op) + (", on trial" if edit.trial else "")
    at = f"v{version.parent}" if edit.op == "drop" else version.name
    return _shown(_href(edit.id, at), edit.id, title, edit.op, clean(words, BRIEF), effect, edit.reason)


def _href(id: str, at: Version | str) -> str:
    """An experience as it was in a version."""
    return f"{place('experiences', id)}?at={at if isinstance(at, str) else at.name}"


def _shown(href: str, id: str, title: str, op: str, words: object, effect: Cells, reason: str) -> Html:
    why = tag("div", f"Why: {clean(reason, 600)}", class_="quiet") if reason and reason != "n/a" else None
    return row(
        href,
        clean(id, 40),
        tag("div", title, class_=f"op {op}"),
        tag("div", words, why, class_="words"),
        *effect,
    )


def _effect(belief: Mapping[str, Any], scale: float) -> Cells:
    if "effect" not in belief:
        return tag("span", class_="effect"), tag("div", "not measured", class_="figure")
    mean, low, high = (float(belief[n]) for n in ("effect", "low", "high"))
    verdict = str(belief.get("verdict", "undecided"))
    bar = interval_bar(mean, low, high, verdict=verdict, scale=scale)
    span = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    said_ = f"{verdict}, {count(int(belief.get('groups', 0)), 'group')}"
    return bar, tag("div", span, Html("<br>"), said_, class_="figure")


def _evidence(version: Version) -> Html | None:
    rest = {name: value for name, value in version.evidence.items() if name != "effects"}
    return facts(rest, "Other evidence") if rest else None


# -- differences ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One experience that is not the same in two versions."""

    op: str
    title: str
    old: Experience | None = None
    new: Experience | None = None

    @property
    def id(self) -> str:
        known = self.new or self.old
        return known.id if known else ""


def _changes(diff: Diff) -> Iterator[Change]:
    yield from (Change(op="add", title=_trial("added", e, diff), new=e) for e in diff.added)
    yield from (Change(op="revise", title=_trial("revised", n, diff), old=o, new=n) for o, n in diff.revised)
    yield from (Change(op="drop", title="dropped", old=e) for e in diff.dropped)
    yield from (Change(op="accept", title="accepted", old=e, new=e) for e in diff.accepted)
    yield from (Change(op="revise", title="on trial again", old=e, new=e) for e in diff.on_trial)


def _trial(title: str, e: Experience, diff: Diff) -> str:
    return f"{title}, on trial" if e.id in diff.trial else title


def _summary(diff: Diff) -> str:
    numbers = (
        (len(diff.added), "added"),
        (len(diff.revised), "revised"),
        (len(diff.dropped), "dropped"),
        (len(diff.accepted), "accepted"),
        (len(diff.on_trial), "on trial again"),
    )
    return ", ".join(f"{n:,} {what}" for n, what in numbers if n) or "no experience changed"


def _change(change: Change, effect: Cells, reason: str, at: Version) -> Html:
    old, new = change.old, change.new
    if old and new and old.row != new.row:
        words: object = worded(_words(old), _words(new))
    else:
        words = clean(_words(new or old), BRIEF)
    return _shown(_href(change.id, at), change.id, change.title, change.op, words, effect, reason)


def _words(e: Experience | None) -> str:
    if e is None:
        return ""
    return f"{e.question}\n→ {e.text}" if e.question else e.text


def worded(before: str, after: str) -> Html:
    """Two texts as one, with what was taken out and what came in.

    Example:
        >>> worded("Check the units.", "Check all units.")
        'Check <del>the</del><ins>all</ins> units.'
    """
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", clean(text, BRIEF)) for text in (before, after))
    if len(a) * len(b) > MAX_COMPARED:
        return join([tag("del", "".join(a)), "\n", tag("ins", "".join(b))])
    parts: list[object] = []
    for op, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if op == "equal":
            parts.append("".join(a[i:j]))
            continue
        parts.append(tag("del", "".join(a[i:j])) if j > i else None)
        parts.append(tag("ins", "".join(b[k:m])) if m > k else None)
    return join(parts)


def _reasons(store: ExperienceStore, first: Version, last: Version) -> dict[str, str]:
    """Why each experience was last changed on the way from one version to a later one."""
    skipped = store.head().number - last.number
    way = store.log(store.head().number - first.number)[skipped:] if last.number > first.number else ()
    return {edit.id: edit.reason for v in reversed(way) for edit in v.edits if edit.reason}
