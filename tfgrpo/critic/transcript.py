"""A group as a critic reads it: problem, reference, attempts with scores, best and worst first, cut to a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfgrpo.advantage import Values
from tfgrpo.types import Group, Rollout, message_text

CHARS_PER_TOKEN = 4


def transcript(group: Group, values: Values, *, max_tokens: int = 6000, max_attempts: int = 6) -> str:
    """The text of a group. Equal answers are shown once, with how often they were given."""
    attempts = _attempts(group.rollouts, values)[:max_attempts]
    room = max(200, max_tokens * CHARS_PER_TOKEN // max(1, len(attempts)))
    lines = [f"Problem: {cut(_question(group), room)}"]
    if group.problem.answer is not None:
        lines.append(f"Correct answer: {cut(str(group.problem.answer), room)}")
    for number, (rollout, times) in enumerate(attempts, start=1):
        repeated = f", given {times} times" if times > 1 else ""
        lines.append(f"Attempt {number} (reward: {rollout.score.value:.3g}{_parts(rollout)}{repeated}):")
        lines.append(cut(steps(rollout), room))
        if rollout.score.feedback:
            lines.append(f"Remark on attempt {number}: {cut(rollout.score.feedback, room // 2)}")
    return "\n".join(lines)


def _question(group: Group) -> str:
    turns = [m for m in group.problem.messages if m.get("role") != "system"]
    if len(turns) == 1:
        return message_text(turns[0])
    return "\n".join(f"[{m.get('role')}] {message_text(m)}" for m in turns)


def steps(rollout: Rollout) -> str:
    """What the policy produced: the text of one message, or every message and tool call of several."""
    produced = rollout.completion.messages
    if len(produced) <= 1:
        return rollout.completion.text
    return "\n".join(_step(m) for m in produced)


def _step(message: object) -> str:
    if not isinstance(message, dict):
        return str(message)
    calls = "".join(f" -> {c.get('function', {})}" for c in message.get("tool_calls") or ())
    return f"[{message.get('role')}] {message_text(message)}{calls}"


def _parts(rollout: Rollout) -> str:
    parts = rollout.score.parts
    return "; " + ", ".join(f"{name} {value:.3g}" for name, value in parts.items()) if len(parts) > 1 else ""


def _attempts(rollouts: Sequence[Rollout], values: Values) -> list[tuple[Rollout, int]]:
    """Different answers, alternating from the best and the worst end."""
    order = list(np.argsort(-values, kind="stable"))
    alternating = [order[i // 2] if i % 2 == 0 else order[-1 - i // 2] for i in range(len(order))]
    found: dict[tuple[str, float], list[Rollout]] = {}
    for i in alternating:
        rollout = rollouts[int(i)]
        found.setdefault((steps(rollout).strip(), rollout.score.value), []).append(rollout)
    return [(same[0], len(same)) for same in found.values()]


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, keeping both ends."""
    if len(text) <= limit:
        return text
    half = max(1, (limit - 20) // 2)
    return f"{text[:half]} [... cut ...] {text[-half:]}"
