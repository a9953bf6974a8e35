"""The page of a comparison: the verdict, both sides with their intervals, and the answers that flipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfgrpo.contrast import Answer, Contrast, Flip
from tfgrpo.html_page import beside, compared, facts, intervals, page, written
from tfgrpo.html_parts import Html, clean, count, folded, join, section, table, tag
from tfgrpo.record import result_of
from tfgrpo.report import spent_words

OPEN = 20
"""So many flips are unfolded at first; a page with very many stays short."""


def write_contrast(run_folder: Path, out: Path) -> Path:
    """Write the page of a finished comparison and return its path.

    Raises:
        InputError: it has not finished.
        RunStateError: there is no run record in the folder, it cannot be read, or the page cannot be written.
    """
    return written(render(Contrast.from_json(result_of(run_folder, "contrast"))), out)


def render(done: Contrast) -> Html:
    """The whole page."""
    title = f"{done.task}: {done.a.label} and {done.b.label}"
    head = tag("header", tag("h1", clean(title, 300)), tag("p", clean(f"{done.split} problems", 100)))
    spent = section("What it cost", _costs(done), tag("p", spent_words(done.spend, done.seconds), class_="quiet"))
    settings = facts({"run folder": done.folder, **done.config})
    return page(title, head, _result(done), _flips(done.flips), spent, settings)


def _result(done: Contrast) -> Html:
    colour = "" if done.difference is None else compared(done.difference, "")[1]
    shown = colour if done.verdict.startswith("B is ") else ""
    lines = []
    if done.difference_words:
        sure = "" if done.p_value is None else f", p = {done.p_value:.3g}"
        lines.append(
            tag("p", f"B less A: {done.difference_words}{sure}; B better on {done.better}, worse on {done.worse}.")
        )
    notes = [tag("p", f"Note: {clean(notice, 600)}", class_="quiet") for notice in done.notices]
    verdict = done.verdict[:1].upper() + done.verdict[1:]
    box = tag("div", tag("strong", clean(verdict, 600)), *lines, *notes, class_=f"verdict {shown}")
    names = (f"A: {clean(done.a.label, 200)}", f"B: {clean(done.b.label, 200)}")
    return join([box, intervals(done.a.score, done.b.score, names), beside(done.beside, names)])


def _costs(done: Contrast) -> Html:
    rows = [
        (name, clean(side.label, 300), f"{side.tokens:,}", side.cost_words)
        for name, side in (("A", done.a), ("B", done.b))
    ]
    return table(("side", "what answers", "tokens", "cost"), rows, numbers_from=2)


def _flips(flips: Sequence[Flip]) -> Html:
    if not flips:
        return section("Flips", tag("p", "No problem has another share of right answers.", class_="quiet"))
    return section(f"{count(len(flips), 'flip')}", *(_flip(flip, n < OPEN) for n, flip in enumerate(flips)))


def _flip(flip: Flip, open_: bool) -> Html:
    sides = [(name, _answers(side)) for name, side in (("A", flip.a), ("B", flip.b))]
    what = f"{flip.better.upper()} better: {clean(flip.problem, 200)}"
    question = tag("p", clean(flip.question, 1200), class_="quiet")
    return folded(what, question, table(("side", "answers and scores"), sides, numbers_from=9), open_=open_)


def _answers(answers: Sequence[Answer]) -> Html:
    shown = [tag("p", f"{answer.score:.3g}: {clean(answer.text, 1200)}") for answer in answers]
    return join(shown or [tag("p", "no answer", class_="quiet")])
