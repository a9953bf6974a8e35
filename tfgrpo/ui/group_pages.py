"""The groups of a run, and the rollouts of one of them side by side: winners beside losers.

Both are read from the record as they are shown; a run of 100,000 rollouts takes no more memory than one of ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgrpo.html_parts import Html, clean, count, folded, join, section, tag
from tfgrpo.record import RunRecord
from tfgrpo.types import Completion, message_text
from tfgrpo.ui.frame import Asked, View, badge, chosen, empty, failed, heading, pager, place, row, search
from tfgrpo.ui.run_pages import RunPages, crumbs

SIZE = 50
SIDE = 20  # rollouts of each side
WORDS = 4000  # characters of an answer
LABELS = 24  # experiences of a prompt
FILTERS = {"": "all groups", "mixed": "with winners and losers", "best": "all right", "worst": "all wrong"}


@dataclass(frozen=True, slots=True)
class GroupPages:
    """Reads what `RunPages` finds."""

    runs: RunPages

    def index(self, asked: Asked) -> View:
        """The groups of a run, in the order in which they were done."""
        folder = self.runs.folder(asked.parts["run"])
        if folder is None:
            return failed(404, f"there is no run {asked.parts['run'][:120]!r} in {self.runs.runs}")
        shown = asked.query.get("show", "")
        rows, total = _page(folder, asked.page, shown if shown in FILTERS else "", asked.query.get("q", ""))
        choice = chosen("show", "Show", list(FILTERS.items()), shown)
        turn = pager(asked, total, SIZE, "group")
        nothing = empty(
            "No groups",
            "None fits, or this run has none: an evaluation asks each problem without comparing its answers.",
            f"tfgrpo report {folder.name} --runs {self.runs.runs}",
        )
        list_ = tag("div", *(_row(folder.name, g) for g in rows), class_="rows groups") if rows else nothing
        head = heading("Groups", "Answers to the same problem, compared with each other.")
        body = [crumbs(folder.name, "groups"), head, search(asked, "Problem (press /)", choice), turn, list_, turn]
        return View(title=f"Groups of {folder.name}", active="runs", body=body)

    def one(self, asked: Asked) -> View:
        """A group: its prompt, then winners beside losers."""
        folder, number = self.runs.folder(asked.parts["run"]), asked.parts["group"]
        if folder is None or not (number.isascii() and number.isdigit() and len(number) < 16):
            return failed(404, f"there is no group {number[:40]!r} in a run {asked.parts['run'][:120]!r}")
        with RunRecord.open(folder, read_only=True) as record:
            event = record.last_event("group_done", "group", int(number))
            total = record.count_events("group_done")
            if event is None:
                return failed(404, f"the run {folder.name} has not recorded a group {number}; it has {total:,} groups")
            group = event.data
            words = _completions(record, int(number), str(group["problem"]))
        rollouts = sorted(group["rollouts"], key=lambda r: (-float(r["score"]), int(r["sample"])))
        here = tag("a", "groups", href=place("runs", folder.name, "groups"))
        parts = [crumbs(folder.name, here, f"group {number}"), _head(group, rollouts)]
        parts += [_turns(folder.name, int(number), total), _asked(words), *_sides(rollouts, words)]
        return View(title=f"Group {number} of {folder.name}", active="runs", body=parts)


def _page(folder: Path, page: int, show: str, query: str) -> tuple[list[Mapping[str, Any]], int]:
    """One page of groups, and how many there are in all."""
    with RunRecord.open(folder, read_only=True) as record:
        if not show and not query:
            total = record.count_events("group_done")
            at = min(page, max(1, -(-total // SIZE)))
            return [e.data for e in record.events("group_done", first=(at - 1) * SIZE, most=SIZE)], total
        fitting = (e.data for e in record.events("group_done") if _fits(e.data, show, query))
        return _window(fitting, page)


def _window(groups: Iterable[Mapping[str, Any]], page: int) -> tuple[list[Mapping[str, Any]], int]:
    """A page of what passes by, the last one where there are fewer, and the count; no more than two pages are held."""
    kept: list[Mapping[str, Any]] = []
    total = 0
    for total, group in enumerate(groups, 1):
        if total > page * SIZE:
            continue
        if (total - 1) % SIZE == 0:
            kept = []
        kept.append(group)
    return kept, total


def _fits(group: Mapping[str, Any], show: str, query: str) -> bool:
    if query.casefold() not in str(group["problem"]).casefold():
        return False
    scores = _scores(group)
    if not show or not scores:
        return not show
    if show == "mixed":
        return scores[0] > scores[-1]
    return scores[0] == scores[-1] and (scores[0] > 0) == (show == "best")


def _scores(group: Mapping[str, Any]) -> list[float]:
    return sorted((float(r["score"]) for r in group["rollouts"]), reverse=True)


def _row(run: str, group: Mapping[str, Any]) -> Html:
    scores = _scores(group)
    mean = f"{sum(scores) / len(scores):.2f}" if scores else "–"
    mixed = bool(scores) and scores[0] > scores[-1]
    return row(
        place("runs", run, "groups", group["group"]),
        f"{group['group']}",
        tag("div", clean(group["problem"], 200), class_="words"),
        strip(scores),
        tag("div", tag("b", mean), " mean", class_="figure"),
        tag("div", badge("mixed", "good") if mixed else "all the same", class_="figure"),
        tag("div", f"v{group['version']}", class_="figure"),
    )


def strip(scores: Sequence[float]) -> Html:
    """Scores as columns, the best first."""
    top, shown = max([1.0, *scores]), scores[:32]
    heights = [max(1.5, 16 * max(0.0, s) / top) for s in shown]
    marks = [
        tag(
            "rect",
            x=2 + 7 * n,
            y=round(18 - h, 1),
            width=5,
            height=round(h, 1),
            class_="bar-good" if h > 1.5 else "bar-none",
        )
        for n, h in enumerate(heights)
    ]
    words = ", ".join(f"{s:.2f}" for s in shown)
    return tag(
        "svg", *marks, viewBox=f"0 0 {max(120, 4 + 7 * len(shown))} 20", class_="effect", role="img", aria_label=words
    )


# -- one group --------------------------------------------------------------------------------------------------------


def _completions(record: RunRecord, group: int, problem: str) -> dict[int, Completion]:
    """The words of each sample; those of the last turn where an agent answered."""
    return {call.key.sample: call.completion for call in record.calls("solve", epoch=group, problem=problem)}


def _head(group: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]]) -> Html:
    scores = ", ".join(f"{float(r['score']):.2f}" for r in rollouts[:32])
    about = f"{count(len(rollouts), 'rollout')}, sampled under v{group['version']}; scores {scores}"
    return heading(clean(f"Problem {group['problem']}", 200), about)


def _turns(run: str, number: int, total: int) -> Html:
    before = tag("a", "← previous group", href=place("runs", run, "groups", number - 1), rel="prev") if number else None
    after = tag("a", "next group →", href=place("runs", run, "groups", number + 1), rel="next")
    known = [link for link in (before, after if number + 1 < total else None) if link]
    return tag("div", tag("span"), tag("span", join(known, " ")), class_="pager")


def _asked(words: Mapping[int, Completion]) -> Html:
    prompt = next((c.prompt for c in words.values() if c.prompt), ())
    if not prompt:
        return tag(
            "p",
            "The words of this group are not on record: they were erased, or are kept by another run.",
            class_="quiet",
        )
    question = next((message_text(m) for m in reversed(prompt) if m.get("role") == "user"), "")
    whole = [
        join([tag("p", tag("b", clean(m.get("role", "?"), 40))), tag("pre", clean(message_text(m), WORDS))])
        for m in prompt
    ]
    return section(
        "Question", tag("pre", clean(question, WORDS)), folded("The whole prompt of one rollout", *whole[:40])
    )


def _sides(rollouts: Sequence[Mapping[str, Any]], words: Mapping[int, Completion]) -> Iterator[Html]:
    """Winners beside losers; all in one list where there are none."""
    scores = [float(r["score"]) for r in rollouts]
    if not scores:
        yield tag("p", "No rollout of this group got a score.", class_="quiet")
        return
    mean = sum(scores) / len(scores)
    winners = [r for r in rollouts if float(r["score"]) > mean and scores[0] > scores[-1]]
    losers = [r for r in rollouts if r not in winners]
    if not winners:
        note = f"All have the score {scores[0]:.2f}, so there is nothing to learn from their difference."
        yield section("Rollouts", _side("", losers, words, frozenset()), note=note)
        return
    yield section("Winners beside losers", _only(winners, losers), _pair(winners, losers, words), note=_NOTE)


_NOTE = (
    "Winners scored above the mean of the group, losers did not. Experiences that stood on one side only are marked."
)


def _pair(winners: Sequence[Any], losers: Sequence[Any], words: Mapping[int, Completion]) -> Html:
    only = _labels(winners) ^ _labels(losers)
    left = _side(f"Winners: {len(winners)}", winners, words, only)
    return tag("div", left, _side(f"Losers: {len(losers)}", losers, words, only), class_="sides")


def _only(winners: Sequence[Any], losers: Sequence[Any]) -> Html | None:
    mine, other = _labels(winners) - _labels(losers), _labels(losers) - _labels(winners)
    told = [
        f"{who}: {', '.join(sorted(labels)[:LABELS])}"
        for who, labels in (("only in winners' prompts", mine), ("only in losers' prompts", other))
        if labels
    ]
    return tag("p", clean("; ".join(told), 600), class_="quiet") if told else None


def _labels(rollouts: Iterable[Mapping[str, Any]]) -> set[str]:
    return {str(label) for r in rollouts for label in r.get("experiences", ())}


def _side(
    title: str, rollouts: Sequence[Any], words: Mapping[int, Completion], only: set[str] | frozenset[str]
) -> Html:
    more = len(rollouts) - SIDE
    rest = tag("p", f"{more:,} more are not shown.", class_="quiet") if more > 0 else None
    cards = [_card(r, words.get(int(r["sample"])), only) for r in rollouts[:SIDE]]
    return tag("div", tag("h3", title) if title else None, *cards, rest, class_="side")


def _card(rollout: Mapping[str, Any], completion: Completion | None, only: set[str] | frozenset[str]) -> Html:
    labels = [str(label) for label in rollout.get("experiences", ())]
    marks = [
        tag(
            "a",
            clean(label, 40),
            href=place("experiences", label.partition("@")[0]),
            class_="badge" + (" tag" if label in only else ""),
        )
        for label in labels[:LABELS]
    ]
    more = f"and {len(labels) - LABELS} more" if len(labels) > LABELS else None
    told = (
        tag("p", *marks, more, class_="badges") if labels else tag("p", "no experiences in the prompt", class_="quiet")
    )
    head = tag(
        "p",
        tag("b", f"{float(rollout['score']):.2f}"),
        tag("span", f"sample {rollout['sample']}", class_="quiet"),
        class_="score",
    )
    return tag("div", head, told, _answer(completion), class_="card", data_row="")


def _answer(completion: Completion | None) -> Html:
    if completion is None:
        return tag("p", "The words of this rollout are not on record.", class_="quiet")
    c = completion
    ended = "" if c.finish_reason == "stop" else f", ended by {c.finish_reason}"
    facts = f"{c.usage.prompt_tokens:,} + {c.usage.completion_tokens:,} tokens, {c.latency_s:.1f} s{ended}"
    text = clean(c.text, WORDS) if c.text.strip() else "(empty)"
    return join([tag("pre", text), tag("p", clean(facts, 200), class_="quiet")])
