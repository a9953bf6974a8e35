"""The pipeline of the paper (arXiv 2510.08191) as a preset, to be compared with: `critic="paper"`.

Per rollout of a mixed group one summary; per group one comparison, which sees the summaries, their verdicts and the
current library; per step one consolidation of all proposals. The stages and what each one sees follow the paper and
its published code; the words are ours. Its known defects are not reproduced: ids are stable, a malformed reply costs
only its own group, and no informative group means no call. Confidence: stages read in paper and code, wording ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from experience_store import Edit, Experience
from tfgrpo.caller import Caller
from tfgrpo.critic.base import Reading, ask
from tfgrpo.critic.lessons import listed
from tfgrpo.critic.transcript import cut, steps
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Group, Message, Rollout

SUMMARISE = """Summarise one attempt at a problem as numbered steps: what was done, which of the given notes was used, \
where it went astray and why, and the outcome of each step. Judge it in the light of the correct answer."""
COMPARE = """Several attempts at one problem were summarised below, each marked right or wrong. Explain why the right \
ones succeeded and the wrong ones failed, then propose at most {limit} change(s) of the library of experiences: add a \
new one or modify an existing one by its id. An experience is general strategy of at most 32 words: when it applies, \
then what to do; no calculations of this problem."""
CONSOLIDATE = """Below are a library of experiences and the changes that were proposed for it. Write the final list of \
operations: add, modify (with id), delete (with id) or merge into one by modifying one and deleting the others. Keep \
each experience at most 32 words, general, and different from all others. Experiences that you do not mention stay."""


class Operation(BaseModel):
    """One operation on the library, as the paper names them; keeping is the absence of one."""

    operation: Literal["add", "modify", "delete"]
    id: str = ""
    content: str = ""


class Operations(BaseModel):
    """What both the comparison and the consolidation reply with."""

    operations: list[Operation]


class PaperCritic:
    """Summaries, group advantage, consolidation."""

    def __init__(self, caller: Caller, *, per_group: int = 1, max_tokens: int = 1000) -> None:
        self._caller, self._per_group = caller, per_group
        self._text = Sampling(temperature=0.0, max_tokens=max_tokens)
        self._structured = Sampling(temperature=0.0, max_tokens=max_tokens, schema=Operations.model_json_schema())

    async def read(self, reading: Reading) -> tuple[Edit, ...]:
        """One summary a rollout and one comparison; nothing for a group without winners and losers."""
        group = reading.group
        if not group.mixed:
            return ()
        summaries = await asyncio.gather(*(self._summary(group, n, r) for n, r in enumerate(group.rollouts)))
        body = "\n\n".join(
            f"Summary {n} ({'right' if r.score.success else 'wrong'}):\n{text}"
            for n, (r, text) in enumerate(zip(group.rollouts, summaries, strict=True), start=1)
        )
        words = f"{_problem(group)}\n\nLibrary:\n{listed(reading.known) or '(empty)'}\n\n{body}"
        key = CallKey(purpose="critic", epoch=group.index, problem=group.problem.id, sample=1000)
        messages = _chat(COMPARE.format(limit=self._per_group), words)
        reply = await ask(self._caller, messages, key, self._structured, Operations)
        source = {"group": group.index, "problem": group.problem.id, "critic": self._caller.policy.name}
        return tuple(edit for op in reply.operations[: self._per_group] for edit in _edit(op, source))

    async def _summary(self, group: Group, number: int, rollout: Rollout) -> str:
        verdict = "right" if rollout.score.success else "wrong"
        words = f"{_problem(group)}\n\nThe attempt ({verdict}):\n{cut(steps(rollout), 12000)}"
        key = CallKey(purpose="critic", epoch=group.index, problem=group.problem.id, sample=number)
        return (await self._caller.complete(_chat(SUMMARISE, words), key, self._text)).text

    async def merge(self, step: int, proposals: Sequence[Edit], known: Sequence[Experience]) -> tuple[Edit, ...]:
        """One call that sees the library and all proposals; no proposal, no call."""
        if not proposals:
            return ()
        wanted = "\n".join(f"- {e.op} {e.id} {e.text}".strip() for e in proposals)
        words = f"Library:\n{listed(known) or '(empty)'}\n\nProposed changes:\n{wanted}"
        key = CallKey(purpose="critic", epoch=step, problem="consolidation")
        reply = await ask(self._caller, _chat(CONSOLIDATE, words), key, self._structured, Operations)
        source = {"step": step, "critic": self._caller.policy.name}
        return tuple(edit for op in reply.operations for edit in _edit(op, source))


def _chat(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _problem(group: Group) -> str:
    answer = "" if group.problem.answer is None else f"\nCorrect answer: {group.problem.answer}"
    return f"Problem: {group.problem.question}{answer}"


_OPS: dict[str, Literal["add", "revise", "drop"]] = {"add": "add", "modify": "revise", "delete": "drop"}


def _edit(operation: Operation, source: dict[str, object]) -> tuple[Edit, ...]:
    text = operation.content.strip()
    if operation.operation != "delete" and not text:
        return ()
    return (Edit(op=_OPS[operation.operation], id=operation.id.strip().strip("[]"), text=text, source=source),)
