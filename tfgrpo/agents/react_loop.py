"""A ReAct loop (arXiv 2210.03629) over plain Python functions: think, use a tool, read its result, until an answer.

Two protocols. *tools* uses the server's own tool calls. *text* needs no support: the model writes
`Action: {"tool": ..., "arguments": ...}` and reads `Observation: ...`. *auto* begins with tools and keeps to text once
the model has refused a request with tools.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tfgrpo.agents.base import DEFAULT_CALLS, Agent
from tfgrpo.agents.tools import Tool, tool_of
from tfgrpo.errors import InputError, RequestError
from tfgrpo.types import Message, Problem, message_text

if TYPE_CHECKING:
    from tfgrpo.agents.client import RecordedClient

Protocol: TypeAlias = Literal["auto", "tools", "text"]

LAST_TURN = "(This was the last tool call. Give the final answer now.)"
OBSERVATION = "Observation:"
INSTRUCTIONS = """You can use tools. To use one, write
Thought: what you need to know
Action: {{"tool": "NAME", "arguments": {{...}}}}
and stop; the result is given to you as an Observation. When you know the answer, write
Thought: why it is right
Answer: the final answer

Tools:
{tools}"""
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_ANSWER = re.compile(r"(?:^|\n)\s*(?:Final )?Answer:\s*", re.IGNORECASE)


def react(
    tools: Sequence[Callable[..., Any] | Tool],
    *,
    instructions: str = "",
    protocol: Protocol = "auto",
    max_turns: int = DEFAULT_CALLS,
    max_tokens: int | None = None,
    seconds: float | None = None,
    sees: tuple[str, ...] = (),
    outside: bool = True,
) -> Agent:
    """An agent for `Task(agent=react([python_tool(), lookup]))`.

    Args:
        tools: functions with annotations and a docstring; their results and errors go back to the model as text.
        instructions: added to the system message.
        protocol: "auto", "tools" or "text".
        max_turns: calls of the model in one rollout; the last one is told that it is the last.
        max_tokens: as in `Agent`.
        seconds: as in `Agent`.
        sees: as in `Agent`.
        outside: as in `Agent`; False for tools that only compute.

    Raises:
        InputError: no tools, two of one name, or one that cannot be described.

    Example:
        >>> def add(a: int, b: int) -> int:
        ...     '''The sum of two whole numbers.'''
        ...     return a + b
        >>> react([add], max_turns=4).label.partition("[")[0]
        'react(add)'
    """
    known = [tool_of(tool) for tool in tools]
    names = [tool.name for tool in known]
    if not known or len(set(names)) < len(names):
        raise InputError(f"a ReAct agent needs tools with different names, got {names}")
    described = json.dumps([instructions, protocol, *(tool.spec for tool in known)], sort_keys=True)
    mark = hashlib.sha256(described.encode()).hexdigest()[:8]
    loop = _Loop({tool.name: tool for tool in known}, instructions, protocol)
    limits: dict[str, Any] = {"max_calls": max_turns, "max_tokens": max_tokens, "seconds": seconds, "sees": sees}
    return Agent(run=loop, name=f"react({', '.join(names)})[{mark}]", outside=outside, **limits)


@dataclass(slots=True)
class _Loop:
    tools: dict[str, Tool]
    instructions: str
    protocol: Protocol
    without_tools: set[str] = field(default_factory=set)  # models that refused a request with tools

    async def __call__(self, problem: Problem, client: RecordedClient) -> str:
        """The final answer."""
        if self.protocol == "text" or client.model in self.without_tools:
            return await self._by_text(problem, client)
        messages = with_system(problem.messages, self.instructions)
        try:
            return await self._by_tools(messages, client)
        except RequestError:
            if self.protocol == "tools" or client.exchanges:
                raise
        self.without_tools.add(client.model)
        return await self._by_text(problem, client)

    async def _by_tools(self, messages: list[Message], client: RecordedClient) -> str:
        specs = [tool.spec for tool in self.tools.values()]
        while True:
            reply = await client.chat.completions.create(messages=messages, tools=specs)
            message = reply.choices[0].message.model_dump(exclude_none=True)
            calls = message.get("tool_calls")
            if not calls:
                return message_text(message)
            messages.append(message)
            results = await asyncio.gather(*(self._call(call.get("function") or {}) for call in calls))
            messages += [
                {"role": "tool", "tool_call_id": call.get("id", ""), "content": result}
                for call, result in zip(calls, results, strict=True)
            ]
            if client.calls_left == 1:
                messages[-1] = {**messages[-1], "content": f"{results[-1]}\n{LAST_TURN}"}

    async def _by_text(self, problem: Problem, client: RecordedClient) -> str:
        listed = "\n".join(f"- {t.name}: {t.about}\n  arguments: {json.dumps(t.schema)}" for t in self.tools.values())
        told = "\n\n".join(filter(None, (self.instructions, INSTRUCTIONS.format(tools=listed))))
        messages = with_system(problem.messages, told)
        while True:
            text = await client.complete(messages, stop=[f"\n{OBSERVATION}"])
            action = read_action(text, self._only_text_tool())
            if action is None:
                return final_answer(text)
            result = action if isinstance(action, str) else await self._call(action)
            last = f"\n{LAST_TURN}" if client.calls_left == 1 else ""
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"{OBSERVATION} {result}{last}"},
            ]

    async def _call(self, function: Mapping[str, Any]) -> str:
        name = str(function.get("name"))
        if name not in self.tools:
            return f"error: there is no tool {name!r}; the tools are: {', '.join(self.tools)}"
        return await self.tools[name].call(function.get("arguments") or {})

    def _only_text_tool(self) -> tuple[str, str] | None:
        """The name and parameter of the one tool, where it takes one text: then a code block is a call of it."""
        (tool, *others) = self.tools.values()
        properties = tool.schema.get("properties", {})
        takes = [name for name, about in properties.items() if about.get("type") == "string"]
        return (tool.name, takes[0]) if not others and len(properties) == len(takes) == 1 else None


def read_action(text: str, only: tuple[str, str] | None = None) -> dict[str, Any] | str | None:
    """The tool call in a text as name and arguments; the error for the model when it cannot be read; None without one.

    Example:
        >>> read_action('Thought: sum\\nAction: {"tool": "add", "arguments": {"a": 1}}')
        {'name': 'add', 'arguments': {'a': 1}}
        >>> read_action("Answer: 4") is None
        True
    """
    _, marked, rest = text.partition("Action:")
    if not marked:
        block = _FENCE.search(text)
        code = block[1].strip() if block and only and not _ANSWER.search(text) else ""
        return {"name": only[0], "arguments": {only[1]: code}} if only and code else None
    start = rest.find("{")
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(rest, max(start, 0))
    except (json.JSONDecodeError, RecursionError) as error:
        return f'error: the action could not be read ({error}); write Action: {{"tool": "NAME", "arguments": {{...}}}}'
    name = found.get("tool") or found.get("name") if isinstance(found, dict) else None
    arguments = found.get("arguments", {}) if isinstance(found, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return 'error: an action is a JSON object with "tool" and "arguments"'
    return {"name": name, "arguments": arguments}


def final_answer(text: str) -> str:
    """What stands after "Answer:", else the whole text."""
    parts = _ANSWER.split(text)
    return (parts[-1] if len(parts) > 1 else text).strip()


def with_system(messages: Sequence[Message], words: str) -> list[Message]:
    """The messages with words added to their system message, or with one of their own."""
    if not words:
        return list(messages)
    if messages and messages[0].get("role") in ("system", "developer"):
        first = {**messages[0], "content": f"{message_text(messages[0])}\n\n{words}".strip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]
