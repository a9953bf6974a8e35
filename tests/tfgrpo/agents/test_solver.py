"""Rollouts of agents: trajectories, limits, failures, budget, and going on after a stop."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.agents import Agent
from tfgrpo.agents.trajectory import Exchange, produced, segments
from tfgrpo.budget import Budget
from tfgrpo.errors import AgentError, AuthError, BudgetExhausted, InputError, RequestError, TransportError
from tfgrpo.record import RunRecord
from tfgrpo.types import Completion, Prompt, Segment, Usage

ASK = [{"role": "user", "content": "6 * 7?"}]


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


async def checking(problem, client):
    """Asks, and asks to check."""
    messages = list(problem.messages)
    for question in ("Sure?", "Really?"):
        messages += [said(await client.complete(messages)), user(question)]
    return await client.complete(messages)


async def test_the_agent_never_sees_answer_or_meta(world):
    seen = []

    async def agent(problem, client):
        seen.append(problem)
        return "7"

    completion = await world().answer(agent, sees=("table", "absent"))
    assert seen[0].answer is None and seen[0].meta == {"table": "t"} and seen[0].id == "p1"
    assert completion.text == "7" and completion.messages == () and completion.prompt == tuple(ASK)
    assert (completion.usage, completion.cost_usd, completion.finish_reason) == (Usage(), 0.0, "stop")


async def test_a_completion_holds_the_whole_trajectory(world):
    answers = iter(["a", "b", "42"])
    completion = await world(lambda *_: next(answers)).answer(checking)
    assert completion.prompt == tuple(ASK)
    assert completion.messages == (said("a"), user("Sure?"), said("b"), user("Really?"), said("42"))
    assert (completion.text, completion.finish_reason) == ("42", "stop")
    assert completion.usage == Usage(prompt_tokens=30, completion_tokens=15)
    assert completion.cost_usd == 0.0 and completion.policy == "scripted"


async def test_an_answer_belongs_to_the_sub_group_of_its_prompt(world):
    prompt = Prompt(messages=(user("what is six times seven?"),), variant=2, origin="hint/1")
    completion = await world().answer(checking, prompt=prompt)
    assert (completion.variant, completion.origin) == (2, "hint/1")
    assert completion.prompt == prompt.messages


async def test_returned_messages_are_the_trajectory(world):
    async def agent(problem, client):
        reply = await client.chat.completions.create(messages=list(problem.messages))
        return [*problem.messages, reply.choices[0].message, user("thanks"), said("42!")]

    completion = await world().answer(agent)
    assert completion.messages == (said("42"), user("thanks"), said("42!")) and completion.text == "42!"


async def test_none_takes_the_last_words_and_anything_else_is_refused(world):
    async def silent(problem, client):
        await client.complete(ASK)

    async def odd(problem, client):
        return 42

    assert (await world().answer(silent)).text == "42"
    with pytest.raises(AgentError, match="got int"):
        await world().answer(odd)


# -- limits ----------------------------------------------------------------------------------------------------------


async def stubborn(problem, client):
    """Catches everything and tries again, for ever."""
    messages = list(problem.messages)
    while True:
        with contextlib.suppress(Exception):
            messages += [said(await client.complete(messages)), user("again")]


@pytest.mark.parametrize(
    ("limits", "calls"), [({"max_calls": 3}, 3), ({"max_tokens": 31}, 3), ({"seconds": 0.2, "max_calls": 10**6}, None)]
)
async def test_a_limit_ends_in_a_scored_answer_with_what_there_is(world, limits, calls):
    there = world(lambda m, s: f"answer {len(m)}", latency_s=0.02)
    completion = await there.answer(stubborn, **limits)
    assert completion.finish_reason == "length"
    assert calls is None or len(there.policy.calls) == calls
    assert completion.text == f"answer {len(completion.messages)}"
    assert completion.messages[-1]["role"] == "assistant" and there.events == []


async def test_calls_in_flight_together_count_before_they_are_made(world):
    async def agent(problem, client):
        await asyncio.gather(*(client.complete(user_text) for user_text in "abcdefgh"))

    there = world(latency_s=0.01)
    completion = await there.answer(agent, max_calls=5)
    assert len(there.policy.calls) <= 5 and completion.finish_reason == "length"


async def test_nothing_is_asked_after_the_rollout(world):
    left = []

    async def agent(problem, client):
        async def later():
            await asyncio.sleep(0.01)
            await client.complete("late")

        left.append(asyncio.create_task(later()))
        return "done"

    there = world()
    await there.answer(agent)
    with pytest.raises(asyncio.CancelledError):
        await left[0]
    assert there.policy.calls == []


async def test_a_conversation_that_outgrows_the_context_is_an_answer_and_a_first_refusal_is_not(world):
    def full(messages, sampling):
        return RequestError("maximum context length is 10") if len(messages) > 2 else "so far"

    completion = await world(full).answer(checking)
    assert (completion.text, completion.finish_reason) == ("so far", "length")
    with pytest.raises(RequestError, match="unknown model"):
        await world(lambda *_: RequestError("unknown model")).answer(checking)


# -- failures --------------------------------------------------------------------------------------------------------


async def test_the_agents_own_failure_is_told_with_its_line_and_stays_its_own(world):
    async def agent(problem, client):
        text = await client.complete(ASK)
        return {}["missing"] if text == "bad" else text

    answers = iter(["fine", "bad", "fine"])
    there = world(lambda *_: next(answers))
    results = await asyncio.gather(*(there.answer(agent, sample=n) for n in range(3)), return_exceptions=True)
    assert [getattr(r, "text", type(r).__name__) for r in results] == ["fine", "AgentError", "fine"]
    (event,) = there.events
    assert event.name == "agent_failed" and event.data["sample"] == 1 and "KeyError" in event.data["error"]
    assert event.data["line"].startswith(__file__) and event.data["line"].rpartition(":")[2].isdigit()


async def test_cancelling_inside_an_agent_is_its_own_failure_and_from_outside_is_obeyed(world):
    async def own(problem, client):
        raise asyncio.CancelledError

    async def long(problem, client):
        await asyncio.sleep(60)

    there = world()
    with pytest.raises(AgentError):
        await there.answer(own)
    task = asyncio.create_task(there.answer(long))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [BudgetExhausted("no"), AuthError("no key"), TransportError("gone")])
async def test_what_ends_a_rollout_cannot_be_caught_away(world, error):
    there = world(lambda *_: error)
    with pytest.raises(type(error)):
        await there.answer(stubborn)
    assert len(there.policy.calls) == 1


async def test_never_one_call_over_the_budget(world):
    there = world(budget=Budget(calls=7), latency_s=0.001)
    results = await asyncio.gather(*(there.answer(checking, sample=n) for n in range(5)), return_exceptions=True)
    assert len(there.policy.calls) == 7
    assert {type(r) for r in results} <= {Completion, BudgetExhausted}


@pytest.mark.parametrize("limits", [{"max_calls": 0}, {"max_tokens": 0}, {"seconds": 0}, {"seconds": -1}])
def test_limits_are_positive(limits):
    with pytest.raises(InputError, match="must be positive"):
        Agent(run=checking, **limits)
    with pytest.raises(InputError, match="async def agent"):
        Agent(run="checking")


# -- going on --------------------------------------------------------------------------------------------------------


async def test_a_finished_answer_is_kept_whole_and_its_calls_stay_spent(world, tmp_path):
    runs = []

    async def agent(problem, client):
        runs.append(problem.id)
        return (await checking(problem, client)) + "!"

    with RunRecord.open(tmp_path) as record:
        first = await world(record=record).answer(agent)
    with RunRecord.open(tmp_path) as record:
        there = world(record=record, budget=Budget(calls=3))
        assert await there.answer(agent) == first
        assert (len(runs), there.policy.calls, there.ledger.spend.solver_calls) == (1, [], 3)
        with pytest.raises(BudgetExhausted):
            await there.answer(agent, sample=1)
        record.erase(problem="p1")
        again = world(record=record)
        await again.answer(agent)
        assert len(again.policy.calls) == 3


async def test_a_rollout_that_was_under_way_replays_its_calls(world, tmp_path):
    with RunRecord.open(tmp_path) as record:
        broken = world(lambda m, s: TransportError("gone") if len(m) > 3 else f"a{len(m)}", record=record)
        with pytest.raises(TransportError):
            await broken.answer(checking)
    with RunRecord.open(tmp_path) as record:
        there = world(lambda m, s: f"a{len(m)}", record=record)
        assert (await there.answer(checking)).text == "a5"
        assert len(there.policy.calls) == 1


# -- trajectories ----------------------------------------------------------------------------------------------------


def exchange(asked, text, *ids):
    parts = tuple(Segment(token_ids=part, train=n == 1) for n, part in enumerate(ids))
    reply = Completion(prompt=tuple(asked), messages=(said(text),), text=text, policy="p", segments=parts)
    return Exchange(tuple(asked), reply)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6))
def test_a_straight_conversation_comes_back_message_by_message(texts):
    messages, exchanges = [user("q")], []
    for text in texts:
        exchanges.append(exchange(messages, text))
        messages = [*messages, said(text), user(text + "?")]
    assert [*exchanges[0].asked, *produced(exchanges)] == messages[:-1]


def test_a_sub_agent_adds_its_own_conversation_and_dropped_reasoning_is_no_difference():
    first = exchange([user("q")], "a")
    thinking = Exchange(first.asked, first.reply)
    sub = exchange([{"role": "system", "content": "judge"}, user("a?")], "yes")
    last = exchange([user("q"), said("a"), user("judged: yes")], "done")
    assert produced([thinking, sub, last]) == (
        said("a"), {"role": "system", "content": "judge"}, user("a?"), said("yes"), user("judged: yes"), said("done"),
    )  # fmt: skip


def test_token_data_of_a_conversation_is_one_row():
    one, two = exchange([user("q")], "a", (1, 2), (3, 4)), exchange([user("r")], "b", (1, 2, 3, 4, 5), (6,))
    assert [(s.token_ids, s.train) for s in segments([one, two])] == [
        ((1, 2), False), ((3, 4), True), ((5,), False), ((6,), True),
    ]  # fmt: skip
    assert segments([two, one]) == () == segments([exchange([user("q")], "a")])
