"""A group as a critic reads it: problem, reference, attempts with scores, best and worst first, cut to a budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgrpo.advantage import Values
from tfgrpo.types import Group, Rollout, message_text

CHARS_PER_TOKEN = 4
RESULT_CHARS = 1200  # of one tool call or result in a transcript
MAX_EARLIER = 2


def transcript(group: Group, values: Values, *, max_tokens: int = 6000, max_attempts: int = 6) -> str:
    """The text of a group. Equal answers are shown once, with how often they were given."""
    attempts = _attempts(group.rollouts, values)[:max_attempts]
    room = max(200, max_tokens * CHARS_PER_TOKEN // max(1, len(attempts)))
    lines = [f"Problem: {cut(_question(group), room)}"]
    if group.problem.answer is not None:
        lines.append(f"Correct answer: {cut(str(group.problem.answer), room)}")
    for number, (rollout, times) in enumerate(attempts, start=1):
        repeated = f", given {times} times" if times > 1 else ""
        lines.append(
            f"Attempt {number} (reward: {rollout.score.value:.3g}{_parts(rollout)}{repeated}{_help(rollout)}):"
        )
        lines.append(cut(steps(rollout), room))
        if rollout.score.feedback:
            lines.append(f"Remark on attempt {number}: {cut(rollout.score.feedback, room // 2)}")
    return "\n".join([*lines, *_before(group, room)])


def _before(group: Group, room: int) -> list[str]:
    """What was answered before the attempts above: different answers, the best and the worst first."""
    if not group.earlier:
        return []
    values = np.array([r.score.value for r in group.earlier], dtype=np.float64)
    lines = ["Before these, the same problem was answered without that help:"]
    for rollout, times in _attempts(group.earlier, values)[:MAX_EARLIER]:
        repeated = f", given {times} times" if times > 1 else ""
        lines += [f"Earlier attempt (reward: {rollout.score.value:.3g}{repeated}{_help(rollout)}):"]
        lines += [cut(steps(rollout), room)]
    if any(r.aided for r in group.rollouts):
        lines.append("Later prompts will not have that help: a note has to carry what it told.")
    return lines


def _help(rollout: Rollout) -> str:
    """What its prompt held that the bare problem does not."""
    return f"; asked with: {rollout.completion.origin.replace('/', ' ')}" if rollout.completion.origin else ""


def _question(group: Group) -> str:
    turns = [m for m in group.problem.messages if m.get("role") != "system"]
    if len(turns) == 1:
        return message_text(turns[0])
    return "\n".join(f"[{m.get('role')}] {message_text(m)}" for m in turns)


def steps(rollout: Rollout) -> str:
    """What the policy produced: the text of one message, or every message and tool call of several."""
    completion = rollout.completion
    produced = completion.messages
    if len(produced) <= 1 and not any(m.get("tool_calls") for m in produced):
        return completion.text
    lines = [_step(m) for m in produced]
    if completion.text.strip() and completion.text.strip() not in message_text(produced[-1]):
        lines.append(f"[final answer] {completion.text.strip()}")
    if completion.finish_reason == "length":
        lines.append("[a limit of turns, tokens or time was reached]")
    return "\n".join(lines)


def _step(message: Mapping[str, Any]) -> str:
    """One message; long tool results keep both ends, so that no single one crowds out the steps around it."""
    role, text = message.get("role"), message_text(message)
    if role == "tool":
        return f"[tool result] {cut(text, RESULT_CHARS)}"
    text = cut(text, RESULT_CHARS) if role == "user" else text  # a result told in words
    calls = [_call(call.get("function") or {}) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, (f"[{role}] {text}" if text or not calls else "", *calls)))


def _call(function: Mapping[str, Any]) -> str:
    """`[calls NAME] ARGUMENTS`, with the line breaks of a program shown as such."""
    arguments = function.get("arguments") or ""
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        given = arguments
    words = given
    if isinstance(given, Mapping):
        texts = [value for value in given.values() if isinstance(value, str)]
        words = texts[0] if len(texts) == len(given) == 1 else json.dumps(given, ensure_ascii=False, default=str)
    return f"[calls {function.get('name')}] {cut(str(words), RESULT_CHARS)}"


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
