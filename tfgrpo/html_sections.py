"""The parts of the page that tell how a run came to its result: curve, experiences, versions, rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experience_store import Edit, Version
from tfgrpo.html_charts import interval_bar, learning_curve
from tfgrpo.html_parts import Html, clean, count, escaped, folded, join, section, tag
from tfgrpo.report import Report
from tfgrpo.run_story import Shown, Story

TITLES = {"add": "added", "revise": "revised", "drop": "dropped", "accept": "accepted"}
AT_ONCE = 25  # experiences before the rest is folded
LATEST = 8  # versions that are not folded away
LABELS = 12  # experience ids in one line


def curve(story: Story) -> Html | None:
    """Reward over the run, with the store versions."""
    if not story.curve:
        return None
    note = (
        "Mean reward of each step's groups while learning, with 95 % intervals over groups; below it the store version "
        "they were sampled under. Problems that nothing is known about come first, and entries on trial stand in a "
        "random half of the prompts, so this is not the score of what is served, which is measured on other problems."
    )
    stopped = story.report.stopped if story.report else ""
    ended = tag("p", f"Learning stopped early: {stopped}.", class_="quiet") if stopped else None
    return section("Learning curve", tag("div", learning_curve(story.curve), class_="card"), ended, note=note)


def served(story: Story) -> Html | None:
    """The experiences that ship, each with its measured effect."""
    report = story.report
    if report is None:
        return None
    if not report.learned:
        return section("What is served", tag("p", "No experiences: prompts stay as they are.", class_="quiet"))
    known = [row for row in report.learned if "effect" in row]
    scale = min(1.0, max([0.1, *(max(abs(row["low"]), abs(row["high"])) for row in known)]))
    rows = sorted(report.learned, key=lambda row: -row.get("effect", 0.0))
    note = (
        f"Effect of each experience on the score, with a 95 % interval, on an axis from {-scale:+.2f} to {scale:+.2f}; "
        "measured by leaving it out of a random half of the prompts it could stand in. Largest first."
    )
    entries = [_entry(row, scale) for row in rows]
    first = tag("div", *entries[:AT_ONCE], class_="card")
    rest = folded(f"{len(entries) - AT_ONCE} more", *entries[AT_ONCE:]) if len(entries) > AT_ONCE else None
    title = f"What is served: {count(len(entries), 'experience')}"
    return section(title, first, rest, note=note)


def _entry(row: Mapping[str, Any], scale: float) -> Html:
    words = f"{row['question']}\n→ {row['text']}" if row.get("question") else row.get("text", "")
    parts = [tag("div", row["id"], class_="id"), tag("div", clean(words, 1500), class_="words")]
    if "effect" in row:
        span = f"{row['effect']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        verdict = f"{row['verdict']}, {row['groups']} groups"
        parts.append(interval_bar(row["effect"], row["low"], row["high"], verdict=str(row["verdict"]), scale=scale))
        parts.append(tag("div", span, Html("<br>"), verdict, class_="figure"))
    else:
        parts.append(tag("div", "not measured", class_="figure"))
    return tag("div", *parts, class_="entry")


def versions(story: Story) -> Html:
    """Every commit with its edits, their reasons and what was known of their effect."""
    title = "What each version changed, and why"
    if story.store_problem:
        return section(title, tag("p", story.store_problem, class_="quiet"), _diff(story.report))
    if not story.versions:
        return section(title, tag("p", "This run committed no version.", class_="quiet"))
    note = "Every commit of this run. Effects are what was known at that moment."
    made = [_version(v, story.texts) for v in story.versions]
    early = folded(f"{len(made) - LATEST} earlier versions", *made[:-LATEST]) if len(made) > LATEST + 2 else None
    return section(title, early, *(made if early is None else made[-LATEST:]), note=note)


def _diff(report: Report | None) -> Html | None:
    return folded("All changes together", tag("pre", report.diff)) if report and report.diff else None


def _version(version: Version, texts: Mapping[str, str]) -> Html:
    kinds = [(title, sum(e.op == op for e in version.edits)) for op, title in TITLES.items()]
    counted = ", ".join(f"{count} {title}" for title, count in kinds if count) or "no edits"
    effects = version.evidence.get("effects", {})
    summary = join([tag("b", version.name), escaped(f" · {version.note or 'no note'} · {counted}")])
    edits = [_edit(edit, texts, effects.get(edit.id)) for edit in version.edits]
    when = tag("p", f"{version.time[:19].replace('T', ' ')} UTC, after v{version.parent}", class_="quiet")
    return folded(summary, when, *edits)


def _edit(edit: Edit, texts: Mapping[str, str], effect: Mapping[str, Any] | None) -> Html:
    words = f"{edit.question}\n→ {edit.text}" if edit.question else edit.text or texts.get(edit.id, "")
    facts = [f"reason: {edit.reason}"] if edit.reason and edit.reason != "n/a" else []
    if "group" in edit.source:
        facts.append(f"from group {edit.source['group']}, problem {edit.source.get('problem', '?')}")
    if effect:
        span = f"{effect['effect']:+.2f} ({effect['low']:+.2f} to {effect['high']:+.2f})"
        facts.append(f"effect {span} over {effect['groups']} groups: {effect['verdict']}")
    trial = " (on trial)" if edit.trial else ""
    head = [
        tag("span", TITLES.get(edit.op, edit.op), class_=f"op {edit.op}"),
        escaped(" "),
        tag("span", edit.id, class_="id"),
    ]
    said = tag("div", clean("; ".join(facts), 1000), class_="quiet") if facts else None
    return tag("div", *head, trial, escaped("  "), clean(words, 1500), said, class_="edit")


# -- what was said ------------------------------------------------------------------------------------------------


def rollouts(story: Story) -> Html:
    """Answers in their own words."""
    title = "Best and worst rollouts"
    if not story.best:
        return section(title, tag("p", "The run recorded no scored answers.", class_="quiet"))
    parts = []
    if story.pairs:
        parts.append(tag("h3", "Same question, best and worst answer"))
        parts += [_pair(best, worst) for best, worst in story.pairs]
    parts += [tag("h3", "Best"), *(_rollout(s) for s in story.best)]
    if story.worst:
        parts += [tag("h3", "Worst"), *(_rollout(s) for s in story.worst)]
    return section(title, *parts, note="The latest of the run where scores are equal, each problem once.")


def _pair(best: Shown, worst: Shown) -> Html:
    summary = join([tag("b", f"{best.score:.2f} / {worst.score:.2f}"), escaped(f" · {_preview(best)}")])
    halves = [_half(best, worst), _half(worst, best)]
    return folded(summary, tag("pre", _words(best.question)), tag("div", *halves, class_="pair"))


def _half(shown: Shown, other: Shown) -> Html:
    only = [label for label in shown.experiences if label not in other.experiences]
    told = f"only in this prompt: {_labels(only)}" if only else "nothing stood in this prompt only"
    return tag("div", tag("p", f"score {shown.score:.2f}; {told}"), _answer(shown))


def _rollout(shown: Shown) -> Html:
    summary = join([tag("b", f"{shown.score:.2f}"), escaped(f" · {_preview(shown)}")])
    group, problem, sample = shown.place
    place = f"group {group}, problem {problem}, sample {sample}, sampled under v{shown.version}"
    return folded(
        summary,
        tag("p", clean(place, 300), _told(shown), class_="quiet"),
        tag("pre", _words(shown.question)),
        _answer(shown),
    )


def _told(shown: Shown) -> str:
    if not shown.experiences:
        return "; no experiences in the prompt"
    return f"; experiences in the prompt: {_labels(shown.experiences)}"


def _labels(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - LABELS} more" if len(labels) > LABELS else ""
    return ", ".join(labels[:LABELS]) + more


def _answer(shown: Shown) -> Html:
    if shown.completion is None:
        return tag("p", "The words of this rollout were erased.", class_="quiet")
    c = shown.completion
    ended = "" if c.finish_reason == "stop" else f", ended by {c.finish_reason}"
    facts = f"{c.usage.prompt_tokens} + {c.usage.completion_tokens} tokens, {c.latency_s:.1f} s{ended}"
    return join([tag("pre", _words(c.text)), tag("p", facts, class_="quiet")])


def _words(text: str) -> str:
    return clean(text, 4000) if text.strip() else "(empty)"


def _preview(shown: Shown) -> str:
    words = " ".join(shown.question.split()) or f"problem {shown.place[1]}"
    return clean(words[:140] + ("…" if len(words) > 140 else ""))
