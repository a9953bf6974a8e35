import pytest
from flagworld import flag_task

from tfgrpo import Budget, Price
from tfgrpo.errors import InputError
from tfgrpo.loop import Schedule
from tfgrpo.plan import DEFAULT_CALLS, share_out

PRICE = Price(prompt_usd_per_mtok=0.4, completion_usd_per_mtok=1.6)


@pytest.mark.parametrize("calls", [10, 33, 100, 600, 5000])
@pytest.mark.parametrize("group", [1, 4, 7])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_parts_never_exceed_the_calls(calls, group, samples):
    shares = share_out(Budget(calls=calls), flag_task(), group_size=group, samples=samples, price=None)
    used = shares.groups * group + 2 * shares.gate_pairs + shares.test_calls
    assert used <= calls < used + group
    assert shares.test_problems <= 40


def test_without_a_budget_there_are_600_calls():
    shares = share_out(Budget(), flag_task(), group_size=4, samples=1, price=None)
    assert shares == share_out(Budget(calls=DEFAULT_CALLS), flag_task(), group_size=4, samples=1, price=None)


def test_twice_the_dollars_pay_for_about_twice_the_groups():
    one, two = (share_out(Budget(usd=d), flag_task(test=()), group_size=4, samples=1, price=PRICE) for d in (1, 2))
    assert two.groups == pytest.approx(2 * one.groups, rel=0.05)


def test_the_tightest_limit_counts():
    both = share_out(Budget(calls=100, tokens=10**9), flag_task(), group_size=4, samples=1, price=None)
    assert both == share_out(Budget(calls=100), flag_task(), group_size=4, samples=1, price=None)


def test_too_little_is_refused():
    with pytest.raises(InputError, match="about 3 solver calls"):
        share_out(Budget(calls=3), flag_task(), group_size=4, samples=1, price=None)


@pytest.mark.parametrize("groups", [1, 2, 5, 11, 50, 150, 600, 5000])
@pytest.mark.parametrize("group_size", [1, 4, 8])
@pytest.mark.parametrize("concurrency", [1, 16, 64, 256])
def test_open_groups_are_a_share_of_the_run_and_no_more_than_useful(groups, group_size, concurrency):
    schedule = Schedule.of(groups, group_size=group_size, concurrency=concurrency)
    assert schedule.groups == groups
    assert 1 <= schedule.open_groups <= max(1, groups)
    assert schedule.open_groups <= max(4, 1.5 * (groups // 4), 1)
    assert schedule.open_groups * group_size <= max(3 * concurrency, 4 * group_size)
