"""The default critic: one structured call per informative group, winners against losers, edits with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from experience_store import Edit, Experience
from tfgrpo.caller import Caller
from tfgrpo.critic.base import Reading, ask
from tfgrpo.critic.transcript import transcript
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Message

INSTRUCTIONS = """You improve the notes that another model reads before it solves problems. It never sees the correct \
answer. Compare its attempts below: what did the better ones do that the worse ones did not? If all failed, what \
piece of knowledge would have led to the correct answer?

Write at most {max_edits} edits of the notes:
- add: a new note. One self-contained sentence of at most {max_words} words that states its condition and what to do \
or what is true, and that will be useful for other problems too. Never mention this problem's own numbers, names or \
identifiers, nor "the attempt".
- revise: a better wording of an existing note; give its id.
- drop: an existing note that misled the attempts; give its id.
Prefer concrete knowledge (a rule, a definition, a required format, a frequent mistake and its cure) over general \
advice. If the notes already say it, or there is nothing to learn, reply with no edits.{objective}"""


ASKED_FOR = ConfigDict(
    json_schema_serialization_defaults_required=True, json_schema_extra={"additionalProperties": False}
)
"""The schema asks for every field, as strict servers want it; the reading of a reply forgives what is left out."""


class ProposedEdit(BaseModel):
    """One edit as the critic writes it; the reason comes first, so that it is thought of first."""

    model_config = ASKED_FOR

    reason: str = ""
    op: Literal["add", "revise", "drop"]
    id: str = Field(default="", description="id of the existing note for revise and drop, else empty")
    text: str = Field(default="", description="the note for add and revise")


class ProposedEdits(BaseModel):
    """The critic's whole reply."""

    model_config = ASKED_FOR

    edits: list[ProposedEdit]


class LessonCritic:
    """Reads one group per call; conflicts between groups are left to evidence, so merging changes nothing."""

    def __init__(self, caller: Caller, *, max_edits: int = 3, max_words: int = 40, max_tokens: int = 1200) -> None:
        self._caller = caller
        self._max_edits, self._max_words = max_edits, max_words
        schema = ProposedEdits.model_json_schema(mode="serialization")
        self._sampling = Sampling(temperature=0.7, max_tokens=max_tokens, schema=schema)

    async def read(self, reading: Reading) -> tuple[Edit, ...]:
        """One call (two when the first reply is malformed)."""
        group = reading.group
        key = CallKey(purpose="critic", epoch=group.index, problem=group.problem.id)
        reply = await ask(self._caller, self.messages(reading), key, self._sampling, ProposedEdits)
        source = {"group": group.index, "problem": group.problem.id, "critic": self._caller.policy.name}
        return tuple(
            Edit(op=e.op, id=e.id.strip(), text=e.text.strip(), reason=e.reason.strip(), source=source)
            for e in reply.edits[: self._max_edits]
        )

    def messages(self, reading: Reading) -> list[Message]:
        """The request for one group."""
        objective = f"\nThe aim: {reading.objective}" if reading.objective else ""
        system = INSTRUCTIONS.format(max_edits=self._max_edits, max_words=self._max_words, objective=objective)
        notes = listed(reading.known) or "(none yet)"
        body = f"Existing notes:\n{notes}\n\n{transcript(reading.group, reading.values)}"
        shown = sorted({label.partition("@")[0] for r in reading.group.rollouts for label in r.experiences})
        if shown:
            body += f"\n\nNotes that stood in at least one attempt's prompt: {', '.join(shown)}"
        return [{"role": "system", "content": system}, {"role": "user", "content": body}]

    async def merge(self, step: int, proposals: Sequence[Edit], known: Sequence[Experience]) -> tuple[Edit, ...]:
        """As they are."""
        return tuple(proposals)


def listed(known: Sequence[Experience]) -> str:
    """Experiences with their ids, one a line."""
    return "\n".join(f"[{e.id}] {e.text}" for e in known)
