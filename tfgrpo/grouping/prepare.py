"""What a grouping needs made once for each problem before the first group: wordings, written hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfgrpo.errors import PolicyError
from tfgrpo.events import EventLog
from tfgrpo.grouping.base import Asks, Embeds, Preparing
from tfgrpo.record import RunRecord
from tfgrpo.running import together
from tfgrpo.types import Problem

STATE = "prepared"


async def prepare(
    grouping: Preparing,
    problems: Sequence[Problem],
    caller: Asks,
    *,
    embedder: Embeds | None = None,
    record: RunRecord | None = None,
    events: EventLog | None = None,
) -> tuple[Problem, ...]:
    """The problems with what the grouping made of them, in their order.

    A problem for which the model could not be asked stays as it is, and the event "preparation_failed" says so. What
    came out is kept in the run's record: a run that goes on asks, and compares meanings, for nothing again, and sees
    the same problems, those that failed among them.

    Raises:
        BudgetExhausted, AuthError: nothing more can be asked.
    """
    known: dict[str, Any] | None = record.get_state(STATE) if record is not None else None
    if known is not None:
        return tuple(_with(p, known.get(p.id, {})) for p in problems)
    made = await together(_one(grouping, p, caller, embedder, events) for p in problems)
    changed = {p.id: _made(p) for p, before in zip(made, problems, strict=True) if p is not before}
    if record is not None:
        record.put_state(STATE, changed)
    if events is not None:
        events.emit("prepared", problems=len(problems), changed=len(changed))
    return tuple(made)


async def _one(
    grouping: Preparing, problem: Problem, caller: Asks, embedder: Embeds | None, events: EventLog | None
) -> Problem:
    try:
        return await grouping.prepare(problem, caller, embedder)
    except PolicyError as error:
        if isinstance(error, PermissionError):  # a wrong key: asking for the next one cannot help
            raise
        if events is not None:
            events.emit("preparation_failed", problem=problem.id, error=str(error))
        return problem


def _made(problem: Problem) -> dict[str, Any]:
    return {"variants": list(problem.variants), "hints": problem.meta.get("hints")}


def _with(problem: Problem, made: dict[str, Any]) -> Problem:
    if not made:
        return problem
    meta = problem.meta if made["hints"] is None else {**problem.meta, "hints": made["hints"]}
    return replace(problem, variants=tuple(made["variants"]), meta=meta)
