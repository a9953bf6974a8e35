"""evaluate from Python, the estimate before a run, and models that a reward asks."""

import asyncio

import flagworld
import pytest
from scripted import ScriptedPolicy

import experience_store
import tfgrpo
from experience_store import Edit
from tfgrpo import Budget, LateCaller, Measurement, Sampling, aevaluate, estimate, reward
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller, CallKey
from tfgrpo.errors import InputError, RewardError, TransportError
from tfgrpo.late import bound
from tfgrpo.policy import Price
from tfgrpo.record import RunRecord
from tfgrpo.rewards.judge import judge


def told(messages, sampling):
    """Right where the fact stands in the prompt."""
    return flagworld.answer({"messages": [dict(m) for m in messages], "seed": sampling.seed})


@pytest.fixture
def book(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        facts = [f"The flag of {land} is {flagworld.colour_of(land)}." for land in flagworld.LANDS]
        store.commit([Edit(op="add", text=fact) for fact in facts])
        yield store


def task(**changes):
    return flagworld.flag_task(test=flagworld.problems(60, 72), **changes)


async def test_a_version_against_none(book, tmp_path):
    policy = ScriptedPolicy(told)
    result = await aevaluate(task(), model=policy, store=book, against="none", samples=3, runs=tmp_path / "runs")
    assert len(policy.calls) == 2 * 3 * 12
    assert (result.after.mean, result.after.pass_at_k) == (1.0, 1.0)
    assert result.gain.mean == pytest.approx(1.0 - result.before.mean)
    assert not result.gain_words.endswith("inside the noise")
    assert (result.store, result.against) == (f"{book.location}@v1", "no experiences")
    assert Measurement.from_json(result.as_json()).as_json() == result.as_json()
    assert "Mean@3" in str(result) and "p = " in str(result)


async def test_one_side_alone(tmp_path):
    result = await aevaluate(task(), model=ScriptedPolicy(told), runs=tmp_path)
    assert result.before is None and result.gain is None
    assert "gain" not in str(result)


async def test_an_unfinished_measurement_goes_on_where_it_stopped(tmp_path):
    def down_after_ten(messages, sampling):
        return told(messages, sampling) if len(policy.calls) <= 10 else AuthTrouble

    AuthTrouble = tfgrpo.errors.AuthError("the key was taken back")
    policy = ScriptedPolicy(down_after_ten)
    with pytest.raises(tfgrpo.errors.AuthError):
        await aevaluate(task(), model=policy, runs=tmp_path, concurrency=1)
    again = ScriptedPolicy(told)
    result = await aevaluate(task(), model=again, runs=tmp_path)
    assert len(again.calls) == 12 - 10
    assert result.after.n == 12
    assert len(list(tmp_path.iterdir())) == 1


async def test_no_reply_at_all_is_an_error_and_not_a_result(tmp_path):
    down = ScriptedPolicy(lambda messages, sampling: TransportError("unreachable"))
    with pytest.raises(TransportError, match="not one of the 12 samples"):
        await aevaluate(task(), model=down, runs=tmp_path)


async def test_a_reward_that_always_fails_is_told(tmp_path):
    @reward
    def broken(problem, completion):
        raise KeyError("colour")

    with pytest.raises(RewardError, match=r"not one answer could be scored.*colour"):
        await aevaluate(task(reward=broken), model=ScriptedPolicy(told), runs=tmp_path)


async def test_what_cannot_be_measured(book, tmp_path):
    model = ScriptedPolicy(told)
    with pytest.raises(InputError, match=r"its splits: learn \(40\)"):
        await aevaluate(task(gate=()), model=model, split="gate", runs=tmp_path)
    with pytest.raises(InputError, match="nothing to compare"):
        await aevaluate(task(), model=model, store=book, against="v1", runs=tmp_path)
    with pytest.raises(InputError, match="needs a store"):
        await aevaluate(task(), model=model, against="v1", runs=tmp_path)
    assert not model.calls


async def test_the_sync_form_says_what_to_await(tmp_path):
    with pytest.raises(InputError, match=r"await tfgrpo\.aevaluate"):
        tfgrpo.evaluate(task(), model=ScriptedPolicy(told), runs=tmp_path)


# -- the estimate ----------------------------------------


def test_the_estimate_keeps_to_the_budget_and_prices_every_part():
    model = ScriptedPolicy(told, price=Price(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=2.0))
    plan = estimate(task(), model=model, budget=Budget(calls=200))
    assert plan.parts["solver"].calls <= 200
    assert plan.usd == pytest.approx(sum(part.usd for part in plan.parts.values()))
    assert "no call is made that could cross one" in str(plan)
    assert estimate(task(critic="examples"), model=model).parts.keys() == {"solver"}


def test_the_estimate_refuses_what_learning_would_refuse():
    unpriced = ScriptedPolicy(told, price=None)
    with pytest.raises(InputError, match="price of 'scripted' is unknown"):
        estimate(task(), model=unpriced, budget=Budget(usd=1))
    assert estimate(task(), model=unpriced).usd is None


# -- models that a reward asks ----------------------------------------

GRADE = '{"reason": "fine", "score": 10}'


async def test_a_judge_asks_through_the_record_and_budget_of_its_run(tmp_path):
    late = LateCaller(ScriptedPolicy(lambda messages, sampling: GRADE, name="grader"))
    judged = task(reward=judge(late), models=(late,))
    result = await aevaluate(judged, model=ScriptedPolicy(told), runs=tmp_path)
    assert result.after.mean == 1.0
    assert result.spend["judge"]["solver_calls"] == 0 < result.spend["judge"]["calls"]
    with RunRecord.open(result.folder, read_only=True) as record:
        assert any(True for _ in record.calls("judge"))


async def test_a_judge_that_no_task_lists_says_how(tmp_path):
    late = LateCaller(ScriptedPolicy(lambda messages, sampling: GRADE, name="grader"))
    with pytest.raises(InputError, match=r"'grader'.*Task\(models="):
        await aevaluate(task(reward=judge(late)), model=ScriptedPolicy(told), runs=tmp_path)


async def test_runs_side_by_side_bind_their_own():
    late = LateCaller(ScriptedPolicy(lambda messages, sampling: GRADE, latency_s=0.01))
    key = CallKey(purpose="judge")

    async def run(calls):
        ledger = Ledger()
        with bound([late], lambda policy: Caller(policy, record=None, ledger=ledger, solver=False)):
            for n in range(calls):
                await late.complete([{"role": "user", "content": str(n)}], key, Sampling())
        return ledger.spend.calls

    assert await asyncio.gather(run(2), run(5)) == [2, 5]


def test_a_judges_model_and_rubric_decide_which_run_it_is():
    late = [LateCaller(ScriptedPolicy(told, name=name)) for name in ("a", "b")]
    prints = {task(reward=judge(m), models=(m,)).fingerprint() for m in late}
    assert len(prints) == 2
