"""Strategies measured: the same calls give the plain answer, the strategy's and the curve; budgets, kills, failures."""

import asyncio
import itertools
import json
import random
from pathlib import Path

import flagworld
import numpy as np
import pytest
from cli import call, served
from scripted import ScriptedPolicy

from tfgrpo import Budget, LateCaller, Measurement, Problem, Sampling, Task, aevaluate, reward
from tfgrpo.errors import AuthError, BudgetExhausted, InputError, RequestError, TransportError
from tfgrpo.html_report import write_report
from tfgrpo.measure import PLAIN
from tfgrpo.policy import Price
from tfgrpo.rewards.simple import exact
from tfgrpo.strategies import adaptive, best, refine, tournament, vote
from tfgrpo.strategies.base import Chosen, draw
from tfgrpo.strategies.curve import Scored, curve

PRICE = Price(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=2.0)
USD = (10 * 1.0 + 5 * 2.0) / 1e6  # of one scripted call


def tasks(count=24, share=0.6, **changes):
    """Problem i is answered right with the chance in its text."""
    problems = tuple(
        Problem(id=f"p{i}", messages=({"role": "user", "content": f"Problem {i}, {share}?"},), answer="right")
        for i in range(count)
    )
    return Task(**{"name": "luck", "learn": (), "test": problems, "reward": exact(), **changes})


def luck(messages, sampling):
    """A pure function of the request and its seed: right by chance, else one of twenty wrong answers."""
    question = messages[-1]["content"].split("?")[0]
    draw = random.Random(f"{question} {sampling.seed}")
    return "right" if draw.random() < float(question.split(", ")[1]) else f"wrong {draw.randrange(20)}"


def policy(answer=luck):
    return ScriptedPolicy(answer, price=PRICE)


async def measured(strategy, folder, *, task=None, model=None, **more):
    return await aevaluate(task or tasks(), model=model or policy(), strategy=strategy, runs=folder, **more)


async def test_plain_and_vote_come_from_the_same_calls(tmp_path):
    model = policy()
    result = await measured("vote:5", tmp_path, model=model)
    assert len(model.calls) == 24 * 5
    assert (result.before.samples, result.after.samples, result.gain.n) == (5, 1, 24)
    assert result.store == "no experiences, vote(n=5, reading=text)" and result.against == f"no experiences, {PLAIN}"
    assert result.gain.mean == pytest.approx(result.after.mean - result.before.mean)
    assert result.gain.mean > 0.1 and "inside the noise" not in result.gain_words
    assert Measurement.from_json(json.loads(json.dumps(result.as_json()))) == Measurement.from_json(result.as_json())
    text = str(result)
    assert "curve     vote(n=5, reading=text), per problem" in text and f"${5 * USD:.6f}" in text


async def test_the_first_point_is_the_plain_answer_and_the_last_all_of_it(tmp_path):
    result = await measured("vote:5", tmp_path)
    points = [p for p in result.curve if p.rule.startswith("vote")]
    assert [p.n for p in points] == [1, 2, 4, 5]
    assert points[0].score.mean == pytest.approx(result.before.mean)
    assert [p.calls for p in points] == [1, 2, 4, 5]
    assert [p.usd for p in points] == pytest.approx([n * USD for n in (1, 2, 4, 5)])
    assert points[-1].score.mean == pytest.approx(result.after.mean, abs=0.1)  # ties are broken by every order
    early = [p for p in result.curve if p.rule.startswith("adaptive")]
    assert [p.n for p in early] == [4, 5] and early[-1].calls < 5 and early[-1].usd < 5 * USD


async def test_the_oracle_curve_is_pass_at_k_and_says_what_it_is(tmp_path):
    result = await measured("oracle:6", tmp_path)
    assert result.curve[-1].score.mean == pytest.approx(result.before.pass_at_k) == pytest.approx(result.after.mean)
    assert "upper bound and no result" in str(result)


def test_the_curve_is_unbiased():
    """Over every possible draw of 4 answers, the mean of the point at m is the exact chance that a vote of m wins."""
    p, strategy, points = 0.4, vote(4), []
    for said in itertools.product(["r", "a", "b"], repeat=4):
        weight = np.prod([p if s == "r" else (1 - p) / 2 for s in said])
        points.append((weight, {pt.n: pt.score.mean for pt in curve(strategy, [row(strategy, said)])}))
    for size in (1, 2, 4):
        exact_chance = sum(
            np.prod([p if s == "r" else (1 - p) / 2 for s in said]) * (said[strategy.pick(said, [])] == "r")
            for said in itertools.product(["r", "a", "b"], repeat=size)
        )
        assert sum(w * values[size] for w, values in points) == pytest.approx(exact_chance)


def row(strategy, said):
    from tfgrpo.strategies.scripted import Said

    chosen = asyncio.run(strategy(Problem(id="p", messages=()), Said(*said)))
    return Scored(chosen=chosen, scores={n: float(text == "r") for n, text in enumerate(said)})


async def test_a_vote_in_which_nobody_agrees_says_so(tmp_path):
    numbers = itertools.count()
    result = await measured(
        "vote:3", tmp_path / "apart", model=policy(lambda messages, sampling: f"wrong {next(numbers)}")
    )
    assert "no two answers agreed on 24 of 24 problems" in str(result)
    assert "no two answers agreed" not in str(await measured("vote:3", tmp_path / "agree", task=tasks(share=1.0)))


async def test_an_adaptive_vote_pays_less_for_easy_problems(tmp_path):
    easy = await measured("adaptive:12", tmp_path / "easy", task=tasks(share=1.0))
    hard = await measured("adaptive:12", tmp_path / "hard", task=tasks(share=0.3))
    assert easy.spend["evaluate"]["calls"] == 24 * 4 and hard.spend["evaluate"]["calls"] > 24 * 6
    assert easy.before.samples == 1 and [p.n for p in easy.curve] == [1, 2, 4]


async def test_a_budget_of_calls_is_shared_out_and_beats_the_same_calls_spread_evenly(tmp_path):
    task = tasks(90, 0.45)
    shared = await measured("adaptive:16", tmp_path / "a", task=task, budget=Budget(calls=360))
    even = await measured("vote:4", tmp_path / "b", task=task)
    assert shared.spend["evaluate"]["calls"] <= 360 == even.spend["evaluate"]["calls"]
    assert shared.after.mean > even.after.mean + 0.03
    mean = await measured(adaptive(16, mean=4), tmp_path / "c", task=task)
    assert mean.after.mean == shared.after.mean and mean.spend["evaluate"] == shared.spend["evaluate"]


async def test_sharing_out_does_not_hang_on_arrival(tmp_path):
    """Whoever is slow gets the same calls."""
    task, results = tasks(30, 0.5), []
    for latency in (0.0, 0.004):
        model = policy()

        async def complete(messages, sampling, model=model, latency=latency):
            await asyncio.sleep(latency * (hash(messages[-1]["content"]) % 5))
            return await ScriptedPolicy.complete(model, messages, sampling)

        model.complete = complete
        results.append(await measured("adaptive:8", tmp_path / str(latency), task=task, model=model,
                                      budget=Budget(calls=100)))  # fmt: skip
    assert results[0].after == results[1].after and results[0].spend == results[1].spend


@pytest.mark.parametrize("strategy", ["vote:4", "adaptive:6", "refine:3"])
async def test_a_run_that_was_stopped_goes_on_and_asks_nothing_again(tmp_path, strategy):
    whole = policy()
    expected = await measured(strategy, tmp_path / "whole", model=whole)

    told = []

    def down(messages, sampling):
        told.append(len(told) < 30)
        return luck(messages, sampling) if told[-1] else AuthError("the key was taken back")

    first, second = policy(down), policy()
    with pytest.raises(AuthError):
        await measured(strategy, tmp_path / "cut", model=first, concurrency=4)
    result = await measured(strategy, tmp_path / "cut", model=second)
    assert len(second.calls) == len(whole.calls) - 30
    assert (result.after, result.before, result.curve) == (expected.after, expected.before, expected.curve)


async def test_a_failed_sample_is_missing_and_loses_no_other(tmp_path):
    def flaky(messages, sampling):
        return TransportError("gone") if sampling.seed % 4 == 0 else luck(messages, sampling)

    result = await measured("vote:5", tmp_path, model=policy(flaky))
    lost = result.spend["evaluate"]["failed_calls"]
    assert lost == result.before.missing > 0 and result.after.n == 24 and result.after.missing == 0


async def test_a_problem_without_any_answer_is_missing(tmp_path):
    def some(messages, sampling):
        return TransportError("gone") if "Problem 3," in messages[0]["content"] else luck(messages, sampling)

    result = await measured("vote:3", tmp_path, model=policy(some))
    assert (result.after.n, result.after.missing, result.before.missing) == (23, 1, 3)


@pytest.mark.parametrize("spec", ["vote:3", "adaptive:4", "refine:2"])
async def test_no_answer_at_all_is_an_error(tmp_path, spec):
    with pytest.raises(TransportError, match="not one of 24 problems"):
        await measured(spec, tmp_path / "gone", model=policy(lambda m, s: TransportError("gone")))
    refusing = policy(lambda m, s: RequestError("unknown model"))
    with pytest.raises(RequestError, match="unknown model"):
        await measured(spec, tmp_path / "refused", model=refusing, concurrency=2)
    assert len(refusing.calls) < 24


async def test_budgets_are_kept(tmp_path):
    with pytest.raises(InputError, match="needs 120 calls"):
        await measured("vote:5", tmp_path, budget=Budget(calls=100))
    model = policy()
    worst_case = 0.0021  # of one call: all tokens it may take
    with pytest.raises(BudgetExhausted):
        await measured("vote:5", tmp_path, model=model, budget=Budget(usd=worst_case + 50 * USD))
    assert 50 <= len(model.calls) < 60
    again = policy()
    result = await measured("vote:5", tmp_path, model=again, budget=Budget(usd=1.0))
    assert len(model.calls) + len(again.calls) == 120 and result.after.n == 24


async def test_a_strategy_sees_no_reference_answer_and_no_meta(tmp_path):
    seen = []

    class Looking:
        name, always, max_calls, models, oracle = "looking", 1, 1, (), False

        async def __call__(self, problem, sample):
            seen.append(problem)
            answers = (await draw(sample, [0])).answers
            return Chosen(number=0, answers=answers, why="the only one", path=(0,))

    task = tasks(3)
    task = tasks(test=tuple(Problem(**{**_fields(p), "meta": {"gold": "right"}}) for p in task.test))
    result = await measured(Looking(), tmp_path, task=task)
    assert [(p.answer, dict(p.meta)) for p in seen] == [(None, {})] * 3
    assert result.after.mean == result.before.mean and result.gain.mean == 0.0


def _fields(problem):
    return {name: getattr(problem, name) for name in ("id", "messages", "answer")}


async def test_best_by_a_reward_that_needs_the_answer_is_refused_before_anything_is_spent(tmp_path):
    model = policy()
    with pytest.raises(InputError, match="sees no reference answer"):
        await measured(best(3, by="task"), tmp_path, model=model)
    assert not model.calls


async def test_best_by_a_check_and_what_it_cannot_tell_apart(tmp_path):
    brief = reward(lambda problem, completion: 1.0 / len(completion.text), name="brief")
    result = await measured(best(4, by=brief), tmp_path / "brief")
    assert result.gain.mean > 0.1
    blind = reward(lambda problem, completion: 0.5, name="blind")
    same = await measured(best(4, by=blind), tmp_path / "blind")
    assert "same score from what chooses on 24 of 24 problems" in str(same)
    assert same.after.mean == pytest.approx(sum(_first(same)) / 24)


def _first(result):
    from tfgrpo.record import RunRecord

    with RunRecord.open(result.folder, read_only=True) as record:
        return [float(c.completion.text == "right") for c in record.calls("evaluate") if c.key.sample == 0]


async def test_a_judge_is_recorded_paid_and_on_the_curve(tmp_path):
    def grade(messages, sampling):
        return json.dumps({"reason": "", "score": 9 if ">\nright\n</" in messages[1]["content"] else 1})

    late = LateCaller(ScriptedPolicy(grade, price=PRICE, name="grader"))
    result = await measured(best(4, caller=late), tmp_path)
    assert result.spend["judge"]["calls"] == 4 * 24 and result.spend["judge"]["solver_calls"] == 0
    assert [p.usd for p in result.curve] == pytest.approx([USD, 2 * 2 * USD, 2 * 4 * USD])
    assert result.after.mean == pytest.approx(result.curve[-1].score.mean)
    assert result.after.mean > result.before.mean
    own = await measured(
        best(2), tmp_path / "own", model=policy(lambda m, s: luck(m, s) if len(m) == 1 else grade(m, s))
    )
    assert "judged its own answers" in str(own)


async def test_a_tournament_has_two_points(tmp_path):
    def prefer(messages, sampling):
        first, second = (part.split("\n")[1] for part in messages[1]["content"].split("\n\n")[1:3])
        return json.dumps({"reason": "", "first": 9 * (first == "right"), "second": 9 * (second == "right")})

    late = LateCaller(ScriptedPolicy(prefer, price=PRICE, name="grader"))
    result = await measured(tournament(4, caller=late), tmp_path)
    assert [p.n for p in result.curve] == [1, 4]
    assert result.curve[0].score.mean == pytest.approx(result.before.mean)
    assert result.curve[1].score.mean == result.after.mean > 0.95
    assert result.curve[1].calls == pytest.approx(4 + result.spend["judge"]["calls"] / 24)


async def test_refining_is_measured_by_rounds(tmp_path):
    def improves(messages, sampling):
        draft = "<draft>" in messages[-1]["content"]
        return "right" if draft else luck(messages, sampling)

    result = await measured(refine(3), tmp_path, model=policy(improves))
    assert result.after.mean == 1.0 and [p.n for p in result.curve] == [1, 2, 3]
    assert result.curve[1].score.mean == 1.0 and result.curve[0].score.mean == result.before.mean


async def test_experiences_stand_in_every_prompt_and_against_is_refused(tmp_path):
    import experience_store
    from experience_store import Edit

    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        facts = [f"The flag of {land} is {flagworld.colour_of(land)}." for land in flagworld.LANDS]
        store.commit([Edit(op="add", text=fact) for fact in facts])
        model = policy(lambda m, s: flagworld.answer({"messages": [dict(x) for x in m], "seed": s.seed}))
        task = flagworld.flag_task(test=flagworld.problems(60, 72))
        result = await measured(vote(2), tmp_path, task=task, model=model, store=store)
        assert result.after.mean == 1.0 == result.before.mean and "@v1, vote" in result.store
        with pytest.raises(InputError, match="leave out `against`"):
            await measured(vote(2), tmp_path, task=task, model=model, store=store, against="none")


async def test_temperature_0_is_refused_where_answers_are_compared(tmp_path):
    cold = tasks(sampling=Sampling(temperature=0.0))
    with pytest.raises(InputError, match="at temperature 0 all are the same"):
        await measured("vote:3", tmp_path, task=cold)
    await measured("refine:2", tmp_path, task=cold)


async def test_a_finished_measurement_is_reused_and_strategies_have_runs_of_their_own(tmp_path):
    model = policy()
    first = await measured("vote:2", tmp_path, model=model)
    again = await measured("vote:2", tmp_path, model=policy(lambda m, s: AuthError("no")), reuse=True)
    assert again.curve == Measurement.from_json(first.as_json()).curve and len(model.calls) == 48
    other = await measured("vote:3", tmp_path)
    assert other.folder != first.folder


async def test_agents_answer_several_times_too(tmp_path):
    from tfgrpo.agents import Agent

    async def solve(problem, client):
        reply = await client.chat.completions.create(model="m", messages=list(problem.messages))
        return reply.choices[0].message.content

    model = policy()
    result = await measured("vote:3", tmp_path, model=model, task=tasks(6, agent=Agent(run=solve, max_calls=1)))
    assert len(model.calls) == 18 and result.after.n == 6


# -- pages and the command line ---------------------------------------------------------------------------------------


async def test_the_page_shows_the_curve(tmp_path):
    result = await measured("vote:4", tmp_path)
    page = write_report(Path(result.folder), tmp_path / "page.html").read_text()
    assert "Score against cost, per problem" in page and "per 1,000 problems" in page
    assert page.count("<svg") >= 3 and "adaptive(confidence=0.95)" in page


def test_the_command_line_measures_a_strategy(tmp_path):
    with served() as server:
        file = tmp_path / "flags.jsonl"
        lines = [{"id": p.id, "prompt": p.question, "answer": p.answer} for p in flagworld.problems(0, 12)]
        file.write_text("\n".join(map(json.dumps, lines)))
        base = ["evaluate", file, "--reward", "contains", "--model", "openai/solver", "--base-url", server.url,
                "--price", "1/2", "--runs", tmp_path, "--quiet", "--split", "learn"]  # fmt: skip
        said = call(*base, "--strategy", "vote:3", "--strategy-option", "reading=text", "--json")
        assert said.code == 0, said.err
        assert [p["n"] for p in said.json["curve"]] == [1, 2, 3] and said.json["before"]["samples"] == 3
        for args, words in (
            (["--strategy", "vot:3"], "did you mean 'vote'"),
            (["--strategy-option", "n=3"], "need --strategy"),
            (["--strategy", "vote:3", "--strategy-judge", "openai/x"], "for the strategies best and tournament"),
            (["--strategy", "vote:3", "--against", "v1"], "does not go with"),
            (["--strategy", "best:3", "--strategy-option", "by=task"], "sees no reference answer"),
        ):
            refused = call(*base, *args)
            assert refused.code == 2 and words in refused.err, refused.err
