"""One group: ask, score, and count what was lost. The only stage that both arms share word for word."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfgrpo.caller import Solver
from tfgrpo.errors import RequestError, TransportError
from tfgrpo.events import EventLog
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.rewards.base import Reward, score_answers
from tfgrpo.types import Completion, Group, Problem, Prompt, Rollout, Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Collector:
    """What is needed to turn a problem and its prompts into a group.

    A rollout that got no reply, or whose answer the reward could not score, is missing: it leaves the group and is
    counted. Which ones were missing is recorded, so that a run that is started again sees the same groups.
    """

    caller: Solver
    reward: Reward
    sampling: Sampling
    events: EventLog
    record: RunRecord | None = None

    async def group(self, problem: Problem, prompts: Sequence[Prompt], index: int, version: int) -> Group:
        """Sample and score one group."""
        lost = set(self._state(index).get("missing", ()))
        asked = [n for n in range(len(prompts)) if n not in lost]
        replies = await asyncio.gather(*(self._reply(problem, prompts[n], index, n) for n in asked))
        answered = [(n, reply) for n, reply in zip(asked, replies, strict=True) if reply is not None]
        outcomes = await score_answers(self.reward, problem, [reply for _, reply in answered])
        rollouts, scored = [], []
        for (n, reply), outcome in zip(answered, outcomes, strict=True):
            if isinstance(outcome, Score):
                prompt = prompts[n]
                scored.append({"sample": n, "score": outcome.value, "experiences": prompt.experiences})
                rollouts.append(
                    Rollout(completion=reply, score=outcome, experiences=prompt.experiences)
                )
            elif outcome is not None:
                self.events.emit("reward_failed", group=index, problem=problem.id, sample=n, error=str(outcome))
        self._mark(index, [n for n in range(len(prompts)) if n not in {n for n, _ in answered}])
        self.events.emit("group_done", group=index, problem=problem.id, version=version, rollouts=scored)
        missing = len(prompts) - len(rollouts)
        return Group(problem=problem, rollouts=tuple(rollouts), index=index, version=version, missing=missing)

    async def _reply(self, problem: Problem, prompt: Prompt, index: int, sample: int) -> Completion | None:
        key = CallKey(purpose="solve", epoch=index, problem=problem.id, sample=sample)
        try:
            return await self.caller.answer(problem, prompt, key, self.sampling)
        except TransportError:
            return None  # told by the caller
        except RequestError as error:
            self.events.emit("request_refused", group=index, problem=problem.id, sample=sample, error=str(error))
            return None

    def _state(self, index: int) -> dict[str, Any]:
        return (self.record.get_state(f"group/{index}") if self.record else None) or {}

    def _mark(self, index: int, missing: list[int]) -> None:
        if self.record is not None and missing:
            self.record.put_state(f"group/{index}", {"missing": missing})
