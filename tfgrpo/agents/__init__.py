"""Agents: rollouts that are conversations. Existing agent code is learnt from unchanged; a ReAct loop is ready.

task = Task(..., agent=my_agent)                        # async def my_agent(problem, client) -> str
task = Task(..., agent=react([python_tool(), lookup]))  # plain functions as tools

Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfgrpo.agents.base import Agent, as_agent
    from tfgrpo.agents.client import RecordedClient
    from tfgrpo.agents.python_runner import PythonLimits, PythonRunner, python_tool
    from tfgrpo.agents.react_loop import react
    from tfgrpo.agents.solver import AgentCaller, solver_of
    from tfgrpo.agents.tools import Tool, tool_of

_HOMES = {
    "Agent": "base",
    "AgentCaller": "solver",
    "PythonLimits": "python_runner",
    "PythonRunner": "python_runner",
    "RecordedClient": "client",
    "Tool": "tools",
    "as_agent": "base",
    "python_tool": "python_runner",
    "react": "react_loop",
    "solver_of": "solver",
    "tool_of": "tools",
}

__all__ = [
    "Agent",
    "AgentCaller",
    "PythonLimits",
    "PythonRunner",
    "RecordedClient",
    "Tool",
    "as_agent",
    "python_tool",
    "react",
    "solver_of",
    "tool_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfgrpo.agents' has no attribute {name!r}")
    return getattr(import_module(f"tfgrpo.agents.{_HOMES[name]}"), name)
