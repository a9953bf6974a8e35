import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.budget import Budget, Ledger, Spend
from tfgrpo.errors import BudgetExhausted, InputError
from tfgrpo.policy.base import Price, Sampling
from tfgrpo.policy.tokens import estimate_tokens
from tfgrpo.types import Completion, Usage

PRICE = Price(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=4.0)


def reply(prompt=10, completion=5, cost=0.0, **usage):
    return Completion(prompt=(), messages=(), text="", policy="p", cost_usd=cost,
                      usage=Usage(prompt_tokens=prompt, completion_tokens=completion, **usage))  # fmt: skip


def test_a_call_is_reserved_at_its_worst_case_and_settled_on_its_usage():
    ledger = Ledger(Budget(tokens=1000, usd=1.0, calls=3))
    room = ledger.reserve("solve", 100, 200, PRICE)
    assert ledger.remaining.tokens == 700
    assert ledger.remaining.usd == pytest.approx(1 - (100 * 1 + 200 * 4) / 1e6)
    ledger.settle(room, reply(100, 20, cost=0.00018))
    assert (ledger.remaining.tokens, ledger.remaining.calls) == (880, 2)
    assert ledger.remaining.usd == pytest.approx(1 - 0.00018)


def test_the_last_call_is_made_and_the_next_one_is_not():
    ledger = Ledger(Budget(calls=2))
    for _ in range(2):
        ledger.settle(ledger.reserve("solve", 1, 1, None), reply())
    with pytest.raises(BudgetExhausted, match=r"2 solver calls.*Nothing was sent"):
        ledger.reserve("solve", 1, 1, None)
    ledger.reserve("critic", 1, 1, None, solver=False)  # the calls budget counts solver calls only


def test_dollar_budget_with_unknown_price_is_refused_before_the_first_call():
    with pytest.raises(InputError, match=r"price of 'x/y' is unknown.*0/0"):
        Ledger(Budget(usd=1.0)).require_price("x/y", None)
    Ledger(Budget(tokens=5)).require_price("x/y", None)


def test_unknown_price_is_counted_and_never_zero_silently():
    ledger = Ledger()
    ledger.settle(ledger.reserve("solve", 1, 1, None), reply(cost=None))
    ledger.settle(ledger.reserve("solve", 1, 1, None), reply(cost=0.5, cached_tokens=4, reasoning_tokens=3))
    assert ledger.spend == Spend(calls=2, solver_calls=2, prompt_tokens=20, completion_tokens=10, cached_tokens=4,
                                 reasoning_tokens=3, usd=0.5, unpriced_calls=1)  # fmt: skip


def test_a_lost_call_gives_its_room_back_and_is_counted():
    ledger = Ledger(Budget(calls=1))
    ledger.release(ledger.reserve("solve", 1, 1, None), failed=True)
    assert (ledger.remaining.calls, ledger.spend.calls, ledger.spend.failed_calls) == (1, 0, 1)
    assert ledger.spend_by_purpose["solve"].failed_calls == 1


def test_what_is_held_for_the_test_cannot_be_spent_on_learning():
    ledger = Ledger(Budget(calls=10))
    hold = ledger.hold(calls=6)
    assert ledger.remaining.calls == 4
    for _ in range(4):
        ledger.settle(ledger.reserve("solve", 1, 1, None), reply())
    with pytest.raises(BudgetExhausted):
        ledger.reserve("solve", 1, 1, None)
    with pytest.raises(BudgetExhausted, match="kept aside"):
        ledger.hold(calls=1)
    ledger.unhold(hold)
    for _ in range(6):
        ledger.settle(ledger.reserve("evaluate", 1, 1, None), reply())
    assert ledger.remaining.calls == 0


def test_what_an_earlier_process_paid_counts_once_and_is_not_planned_with_twice():
    ledger = Ledger(Budget(calls=10))
    record = object()
    for _ in range(2):  # two callers share the record
        ledger.adopt(record, {"solve": Spend(calls=4, solver_calls=4), "evaluate": Spend(calls=3, solver_calls=3)})
    assert ledger.remaining.calls == 10  # as in the run that was interrupted
    ledger.hold(calls=5, purpose="evaluate")  # covers the 3 that are paid already
    room = ledger.reserve("solve", 1, 1, None)
    with pytest.raises(BudgetExhausted):
        ledger.reserve("solve", 1, 1, None)
    ledger.settle(room, reply())
    for _ in range(4):
        ledger.settle_paid("solve", reply())
    assert ledger.spend.solver_calls == 5
    assert ledger.remaining.calls == 0


def test_seconds():
    with pytest.raises(BudgetExhausted, match="time budget of 5 s"):
        Ledger(Budget(seconds=5), elapsed_s=5.0).reserve("solve", 1, 1, None)


def test_negative_budget_is_refused():
    with pytest.raises(InputError, match="usd must be 0 or more, got -1"):
        Budget(usd=-1)


async def test_waits_for_tokens_that_calls_in_flight_do_not_use():
    ledger = Ledger(Budget(tokens=1000))
    first = ledger.reserve("solve", 100, 800, None)
    second = asyncio.create_task(ledger.reserve_or_wait("solve", 100, 800, None))
    await asyncio.sleep(0)
    assert not second.done()
    ledger.settle(first, reply(50, 40))
    assert (await second).amounts.tokens == 900
    with pytest.raises(BudgetExhausted):  # 90 settled + 950 can never fit, whatever comes back
        await ledger.reserve_or_wait("solve", 150, 800, None)


def test_estimate_is_above_one_token_per_three_bytes_and_counts_what_is_not_words():
    words = [{"role": "user", "content": "数" * 30}]
    assert estimate_tokens(words) == 30 + 16 + 8
    image = [{"role": "user", "content": [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {}}]}]
    assert estimate_tokens(image) == 1 + 16 + 8 + 1600
    assert estimate_tokens(words, Sampling(schema={"type": "object"})) > estimate_tokens(words)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "release", "hold", "unhold", "replay"]),
        st.integers(0, 60), st.integers(1, 200), st.floats(0, 1), st.booleans(), st.sampled_from(["a", "b"]),
    ), max_size=80,
)  # fmt: skip


def run_steps(ledger, steps, unreplayed):
    rooms, holds = [], []
    for kind, prompt, tokens, share, solver, purpose in steps:
        try:
            if kind == "reserve":
                rooms.append((ledger.reserve(purpose, prompt, tokens, PRICE, solver=solver), prompt, tokens))
            elif kind == "hold":
                holds.append(ledger.hold(calls=prompt % 5, tokens=tokens, purpose=purpose))
        except BudgetExhausted:
            continue
        if kind == "unhold" and holds:
            ledger.unhold(holds.pop())
        elif kind == "replay" and unreplayed[purpose]:
            ledger.settle_paid(purpose, unreplayed[purpose].pop())
        elif kind == "settle" and rooms:
            room, p, t = rooms.pop(prompt % len(rooms))
            used_p, used_t = int(p * share), int(t * share)
            ledger.settle(room, reply(used_p, used_t, PRICE.cost_usd(used_p, used_t)))
        elif kind == "release" and rooms:
            ledger.release(rooms.pop()[0], failed=solver)
        yield rooms


@given(steps=STEPS, calls=st.integers(0, 30), tokens=st.integers(0, 3000), paid=st.integers(0, 5))
def test_no_interleaving_crosses_the_budget(steps, calls, tokens, paid):
    budget = Budget(calls=calls + 2 * paid, tokens=tokens + 200 * paid, usd=0.005 + 0.001 * paid)
    ledger = Ledger(budget)
    old = reply(60, 40, PRICE.cost_usd(60, 40))
    unreplayed = {"a": [old] * paid, "b": [old] * paid}
    each = Spend.of(old.usage, old.cost_usd, solver=True)
    ledger.adopt(object(), {p: sum([each] * paid, Spend()) for p in "ab"})
    for rooms in run_steps(ledger, steps, unreplayed):
        left = sum(len(v) for v in unreplayed.values())
        spend = ledger.spend
        assert spend.solver_calls + sum(r.solver for r, _, _ in rooms) + left <= budget.calls
        assert spend.tokens + sum(r.amounts.tokens for r, _, _ in rooms) + 100 * left <= budget.tokens
        assert spend.usd + sum(r.amounts.usd for r, _, _ in rooms) + old.cost_usd * left <= budget.usd * (1 + 1e-9)
    assert ledger.overrun.tokens == 0
