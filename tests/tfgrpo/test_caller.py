import asyncio

import pytest
from scripted import ScriptedPolicy

from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller, CallKey, call_digest, prompt_digest
from tfgrpo.errors import AuthError, BudgetExhausted, InputError, TransportError
from tfgrpo.policy.base import Sampling
from tfgrpo.record import RunRecord
from tfgrpo.types import Usage

ASK = ({"role": "user", "content": "6 * 7?"},)
KEY = CallKey(purpose="solve", problem="p1")


def numbered():
    count = iter(range(1000))
    return lambda messages, sampling: f"reply {next(count)}"


async def test_a_recorded_reply_is_not_asked_for_again(tmp_path):
    with RunRecord.open(tmp_path) as record:
        first = await Caller(ScriptedPolicy(numbered()), record=record, ledger=Ledger()).complete(ASK, KEY, Sampling())
    with RunRecord.open(tmp_path) as record:
        policy, ledger = ScriptedPolicy(numbered()), Ledger(Budget(calls=1))
        caller = Caller(policy, record=record, ledger=ledger)
        critic = Caller(policy, record=record, ledger=ledger, solver=False)
        assert await caller.complete(ASK, KEY, Sampling()) == first
        assert await caller.complete(ASK, KEY, Sampling()) == first
        assert (policy.calls, ledger.spend.solver_calls, caller.replayed_calls) == ([], 1, 2)
        with pytest.raises(BudgetExhausted):
            await caller.complete(ASK, CallKey(purpose="solve", problem="p2"), Sampling())
        await critic.complete(ASK, CallKey(purpose="critic"), Sampling())


async def test_equal_requests_under_different_keys_are_different_calls(tmp_path):
    with RunRecord.open(tmp_path) as record:
        caller = Caller(ScriptedPolicy(numbered()), record=record, ledger=Ledger())
        keys = [CallKey(purpose="solve", problem="p1", sample=n) for n in range(5)]
        keys += [CallKey(purpose="evaluate", problem="p1"), CallKey(purpose="solve", problem="p1", epoch=1)]
        texts = [(await caller.complete(ASK, key, Sampling())).text for key in keys]
        assert len(set(texts)) == len(keys) == caller.ledger.spend.calls


def test_the_digest_sees_everything_that_is_asked():
    prompt = prompt_digest(ASK)
    base = call_digest("m", prompt, Sampling(), KEY)
    assert base == call_digest("m", prompt_digest([{"content": "6 * 7?", "role": "user"}]), Sampling(), KEY)
    others = [
        call_digest("n", prompt, Sampling(), KEY),
        call_digest("m", prompt_digest(ASK + ASK), Sampling(), KEY),
        call_digest("m", prompt, Sampling(temperature=0.5), KEY),
        call_digest("m", prompt, Sampling(schema={"type": "object"}), KEY),
        call_digest("m", prompt, Sampling(), CallKey(purpose="solve", problem="p1", sample=1)),
    ]
    assert len({base, *others}) == 6


async def test_the_same_call_twice_at_once_is_asked_once(tmp_path):
    with RunRecord.open(tmp_path) as record:
        policy = ScriptedPolicy(numbered(), latency_s=0.01)
        caller = Caller(policy, record=record, ledger=Ledger())
        replies = await asyncio.gather(*(caller.complete(ASK, KEY, Sampling()) for _ in range(5)))
    assert len(policy.calls) == 1 and len({r.text for r in replies}) == 1


async def test_concurrency_is_bounded_and_busy_slots_are_measured():
    policy = ScriptedPolicy(numbered(), latency_s=0.02)
    caller = Caller(policy, record=None, ledger=Ledger(), concurrency=4)
    keys = [CallKey(purpose="solve", sample=n) for n in range(12)]
    await asyncio.gather(*(caller.complete(ASK, key, Sampling()) for key in keys))
    assert policy.peak_in_flight == 4 and caller.in_flight == 0
    assert 0.7 < caller.busy_share() <= 1.0


async def test_never_one_call_over():
    policy = ScriptedPolicy(numbered(), latency_s=0.001)
    caller = Caller(policy, record=None, ledger=Ledger(Budget(calls=7)), concurrency=3)
    keys = [CallKey(purpose="solve", sample=n) for n in range(20)]
    results = await asyncio.gather(*(caller.complete(ASK, k, Sampling()) for k in keys), return_exceptions=True)
    assert len(policy.calls) == 7
    assert sum(isinstance(r, BudgetExhausted) for r in results) == 13


async def test_a_transport_failure_is_missing_data_and_an_event(tmp_path):
    seen = []
    policy = ScriptedPolicy(lambda *_: TransportError("no reply from http://x after 7 tries"))
    with RunRecord.open(tmp_path) as record:
        caller = Caller(policy, record=record, ledger=Ledger(Budget(calls=1)), emit=seen.append)
        for _ in range(2):
            with pytest.raises(TransportError):
                await caller.complete(ASK, KEY, Sampling())
        assert list(record.calls()) == []
    assert [e.name for e in seen] == ["call_failed"] * 2
    assert seen[0].data["problem"] == "p1" and "7 tries" in seen[0].data["error"]
    assert (caller.ledger.spend.failed_calls, caller.ledger.remaining.calls, caller.in_flight) == (2, 1, 0)


async def test_other_errors_and_cancellation_free_their_room():
    policy = ScriptedPolicy(lambda *_: AuthError("no key"), latency_s=0.01)
    caller = Caller(policy, record=None, ledger=Ledger(Budget(calls=1)))
    with pytest.raises(AuthError):
        await caller.complete(ASK, KEY, Sampling())
    task = asyncio.create_task(caller.complete(ASK, KEY, Sampling()))
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (caller.ledger.remaining.calls, caller.in_flight, caller.ledger.spend.failed_calls) == (1, 0, 0)


async def test_seeds_follow_from_the_key_and_not_from_the_order():
    async def seeds(order):
        policy = ScriptedPolicy(numbered())
        caller = Caller(policy, record=None, ledger=Ledger(), seed=1)
        for n in order:
            await caller.complete(ASK, CallKey(purpose="solve", sample=n), Sampling())
        return dict(zip(order, (s.seed for _, s in policy.calls), strict=True))

    forth, back = await seeds([0, 1, 2]), await seeds([2, 1, 0])
    assert forth == back and len(set(forth.values())) == 3
    assert all(0 <= seed < 2**31 for seed in forth.values())


async def test_the_estimate_learns_the_models_tokeniser():
    heavy = ScriptedPolicy(numbered(), usage=Usage(prompt_tokens=1000, completion_tokens=1))
    ledger = Ledger(Budget(tokens=2010))
    caller = Caller(heavy, record=None, ledger=ledger)
    await caller.complete(ASK, KEY, Sampling(max_tokens=8))
    await caller.complete(ASK, CallKey(purpose="solve", sample=1), Sampling(max_tokens=8))
    with pytest.raises(BudgetExhausted, match="1008 tokens"):
        await caller.complete(ASK, CallKey(purpose="solve", sample=2), Sampling(max_tokens=8))


def test_an_unknown_price_refuses_a_dollar_budget_at_once():
    with pytest.raises(InputError, match="scripted"):
        Caller(ScriptedPolicy(numbered(), price=None), record=None, ledger=Ledger(Budget(usd=1)))
