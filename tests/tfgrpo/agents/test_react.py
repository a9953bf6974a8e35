"""The ReAct loop over real HTTP with tool calls, and in words for models without them."""

import asyncio
import json

import pytest
from servers import Fault, error_body, tool_call

from tfgrpo import Problem, Sampling, connect
from tfgrpo.agents import AgentCaller, react
from tfgrpo.agents.react_loop import final_answer, read_action
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller, CallKey
from tfgrpo.errors import InputError, RequestError
from tfgrpo.types import Prompt

PROBLEM = Problem(id="p1", messages=({"role": "user", "content": "What is 6 * 7?"},), answer="42")


def multiply(a: int, b: int) -> int:
    """The product of two whole numbers.

    Args:
        a: the first one.
    """
    return a * b


def native(body):
    """Calls the tool first and then says its result."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return f"The answer is {last['content'].splitlines()[0]}."
    return tool_call("multiply", {"a": 6, "b": 7})


def in_words(body):
    last = body["messages"][-1]["content"]
    if last.startswith("Observation: "):
        return f"Thought: done\nAnswer: {last.removeprefix('Observation: ').splitlines()[0]}"
    return 'Thought: multiply\nAction: {"tool": "multiply", "arguments": {"a": 6, "b": 7}}'


@pytest.fixture
async def ask(chat_server):
    policy = connect(f"{chat_server.url}#m", max_retries=0)

    async def answer(agent, problem=PROBLEM):
        caller = Caller(policy, record=None, ledger=Ledger())
        key = CallKey(purpose="solve", problem=problem.id)
        return await AgentCaller(caller, agent).answer(
            problem, Prompt(messages=problem.messages), key, Sampling(max_tokens=64)
        )

    yield answer
    await policy.aclose()


async def test_native_tool_calls(chat_server, ask):
    chat_server.answer = native
    completion = await ask(react([multiply], instructions="Use the tool."))
    assert completion.text == "The answer is 42."
    assert [m["role"] for m in completion.messages] == ["assistant", "tool", "assistant"]
    assert completion.messages[0]["tool_calls"][0]["function"] == {"name": "multiply", "arguments": '{"a": 6, "b": 7}'}
    assert completion.messages[1] == {"role": "tool", "tool_call_id": "call-1", "content": "42"}
    first, second = chat_server.requests
    assert first["messages"][0] == {"role": "system", "content": "Use the tool."}
    assert first["tools"][0]["function"]["parameters"]["properties"]["a"]["type"] == "integer"
    assert second["messages"][2]["tool_calls"] == completion.messages[0]["tool_calls"]
    assert first["max_tokens"] == 64


async def test_several_calls_at_once_unknown_tools_and_wrong_arguments(chat_server, ask):
    def answer(body):
        results = [m for m in body["messages"] if m["role"] == "tool"]
        if results:
            return json.dumps([m["content"] for m in results])
        calls = [tool_call("multiply", {"a": 2, "b": 3}, 1), tool_call("divide", {}, 2), tool_call("multiply", {}, 3)]
        return {**calls[0], "tool_calls": [call["tool_calls"][0] for call in calls]}

    chat_server.answer = answer
    said = json.loads((await ask(react([multiply]))).text)
    assert said[0] == "6" and "there is no tool 'divide'; the tools are: multiply" in said[1]
    assert said[2].startswith("error: a: Field required")


async def test_the_last_turn_is_told_and_turns_end(chat_server, ask):
    chat_server.answer = lambda body: tool_call("multiply", {"a": 1, "b": len(body["messages"])})
    completion = await ask(react([multiply], max_turns=3))
    assert len(chat_server.requests) == 3 and completion.finish_reason == "length"
    assert "Give the final answer now" in chat_server.requests[2]["messages"][-1]["content"]
    assert "Give the final answer now" not in str(chat_server.requests[1]["messages"])


async def test_in_words(chat_server, ask):
    chat_server.answer = in_words
    completion = await ask(react([multiply], protocol="text"))
    assert completion.text == "42" and "tools" not in chat_server.requests[0]
    assert "- multiply: The product" in chat_server.requests[0]["messages"][0]["content"]
    assert chat_server.requests[0]["stop"] == ["\nObservation:"]
    assert [m["role"] for m in completion.messages] == ["assistant", "user", "assistant"]


async def test_auto_falls_back_to_words_once_for_all(chat_server, ask):
    chat_server.answer = in_words
    chat_server.fault_of = lambda body, n: Fault(400, error_body("tools are not here")) if "tools" in body else None
    agent = react([multiply])
    assert (await ask(agent)).text == "42" == (await ask(agent)).text
    assert sum("tools" in body for body in chat_server.requests) == 1
    with pytest.raises(RequestError):
        await ask(react([multiply], protocol="tools"))


async def test_concurrent_rollouts_keep_apart(chat_server, ask):
    def answer(body):
        last = body["messages"][-1]
        a = int(body["messages"][0]["content"])
        return last["content"] if last["role"] == "tool" else tool_call("multiply", {"a": a, "b": a})

    chat_server.answer = answer
    problems = [Problem(id=str(n), messages=({"role": "user", "content": str(n)},)) for n in range(50)]
    agent = react([multiply])
    completions = await asyncio.gather(*(ask(agent, p) for p in problems))
    assert [c.text for c in completions] == [str(n * n) for n in range(50)]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('Action: {"tool": "f", "arguments": {"code": "a\nb"}} and more', {"name": "f", "arguments": {"code": "a\nb"}}),
        ('Action:\n```json\n{"name": "f"}\n```', {"name": "f", "arguments": {}}),
        ("I use\n```python\nprint(1)\n```", {"name": "python", "arguments": {"code": "print(1)"}}),
        ("```\nprint(1)", {"name": "python", "arguments": {"code": "print(1)"}}),
        ("```\nprint(1)\n```\nAnswer: 1", None),
        ("Action: none", "error: the action could not be read"),
        ('Action: {"tool": 3}', 'error: an action is a JSON object with "tool"'),
        ("It is 4.", None),
    ],
)
def test_actions_are_read(text, action):
    found = read_action(text, ("python", "code"))
    assert found.startswith(action) if isinstance(action, str) else found == action


def test_answers_and_names():
    assert final_answer("Thought: x\nFinal Answer: 4\n") == "4" and final_answer(" 4 ") == "4"
    assert react([multiply]).label == react([multiply]).label != react([multiply], instructions="x").label
    with pytest.raises(InputError, match="different names"):
        react([multiply, multiply])
    with pytest.raises(InputError, match="different names"):
        react([])
