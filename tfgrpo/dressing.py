"""Experiences put into a prompt, and into whatever an agent asks while it answers that prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from experience_store import Layout, Snapshot
from tfgrpo.types import Message, Prompt


def dressed(
    prompt: Prompt, snapshot: Snapshot, ids: Sequence[str] | None = None, *, layout: Layout | None = None
) -> Prompt:
    """The prompt with experiences in it, as the store renders them; without any it stays the bare one byte for byte.

    Which entries are shown is decided once, by the prompt. An agent's own requests show the same ones, whatever its
    last message is about, so that a rollout is credited to the entries that its prompt names.

    Args:
        prompt: the bare prompt.
        snapshot: the version whose entries are shown.
        ids: exactly these entries are candidates; None: what is served.
        layout: another layout than the version's.
    """
    applied = snapshot.apply(prompt.messages, ids, layout=layout)
    if not applied.labels:
        return prompt
    shown = tuple(label.partition("@")[0] for label in applied.labels)
    everything = replace(layout or snapshot.layout, select="all")
    return replace(
        prompt,
        messages=tuple(applied.messages),
        experiences=applied.labels,
        bare=prompt.messages,
        dress=partial(_into, snapshot, shown, everything),
    )


def _into(snapshot: Snapshot, ids: tuple[str, ...], layout: Layout, messages: Sequence[Message]) -> Sequence[Message]:
    return snapshot.apply(messages, ids, layout=layout).messages
