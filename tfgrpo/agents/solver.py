"""An agent behind the seam through which every rollout, gate pair and test sample is obtained."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfgrpo.agents.base import Agent, Run, as_agent
from tfgrpo.agents.client import RecordedClient
from tfgrpo.agents.shapes import plain_message
from tfgrpo.agents.trajectory import produced, segments
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller, Solver, call_digest, prompt_digest
from tfgrpo.errors import AgentError, RequestError
from tfgrpo.events import Event, recorded
from tfgrpo.policy.base import Policy, Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Completion, FinishReason, Message, Problem, Prompt, message_text

PACKAGE = str(Path(__file__).resolve().parent.parent)


def solver_of(caller: Caller, agent: Agent | Run | None) -> Solver:
    """The caller itself, or with an agent in front of it."""
    return caller if agent is None else AgentCaller(caller, as_agent(agent))


class AgentCaller:
    """Answers a problem by running an agent; what the agent asks goes through the caller, call by call.

    A finished answer is kept whole in the run's record. A run that is started again takes it from there, so that
    neither calls nor tools are repeated; a rollout that was under way replays its calls and runs its tools again.

    Example:
        >>> solver = AgentCaller(caller, Agent(run=my_agent, max_calls=4))            # doctest: +SKIP
        >>> completion = await solver.answer(problem, prompt, key, task.sampling)     # doctest: +SKIP
    """

    def __init__(self, caller: Caller, agent: Agent) -> None:
        self.caller, self.agent = caller, agent

    @property
    def policy(self) -> Policy:
        return self.caller.policy

    @property
    def ledger(self) -> Ledger:
        return self.caller.ledger

    @property
    def concurrency(self) -> int:
        """Requests in flight at most; agents may be more, since they also think and use tools."""
        return self.caller.concurrency

    def busy_share(self) -> float:
        """As `Caller.busy_share`."""
        return self.caller.busy_share()

    async def answer(self, problem: Problem, prompt: Prompt, key: CallKey, sampling: Sampling) -> Completion:
        """The answer of one rollout: the whole trajectory as messages, the final words as text, all usage summed.

        Raises:
            AgentError: the agent's own code raised; only this rollout is lost, and the event "agent_failed" says where.
            TransportError, RequestError: a call got no reply, or was refused: as if the rollout were one call.
            BudgetExhausted, AuthError: as they come.
        """
        who = f"{self.policy.name} through {self.agent.label}"
        digest = call_digest(who, prompt_digest(prompt.messages), sampling, key)
        known = self._known(digest, key)
        if known is not None:
            return known.answering(prompt)
        client = RecordedClient(caller=self.caller, prompt=prompt, key=key, sampling=sampling, limits=self.agent)
        started = time.monotonic()
        result = await self._run(problem, client)
        answer = _completion(result, client, time.monotonic() - started)
        if self.caller.record is not None:
            self.caller.record.put_answer(digest, key.problem, answer, client.digests)
        return answer.answering(prompt)

    def _known(self, digest: bytes, key: CallKey) -> Completion | None:
        """The answer on record; its calls are counted as spend, as if they had been asked for one by one."""
        found = None if self.caller.record is None else self.caller.record.get_answer(digest)
        if found is None:
            return None
        for call in found[1]:
            self.caller.replayed(call, key)
        return found[0]

    async def _run(self, problem: Problem, client: RecordedClient) -> Any:
        """What the agent returned; None when a limit ended it first."""
        guard, clock = recorded(None, ""), asyncio.timeout(self.agent.seconds)
        result: Any = None
        error: BaseException | None = None
        try:
            async with guard, clock:
                result = await self.agent.run(self._shown(problem, client.prompt), client)
                _check_answer(result)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = cancelled
        finally:
            limit, client.ended = client.ended, client.ended or "over"  # tasks that it left behind ask nothing more
        if client.failure is not None:
            raise client.failure
        error = guard.error or error
        if clock.expired():
            client.ended = "time"
        elif isinstance(error, RequestError) and client.too_long:
            client.ended = "context"
        elif error is not None and not limit:
            raise self._lost(error, client.key)
        return result

    def _lost(self, error: BaseException, key: CallKey) -> Exception:
        """The error of a rollout that the agent's own code ended, told in an event with its line."""
        if isinstance(error, RequestError):
            return error
        where = _line(error)
        words = f"{type(error).__name__}: {error}"
        self.caller.emit(Event(name="agent_failed", data={**asdict(key), "error": words, "line": where}))
        lost = AgentError(f"the agent {self.agent.label!r} failed on problem {key.problem!r}: {words} ({where})")
        lost.__cause__ = error
        return lost

    def _shown(self, problem: Problem, prompt: Prompt) -> Problem:
        """The problem as the agent may see it: the prompt's own wording, no answer, and only the meta it declared."""
        meta = {name: problem.meta[name] for name in self.agent.sees if name in problem.meta}
        return Problem(id=problem.id, messages=prompt.bare or prompt.messages, meta=meta)


def _check_answer(result: Any) -> None:
    sequence = isinstance(result, Sequence) and all(hasattr(m, "model_dump") or isinstance(m, Mapping) for m in result)
    if result is not None and not isinstance(result, str) and not sequence:
        raise TypeError(f"an agent returns its answer as str, its messages, or None; got {type(result).__name__}")


def _completion(result: Any, client: RecordedClient, latency_s: float) -> Completion:
    """One completion of everything that was asked and answered in a rollout."""
    exchanges = client.exchanges
    replies = [exchange.reply for exchange in exchanges]
    costs = [reply.cost_usd for reply in replies]
    own = result is not None and not isinstance(result, str)
    messages = _own_messages(result, client) if own else produced(exchanges)
    return Completion(
        prompt=replies[0].prompt if replies else client.prompt.messages,
        messages=messages,
        text=result if isinstance(result, str) else _last_words(messages),
        policy=client.caller.policy.name,
        model=replies[-1].model if replies else "",
        usage=client.usage,
        cost_usd=None if None in costs else sum(cost or 0.0 for cost in costs),
        finish_reason=_reason(client, replies),
        latency_s=latency_s,
        segments=() if own else segments(exchanges),
    )


def _own_messages(result: Sequence[Any], client: RecordedClient) -> tuple[Message, ...]:
    """A trajectory as the agent returned it, without the problem's messages that it began with."""
    messages = tuple(plain_message(m) for m in result)
    asked = client.exchanges[0].asked if client.exchanges else tuple(client.prompt.bare or client.prompt.messages)
    begun = next((i for i, (a, b) in enumerate(zip(messages, asked, strict=False)) if a != b), len(asked))
    return messages[begun:]


def _last_words(messages: Sequence[Message]) -> str:
    """The last thing that was said by the model: what there is when a limit ended the rollout."""
    said = (message_text(m) for m in reversed(messages) if m.get("role") == "assistant")
    return next(filter(None, said), "")


def _reason(client: RecordedClient, replies: Sequence[Completion]) -> FinishReason:
    if client.ended != "over":
        return "length"
    reason = replies[-1].finish_reason if replies else "stop"
    return "stop" if reason == "tool_calls" else reason


def _line(error: BaseException) -> str:
    """File and line in the agent's own code; where only this package's is on the way, the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [f for f in frames if not f.filename.startswith(PACKAGE) and "/asyncio/" not in f.filename]
    found = (foreign or frames)[-1:]
    return f"{found[0].filename}:{found[0].lineno}" if found else "no line"
