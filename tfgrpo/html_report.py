"""One static HTML page about a run: no script, no network, nothing in it that model output could break.

write_report(Path("runs/gsm8k-3f9a2c1b7d"), Path("report.html"))

The page is built from the run folder; what each version changed and why comes from the store, when it can be opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgrpo.html_page import beside, compared, duration, facts, happened, intervals, page, short, tiles, written
from tfgrpo.html_parts import Html, clean, count, join, section, table, tag
from tfgrpo.html_sections import curve, rollouts, served, versions
from tfgrpo.html_strategy import cost_curve
from tfgrpo.measurement import Measurement
from tfgrpo.report import Report
from tfgrpo.run_story import ROUTINE, Story, read_story

PURPOSES = {
    "solve": "learning: rollouts",
    "critic": "learning: critic",
    "gate": "gate",
    "evaluate": "test, before and after",
    "judge": "reward: judge",
    "paraphrase": "paraphrases",
}


def write_report(run_folder: Path, out: Path) -> Path:
    """Write the page of a run, finished or not, and return its path.

    Raises:
        RunStateError: there is no run record in the folder, it cannot be read, or the page cannot be written.
    """
    return written(render(read_story(run_folder)), out)


def render(story: Story) -> Html:
    """The whole page."""
    more = [versions(story), rollouts(story)] if story.measurement is None else []
    return page(title(story), *outcome(story), *more, *accounts(story))


def title(story: Story) -> str:
    """What was run, with which model."""
    return f"{_task(story)}: {_model(story)}"


def outcome(story: Story) -> list[Html | None]:
    """The head of the page, and what came out."""
    if story.measurement is not None:
        return [_head(story), _measurement(story, story.measurement)]
    return [_head(story), _result(story), curve(story), served(story)]


def accounts(story: Story) -> list[Html | None]:
    """What it took: calls and money by purpose, failures, configuration."""
    return [_spend(story), happened(story.counts, story.failures, ROUTINE), _config(story)]


def _task(story: Story) -> str:
    done = story.report or story.measurement
    return done.task if done else str(story.started.get("task", "a run"))


def _model(story: Story) -> str:
    done = story.report or story.measurement
    return done.model if done else str(story.started.get("model", "unknown model"))


# -- what came out ------------------------------------------------------------------------------------------------


def _head(story: Story) -> Html:
    critic = f", critic {story.report.critic}" if story.report else ""
    return tag("header", tag("h1", clean(_task(story), 200)), tag("p", clean(f"{_model(story)}{critic}", 300)))


def _result(story: Story) -> Html:
    report = story.report
    if report is None:
        done, planned = _progress(story), story.started.get("groups", "?")
        words = tag("strong", "This run has not finished.")
        more = tag("p", f"{done} of {planned} groups are done. The command that started it goes on from there.")
        return join([tag("div", words, more, class_="verdict"), _tiles(story)])
    headline, kind = verdict(report)
    lines = [tag("p", report.why[:1].upper() + report.why[1:] + "."), *_measured(report)]
    if report.gate_words:
        lines.append(tag("p", f"Gate: {report.gate_words}", class_="quiet"))
    notes = [tag("p", f"Note: {notice}", class_="quiet") for notice in report.notices]
    box = tag("div", tag("strong", headline), *lines, *notes, class_=f"verdict {kind}")
    return join([box, intervals(report.before, report.after), beside(report.beside), _tiles(story)])


def _progress(story: Story) -> int:
    return sum(int(point["groups"]) for point in story.curve)


def verdict(report: Report) -> tuple[str, str]:
    """The headline in plain words, and its colour."""
    gain = report.gain
    if not report.accepted:
        refused = bool(report.gate.get("pairs")) and not report.gate.get("passed", True)
        return ("Refused by the gate: nothing changed" if refused else "Nothing was accepted: nothing changed"), ""
    if gain is None:
        return "Accepted, but not measured on test problems", ""
    return compared(gain, "on unseen problems")


def _measured(report: Report) -> list[Html]:
    lines = []
    if report.before and report.after and report.gain:
        each = f"{count(report.gain.samples, 'sample')} of each problem, before and after"
        lines.append(tag("p", f"Gain {report.gain_words}; {each}."))
        lost = report.before.missing + report.after.missing
        if lost:
            lines.append(tag("p", f"{lost} of the test samples got no scored answer and are missing from this."))
    elif report.before:
        lines.append(
            tag("p", f"Test: {report.before.words()}, n={report.before.n}; there is nothing to compare it with.")
        )
    return lines


def _measurement(story: Story, done: Measurement) -> Html:
    """The result of an evaluation: one side, or two that are paired by problem."""
    if done.gain is None:
        headline, kind = f"Mean score {done.after.words()}", ""
    else:
        headline, kind = compared(done.gain, f"against {done.against}")
    asked = f"{count(done.after.n, 'problem')} of the {done.split} split, {count(done.after.samples, 'sample')} of each"
    lines = [tag("p", f"{done.store}, {asked}.")]
    if done.gain_words:
        sure = "" if done.p_value is None else f", p = {done.p_value:.3g}"
        lines.append(tag("p", f"Gain {done.gain_words}{sure}; {done.better} problems better, {done.worse} worse."))
    notes = [tag("p", f"Note: {notice}", class_="quiet") for notice in done.notices]
    box = tag("div", tag("strong", headline), *lines, *notes, class_=f"verdict {kind}")
    sides = (done.against, done.store)
    parts = [box, intervals(done.before, done.after, sides), beside(done.beside, sides), _tiles(story)]
    return join([*parts, cost_curve(done.curve)])


def _tiles(story: Story) -> Html:
    total, report = _total(story.spend), story.report
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    shown = [
        (f"{total['calls']:,}", f"calls, {total['solver_calls']:,} by the solver"),
        (short(tokens), f"tokens, {short(total['cached_tokens'])} from cache"),
        (*_dollars(total),),
    ]
    if report:
        mixed = report.mixed_share_before
        before = "" if mixed is None else f"; {mixed:.0%} before anything was learned"
        shown += [
            (duration(report.seconds), f"of work, slots {report.busy_share:.0%} busy"),
            (f"{report.groups:,}", f"groups, {report.mixed_share:.0%} mixed{before}"),
            (f"v{report.start} → v{report.final}", f"{count(len(report.learned), 'experience')} served"),
        ]
    return tiles(shown)


def _total(spend: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = ("calls", "solver_calls", "prompt_tokens", "completion_tokens", "cached_tokens", "usd", "unpriced_calls")
    return {name: sum(row.get(name, 0) for row in spend.values()) for name in (*names, "failed_calls")}


def _dollars(row: Mapping[str, Any]) -> tuple[str, str]:
    unpriced, calls = int(row.get("unpriced_calls", 0)), int(row.get("calls", 0))
    if unpriced and unpriced == calls:
        return "unknown", "cost: the price is not known"
    said = f"; {unpriced:,} more calls of unknown price" if unpriced else ""
    return f"${row.get('usd', 0.0):.4f}", f"cost{said}"


# -- what it took -------------------------------------------------------------------------------------------------


def _spend(story: Story) -> Html:
    order = [*PURPOSES, *story.spend]
    named = sorted(story.spend.items(), key=lambda item: order.index(item[0]))
    rows = [_cost(PURPOSES.get(name, name), row) for name, row in named]
    total = _cost("together", _total(story.spend))
    head = ("purpose", "calls", "prompt tokens", "of them cached", "completion tokens", "failed calls", "cost")
    unpriced = _total(story.spend)["unpriced_calls"]
    note = f"{unpriced:,} calls have no known price; they are not in the dollars." if unpriced else None
    return section("What it cost", table(head, [*rows, [tag("b", cell) for cell in total]]), note=note)


def _cost(name: str, row: Mapping[str, Any]) -> list[object]:
    names = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "failed_calls")
    unpriced, calls = int(row.get("unpriced_calls", 0)), int(row.get("calls", 0))
    dollars = (
        "unknown" if unpriced and unpriced == calls else f"${row.get('usd', 0.0):.4f}" + (" +?" if unpriced else "")
    )
    return [name, *(f"{row.get(column, 0):,}" for column in names), dollars]


def _config(story: Story) -> Html:
    report = story.report
    told: dict[str, Any] = {"run folder": str(story.folder), **story.config}
    if report:
        told |= {
            "groups under way at once": report.open_groups,
            "rollouts": report.rollouts,
            "missing": report.missing,
        }
    return facts(told)
