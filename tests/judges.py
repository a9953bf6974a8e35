"""A judge whose replies are scripted: the part of a caller that rewards need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tfgrpo.caller import CallKey
from tfgrpo.policy.base import Sampling
from tfgrpo.types import Completion, Message

Answer = Callable[[Sequence[Message]], "str | Exception"]


class ScriptedJudge:
    """Answers from a list, then again and again with its last reply, or by a function of the messages."""

    name = "scripted"

    def __init__(self, *replies: str | Exception, answer: Answer | None = None) -> None:
        self.replies = list(replies)
        self.answer = answer
        self.asked: list[tuple[list[Message], CallKey, Sampling]] = []

    async def complete(self, messages: Sequence[Message], key: CallKey, sampling: Sampling) -> Completion:
        await asyncio.sleep(0)
        self.asked.append((list(messages), key, sampling))
        if self.answer is not None:
            reply = self.answer(messages)
        else:
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return Completion(prompt=(), messages=(), text=reply, policy="scripted")
