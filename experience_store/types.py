"""The nouns of the store: Experience, Edit, Layout, Version; all immutable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["lesson", "fact", "example"]
Taint = Literal["clean", "untrusted"]
Op = Literal["add", "revise", "drop", "accept"]


def content_hash(kind: str, text: str, question: str = "") -> str:
    """SHA-256 over what a model would read, so that equal content is recognised across stores."""
    return hashlib.sha256("\x1f".join((kind, question, text)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """One short piece of knowledge with a stable id; revising it keeps the id and raises the revision.

    A *lesson* is advice in words, a *fact* is a statement, an *example* is a solved problem: `question` holds the
    problem and `text` its worked answer. `taint` is "untrusted" when the text came from tool output or users.

    Example:
        >>> Experience(id="E17", revision=3, text="Check units.", kind="lesson").label
        'E17@3'
    """

    id: str
    revision: int = 1
    text: str
    kind: Kind = "lesson"
    question: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)  # run, group, problem ids, critic, reason
    taint: Taint = "clean"
    row: str = ""  # the row's id in the store, unique to the attempt that wrote it: "E17@3-9f2c1a"

    @property
    def label(self) -> str:
        return f"{self.id}@{self.revision}"

    @property
    def hash(self) -> str:
        return content_hash(self.kind, self.text, self.question)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """The unit of learning; a commit is a tuple of edits.

    *add* brings a new experience (its id is given by the store when empty), *revise* replaces the text of `id`,
    *drop* takes `id` out, *accept* ends the trial of `id`. `trial=True` adds or revises on probation: the
    entry is in the version, yet it is left out of what is served until it is accepted.
    """

    op: Op
    id: str = ""
    text: str = ""
    kind: Kind = "lesson"
    question: str = ""
    reason: str = ""
    trial: bool = False
    taint: Taint = "clean"
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a version's experiences are put into a prompt; part of what is learned, stored with the version.

    `placement` *system* appends one block to the system message, *user* puts it before the last user message,
    *turns* shows examples as earlier user/assistant turns. `max_entries` 0 means all. `select` *retrieve* picks the
    nearest entries to the question, *all* keeps the stable order. *core* is *all* while all fit into `max_tokens`; a
    library that outgrew them shows its first entries in half of them, the same in every prompt so that a provider's
    prompt cache hits, and of the others those nearest to the question, before the last user message.
    """

    placement: Literal["system", "user", "turns"] = "system"
    select: Literal["all", "retrieve", "core"] = "all"
    max_entries: int = 0
    max_tokens: int = 4000  # estimated as characters / 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One commit: what changed, why, on what evidence, and which rows are live after it."""

    number: int
    parent: int
    rows: tuple[str, ...]  # ids of the live rows, in prompt order
    trial: tuple[str, ...] = ()  # ids of experiences (not labels) that are on probation
    edits: tuple[Edit, ...] = ()
    layout: Layout = Layout()
    note: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)  # scores, interval, n, cost, per-experience effects
    writer: str = ""
    time: str = ""  # ISO 8601, UTC

    @property
    def name(self) -> str:
        return f"v{self.number}"
