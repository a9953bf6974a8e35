"""One static HTML page about a run of training: no script, no network, nothing in it that an answer could break.

    write_report(Path("trained"), Path("report.html"))

`tfgrpo report RUN` finds this by the entry point "train" of the group "tfgrpo.reports". Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.html_rollouts import rollouts
from hybrid.quantities import TOPICS, Quantity, ordered, quantity
from hybrid.report import TrainReport
from hybrid.train_story import ROUTINE, Story, read_story
from hybrid.watch import ALARMS, WINDOW, Alarm, alarms_of
from tfgrpo.html_curves import WIDE, Measure, curve_over_steps, parts_of_whole
from tfgrpo.html_page import beside, compared, duration, facts, happened, intervals, page, short, tiles, written
from tfgrpo.html_parts import Html, clean, count, escaped, folded, join, section, table, tag
from tfgrpo.report import Measured

PHASES = {"sample": "writing and scoring answers", "update": "updates", "evaluate": "tests"}


def write_report(run_folder: Path, out: Path) -> Path:
    """Write the page of a run of training, finished or not, and return its path.

    Raises:
        RunStateError: there is no run record in the folder, it cannot be read, or the page cannot be written.
    """
    return written(render(read_story(run_folder)), out)


def render(story: Story) -> Html:
    """The whole page."""
    alarms = alarms_of(story.curve)
    title = f"{story.started.get('task', 'a run')}: {story.started.get('model', 'unknown model')}, trained"
    return page(
        title,
        _head(story),
        _result(story, alarms),
        _alarms(story, alarms),
        _reward(story, alarms),
        *_curves(story, alarms),
        _time(story),
        rollouts(story),
        happened(story.counts, story.failures, ROUTINE),
        _methods(story),
    )


# -- what came out ----------------------------------------------------------------------------------------------------


def _head(story: Story) -> Html:
    started = story.started
    about = ", ".join(str(started[n]) for n in ("model", "setup", "plan") if started.get(n))
    return tag("header", tag("h1", clean(started.get("task", "A run of training"), 200)), tag("p", clean(about, 300)))


def _result(story: Story, alarms: Sequence[Alarm]) -> Html:
    report = story.report
    if report is None:
        first = next((m for n, m in story.tests.items() if n == 0), None)
        more = f" Before training the test gave {first['words']}." if first else ""
        words = f"{count(len(story.curve), 'step')} made. The command that started it goes on from there.{more}"
        box = tag("div", tag("strong", "This run has not finished."), tag("p", words), class_="verdict")
        return join([box, _tiles(story)])
    headline, kind = compared(report.gain, "on unseen problems") if report.gain else ("Trained, but not measured", "")
    notes = [notice for notice in report.notices if not notice.startswith("alarm ")]
    box = tag(
        "div",
        tag("strong", headline),
        *_gain(report),
        tag("p", tag("b", f"{count(len(alarms), 'alarm')}: read below what looked wrong.")) if alarms else None,
        tag("p", f"Ended because {report.stopped}.", class_="quiet") if report.stopped else None,
        tag("p", f"Weights: {report.checkpoint}", class_="quiet"),
        *(tag("p", f"Note: {note}", class_="quiet") for note in notes),
        class_=f"verdict {kind}",
    )
    return join([box, intervals(report.before, report.after), beside(report.beside), _tiles(story)])


def _gain(report: TrainReport) -> list[Html]:
    if report.after is None or not report.gain_words:
        return [tag("p", "The task has no test problems.")]
    sure = "" if report.p_value is None else f", p = {report.p_value:.3g}"
    each = f"{count(report.after.samples, 'sample')} of each problem, before and after"
    return [tag("p", f"Gain {report.gain_words}{sure}; {each}. {_lost(report.before, report.after)}")]


def _lost(before: Measured | None, after: Measured) -> str:
    lost = after.missing + (before.missing if before else 0)
    return f"{lost} of the test samples got no scored answer and are missing from this." if lost else ""


def _tiles(story: Story) -> Html:
    report, curve = story.report, story.curve
    shown = [(f"{len(curve):,}", "steps"), (short(story.answers), "answers on record")]
    if report:
        shown += [
            (short(report.tokens), "tokens written in training"),
            (duration(report.seconds), f"of work, {_phase_words(report)}"),
            (f"{report.memory_gib:.1f} GiB", "of memory at most"),
        ]
    if curve:
        ends = [float(point["reward"]) for point in (curve[0], curve[-1])]
        shown.append((f"{ends[0]:.2f}→{ends[1]:.2f}", "mean reward, first and last step"))
    return tiles(shown)


def _phase_words(report: TrainReport) -> str:
    total = report.seconds or 1.0
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in report.seconds_by.items())


# -- alarms -----------------------------------------------------------------------------------------------------------


def _alarms(story: Story, alarms: Sequence[Alarm]) -> Html:
    if not alarms:
        enough = len(story.curve) >= 2 * WINDOW
        missing = "" if enough else f" Most of them need {2 * WINDOW} steps, and there are {len(story.curve)}."
        quiet = tag("p", f"None of {len(ALARMS)} rules saw anything.{missing}", class_="quiet")
        return section("Alarms", quiet, _rules())
    note = "What looked wrong while the run went on, each where it was seen first. A reason to look, no proof."
    return section(f"Alarms: {len(alarms)}", *(_alarm(alarm) for alarm in alarms), _rules(), note=note)


def _alarm(alarm: Alarm) -> Html:
    known = ALARMS.get(alarm.name)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in alarm.numbers.items())
    return tag(
        "div",
        tag("strong", clean(f"{alarm.name.replace('_', ' ')}, after step {alarm.step}", 200)),
        tag("p", clean(f"{alarm.words[:1].upper()}{alarm.words[1:]}.", 1500)),
        tag("p", clean(numbers, 500), class_="quiet"),
        tag("p", f"Harmless with {known.harmless}.", class_="quiet") if known and known.harmless else None,
        class_="verdict alarm",
    )


def _rules() -> Html:
    rows = [(name, _first_line(w.rule.__doc__), w.harmless) for name, w in ALARMS.items()]
    return folded("The rules", table(("alarm", "fires when", "harmless with"), rows, numbers_from=9))


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n\n")[0]


# -- curves -----------------------------------------------------------------------------------------------------------


def _column(story: Story, name: str) -> list[float]:
    found = [point.get(name) for point in story.curve]
    return [math.nan if value is None else float(value) for value in found]


def _steps(story: Story) -> list[float]:
    return [float(point["step"]) for point in story.curve]


def _reward(story: Story, alarms: Sequence[Alarm]) -> Html | None:
    """The curve that matters, with the tests on it."""
    if not story.curve:
        return None
    known = quantity("reward")
    tests = [
        Measure(step=float(step), mean=m["mean"], low=m["low"], high=m["high"], name=f"test after step {step}")
        for step, m in sorted(story.tests.items())
        if all(math.isfinite(m.get(name, math.nan)) for name in ("mean", "low", "high"))
    ]
    chart = curve_over_steps(
        _steps(story), _column(story, "reward"), words=_axis(known), frame=WIDE, marks=_marks(alarms), measured=tests
    )
    note = (
        "Mean reward of each step's answers before its update, at the temperature of training, on problems that are "
        "trained on. Bars are the mean score on test problems with its 95 % interval; a dashed line is an alarm."
    )
    return section("Reward", tag("div", chart, class_="card"), note=note)


def _curves(story: Story, alarms: Sequence[Alarm]) -> list[Html]:
    """Small charts of every column, by topic; those of less interest are folded."""
    names = ordered({name for point in story.curve for name in point} - {"reward", "step"})
    sections = []
    for topic, title in TOPICS.items():
        shown = [name for name in names if quantity(name).topic == topic]
        brief = [_card(story, name, alarms) for name in shown if quantity(name).brief]
        more = [_card(story, name, alarms) for name in shown if not quantity(name).brief]
        if brief or more:
            rest = folded(f"{len(more)} more", tag("div", *more, class_="curves")) if more else None
            sections.append(section(title, tag("div", *brief, class_="curves"), rest))
    return sections


def _card(story: Story, name: str, alarms: Sequence[Alarm]) -> Html:
    known, values = quantity(name), _column(story, name)
    last = next((v for v in reversed(values) if math.isfinite(v)), math.nan)
    return tag(
        "div",
        tag("p", tag("b", clean(known.title, 80)), tag("span", known.words(last) if math.isfinite(last) else "–")),
        curve_over_steps(_steps(story), values, words=_axis(known), marks=_marks(alarms)),
        tag("p", clean(known.about, 200), class_="quiet") if known.about else None,
        class_="card curve",
    )


def _axis(known: Quantity) -> Callable[[float], str]:
    """How a level is written at the axis: shares in percent, large numbers in full, others short."""

    def words(value: float) -> str:
        if known.form.endswith("%"):
            return f"{value:.0%}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    return words


def _marks(alarms: Sequence[Alarm]) -> list[tuple[float, str]]:
    return [(float(alarm.step), clean(alarm.notice(), 300)) for alarm in alarms]


# -- time and methods -------------------------------------------------------------------------------------------------


def _time(story: Story) -> Html | None:
    phases = _seconds_by(story)
    total = sum(phases.values())
    if total <= 0:
        return None
    rows: list[list[object]] = [
        [
            join([tag("span", "", class_=f"key tint{n % 4}"), escaped(f" {name}")]),
            f"{took:,.1f} s",
            f"{took / total:.0%}",
        ]
        for n, (name, took) in enumerate(phases.items())
    ]
    return section("Where the time went", parts_of_whole(list(phases.items())), table(("", "time", "share"), rows))


def _seconds_by(story: Story) -> dict[str, float]:
    """Seconds by phase; what is left of the whole run is loading, checkpoints and waiting."""
    report = story.report
    if report is None:
        names = {"sample": "sample_s", "update": "update_s"}
        return {PHASES[n]: math.fsum(v for v in _column(story, c) if math.isfinite(v)) for n, c in names.items()}
    found = {PHASES.get(name, name): seconds for name, seconds in report.seconds_by.items()}
    rest = report.seconds - math.fsum(found.values())
    return {**found, "loading, checkpoints and the rest": rest} if rest > 0 else found


def _methods(story: Story) -> Html:
    started = story.started
    chosen: Mapping[str, Any] = story.report.methods if story.report else started.get("methods", {})
    config = {name: value for name, value in story.config.items() if name not in (*chosen, "settings")}
    told = {**chosen, "plan": started.get("plan"), "computed": started.get("setup"), **started.get("settings", {})}
    told |= {f"{name} (hash)" if name in ("task", "model") else name: value for name, value in config.items()}
    return facts({**told, "run folder": str(story.folder)}, "Methods and settings")
