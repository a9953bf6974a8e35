"""Evaluations through a recorded caller: pairing, missing data, bounds, noise, budget, concurrency."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.errors import BudgetExhausted, InputError, RequestError, TransportError
from tfgrpo.evaluation import Evaluation, compare, evaluate_problems
from tfgrpo.policy.base import Price, Sampling
from tfgrpo.record import RunRecord
from tfgrpo.rewards.base import reward
from tfgrpo.rewards.simple import exact
from tfgrpo.types import Completion, Group, Message, Problem, Prompt, Usage

NAN = math.nan


class Scripted:
    """A model that is a function of the question and of how often it was asked."""

    name = "scripted"
    price: Price | None = Price(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=1.0)

    def __init__(self, answer: Callable[[int, int], str]) -> None:
        self.answer = answer
        self.asked: dict[int, int] = {}
        self.seeds: list[int | None] = []
        self.now = self.most = 0

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        number = int(re.findall(r"\d+", json.dumps(messages[-1]["content"]))[0])
        time = self.asked[number] = self.asked.get(number, -1) + 1
        self.now += 1
        self.most = max(self.most, self.now)
        self.seeds.append(sampling.seed)
        await asyncio.sleep(0.001)
        self.now -= 1
        text = self.answer(number, time)
        used = Usage(prompt_tokens=10, completion_tokens=1)
        reply = {"role": "assistant", "content": text}
        return Completion(
            prompt=tuple(messages), messages=(reply,), text=text, policy=self.name, usage=used, cost_usd=1.1e-5
        )

    async def aclose(self) -> None: ...


def problems(n: int) -> list[Problem]:
    return [
        Problem(id=f"p{i}", messages=({"role": "user", "content": f"Say {i} please, if you can."},), answer=str(i))
        for i in range(n)
    ]


def caller(policy: Scripted, budget: Budget | None = None, record: RunRecord | None = None) -> Caller:
    return Caller(policy, record=record, ledger=Ledger(budget or Budget()), concurrency=8)


async def test_scores_usage_and_progress() -> None:
    model = Scripted(lambda number, time: str(number) if time % 2 == 0 or number == 0 else "no")
    seen: list[tuple[int, int]] = []
    groups: list[Group] = []
    got = await evaluate_problems(
        problems(30),
        exact(),
        caller(model),
        samples=4,
        sampling=Sampling(max_tokens=8, seed=5),
        on_progress=lambda done, total: seen.append((done, total)),
        on_group=groups.append,
    )
    assert got.scores.shape == (30, 4) and got.mean_at_k == pytest.approx((1 + 29 * 0.5) / 30)
    assert got.accuracy == got.mean_at_k and got.pass_at_k() == 1.0 and got.pass_at_k(1) == got.accuracy
    assert seen[-1] == (120, 120) and len(groups) == 30 and all(len(g.rollouts) == 4 for g in groups)
    assert got.usage.prompt_tokens == 1200 and got.cost_usd == pytest.approx(120 * 1.1e-5) and got.unpriced == 0
    assert model.most == 8 and set(model.seeds) == {5, 6, 7, 8}
    assert "Pass@4 1.000" in got.words() and got.bounds is None


async def test_prompts_are_applied_and_named_in_groups() -> None:
    def apply(problem: Problem) -> Prompt:
        hint: Message = {"role": "system", "content": "hint"}
        return Prompt(messages=(hint, *problem.messages), experiences=("E1@1",))

    groups: list[Group] = []
    await evaluate_problems(
        problems(2), exact(), caller(Scripted(lambda n, t: "x")), apply=apply, on_group=groups.append
    )
    assert groups[0].rollouts[0].completion.prompt[0]["content"] == "hint"
    assert groups[0].rollouts[0].experiences == ("E1@1",)


def lost(every: int, error: type[Exception] = TransportError) -> Callable[[int, int], str]:
    def answer(number: int, time: int) -> str:
        if number % every == 0:
            raise error("gone")
        return str(number)

    return answer


async def test_lost_calls_are_missing_not_wrong() -> None:
    got = await evaluate_problems(problems(20), exact(), caller(Scripted(lost(5))), samples=2)
    assert (got.missing, got.unscored) == (8, 0)
    assert got.mean_at_k == 1.0 and got.interval.n == 16
    assert got.bounds == (0.8, 1.0)
    assert "8 samples missing" in got.words() and "between 0.800 and 1.000" in got.words()


async def test_a_failing_reward_is_counted_apart() -> None:
    @reward
    def strict(problem: Problem, completion: Completion) -> float | None:
        return None if problem.id == "p1" else float(completion.text == problem.answer) / int(problem.answer)

    groups: list[Group] = []
    got = await evaluate_problems(problems(4), strict, caller(Scripted(lambda n, t: str(n))), on_group=groups.append)
    assert (got.missing, got.unscored) == (0, 2) and np.isnan(got.scores[:2]).all()
    assert sum(g.missing for g in groups) == 2


async def test_refusals_of_single_problems_are_missing_and_of_all_an_error() -> None:
    some = await evaluate_problems(problems(20), exact(), caller(Scripted(lost(5, RequestError))))
    assert some.missing == 4
    with pytest.raises(RequestError, match="gone"):
        await evaluate_problems(problems(40), exact(), caller(Scripted(lost(1, RequestError))))


async def test_an_exhausted_budget_ends_it_at_once() -> None:
    model = Scripted(lambda n, t: str(n))
    with pytest.raises(BudgetExhausted):
        await evaluate_problems(problems(50), exact(), caller(model, Budget(calls=20)), samples=2)
    assert sum(t + 1 for t in model.asked.values()) == 20 and model.now == 0


async def test_recorded_replies_are_not_asked_for_again(tmp_path: Path) -> None:
    model = Scripted(lambda n, t: str(n) if t == 0 else "other")
    record = RunRecord.open(tmp_path / "run.sqlite")
    first = await evaluate_problems(problems(5), exact(), caller(model, record=record))
    again = await evaluate_problems(problems(5), exact(), caller(model, record=record))
    fresh = await evaluate_problems(problems(5), exact(), caller(model, record=record), epoch=1)
    assert (first.mean_at_k, again.mean_at_k, fresh.mean_at_k) == (1.0, 1.0, 0.0)
    record.close()


async def test_nothing_to_do_is_an_input_error() -> None:
    with pytest.raises(InputError):
        await evaluate_problems([], exact(), caller(Scripted(lambda n, t: "")))


def evaluation(scores: Sequence[Sequence[float]], names: Sequence[str] = ()) -> Evaluation:
    array = np.array(scores, dtype=float)
    ids = tuple(names or [f"p{i}" for i in range(len(array))])
    return Evaluation(problems=ids, scores=array, success=np.where(np.isnan(array), array, array >= 1.0))


def test_a_clear_gain_and_noise() -> None:
    random = np.random.default_rng(3)
    before = evaluation((random.random((60, 4)) < 0.2).astype(float).tolist())
    after = evaluation((random.random((60, 4)) < 0.5).astype(float).tolist())
    clear = compare(before, after)
    assert not clear.inside_noise and clear.gain.mean == pytest.approx(after.mean_at_k - before.mean_at_k)
    assert re.fullmatch(r"\+0\.\d{3} \(95 % \+0\.\d{3}\.\.\+0\.\d{3}, n=60\)", clear.words())
    assert clear.better > clear.worse
    same = compare(before, before)
    assert same.inside_noise and same.words() == "+0.000 (95 % +0.000..+0.000, n=60), inside the noise"
    assert (same.better, same.worse, same.p_value) == (0, 0, 1.0)


def test_single_yes_no_samples_use_mcnemar() -> None:
    before, after = [[0.0]] * 8 + [[1.0]] * 12, [[1.0]] * 7 + [[0.0]] + [[0.0]] + [[1.0]] * 11
    change = compare(evaluation(before), evaluation(after))
    assert (change.better, change.worse) == (7, 1) and change.p_value == pytest.approx(0.0703125)
    assert change.inside_noise


def test_pairing_is_by_problem_not_by_place() -> None:
    before = evaluation([[0.0], [1.0]], ["a", "b"])
    after = evaluation([[1.0], [0.0]], ["b", "a"])
    assert compare(before, after).gain.mean == 0.0
    with pytest.raises(InputError, match="1 in common"):
        compare(before, evaluation([[1.0], [0.0]], ["a", "c"]))


def test_missing_samples_give_bounds() -> None:
    change = compare(evaluation([[0.0, 1.0], [0.0, NAN]]), evaluation([[1.0, 1.0], [NAN, 0.0]]))
    assert change.bounds == (0.0, 0.5) and "whatever the missing samples were" in change.words()
    nothing = compare(evaluation([[NAN]]), evaluation([[1.0]]))
    assert nothing.inside_noise and nothing.words().startswith("nothing could be compared")
