"""Agents: rollouts that are conversations. Existing agent code is learnt from unchanged; a ReAct loop is ready.

task = Task(..., agent=my_agent)                        # async def my_agent(problem, client) -> str

Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfgrpo.agents.base import Agent, as_agent
    from tfgrpo.agents.client import RecordedClient
    from tfgrpo.agents.solver import AgentCaller, solver_of

_HOMES = {
    "Agent": "base",
    "AgentCaller": "solver",
    "RecordedClient": "client",
    "as_agent": "base",
    "solver_of": "solver",
}

__all__ = [
    "Agent",
    "AgentCaller",
    "RecordedClient",
    "as_agent",
    "solver_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfgrpo.agents' has no attribute {name!r}")
    return getattr(import_module(f"tfgrpo.agents.{_HOMES[name]}"), name)
