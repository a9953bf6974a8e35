"""What the tests of agents share: a problem, a caller over a scripted policy, and an agent run through it."""

import pytest
from scripted import ScriptedPolicy

from tfgrpo.agents import Agent, AgentCaller
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller, CallKey
from tfgrpo.policy.base import Sampling
from tfgrpo.types import Problem, Prompt

PROBLEM = Problem(
    id="p1", messages=({"role": "user", "content": "6 * 7?"},), answer="42", meta={"table": "t", "gold": "42"}
)


class World:
    """An agent over a scripted model; `events` and `policy.calls` say what happened."""

    def __init__(self, answer=lambda messages, sampling: "42", *, record=None, budget=None, **options):
        self.policy = ScriptedPolicy(answer, **options)
        self.events = []
        self.ledger = Ledger(budget)
        self.caller = Caller(self.policy, record=record, ledger=self.ledger, emit=self.events.append, seed=1)

    async def answer(self, agent, *, prompt=None, sample=0, sampling=None, problem=PROBLEM, **limits):
        made = agent if isinstance(agent, Agent) else Agent(run=agent, **limits)
        key = CallKey(purpose="solve", problem=problem.id, sample=sample)
        asked = prompt or Prompt(messages=problem.messages)
        return await AgentCaller(self.caller, made).answer(problem, asked, key, sampling or Sampling())


@pytest.fixture
def world():
    return World
