"""The page of a transfer: what each experience does to another model, and which of them the mask leaves out."""

from __future__ import annotations

from pathlib import Path

from tfgrpo.html_page import facts, page, written
from tfgrpo.html_parts import Html, clean, section, table, tag
from tfgrpo.record import result_of
from tfgrpo.report import spent_words
from tfgrpo.transferred import Transfer

NOTE = (
    "Effect on the score where an experience says something, with its 95 % interval. Of the verdicts of one kind at "
    "most 5 % are expected to be wrong."
)


def write_transfer(run_folder: Path, out: Path) -> Path:
    """Write the page of a finished transfer and return its path.

    Raises:
        InputError: it has not finished.
        RunStateError: there is no run record in the folder, it cannot be read, or the page cannot be written.
    """
    return written(render(Transfer.from_json(result_of(run_folder, "transfer"))), out)


def render(done: Transfer) -> Html:
    """The whole page."""
    title = f"{done.task}: {done.library} for {done.model}"
    head = tag("header", tag("h1", clean(title, 300)), tag("p", clean(f"{done.split} problems", 100)))
    lines = [tag("p", clean(f"Mask ({done.keep}): {done.mask.words()}.", 2000)), tag("p", done.stopped, class_="quiet")]
    notes = [tag("p", f"Note: {clean(notice, 600)}", class_="quiet") for notice in done.notices]
    box = tag("div", tag("strong", f"{done.words()}."), *lines, *notes, class_="verdict")
    spent = section("What it cost", tag("p", spent_words(done.spend, done.seconds)))
    return page(title, head, box, _effects(done), spent, facts({"run folder": done.folder, **done.config}))


def _effects(done: Transfer) -> Html:
    out = {row.id for row in done.mask.out}
    rows = [
        (
            clean(e.id, 80),
            clean(e.text, 400),
            e.verdict,
            "left out" if e.id in out else "stays",
            f"{e.effect:+.3f}" if e.groups else "–",
            f"{e.low:+.3f} to {e.high:+.3f}" if e.groups else "not measured",
            f"{e.groups:,}",
        )
        for e in sorted(done.effects, key=lambda e: -e.effect)
    ]
    head = ("", "experience", "verdict", "mask", "effect", "95 % interval", "groups")
    return section("Experiences", table(head, rows, numbers_from=4), note=NOTE)
