"""A sample function whose answers are given: for worked examples, and for tests of strategies."""

from __future__ import annotations

from tfgrpo.types import Completion, Usage


class Said:
    """Answers number 0, 1, ... by these texts, or raises what stands there; every call costs one cent.

    Example:
        >>> import asyncio
        >>> asyncio.run(Said("7", "5")(1)).text
        '5'
    """

    def __init__(self, *texts: str | BaseException, grants: int | None = None) -> None:
        self.texts, self.grants = texts, grants
        self.asked: list[tuple[int, str]] = []

    async def __call__(self, number: int, words: str = "") -> Completion:
        """The text of that number."""
        self.asked.append((number, words))
        text = self.texts[number]
        if isinstance(text, BaseException):
            raise text
        return Completion(
            prompt=(),
            messages=({"role": "assistant", "content": text},),
            text=text,
            policy="scripted",
            usage=Usage(prompt_tokens=10, completion_tokens=1),
            cost_usd=0.01,
        )

    async def more(self, urgency: float, calls: int) -> bool:
        """Yes, until `grants` are used up."""
        if self.grants is None:
            return True
        self.grants -= calls
        return self.grants >= 0
