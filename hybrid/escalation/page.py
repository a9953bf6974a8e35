"""The report of a story: text, JSON, and one static HTML page that links the pages of its parts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid.escalation.decision import Decision, Option
from hybrid.escalation.held_out import LABELS
from hybrid.escalation.result import Improvement, PairRow
from hybrid.report import TrainReport
from tfgrpo.errors import RunStateError
from tfgrpo.html_charts import before_after, learning_curve
from tfgrpo.html_page import POLICY
from tfgrpo.html_parts import Html, clean, count, folded, join, section, table, tag
from tfgrpo.html_report import write_report
from tfgrpo.html_style import STYLE
from tfgrpo.report import Report

PAGE = "report.html"


def write_page(found: Improvement, out: Path) -> Path:
    """Write report.html, report.json and report.txt, and the page of each learning run; the path of the first.

    Raises:
        RunStateError: they cannot be written; the story is whole, and the same call writes them again.
    """
    links = {}
    for name, report in (("prompts", found.prompts), ("more_prompts", found.more_prompts)):
        if report is not None:
            folder = out / name / report.run
            links[name] = str(write_report(folder, folder / PAGE).relative_to(out))
    page = "<!DOCTYPE html>\n" + render(found, links)
    written = {PAGE: page, "report.json": json.dumps(found.as_json(), indent=2) + "\n", "report.txt": f"{found}\n"}
    for name, text in written.items():
        fresh = out / f"{name}.part"
        try:
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(out / name)
        except OSError as error:
            raise RunStateError(f"the report could not be written to {out / name}: {error}; make room") from error
    return out / PAGE


def render(found: Improvement, links: dict[str, str]) -> Html:
    """The whole page; `links` lead to the pages of learning runs."""
    title = f"{found.task}: {found.model}"
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", clean(title, 200)),
        Html(f"<style>{STYLE}</style>"),
    )
    parts = [
        _head(found),
        _verdict(found),
        _arms(found),
        _pairs(found),
        _learned("Learning experiences", found.prompts, links.get("prompts")),
        None if found.first_decision is None else _decision("The first decision", found.first_decision),
        _learned("Learning goes on", found.more_prompts, links.get("more_prompts")),
        _decision("The decision", found.decision),
        _trained(found.training or found.pilot, found.training is None),
        _spent(found),
    ]
    return tag("html", head, tag("body", tag("main", *parts)), lang="en")


def _head(found: Improvement) -> Html:
    trained = f"; weights of {found.train_model}" if found.train_model else ""
    return tag("header", tag("h1", clean(found.task, 200)), tag("p", clean(f"{found.model}{trained}", 300)))


def _verdict(found: Improvement) -> Html:
    gain = found.pair("base", found.recommended)
    kind = "good" if gain is not None and gain.gain.low > 0 else ""
    lines = [tag("p", f"{found.why[:1].upper()}{found.why[1:]}."), tag("p", f"To use it: {found.how}.")]
    notes = [tag("p", f"Note: {notice}", class_="quiet") for notice in found.notices]
    return tag(
        "div", tag("strong", f"Recommended: {LABELS[found.recommended]}"), *lines, *notes, class_=f"verdict {kind}"
    )


def _arms(found: Improvement) -> Html:
    first = found.arms[0].score
    top = max([1.0, *(arm.score.high for arm in found.arms if math.isfinite(arm.score.high))])
    chart = before_after([(arm.label, arm.score.mean, arm.score.low, arm.score.high) for arm in found.arms], top=top)
    rows = [
        [
            f"{arm.label} ({clean(arm.model, 120)})",
            f"{arm.score.mean:.3f}",
            f"{arm.score.low:.3f} to {arm.score.high:.3f}",
            arm.score.n,
            f"{arm.prompt_tokens:.0f}",
            f"{1000 * arm.pace_s:,.0f} ms",
            "no price" if arm.call_usd is None else f"${1000 * arm.call_usd:.4f}",
        ]
        for arm in found.arms
    ]
    head = ("", "mean score", "95 % interval", "n", "prompt tokens", "time of an answer", "1,000 answers")
    asked = f"{count(first.n, 'held-out problem')}, {count(first.samples, 'sample')} of each"
    note = f"{asked}. Nothing was learned from them, and nothing was decided on them."
    return section("The arms", tag("div", chart, table(head, rows), class_="measured"), note=note)


def _pairs(found: Improvement) -> Html | None:
    if not found.pairs:
        return None
    note = "Paired by problem: the difference of each problem's mean score, with its 95 % interval over problems."
    head = ("from", "to", "difference", "p", "problems better", "worse")
    return section("What the arms differ by", table(head, [_pair(p) for p in found.pairs], numbers_from=3), note=note)


def _pair(pair: PairRow) -> list[Any]:
    return [LABELS[pair.before], LABELS[pair.after], pair.words, f"{pair.p_value:.3g}", pair.better, pair.worse]


def _decision(headline: str, decision: Decision) -> Html:
    note = "Made on problems that were set aside for it. What it knew, and what it expected:"
    title = tag("p", tag("b", f"{decision.action.capitalize()}: "), f"{decision.why}.")
    reasons = tag("ul", *(tag("li", reason) for reason in decision.reasons))
    rows = [
        _option("go on with prompts", "groups", decision.going_on),
        _option("train", "steps", decision.training),
    ]
    head = ("way", "amount", "forecast gain", "95 % interval", "seconds", "dollars")
    return section(headline, title, table(head, rows), reasons, note=note)


def _option(name: str, unit: str, option: Option) -> list[Any]:
    gain = option.gain
    known = ["unknown", option.why] if gain is None else [f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}"]
    dollars = "unknown" if option.usd is None else f"${option.usd:.4g}"
    return [name, f"{option.amount:,} {unit}", *known, f"{option.seconds:,.0f}", dollars]


def _learned(title: str, report: Report | None, link: str | None) -> Html | None:
    if report is None:
        return None
    changed = f"{count(len(report.learned), 'experience')} served" if report.accepted else report.why
    gain = f"; on problems set aside for the decision {report.gain_words}" if report.gain_words else ""
    said = tag("p", f"{changed[:1].upper()}{changed[1:]}{gain}.")
    chart = tag("div", learning_curve(report.curve), class_="card") if report.curve else None
    more = tag("p", tag("a", "The whole learning run", href=link)) if link else None
    return section(title, said, chart, more)


def _trained(report: TrainReport | None, pilot: bool) -> Html | None:
    if report is None:
        return None
    groups = int(report.config.get("prompts", 1))
    points = [{"groups": groups, "reward": point["reward"]} for point in report.curve]
    said = (
        f"{count(report.steps, 'step')}; on problems set aside for the decision {report.gain_words or 'not measured'}"
    )
    chart = tag("div", learning_curve(points), class_="card") if points else None
    facts = folded("The training run", tag("pre", str(report)))
    return section("The pilot of training" if pilot else "Training", tag("p", f"{said}."), chart, facts)


def _spent(found: Improvement) -> Html:
    rows: Sequence[Sequence[object]] = [(name, f"{seconds:,.1f}") for name, seconds in found.seconds_by.items()]
    limits = ", ".join(f"{name} {value:g}" for name, value in found.budget.items() if value is not None)
    return section(
        "What it cost",
        tag("p", f"{found.spent_words()}."),
        table(("phase", "seconds"), rows),
        note=join([f"Budget: {limits}." if limits else "No budget was given."]),
    )
