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
    """Puts experiences into messages as the layout says; `prepare` does the same for many prompts.

    Args:
        messages: the bare prompt; it is never changed.
        experiences: candidates in the version's order.
        layout: placement, selection, limits.
        rank: needed when entries are picked by the question.
    """
    return prepare(experiences, layout, rank).apply(messages)


def prepare(experiences: Sequence[Experience], layout: Layout, rank: Rank | None = None) -> Prepared:
    """What no question changes is chosen and rendered here, once.

    Example:
        >>> prepared = prepare([Experience(id="E1", text="Check units.")], Layout())
        >>> prepared.apply([{"role": "user", "content": "5 km in m?"}]).labels, prepared.asks
        (('E1@1',), False)
    """
    usable = tuple(e for e in experiences if not is_erased(e))
    if layout.select != "retrieve":
        fitting = _within(usable, range(len(usable)), layout, layout.max_tokens)
        if layout.select == "all" or layout.max_entries or len(fitting) == len(usable):
            return Prepared(layout=layout, core=Part.of(fitting))
    if rank is None:
        raise ValueError(f"layout.select is {layout.select!r}, which needs rank=(question, experiences) -> scores.")
    if layout.select == "retrieve":
        return Prepared(layout=layout, pool=usable, room=layout.max_tokens, rank=rank)
    core = _within(usable, range(len(usable)), layout, layout.max_tokens // 2)
    room = layout.max_tokens - tokens(core, layout)
    return Prepared(layout=layout, core=Part.of(core), pool=usable[len(core) :], room=room, rank=rank)


@dataclass(frozen=True, slots=True)
class Part:
    """Entries that stand together, with the block that holds them."""

    entries: tuple[Experience, ...]
    text: str
    labels: tuple[str, ...]

    @staticmethod
    def of(entries: tuple[Experience, ...]) -> Part:
        """The part that holds these."""
        return Part(entries, block(entries) if entries else "", tuple(e.label for e in entries))


NOTHING = Part((), "", ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Experiences ready for many prompts: a core that every prompt shows, and a pool from which a question picks."""

    layout: Layout
    core: Part = NOTHING
    pool: tuple[Experience, ...] = ()
    room: int = 0  # tokens for what is picked
    rank: Rank | None = None

    @property
    def asks(self) -> bool:
        """Whether the question decides what is shown, so that it may have to be embedded."""
        return bool(self.pool)

    def picked(self, question: str) -> tuple[Experience, ...]:
        """What the question picks from the pool, in the version's order."""
        if not self.pool or self.rank is None or (self.core.entries and not question.strip()):
            return ()
        scores = self.rank(question, self.pool)
        order = sorted(range(len(self.pool)), key=scores.__getitem__, reverse=True)  # equal ones keep their order
        return _within(self.pool, order, self.layout, self.room)

    def shown(self, question: str) -> tuple[Experience, ...]:
        """All that a prompt with this question shows."""
        return (*self.core.entries, *self.picked(question))

    def apply(self, messages: Sequence[Message]) -> Applied:
        """Puts the experiences into the messages; the same object comes back where there are none."""
        core, picked = self.core, self.picked(last_question(messages)) if self.pool else ()
        if not core.entries and not picked:
            return Applied(messages=messages)
        if not core.entries or (picked and self.layout.placement == "user"):
            core, picked = Part.of((*core.entries, *picked)), ()
        done = _placed(messages, core, self.layout.placement)
        if not picked:
            return done
        tail = _placed(done.messages, Part.of(picked), "user")  # behind all that a provider's cache may hold
        return Applied(messages=tail.messages, labels=(*done.labels, *tail.labels))


def _placed(messages: Sequence[Message], part: Part, placement: str) -> Applied:
    if placement != "turns":
        return Applied(messages=_with_text(messages, part.text, placement), labels=part.labels)
    turns = [e for e in part.entries if _is_turn(e)]
    notes = [e for e in part.entries if not _is_turn(e)]
    done = _with_turns(messages, turns) if turns else list(messages)
    return Applied(
        messages=_with_text(done, block(notes), "system") if notes else done,
        labels=tuple(e.label for e in (*notes, *turns)),
    )


def _within(
    experiences: Sequence[Experience], order: Sequence[int], layout: Layout, max_tokens: int
) -> tuple[Experience, ...]:
    """The first of an order that fit into the tokens and `max_entries`, in the version's order."""
    left = max_tokens * CHARS_PER_TOKEN - len(HEADING) - 2
    kept: list[int] = []
    for i in order[: layout.max_entries or len(experiences)]:
        left -= cost(experiences[i], layout)
        if left < 0:
            break
        kept.append(i)
    return tuple(experiences[i] for i in sorted(kept))


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
