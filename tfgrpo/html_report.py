"""One static HTML page about a run: no script, no network, nothing in it that model output could break.

write_report(Path("runs/gsm8k-3f9a2c1b7d"), Path("report.html"))

The page is built from the run folder; what each version changed and why comes from the store, when it can be opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgrpo.errors import RunStateError
from tfgrpo.html_charts import before_after
from tfgrpo.html_parts import Html, clean, count, folded, join, section, table, tag
from tfgrpo.html_sections import curve, rollouts, served, versions
from tfgrpo.html_style import STYLE
from tfgrpo.measurement import Measurement
from tfgrpo.report import Change, Measured, Report
from tfgrpo.run_story import ROUTINE, Story, read_story

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
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
    page = "<!DOCTYPE html>\n" + render(read_story(run_folder))
    fresh = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(page, encoding="utf-8")
        fresh.replace(out)
    except OSError as error:
        raise RunStateError(f"the report could not be written to {out}: {error}; give another file") from error
    return out


def render(story: Story) -> Html:
    """The whole page."""
    title = f"{_task(story)}: {_model(story)}"
    told = [_result(story), curve(story), served(story), versions(story), rollouts(story)]
    told = told if story.measurement is None else [_measurement(story, story.measurement)]
    parts = [_head(story), *told, _spend(story), _events(story), _config(story)]
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", clean(title, 200)),
        Html(f"<style>{STYLE}</style>"),
    )
    return tag("html", head, tag("body", tag("main", *parts)), lang="en")


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
    return join([box, _intervals(report.before, report.after), _beside(report.beside), _tiles(story)])


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


def compared(gain: Measured, where: str) -> tuple[str, str]:
    """A paired difference in plain words, and its colour."""
    if gain.low > 0:
        return f"Better {where}: {gain.mean:+.3f}", "good"
    if gain.high < 0:
        return f"Worse {where}: {gain.mean:+.3f}", "bad"
    return f"Inside the noise {where}: {gain.mean:+.3f}", ""


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
    return join([box, _intervals(done.before, done.after, sides), _beside(done.beside, sides), _tiles(story)])


def _intervals(before: Measured | None, after: Measured | None, names: tuple[str, str] = ("before", "after")) -> Html:
    sides = (("before", names[0], before), ("after", names[1], after))
    measured = [(label, name, m) for label, name, m in sides if m is not None]
    top = max([1.0, *(m.high for _, _, m in measured if math.isfinite(m.high))])
    chart = before_after([(label, m.mean, m.low, m.high) for label, _, m in measured], top=top)
    sampled = any(m.pass_at_k is not None for _, _, m in measured)
    head = ("", "mean score", "95 % interval", "n", *(["pass@k"] if sampled else []))
    numbers = table(head, [_numbers(name, m, sampled=sampled) for _, name, m in measured])
    return tag("div", chart, numbers, class_="measured") if measured else Html()


def _numbers(name: str, m: Measured, *, sampled: bool) -> list[object]:
    chance = "–" if m.pass_at_k is None else f"{m.pass_at_k:.3f} (k={m.samples})"
    return [name, f"{m.mean:.3f}", f"{m.low:.3f} to {m.high:.3f}", m.n, *([chance] if sampled else [])]


def _beside(changes: Sequence[Change], names: tuple[str, str] = ("before", "after")) -> Html | None:
    """What else was measured of the same problems."""
    if not changes:
        return None
    rows = [
        (clean(c.name, 200), *("–" if m is None else m.words() for m in (c.before, c.after)), c.gain_words or "–")
        for c in changes
    ]
    return table(("beside the score", *names, "change"), rows, numbers_from=9)


def _tiles(story: Story) -> Html:
    total, report = _total(story.spend), story.report
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    tiles = [
        (f"{total['calls']:,}", f"calls, {total['solver_calls']:,} by the solver"),
        (_short(tokens), f"tokens, {_short(total['cached_tokens'])} from cache"),
        (*_dollars(total),),
    ]
    if report:
        mixed = report.mixed_share_before
        before = "" if mixed is None else f"; {mixed:.0%} before anything was learned"
        tiles += [
            (_time(report.seconds), f"of work, slots {report.busy_share:.0%} busy"),
            (f"{report.groups:,}", f"groups, {report.mixed_share:.0%} mixed{before}"),
            (f"v{report.start} → v{report.final}", f"{count(len(report.learned), 'experience')} served"),
        ]
    return tag(
        "div", *(tag("div", tag("b", big), tag("span", small), class_="tile") for big, small in tiles), class_="tiles"
    )


def _total(spend: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = ("calls", "solver_calls", "prompt_tokens", "completion_tokens", "cached_tokens", "usd", "unpriced_calls")
    return {name: sum(row.get(name, 0) for row in spend.values()) for name in (*names, "failed_calls")}


def _dollars(row: Mapping[str, Any]) -> tuple[str, str]:
    unpriced, calls = int(row.get("unpriced_calls", 0)), int(row.get("calls", 0))
    if unpriced and unpriced == calls:
        return "unknown", "cost: the price is not known"
    said = f"; {unpriced:,} more calls of unknown price" if unpriced else ""
    return f"${row.get('usd', 0.0):.4f}", f"cost{said}"


def _short(count: int) -> str:
    return (
        f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f} k" if count < 10_000_000 else f"{count / 1e6:,.1f} M"
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


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


def _events(story: Story) -> Html:
    failures = [(name, f"{count:,}") for name, count in sorted(story.counts.items()) if name not in ROUTINE]
    if not failures:
        return section("Failures and other events", tag("p", "Nothing out of the ordinary happened.", class_="quiet"))
    last = folded(
        f"The last {len(story.failures)}",
        table(("event", "what"), [(e.name, clean(_data(e.data), 600)) for e in story.failures], numbers_from=9),
    )
    return section("Failures and other events", table(("event", "times"), failures), last)


def _data(data: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in data.items() if value not in ("", None))


def _config(story: Story) -> Html:
    report = story.report
    facts: dict[str, Any] = {"run folder": story.folder, **_flat(story.config)}
    if report:
        facts |= {
            "groups under way at once": report.open_groups,
            "rollouts": report.rollouts,
            "missing": report.missing,
        }
    return section(
        "Configuration", table((), [(key, clean(value, 500)) for key, value in facts.items()], numbers_from=9)
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return flat
