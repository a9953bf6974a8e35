"""The answers of a run of training to leaf through: step by step, group by group, winner beside loser."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.train_story import ANSWERS, GROUPS, STEPS, Answer, Compared, Step, Story
from tfgrpo.html_parts import Html, clean, count, escaped, folded, join, section, table, tag

WORDS, IN_TABLE, PREVIEW = 1500, 240, 110  # characters of an answer beside another one, in a table, of a question


def rollouts(story: Story) -> Html:
    """A table of what was written, with rewards and advantages, as far as one page can hold it."""
    title = "Answers, with rewards and advantages"
    if not story.steps:
        return section(title, tag("p", "The run recorded no scored answers.", class_="quiet"))
    note = (
        "In each group the answers to one problem are compared with each other; groups with the widest rewards come "
        "first. An answer with an advantage of 0, or outside the loss, taught nothing."
    )
    return section(title, *(_step(step) for step in story.steps), _left_out(story), note=note)


def _left_out(story: Story) -> Html:
    """What is not on the page, and where it is."""
    shown = sum(len(group.answers) for step in story.steps for group in step.groups)
    limits = (
        f"At most {STEPS} steps of a run, {GROUPS} groups of a step and {ANSWERS} answers of a group are shown, words "
        f"up to {WORDS:,} characters"
    )
    left = story.answers - shown
    said = f"{left:,} of {story.answers:,} answers are not on this page" if left > 0 else "Nothing was left out"
    steps = "" if len(story.steps) == len(story.curve) else f" ({len(story.steps)} of {len(story.curve)} steps are)"
    return tag("p", f"{said}{steps}. {limits}; all of them are in run.sqlite in the run's folder.", class_="note")


def _step(step: Step) -> Html:
    rewards = [a.reward for group in step.groups for a in group.answers if a.reward is not None]
    mean = f"reward {sum(rewards) / len(rewards):.3f}" if rewards else "no reward"
    apart = f"rewards differ in {sum(group.spread > 0 for group in step.groups)} of {len(step.groups)} groups"
    summary = join([tag("b", f"Step {step.number}"), escaped(f" · {mean} · {apart}")])
    more = tag("p", f"{count(step.left_out, 'more group')}, not shown.", class_="quiet") if step.left_out else None
    return folded(summary, *(_group(group) for group in step.groups), more)


def _group(group: Compared) -> Html:
    best, worst = group.answers[0], group.answers[-1]
    ends = _number(best.reward) if group.spread == 0 else f"{_number(best.reward)} / {_number(worst.reward)}"
    words = " ".join(group.question.split()) or f"problem {group.problem}"
    shown = clean(words[:PREVIEW] + ("…" if len(words) > PREVIEW else ""))
    summary = join([tag("b", ends), escaped(f" · {shown}")])
    place = f"problem {clean(group.problem, 100)}, group {best.place[0]}, {count(len(group.answers), 'answer')}"
    more = f"; {count(group.left_out, 'more answer')} in between, not shown" if group.left_out else ""
    long = len(words) > PREVIEW or "\n" in group.question.strip()
    pair = tag("div", _half(best), _half(worst), class_="pair") if group.spread > 0 else None
    return folded(
        summary,
        tag("p", f"{place}{more}.", class_="quiet"),
        tag("pre", _words(group.question, WORDS)) if long else None,
        pair,
        _table(group.answers),
    )


def _half(answer: Answer) -> Html:
    kind = "good-text" if answer.success else "bad-text"
    told = f"reward {_number(answer.reward)}, advantage {_signed(answer.advantage)}, {answer.length} tokens"
    cut = ", cut off" if answer.cut else ""
    said = _words(answer.words, WORDS)
    return tag("div", tag("p", tag("b", "right" if answer.success else "wrong", class_=kind), f" · {told}{cut}"),
               tag("pre", said))  # fmt: skip


def _table(answers: Sequence[Answer]) -> Html:
    parts = list(answers[0].parts)
    head = ("answer", "", "reward", *(clean(part, 40) for part in parts), "advantage", "learned", "tokens")
    return table(head, [_row(answer, parts) for answer in answers])


def _row(answer: Answer, parts: Sequence[str]) -> list[object]:
    learned = "yes" if answer.in_loss and answer.advantage else "no"
    right = tag("span", "right" if answer.success else "wrong", class_="good-text" if answer.success else "bad-text")
    return [
        tag("div", _words(answer.words, IN_TABLE), class_="said"),
        right,
        _number(answer.reward),
        *(_number(answer.parts[part]) for part in parts),
        _signed(answer.advantage),
        learned,
        f"{answer.length}{' (cut)' if answer.cut else ''}",
    ]


def _words(text: str | None, limit: int) -> str:
    if text is None:
        return "(not on record: given by the grouping, or erased)"
    return clean(text, limit) if text.strip() else "(empty)"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3g}"
