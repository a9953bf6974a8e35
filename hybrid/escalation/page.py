"""The report of a story: text, JSON, and one static HTML page that links the pages of its parts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hybrid.escalation.decision import Decision, Option
from hybrid.escalation.held_out import LABELS
from hybrid.escalation.result import Improvement, PairRow
from hybrid.html_report import write_report as training_page
from hybrid.report import TrainReport
from tfgrpo.html_charts import before_after, learning_curve
from tfgrpo.html_page import page, written
from tfgrpo.html_parts import Html, clean, count, folded, join, section, table, tag
from tfgrpo.html_report import write_report as learning_page
from tfgrpo.record import FILE_NAME, RunRecord
from tfgrpo.report import Report

Parts: TypeAlias = Mapping[str, Report | TrainReport | None]
"""The runs of a story, by the folders that they are in."""

PAGE = "report.html"
PARTS = ("prompts", "more_prompts", "pilot", "training", "decision", "second_decision")
"""States of a story's record that a page tells of."""


def write_page(found: Improvement, out: Path) -> Path:
    """Write report.html, report.json and report.txt, and the pages of its runs; the path of the first.

    Raises:
        RunStateError: they cannot be written; the story is whole, and the same call writes them again.
    """
    written(json.dumps(found.as_json(), indent=2) + "\n", out / "report.json")
    written(f"{found}\n", out / "report.txt")
    return written(render(found, _links(_runs(found), out, out)), out / PAGE)


def write_report(run_folder: Path, out: Path) -> Path:
    """Write the page of a story, told to its end or not, and the pages of its runs; the path of the first.

    `tfgrpo report STORY` finds this by the entry point "improve" of the group "tfgrpo.reports".

    Raises:
        RunStateError: there is no record in the folder, it cannot be read, or the page cannot be written.
    """
    with RunRecord.open(run_folder, read_only=True) as record:
        known = {name: record.get_state(name) for name in ("improvement", *PARTS)}
        begun = next(record.events("begun"), None)
    if known["improvement"] is not None:
        found = Improvement.from_json(known["improvement"])
        return written(render(found, _links(_runs(found), run_folder, out.parent)), out)
    phases = Phases.of(known)
    links = _links({**phases.learned, "training": phases.trained}, run_folder, out.parent)
    return written(_unfinished({} if begun is None else begun.data, phases, links), out)


def _runs(found: Improvement) -> Parts:
    return {"prompts": found.prompts, "more_prompts": found.more_prompts, "training": found.training or found.pilot}


def _links(parts: Parts, story: Path, beside: Path) -> dict[str, str]:
    """Writes the pages of a story's runs; their places as a page in the folder `beside` links them.

    A folder of a run that was taken away has none.
    """
    links = {}
    for name, report in parts.items():
        folder = story / name / report.run if isinstance(report, Report) else story / name
        if report is not None and (folder / FILE_NAME).exists():
            write = learning_page if isinstance(report, Report) else training_page
            links[name] = Path(os.path.relpath(write(folder, folder / PAGE), beside)).as_posix()
    return links


def render(found: Improvement, links: Mapping[str, str]) -> Html:
    """The whole page; `links` lead to the pages of learning and training."""
    return page(
        f"{found.task}: {found.model}",
        _head(found.task, found.model, found.train_model),
        _verdict(found),
        _arms(found),
        _pairs(found),
        _learned("Learning experiences", found.prompts, links.get("prompts")),
        None if found.first_decision is None else _decision("The first decision", found.first_decision),
        _learned("Learning goes on", found.more_prompts, links.get("more_prompts")),
        _decision("The decision", found.decision),
        _trained(found.training or found.pilot, links.get("training"), pilot=found.training is None),
        _spent(found),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Phases:
    """What is on record of a story that has not ended."""

    learned: Mapping[str, Report | None]
    decisions: tuple[Decision, ...]
    trained: TrainReport | None
    pilot: bool  # `trained` is the pilot only

    @staticmethod
    def of(states: Mapping[str, Any]) -> Phases:
        """From the states of the story's record, by the names of `PARTS`; a phase without a result has a "none"."""
        done = {name: state for name, state in states.items() if state is not None and "none" not in state}
        reports = {name: Report.from_json(done[name]) if name in done else None for name in ("prompts", "more_prompts")}
        trained = done.get("training") or done.get("pilot")
        return Phases(
            learned=reports,
            decisions=tuple(Decision.from_json(done[n]) for n in ("decision", "second_decision") if n in done),
            trained=None if trained is None else TrainReport.from_json(trained),
            pilot="training" not in done,
        )


def _unfinished(begun: Mapping[str, Any], phases: Phases, links: Mapping[str, str]) -> Html:
    task, model = str(begun.get("task", "A story")), str(begun.get("model", "unknown model"))
    words = "No arm was compared on the held-out problems yet. The command that started it goes on from there."
    return page(
        f"{task}: {model}",
        _head(task, model, None),
        tag("div", tag("strong", "This story has not ended."), tag("p", words), class_="verdict"),
        _learned("Learning experiences", phases.learned["prompts"], links.get("prompts")),
        _learned("Learning goes on", phases.learned["more_prompts"], links.get("more_prompts")),
        *(_decision("The decision", decision) for decision in phases.decisions),
        _trained(phases.trained, links.get("training"), pilot=phases.pilot),
    )


def _head(task: str, model: str, train_model: str | None) -> Html:
    trained = f"; weights of {train_model}" if train_model else ""
    return tag("header", tag("h1", clean(task, 200)), tag("p", clean(f"{model}{trained}", 300)))


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


def _trained(report: TrainReport | None, link: str | None, *, pilot: bool) -> Html | None:
    if report is None:
        return None
    groups = int(report.config.get("prompts", 1))
    points = [{"groups": groups, "reward": point["reward"]} for point in report.curve]
    said = (
        f"{count(report.steps, 'step')}; on problems set aside for the decision {report.gain_words or 'not measured'}"
    )
    chart = tag("div", learning_curve(points), class_="card") if points else None
    facts = folded("The training run", tag("pre", str(report)))
    more = tag("p", tag("a", "The whole training run", href=link)) if link else None
    return section("The pilot of training" if pilot else "Training", tag("p", f"{said}."), chart, facts, more)


def _spent(found: Improvement) -> Html:
    rows: Sequence[Sequence[object]] = [(name, f"{seconds:,.1f}") for name, seconds in found.seconds_by.items()]
    limits = ", ".join(f"{name} {value:g}" for name, value in found.budget.items() if value is not None)
    return section(
        "What it cost",
        tag("p", f"{found.spent_words()}."),
        table(("phase", "seconds"), rows),
        note=join([f"Budget: {limits}." if limits else "No budget was given."]),
    )
