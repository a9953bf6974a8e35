"""From what a critic proposes to what the store is asked to commit: every edit is checked alone, by code.

An edit of an id that does not exist fails alone. A text that is live already, or that was taken out because it
harmed, is not added again; a paraphrase is found by the store's embedder at its calibrated threshold. Embedders
cannot tell a paraphrase from the same sentence about something else, so a text that only exchanges a word or two, or
adds a negation, is another statement. Entries that contradict each other are not settled here: they become rivals, and
evidence decides.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from experience_store import Edit, Experience
from tfgrpo.events import EventLog

MAX_CHARS = 1_200
MAX_EXCHANGED_WORDS = 2
MIN_SHARE_IN_COMMON = 0.6
NEGATIONS = frozenset({"not", "no", "never", "without", "don't", "cannot", "can't", "except", "unless"})


class Embedder(Protocol):
    """What is needed of the store's embedder."""

    @property
    def duplicate_threshold(self) -> float: ...

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


def normal_form(text: str, question: str = "") -> str:
    """Equal for texts that differ only in case, white space and final punctuation."""
    return " ".join(f"{question}\n{text}".casefold().split()).rstrip(".!;, ")


def other_statement(a: str, b: str) -> bool:
    """Whether two near-equal texts differ in a fact: some words are exchanged for others, or a negation is added.

    Example:
        >>> other_statement("Use metres for distances.", "Use miles for distances.")
        True
        >>> other_statement("Use metres for distances.", "Use metres for all distances.")
        False
    """
    left, right = a.casefold().split(), b.casefold().split()
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    if matcher.ratio() < MIN_SHARE_IN_COMMON:
        return False
    for op, i, j, k, m in matcher.get_opcodes():
        if op == "replace" and max(j - i, m - k) <= MAX_EXCHANGED_WORDS:
            return True
        if op != "equal" and NEGATIONS & {*left[i:j], *right[k:m]}:
            return True
    return False


class Consolidator:
    """Checks proposals against the live entries, the tombstones, and each other."""

    def __init__(self, embedder: Embedder, events: EventLog, tombstones: Iterable[str] = ()) -> None:
        self._embedder = embedder
        self._events = events
        self._tombstones = set(tombstones)
        self._vectors: dict[str, np.ndarray] = {}

    def bury(self, experience: Experience) -> None:
        """Never propose this text again."""
        self._tombstones.add(normal_form(experience.text, experience.question))

    def check(self, proposals: Sequence[Edit], live: Sequence[Experience], *, trial: bool) -> tuple[Edit, ...]:
        """The proposals that may be committed: adds (a revision on trial is an add that replaces), and drops."""
        by_id = {e.id: e for e in live}
        kept: list[Edit] = []
        for edit in proposals:
            refusal = self._refusal(edit, by_id, [*live, *kept])
            if refusal:
                self._events.emit("edit_refused", op=edit.op, id=edit.id, text=edit.text, why=refusal)
            else:
                kept.append(self._prepared(edit, by_id, trial))
        return tuple(kept)

    def _refusal(self, edit: Edit, by_id: dict[str, Experience], others: Sequence[Experience | Edit]) -> str:
        if edit.op != "add" and edit.id not in by_id:
            return f"there is no entry {edit.id!r}"
        if edit.op == "drop":
            return ""
        if not edit.text.strip():
            return "it has no text"
        if len(edit.text) > MAX_CHARS and edit.kind != "example":
            return f"its {len(edit.text)} characters are more than {MAX_CHARS}"
        form = normal_form(edit.text, edit.question)
        if form in self._tombstones:
            return "it was taken out before because it harmed"
        return self._duplicate(edit, [o for o in others if isinstance(o, Experience) or o.op != "drop"])

    def _duplicate(self, edit: Edit, others: Sequence[Experience | Edit]) -> str:
        form = normal_form(edit.text, edit.question)
        for other in others:
            if normal_form(other.text, other.question) == form:
                return f"it is already there{_named(other)}"
        if edit.kind == "example" or not others:
            return ""
        for other, similarity in zip(others, self._similarities(edit.text, [o.text for o in others]), strict=True):
            if similarity >= self._embedder.duplicate_threshold and not other_statement(edit.text, other.text):
                return f"it says the same as an entry already there{_named(other)} (similarity {similarity:.3f})"
        return ""

    def _similarities(self, text: str, others: Sequence[str]) -> list[float]:
        self._embed([text, *others])
        return [float(self._vectors[o] @ self._vectors[text]) for o in others]

    def _embed(self, texts: Sequence[str]) -> None:
        fresh = list(dict.fromkeys(t for t in texts if t not in self._vectors))
        if not fresh:
            return
        for text, vector in zip(fresh, self._embedder.embed(fresh), strict=True):
            v = np.asarray(vector, dtype=np.float64)
            self._vectors[text] = v / (np.linalg.norm(v) or 1.0)

    def _prepared(self, edit: Edit, by_id: dict[str, Experience], trial: bool) -> Edit:
        if edit.op == "add":
            return replace(edit, id="", trial=trial)  # ids are the store's to give
        if edit.op != "revise" or not trial:
            return edit
        old = by_id[edit.id]
        source = {**edit.source, "replaces": edit.id}
        taint = old.taint if old.taint == "untrusted" else edit.taint
        return replace(edit, op="add", id="", kind=old.kind, trial=True, source=source, taint=taint)


def _named(other: Experience | Edit) -> str:
    return f" ({other.id})" if other.id else ""
