"""A teacher that reads the library of experiences: the student's own prompt with the experiences in it, rendered as in
learning and serving, then the student's own tokens. What it knows by reading goes into the weights of the one that
does not read (context distillation, arXiv 2209.15189, here on the student's own answers).

What does not fit is left out as the library's own limit leaves it out: the last entries, or the least related ones.
Nothing is loaded here but the standard library and torch, unless a store is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

import experience_store
from experience_store import ExperienceStore, Library, Snapshot
from hybrid.answers import Batch
from hybrid.distill import Distill
from hybrid.reprompt import teachers_under, with_teachers
from hybrid.routing import NOBODY, Routes
from tfgrpo.errors import InputError, RequestError
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.types import Group, Message, message_text

T = TypeVar("T")
Teach = Callable[[Batch, Sequence[Group], Distill, LoadedModel, Sequence[int]], Batch]
"""Puts the teachers' samples into a batch."""


class Stack(Protocol):
    """What keeps a store open: an `ExitStack` of either kind."""

    def enter_context(self, cm: AbstractContextManager[T], /) -> T: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A version of a library, and where it came from."""

    place: str  # file, folder or URL, without the version
    snapshot: Snapshot
    store: ExperienceStore | None = None  # None: an exported file
    embedder: str = ""

    @property
    def digest(self) -> str:
        """A hash of what the teacher can be shown, and how; equal for equal prompts."""
        parts: list[Any] = [[e.hash for e in self.snapshot.served], asdict(self.snapshot.layout)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_library(stack: Stack, spec: str) -> Opened:
    """An exported file, or a store's version, named as "library.json", "./experience" or "./experience@v7".

    Raises:
        InputError: it serves no experience.
        StoreError: no such file, store or version, or a file that was changed by hand.
    """
    place, ref = experience_store.parse_ref(spec)
    if Path(place).is_file():
        library = Library.load(place)
        opened = Opened(place=place, snapshot=library.snapshot, embedder=library.embedder)
    else:
        store = stack.enter_context(experience_store.open(place, create=False))
        opened = Opened(place=place, snapshot=store.at(ref), store=store, embedder=store.embedder.name)
    if not opened.snapshot.served:
        raise InputError(
            f"{spec} serves no experience ({opened.snapshot.version.name} has {len(opened.snapshot)}, all of them on "
            f"trial or erased), so whoever reads it knows no more than before; give another version"
        )
    return opened


def teaching(snapshot: Snapshot | None) -> Teach:
    """Where the teachers' prompts come from: the library, or else answers and words of the same group."""
    if snapshot is None:
        return with_teachers

    def taught(batch: Batch, groups: Sequence[Group], spec: Distill, loaded: LoadedModel, seed: Sequence[int]) -> Batch:
        return with_library(batch, groups, spec, loaded, snapshot)

    return taught


def with_library(
    batch: Batch, groups: Sequence[Group], spec: Distill, loaded: LoadedModel, snapshot: Snapshot
) -> Batch:
    """The batch with a teacher's sample for every rollout that is taught, those without a route out of the loss.

    Args:
        batch: as `Batch.of` made it of the groups.
        groups: with the prompts that the student was asked.
        spec: which rollouts are taught, and how long a teacher's prompt may be.
        loaded: the model's tokenizer and context.
        snapshot: what the teacher reads.
    """
    rollouts = [r for group in groups for r in group.rollouts]
    labels = [n for n, group in enumerate(groups) for _ in group.rollouts]
    wanted = batch.in_loss & (~batch.success if spec.rows == "wrong" else True)
    reader = Reader(loaded=loaded, snapshot=snapshot)
    prompts: dict[int, tuple[int, ...]] = {}
    for n in wanted.nonzero()[0].tolist():
        room = min(loaded.context - len(batch.samples[n].tokens), spec.max_prompt)
        written = reader.prompt(rollouts[n].completion.prompt, room)
        if written is not None:
            prompts[n] = written
    lost = [n for n in wanted.nonzero()[0].tolist() if n not in prompts]
    nobody = np.zeros_like(wanted)
    made = Routes(
        taught=wanted,
        policy=batch.in_loss & ~wanted & (spec.others == "policy"),
        sibling=np.full(len(wanted), NOBODY, dtype=np.int64),
        feedback=nobody,
        alone=nobody,
    ).without(lost, spec)
    return replace(
        batch,
        teachers=teachers_under(batch.samples, prompts, labels),
        in_loss=made.taught | made.policy,
        counts={
            **made.counts(),
            "route/by_library": float(made.taught.sum()),
            "route/cut": float(reader.cut),
            "route/too_long": float(len(lost)),
        },
    )


@dataclass(kw_only=True, slots=True)
class Reader:
    """Writes prompts with experiences in them; `cut` counts those from which some were left out for want of room."""

    loaded: LoadedModel
    snapshot: Snapshot
    cut: int = 0
    _known: dict[tuple[str, int], tuple[int, ...] | None] = field(default_factory=dict)

    def prompt(self, messages: Sequence[Message], room: int) -> tuple[int, ...] | None:
        """The tokens of the prompt, at most `room`, with as many experiences as fit; None where not one does.

        With a library that serves nothing it is the bare prompt.
        """
        shown = len(self.snapshot.apply(messages).labels)
        keep = shown
        while keep or not shown:
            ids = self._ids(messages, keep)
            if ids is not None and len(ids) <= room:
                self.cut += keep < shown
                return ids
            if not keep:
                return None
            share = 0.75 if ids is None else max(0, room) / len(ids)
            keep = min(keep - 1, int(keep * share))
        return None

    def _ids(self, messages: Sequence[Message], keep: int) -> tuple[int, ...] | None:
        """With `keep` experiences; None where they do not fit into the context."""
        key = (repr([(m.get("role"), message_text(m)) for m in messages]), keep)
        if key not in self._known:
            layout = replace(self.snapshot.layout, max_entries=keep)
            try:
                self._known[key] = self.loaded.prompt_ids(self.snapshot.apply(messages, layout=layout).messages)
            except RequestError:
                self._known[key] = None
        return self._known[key]
