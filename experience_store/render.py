"""THE rendering: which experiences stand in a prompt, where, and in which words. Learning and serving share it.

- No experience to show: the same messages object comes back, so the prompt is the bare one byte for byte.
- The order is the version's, so that a provider's prompt cache hits; what is left out is left out from the end.
- Texts are quoted as reference data (see `quoting`): one line per lesson, examples indented below their bullet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experience_store.codec import is_erased
from experience_store.errors import RefError, near_names
from experience_store.quoting import many_lines, one_line
from experience_store.rank import Rank
from experience_store.types import Experience, Layout

Message = Mapping[str, Any]

HEADING = "Notes from earlier problems (reference, use what applies):"
LESSON_CAP = 1_200  # characters of one entry
EXAMPLE_CAP = 2_000
CHARS_PER_TOKEN = 4
_TURN_CHARS = 16  # what a chat template adds around two messages, roughly


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """The messages to send, and the labels ("E17@3") of the experiences that stand in them, in their order."""

    messages: Sequence[Message]
    labels: tuple[str, ...] = ()


def apply(
    messages: Sequence[Message], experiences: Sequence[Experience], layout: Layout, rank: Rank | None = None
) -> Applied:
    """Puts experiences into messages as the layout says.

    Args:
        messages: the bare prompt; it is never changed.
        experiences: candidates in the version's order.
        layout: placement, selection, limits.
        rank: needed when `layout.select` is "retrieve" and not all fit.
    """
    usable = [e for e in experiences if not is_erased(e)]
    shown = chosen(usable, layout, last_question(messages), rank)
    if not shown:
        return Applied(messages=messages)
    labels = tuple(e.label for e in shown)
    if layout.placement != "turns":
        return Applied(messages=_with_text(messages, block(shown), layout.placement), labels=labels)
    turns = [e for e in shown if _is_turn(e)]
    notes = [e for e in shown if not _is_turn(e)]
    done = _with_turns(messages, turns) if turns else list(messages)
    return Applied(
        messages=_with_text(done, block(notes), "system") if notes else done,
        labels=tuple(e.label for e in (*notes, *turns)),
    )


def chosen(experiences: Sequence[Experience], layout: Layout, question: str, rank: Rank | None) -> list[Experience]:
    """The entries that are shown, in the version's order, within `max_entries` and `max_tokens`."""
    limit = layout.max_entries or len(experiences)
    order: Sequence[int] = range(len(experiences))
    if layout.select == "retrieve" and experiences:
        if rank is None:
            raise ValueError("layout.select is 'retrieve', which needs rank=(question, experiences) -> scores.")
        scores = rank(question, experiences)
        order = sorted(order, key=lambda i: (-scores[i], i))
    left = layout.max_tokens * CHARS_PER_TOKEN - len(HEADING) - 2
    kept: list[int] = []
    for i in order[:limit]:
        left -= cost(experiences[i], layout)
        if left < 0:
            break
        kept.append(i)
    return [experiences[i] for i in sorted(kept)]


def cost(experience: Experience, layout: Layout) -> int:
    """Characters that one entry takes."""
    if layout.placement == "turns" and _is_turn(experience):
        question, answer = turn(experience)
        return len(question) + len(answer) + _TURN_CHARS
    return len(entry(experience)) + 1


def tokens(experiences: Sequence[Experience], layout: Layout) -> int:
    """Estimated prompt tokens of all given entries, characters / 4."""
    if not experiences:
        return 0
    return (len(HEADING) + sum(cost(e, layout) for e in experiences)) // CHARS_PER_TOKEN


def entry(experience: Experience) -> str:
    """One bullet: a lesson or fact on one line; an example indented, so that it cannot leave its bullet."""
    if experience.kind != "example":
        return f"- {one_line(experience.text, LESSON_CAP)}"
    question, answer = turn(experience)
    words = f"Problem: {question}\nAnswer: {answer}" if question else answer
    return "- " + words.replace("\n", "\n  ")


def turn(experience: Experience) -> tuple[str, str]:
    """Question and answer of an example; together at most its cap."""
    question = many_lines(experience.question, EXAMPLE_CAP // 2)
    return question, many_lines(experience.text, EXAMPLE_CAP - len(question))


def block(experiences: Sequence[Experience]) -> str:
    """The text that holds all given entries."""
    return "\n".join([HEADING, *(entry(e) for e in experiences)])


def last_question(messages: Sequence[Message]) -> str:
    """The words of the last user message."""
    return next((_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")


def selected(
    experiences: Sequence[Experience], trial: Sequence[str], include: Sequence[str] | None
) -> list[Experience]:
    """Those that are served (not on trial), or exactly the ids in `include`; the order stays."""
    if include is None:
        return [e for e in experiences if e.id not in trial]
    known = {e.id for e in experiences}
    for name in include:
        if name not in known:
            raise RefError(f"no experience {name!r} in this version; {near_names(name, known)}")
    wanted = set(include)
    return [e for e in experiences if e.id in wanted]


def _is_turn(experience: Experience) -> bool:
    return experience.kind == "example" and bool(experience.question.strip())


def _with_text(messages: Sequence[Message], text: str, placement: str) -> list[Message]:
    """System: after the first system message's words, or a new one. User: before the last user message's words."""
    done = list(messages)
    user = max((i for i, m in enumerate(done) if m.get("role") == "user"), default=-1)
    if placement == "user" and user >= 0:
        done[user] = {**done[user], "content": _joined(text, done[user].get("content"), first=True)}
    elif done and done[0].get("role") in ("system", "developer"):
        done[0] = {**done[0], "content": _joined(text, done[0].get("content"), first=False)}
    else:
        done.insert(0, {"role": "system", "content": text})
    return done


def _with_turns(messages: Sequence[Message], examples: Sequence[Experience]) -> list[Message]:
    head = 1 if messages and messages[0].get("role") in ("system", "developer") else 0
    turns: list[Message] = []
    for example in examples:
        question, answer = turn(example)
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages[:head], *turns, *messages[head:]]


def _joined(text: str, content: Any, *, first: bool) -> Any:
    if isinstance(content, Sequence) and not isinstance(content, str):
        part = {"type": "text", "text": text}
        return [part, *content] if first else [*content, part]
    words = _text(content)
    if not words:
        return text
    return f"{text}\n\n{words}" if first else f"{words}\n\n{text}"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
