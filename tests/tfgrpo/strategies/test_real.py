"""Every strategy in a small real run: the packaged model answers, votes, revises and judges itself."""

import asyncio
from dataclasses import replace

import pytest

from tasks.largest_of_three import task as largest
from tfgrpo import aevaluate, connect
from tfgrpo.strategies import STRATEGIES, resolve_strategy
from tfgrpo.strategies.named import fitted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy():
    made = connect("local/smollm2")
    yield made
    asyncio.run(made.aclose())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_runs_on_a_real_model(policy, name, tmp_path):
    task = largest()
    task = replace(task, test=task.test[:3])
    made = fitted(resolve_strategy(f"{name}:2"), task)
    done = asyncio.run(aevaluate(task, model=policy, strategy=made, runs=tmp_path))
    assert done.after.n == 3 and 3 * made.always <= done.spend["evaluate"]["calls"] <= 3 * made.max_calls
    assert done.curve[0].score.mean == pytest.approx(done.before.mean) and done.after.missing == 0
    assert name != "best" or done.spend["judge"]["calls"] >= 6  # two answers of each, and repairs


def test_a_vote_helps_a_model_that_errs_at_random(policy, tmp_path):
    task = largest()
    task = replace(task, test=task.test[:40])
    done = asyncio.run(aevaluate(task, model=policy, strategy="vote:8", runs=tmp_path))
    assert done.gain.low > 0
