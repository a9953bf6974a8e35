"""The only fake: a policy whose answers are computed by a function instead of a model."""

import asyncio

from tfgrpo.policy.base import Price, Sampling
from tfgrpo.types import Completion, Usage

FREE = Price(prompt_usd_per_mtok=0, completion_usd_per_mtok=0)
SMALL = Usage(prompt_tokens=10, completion_tokens=5)


class ScriptedPolicy:
    """`answer(messages, sampling)` returns the text, or an exception to raise. `calls` keeps what was asked."""

    def __init__(self, answer, *, name="scripted", price=FREE,
                 usage=SMALL, latency_s=0.0):  # fmt: skip
        self.name, self.price = name, price
        self.answer, self.usage, self.latency_s = answer, usage, latency_s
        self.calls = []
        self.in_flight = self.peak_in_flight = 0

    async def complete(self, messages, sampling: Sampling) -> Completion:
        self.calls.append((messages, sampling))
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            result = self.answer(messages, sampling)
        finally:
            self.in_flight -= 1
        if isinstance(result, BaseException):
            raise result
        cost = self.price and self.price.cost_usd(self.usage.prompt_tokens, self.usage.completion_tokens)
        return Completion(
            prompt=tuple(messages), messages=({"role": "assistant", "content": result},), text=result,
            policy=self.name, model=self.name, usage=self.usage, cost_usd=cost,
        )  # fmt: skip

    async def aclose(self) -> None:
        pass
