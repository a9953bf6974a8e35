"""Experiences: the list with search and order, and one of them with its evidence and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experience_store.origin import check
from experience_store.render import entry as as_shown
from tfgrpo.html_charts import interval_bar
from tfgrpo.html_page import facts
from tfgrpo.html_parts import Html, clean, count, folded, join, section, table, tag
from tfgrpo.record import FILE_NAME
from tfgrpo.ui.catalog import Catalog, Entry, Listing, axis
from tfgrpo.ui.frame import Asked, View, badge, chosen, empty, failed, heading, pager, place, row, search

SIZE = 100
BRIEF = 400  # characters of an entry in the list
GROUPS = 50  # of an entry's origin
EDITS = 50  # of an entry's history
STATES = {
    "whole": "Every hash of its origin fits.",
    "unknown": "Nothing says from which answers it comes: it was written by hand, or before origins were kept.",
    "erased": "Its words were erased for good.",
}
FILTERS: Mapping[str, tuple[str, Callable[[Entry], bool]]] = {
    "": ("all", lambda e: True),
    "served": ("served", lambda e: not e.on_trial),
    "trial": ("on trial", lambda e: e.on_trial),
    "helps": ("shown to help", lambda e: e.verdict == "helps"),
    "harms": ("shown to harm", lambda e: e.verdict == "harms"),
    "undecided": ("undecided", lambda e: e.verdict == "undecided"),
    "unmeasured": ("not measured", lambda e: e.effect is None),
    "untrusted": ("untrusted", lambda e: e.experience.taint == "untrusted"),
}
ORDERS: Mapping[str, tuple[str, Callable[[Entry], Any]]] = {
    "": ("in the prompt", lambda e: e.place),
    "best": ("largest effect", lambda e: (e.effect is None, -(e.effect or 0.0))),
    "worst": ("smallest effect", lambda e: (e.effect is None, e.effect or 0.0)),
    "used": ("most used", lambda e: -(e.shown or 0)),
    "tokens": ("most tokens", lambda e: -e.tokens),
}


@dataclass(frozen=True, slots=True)
class EntryPages:
    """`runs` is the folder of run folders, to which origins are linked."""

    catalog: Catalog
    runs: Path

    def index(self, asked: Asked) -> View:
        """All experiences of the head."""
        if missing := self.catalog.missing():
            return View(title="Experiences", active="experiences", body=self._nothing(missing))
        listing = self.catalog.listing()
        if not listing.entries:
            why = f"The store at {self.catalog.location} is at {listing.version.name} and holds no experience."
            return View(title="Experiences", active="experiences", body=self._nothing(why))
        return View(title="Experiences", active="experiences", body=_list(asked, listing))

    def _nothing(self, why: str) -> Sequence[object]:
        place_ = self.catalog.location
        learn = f"tfgrpo learn problems.jsonl --reward exact --model openai/NAME --store {place_}"
        return [
            heading("Experiences"),
            empty("Nothing has been learned yet", clean(why, 500), learn),
            empty(
                "Or look at an example",
                "A small real model learns on this machine in a few minutes, without a key:",
                "tfgrpo demo",
                "tfgrpo ui --store demo/experience --runs demo/runs",
            ),
        ]

    def one(self, asked: Asked) -> View:
        """One experience of the head."""
        id, ref = asked.parts["id"], asked.query.get("at", "")
        entry = self.catalog.entry(id, ref)
        if entry is None:
            return failed(
                404, f"{ref or 'the head'} holds no experience {id[:80]!r}; see the versions for earlier ones"
            )
        e = entry.experience
        words = (
            [tag("h2", "Problem"), tag("pre", e.question), tag("h2", "Answer"), tag("pre", e.text)]
            if e.question
            else [tag("pre", e.text, class_="said-words")]
        )
        shown = folded("As it stands in a prompt", tag("pre", as_shown(e)))
        return View(
            title=f"Experience {e.id}",
            active="experiences",
            body=[
                heading(clean(f"Experience {e.id}", 120), _marks(entry)),
                *words,
                shown,
                _effect(entry),
                self._origin(entry),
                self._history(id),
                facts({"kind": e.kind, "label": e.label, "row": e.row, "taint": e.taint, **_plain_source(e.source)}),
            ],
        )

    def _origin(self, entry: Entry) -> Html:
        found = check(entry.experience)
        said = tag("p", STATES.get(found.state, f"Broken: {found.why}."), class_="bad-text" if found.why else None)
        made = entry.experience.source.get("origin")
        if found.state not in ("whole", "broken") or not isinstance(made, Mapping):
            return section("Where it comes from", tag("p", STATES.get(found.state, found.why), class_="quiet"))
        run, groups = str(made.get("run", "")), list(made.get("groups", ()))
        here = Path(run).name == run and run not in ("", ".", "..") and (self.runs / run / FILE_NAME).is_file()
        rows = [_read(run, group, here=here) for group in groups[:GROUPS]]
        note = f"Read from {count(len(groups), 'group')} of the run {run}" + (
            "." if here else f", which is not in {self.runs}: start the page with --runs FOLDER to see its answers."
        )
        answers = table(("group", "problem", "scores, the best first"), rows, numbers_from=9)
        return section("Where it comes from", said, answers, note=clean(note, 500))

    def _history(self, id: str) -> Html:
        rows = [
            (
                tag("a", v.name, href=place("versions", v.name)),
                v.time[:16].replace("T", " "),
                edit.op + (" on trial" if edit.trial else ""),
                clean(edit.reason, 400),
            )
            for v, edit in self.catalog.history(id, EDITS)
        ]
        return section("Its history", table(("version", "time (UTC)", "what", "why"), rows, numbers_from=9))


# -- the list ---------------------------------------------------------------------------------------------------------


def _list(asked: Asked, listing: Listing) -> Sequence[object]:
    shown, order = asked.query.get("show", ""), asked.query.get("order", "")
    keep = FILTERS.get(shown, FILTERS[""])[1]
    found = [e for e in listing.entries if keep(e) and matches(e, asked.query.get("q", ""))]
    found.sort(key=ORDERS.get(order, ORDERS[""])[1])
    pages = max(1, -(-len(found) // SIZE))
    at = min(asked.page, pages)
    part = found[(at - 1) * SIZE : at * SIZE]
    scale = axis(e.belief for e in listing.entries)
    trial = sum(e.on_trial for e in listing.entries)
    head = f"{listing.version.name}: {count(len(listing.entries), 'experience')}, {trial:,} of them on trial"
    note = (
        f"Effect on the score with its 95 % interval, from {-scale:+.2f} to {scale:+.2f}, measured by leaving it "
        "out of a random half of the prompts it could stand in."
    )
    choices = [
        chosen("show", "Show", [(name, words) for name, (words, _) in FILTERS.items()], shown),
        chosen("order", "Order", [(name, words) for name, (words, _) in ORDERS.items()], order),
    ]
    nothing = empty("Nothing matches", join(["Other words, or ", tag("a", "all experiences", href="/"), "."]))
    rows = tag("div", *(_row(e, scale) for e in part), class_="rows entries") if part else nothing
    turn = pager(asked, len(found), SIZE, "experience")
    return [heading("Experiences", head), search(asked, "Search (press /)", *choices), turn, rows, turn, _quiet(note)]


def _quiet(words: str) -> Html:
    return tag("p", words, class_="note")


def matches(entry: Entry, query: str) -> bool:
    """Whether every word of a query stands in an entry."""
    e = entry.experience
    text = f"{e.id} {e.question} {e.text}".casefold()
    return all(word in text for word in query.casefold().split())


def _row(entry: Entry, scale: float) -> Html:
    e = entry.experience
    words = f"{e.question}\n→ {e.text}" if e.question else e.text
    bar = _bar(entry, scale) or tag("span", class_="effect")
    return row(
        place("experiences", e.id),
        clean(e.id, 40),
        tag("div", clean(words, BRIEF), _marks(entry, only_unusual=True), class_="words"),
        bar,
        tag("div", *_figures(entry), class_="figure"),
        tag("div", *_use(entry), class_="figure"),
    )


def _bar(entry: Entry, scale: float) -> Html | None:
    if entry.effect is None:
        return None
    low, high = float(entry.belief["low"]), float(entry.belief["high"])
    return interval_bar(entry.effect, low, high, verdict=entry.verdict, scale=scale)


def _figures(entry: Entry) -> list[object]:
    if entry.effect is None:
        return ["not measured"]
    b = entry.belief
    span = f"{entry.effect:+.2f} ({float(b['low']):+.2f} to {float(b['high']):+.2f})"
    return [span, Html("<br>"), f"{entry.verdict}, {count(int(b.get('groups', 0)), 'group')}"]


def _use(entry: Entry) -> list[object]:
    used = "–" if entry.shown is None else f"{entry.shown:,}"
    numbers = [tag("b", used), " prompts, ", tag("b", f"{entry.tokens:,}"), " tokens"]
    return [*numbers, Html("<br>"), origin_words(entry)]


def _marks(entry: Entry, *, only_unusual: bool = False) -> Html | None:
    e = entry.experience
    made = [] if only_unusual else [badge(e.kind)]
    made += [badge("on trial", "open")] if entry.on_trial else []
    made += [badge("untrusted", "bad")] if e.taint != "clean" else []
    verdict = {"helps": "good", "harms": "bad"}.get(entry.verdict, "")
    made += [] if only_unusual else [badge(entry.verdict, verdict)]
    return tag("span", *made, class_="badges") if made else None


def origin_words(entry: Entry) -> str:
    """From how many groups and answers an entry was read."""
    made = entry.experience.source.get("origin")
    if not isinstance(made, Mapping):
        return "origin unknown"
    groups = made.get("groups", ())
    return f"from {count(len(groups), 'group')}, {count(sum(len(g.get('rollouts', ())) for g in groups), 'answer')}"


# -- one entry --------------------------------------------------------------------------------------------------------


def _effect(entry: Entry) -> Html:
    if entry.effect is None:
        how = "Its effect is measured while `tfgrpo learn` goes on, by leaving it out of a random half of the prompts."
        return section("Effect", tag("p", f"Not measured. {how}", class_="quiet"))
    b = entry.belief
    applies = b.get("applies_to", "everything")
    about = applies if isinstance(applies, str) else ", ".join(map(str, applies))
    scale = axis([b])
    rows = [
        ("effect on the score", f"{entry.effect:+.3f}"),
        ("95 % interval", f"{float(b['low']):+.3f} to {float(b['high']):+.3f}"),
        ("verdict", entry.verdict),
        ("groups", f"{int(b.get('groups', 0)):,}"),
        ("prompts it stood in", "–" if entry.shown is None else f"{entry.shown:,}"),
        ("tokens in each of them", f"about {entry.tokens:,}"),
        ("applies to", clean(about, 400)),
    ]
    return section("Effect", tag("div", _bar(entry, scale), class_="big-effect"), table((), rows, numbers_from=9))


def _read(run: str, group: Mapping[str, Any], *, here: bool) -> tuple[object, ...]:
    number = group.get("group", "?")
    scores = sorted((float(r.get("score", 0.0)) for r in group.get("rollouts", ())), reverse=True)
    link = tag("a", f"group {number}", href=place("runs", run, "groups", number)) if here else f"group {number}"
    return link, clean(group.get("problem", "?"), 200), ", ".join(f"{s:.2f}" for s in scores[:32])


def _plain_source(source: Mapping[str, Any]) -> dict[str, Any]:
    return {f"source: {name}": value for name, value in source.items() if name != "origin"}
