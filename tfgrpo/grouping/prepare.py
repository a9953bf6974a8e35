"""What a grouping needs made once for each problem before the first group: wordings, written hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfgrpo.errors import PolicyError
from tfgrpo.events import EventLog
from tfgrpo.grouping.base import Asks, Embeds, Preparing
from tfgrpo.grouping.wording import REFUSED
from tfgrpo.record import RunRecord
from tfgrpo.running import together
from tfgrpo.types import Problem

STATE = "prepared"
KEPT = ("hints", REFUSED)  # of a problem's meta


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
        for problem in made:
            if REFUSED in problem.meta:
                events.emit("wordings_refused", problem=problem.id, wordings=problem.meta[REFUSED])
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
    return {"variants": list(problem.variants), **{name: problem.meta.get(name) for name in KEPT}}


def _with(problem: Problem, made: dict[str, Any]) -> Problem:
    if not made:
        return problem
    meta = {name: made[name] for name in KEPT if made.get(name) is not None}
    return replace(problem, variants=tuple(made["variants"]), meta={**problem.meta, **meta})
