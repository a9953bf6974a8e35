"""Two versions, models or runs on the same problems: golden numbers, symmetry, runs paired without asking, refusals."""

import dataclasses
import itertools

import flagworld
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedPolicy

import experience_store
from experience_store import Edit
from tfgrpo import Budget, Contrast, LateCaller, acompare, aevaluate, alearn, stats
from tfgrpo.comparing import _Heard, flips, verdict
from tfgrpo.contenders import Named, named
from tfgrpo.errors import AuthError, BudgetExhausted, InputError, TransportError
from tfgrpo.evaluation import Comparison, Evaluation, compare
from tfgrpo.events import EventLog
from tfgrpo.measure import FIRST_EPOCH
from tfgrpo.policy import Price
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.recorded import ARMS, Replay, recorded_answers
from tfgrpo.rewards.judge import judge
from tfgrpo.types import Completion, Prompt


def told(messages, sampling):
    """Right where the fact stands in the prompt, one time in five elsewhere."""
    return flagworld.answer({"messages": [dict(m) for m in messages], "seed": sampling.seed})


def clever(messages, sampling):
    return f"It is {flagworld.colour_of(messages[-1]['content'].rstrip('?').rpartition(' ')[2])}."


def task(**changes):
    return flagworld.flag_task(test=flagworld.problems(60, 80), **changes)


@pytest.fixture
def book(tmp_path):
    """v1 knows the first ten lands, v2 all twenty."""
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        facts = [f"The flag of {land} is {flagworld.colour_of(land)}." for land in flagworld.LANDS]
        store.commit([Edit(op="add", text=fact) for fact in facts[:10]])
        store.commit([Edit(op="add", text=fact) for fact in facts[10:]])
        yield store


def numbers(found):
    return {**found.as_json(), "folder": "", "seconds": 0.0}


# -- what a word names ----------------------------------------


@pytest.mark.parametrize(
    ("word", "side"),
    [
        ("none", Named()),
        ("./experience@v3", Named(store="./experience@v3")),
        ("http://127.0.0.1:8000@v2", Named(store="http://127.0.0.1:8000@v2")),
        ("openai/gpt-4.1-mini", Named(model="openai/gpt-4.1-mini")),
        ("http://h:1/v1#a/b+c", Named(model="http://h:1/v1#a/b+c")),
        ("local/smollm2+./experience@best", Named(model="local/smollm2", store="./experience@best")),
        ("local/smollm2+none", Named(model="local/smollm2")),
        ("openai/a+b", Named(model="openai/a+b")),
    ],
)
def test_what_a_word_names(word, side, tmp_path):
    assert named(word, "none", tmp_path)[0] == side
    assert named("none", word, tmp_path)[1] == side


def test_a_bare_version_is_one_of_the_other_sides_store(tmp_path):
    assert named("./experience@v3", "v7", tmp_path)[1].store == "./experience@v7"
    assert named("best", "local/m+./experience", tmp_path)[0].store == "./experience@best"
    for a, b in (("v3", "v4"), ("v3", "none"), ("v3", "openai/m"), ("", "none")):
        with pytest.raises(InputError, match=r"(a|no) side of a comparison"):
            named(a, b, tmp_path)


# -- two sides that are asked ----------------------------------------


async def test_two_versions_golden(book, tmp_path):
    """v2 tells all; the twenty differences are those of v1's answers, which the script gives from the prompt alone."""
    policy = ScriptedPolicy(told, price=Price(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=2.0))
    found = await acompare(f"{book.location}@v1", "v2", task=task(), model=policy, runs=tmp_path / "runs")
    assert len(policy.calls) == 2 * 20
    right = sum("flag-" in f.problem for f in found.flips)
    assert found.b.score.mean == 1.0 and found.a.score.mean == pytest.approx(1.0 - right / 20)
    assert (found.better, found.worse) == (right, 0) and 5 <= right <= 10
    assert found.difference.mean == pytest.approx(right / 20) and found.difference.n == 20
    assert found.p_value == pytest.approx(stats.mcnemar_exact(0, right))
    assert found.a.cost_usd == pytest.approx(20 * (10 * 1.0 + 5 * 2.0) / 1e6) == found.b.cost_usd
    assert found.verdict == f"B is {right / 20:.3f} better than A, on 20 problems"
    assert all(f.better == "b" and f.a[0].text == "It is brown." and f.b[0].score == 1.0 for f in found.flips)
    assert Contrast.from_json(found.as_json()).as_json() == found.as_json()
    assert str(found).count("flip ") == right and "$0.0004" in str(found)


async def test_the_other_way_round_negates_the_difference(book, tmp_path):
    sides = (f"{book.location}@v1", f"{book.location}@v2", "none")
    for a, b in itertools.combinations(sides, 2):
        options = {"task": task(), "model": ScriptedPolicy(told), "samples": 3, "runs": tmp_path / "runs"}
        one, other = await acompare(a, b, **options), await acompare(b, a, **options)
        assert one.difference.mean == -other.difference.mean
        assert (one.difference.low, one.difference.high) == pytest.approx(
            (-other.difference.high, -other.difference.low)
        )
        assert (one.better, one.worse, one.p_value) == (other.worse, other.better, other.p_value)
        assert (one.a, one.b) == (other.b, other.a)
        swapped = [dataclasses.replace(f, a=f.b, b=f.a, better={"a": "b", "b": "a"}[f.better]) for f in other.flips]
        assert list(one.flips) == swapped


async def test_a_side_against_itself(book, tmp_path):
    policy = ScriptedPolicy(told)
    found = await acompare("none", "none", task=task(), model=policy, samples=2, runs=tmp_path / "runs")
    assert len(policy.calls) == 2 * 20  # asked once, for both
    assert (found.difference.mean, found.difference.low, found.difference.high) == (0, 0, 0)
    assert not found.flips and found.p_value == 1.0 and found.verdict == "both sides are the same"


async def test_two_models_and_a_version(book, tmp_path):
    weak, strong = ScriptedPolicy(told, name="weak"), ScriptedPolicy(clever, name="strong")
    found = await acompare((weak, book.at("v1")), strong, task=task(), runs=tmp_path / "runs")
    assert (found.a.label, found.b.label) == ("weak, v1", "strong, no experiences")
    assert found.b.score.mean == 1.0 > found.a.score.mean and found.a.model == "weak"
    equal = await acompare((weak, book), strong, task=task(), runs=tmp_path / "runs")
    assert equal.difference.mean == 0 and equal.verdict.startswith("no difference is shown")


async def test_all_flips_are_kept_and_twenty_shown(book, tmp_path):
    many = flagworld.flag_task(test=flagworld.problems(60, 140))
    found = await acompare("none", book, task=many, model=ScriptedPolicy(told), runs=tmp_path / "runs")
    assert len(found.flips) == found.better > 40
    assert str(found).count("  flip ") == 20 and f"and {len(found.flips) - 20} more" in str(found)
    assert len(found.as_json()["flips"]) == len(found.flips)


# -- what is said ----------------------------------------


def evaluation(rows):
    scores = np.array(rows, dtype=float)
    return Evaluation(problems=tuple(f"p{n}" for n in range(len(rows))), scores=scores, success=scores)


cells = st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=30))
def test_a_verdict_claims_nothing_inside_the_noise_and_flips_are_what_is_counted(rows):
    a, b = evaluation([r[0] for r in rows]), evaluation([r[1] for r in rows])
    found = compare(a, b)
    said = verdict(found)
    if found.inside_noise:
        assert said.startswith(("no difference is shown", "nothing could be compared"))
    elif said.startswith("B is "):
        assert ("better" in said) == (found.gain.mean > 0)
        assert found.bounds is None or found.bounds[0] > 0 or found.bounds[1] < 0
    problems = flagworld.problems(0, len(rows))
    listed = flips(problems, _Heard(done=a), _Heard(done=b))
    assert [f.better for f in listed].count("b") == found.better
    assert [f.better for f in listed].count("a") == found.worse


def test_what_missing_samples_could_explain_is_no_gain():
    gain = stats.Estimate(mean=0.3, low=0.1, high=0.5, n=20)
    lost = Comparison(gain=gain, p_value=0.01, better=6, worse=0, before=0.5, after=0.8, bounds=(-0.1, 0.6))
    assert verdict(lost).startswith("no difference is shown: B is 0.300 better than A")
    assert verdict(dataclasses.replace(lost, bounds=(0.05, 0.6))) == "B is 0.300 better than A, on 20 problems"


# -- runs whose answers are on record ----------------------------------------


async def test_two_evaluations_are_paired_without_asking(book, tmp_path):
    runs, policy = tmp_path / "runs", ScriptedPolicy(told)
    one = await aevaluate(task(), model=policy, store=book.at("v1"), against="none", samples=2, runs=runs)
    two = await aevaluate(task(), model=policy, store=book.at("v2"), samples=2, runs=runs)
    asked = len(policy.calls)
    found = await acompare(one.folder, two.folder, task=task(), runs=runs)
    assert len(policy.calls) == asked and found.spend == {}
    assert found.a.recorded and found.a.score == one.after and found.b.score == two.after
    before = await acompare(f"{one.folder}:before", one.folder, task=task(), runs=runs)
    assert before.difference.mean == pytest.approx(one.gain.mean)
    assert (before.better, before.worse, before.p_value) == (one.better, one.worse, one.p_value)
    assert before.a.tokens == 2 * 20 * 15 and "paid before" in str(before)
    again = await acompare(one.folder, two.folder, task=task(), runs=runs)
    assert again.folder == found.folder and "nothing was asked again" in again.notices[-1]


async def test_a_second_measurement_keeps_answers_of_its_own(tmp_path):
    runs = tmp_path / "runs"
    done = [await aevaluate(task(), model=ScriptedPolicy(told), samples=2, runs=runs) for _ in range(2)]
    assert done[0].folder != done[1].folder
    found = await acompare(done[0].folder, done[1].folder, task=task(), runs=runs)
    assert [found.a.score, found.b.score] == [done[0].after, done[1].after]
    assert found.flips  # fresh samples differ


async def test_a_learning_run_before_and_after_and_against_what_is_asked(tmp_path):
    runs, policy = tmp_path / "runs", ScriptedPolicy(lambda m, s: flagworld.answer(body(m, s)))
    report = await alearn(
        task(), model=policy, store=str(empty(tmp_path)), budget=Budget(calls=300), runs=runs, concurrency=8
    )
    asked = len(policy.calls)
    same = await acompare(f"{report.folder}:before", report.folder, task=task(), runs=runs)
    assert len(policy.calls) == asked
    assert same.difference.mean == pytest.approx(report.gain.mean) and same.difference.n == report.gain.n
    assert f"{report.store}@v{report.final}" in same.b.label
    strong = ScriptedPolicy(clever, name="strong")
    other = await acompare(report.folder, strong, task=task(), runs=runs)
    assert len(strong.calls) == report.after.n and other.b.score.mean == 1.0
    if report.after.n < 20:
        assert f"answered {report.after.n} of the 20 problems" in other.notices[0]


def body(messages, sampling):
    more = {"response_format": "schema"} if sampling.schema else {}
    return {"messages": [dict(m) for m in messages], "seed": sampling.seed, **more}


def empty(folder):
    place = folder / "learned"
    experience_store.open(place, embedder="hashing").close()
    return place


async def test_a_run_of_other_problems_is_refused_before_anything_is_asked(tmp_path):
    runs, policy = tmp_path / "runs", ScriptedPolicy(told)
    run = (await aevaluate(task(), model=policy, runs=runs)).folder
    asked, strong = len(policy.calls), ScriptedPolicy(clever, name="strong")
    fewer = flagworld.flag_task(test=flagworld.problems(60, 70))
    with pytest.raises(InputError, match=r"answered 10 problems that are not among the 10 .* 'flag-70'"):
        await acompare(run, strong, task=fewer, runs=runs)
    changed = tuple(dataclasses.replace(p, messages=({"role": "user", "content": "Who?"},)) for p in task().test)
    with pytest.raises(InputError, match="asked something else under the id 'flag-60'"):
        await acompare(run, strong, task=flagworld.flag_task(test=changed), runs=runs)
    other = flagworld.flag_task(test=flagworld.problems(80, 90))
    there = (await aevaluate(other, model=policy, runs=runs)).folder
    both = flagworld.flag_task(test=flagworld.problems(60, 90))
    with pytest.raises(InputError, match="no problem in common"):
        await acompare(run, there, task=both, runs=runs)
    assert not strong.calls and len(policy.calls) == asked + 10


async def test_what_a_run_cannot_give(tmp_path):
    runs = tmp_path / "runs"
    alone = (await aevaluate(task(), model=ScriptedPolicy(told), runs=runs)).folder
    with pytest.raises(InputError, match="measured after, and no 'before'"):
        await acompare(f"{alone}:before", alone, task=task(), runs=runs)
    voted = await aevaluate(task(), model=ScriptedPolicy(told), strategy="vote:3", runs=runs)
    with pytest.raises(InputError, match="measured a strategy"):
        await acompare(voted.folder, alone, task=task(), runs=runs)
    with RunRecord.open(runs / "open") as record:
        EventLog(record).emit("started", kind="evaluate")
    with pytest.raises(InputError, match="has no answers to test problems yet"):
        await acompare(str(runs / "open"), alone, task=task(), runs=runs)
    with RunRecord.open(runs / "shorter") as record:
        EventLog(record).emit("started", kind="retire")
    with pytest.raises(InputError, match="'retire'; answers are compared of: learn, evaluate, train, improve"):
        await acompare(str(runs / "shorter"), alone, task=task(), runs=runs)


def reply(problem, text):
    return Completion(prompt=problem.messages, messages=(), text=text, policy="weights", cost_usd=None)


def put(record, purpose, epoch, samples, text):
    for problem in task().test:
        for k in range(samples):
            key = CallKey(purpose=purpose, epoch=epoch, problem=problem.id, sample=k)
            digest = f"{purpose}{epoch}{problem.id}{k}".encode()
            record.put_call(digest, key, reply(problem, text), solver=True, prompt=problem.id.encode())


async def test_runs_of_training_and_improving(tmp_path):
    side = {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 20, "samples": 2}
    with RunRecord.open(tmp_path / "trained") as record:
        EventLog(record).emit("started", kind="train")
        put(record, "evaluate", 0, 2, "It is brown.")
        put(record, "evaluate", 1, 2, "It is red.")
        record.put_state("training", {"model": "m", "checkpoint": "step-9", "before": side, "after": side})
    with RunRecord.open(tmp_path / "improved") as record:
        EventLog(record).emit("started", kind="improve")
        put(record, "evaluate", ARMS.index("base"), 1, "It is brown.")
        put(record, "weights", ARMS.index("trained"), 1, "It is red.")
        for name in ("base", "trained"):
            record.put_state(f"arm/{name}", {"model": name, "scores": [[0.0]] * 20})
        record.put_state("improvement", {"words": "done"})
    found = await acompare(str(tmp_path / "trained"), str(tmp_path / "improved"), task=task(), runs=tmp_path)
    assert "step-9" in found.a.label and "trained" in found.b.label
    assert found.difference.mean == 0 and found.a.score.samples == 2 and found.a.cost_usd is None
    both = await acompare("trained:before", "improved:base", task=task(), runs=tmp_path)
    assert both.a.score.mean == both.b.score.mean == 0.0
    red = sum(p.answer == "red" for p in task().test)
    assert found.b.score.mean == pytest.approx(red / 20)


async def test_a_replay_asks_nobody(tmp_path):
    folder = (await aevaluate(task(), model=ScriptedPolicy(told), runs=tmp_path)).folder
    solver, problem = Replay(recorded_answers(tmp_path / folder)), task().test[0]
    key = CallKey(purpose="evaluate", problem=problem.id, sample=5)
    with pytest.raises(TransportError, match="sample 5"):
        await solver.answer(problem, Prompt(messages=problem.messages), key, task().sampling)
    with pytest.raises(TransportError, match="nobody is asked"):
        await solver.policy.complete(problem.messages, task().sampling)


def test_the_arms_are_those_of_improve():
    arms = pytest.importorskip("hybrid.escalation.arms")
    assert arms.ORDER == ARMS and FIRST_EPOCH % 2 == 0


# -- money ----------------------------------------


async def test_a_stopped_comparison_goes_on_and_pays_for_nothing_twice(book, tmp_path):
    def down_after(count):
        left = iter(range(count))
        gone = AuthError("the key was taken back")
        return ScriptedPolicy(lambda m, s: told(m, s) if next(left, None) is not None else gone)

    options = {"task": task(), "samples": 2, "runs": tmp_path / "runs", "concurrency": 4}
    for count in (7, 20):
        with pytest.raises(AuthError):
            await acompare("none", book, model=down_after(count), **options)
    rest = ScriptedPolicy(told)
    found = await acompare("none", book, model=rest, **options)
    assert len(rest.calls) == 2 * 2 * 20 - 27
    assert found.spend["evaluate"]["calls"] == 2 * 2 * 20
    whole = await acompare("none", book, **{**options, "runs": tmp_path / "w"}, model=ScriptedPolicy(told))
    assert numbers(found) == numbers(whole)


async def test_what_costs_too_much_is_refused_before_the_first_call(book, tmp_path):
    cheap, unpriced = ScriptedPolicy(told, name="cheap"), ScriptedPolicy(told, name="unpriced", price=None)
    options = {"task": task(), "runs": tmp_path / "runs"}
    with pytest.raises(InputError, match="needs 40 calls and the budget allows 39"):
        await acompare(cheap, unpriced, budget=Budget(calls=39), **options)
    with pytest.raises(InputError, match="price of 'unpriced' is unknown"):
        await acompare(cheap, unpriced, budget=Budget(usd=1), **options)
    with pytest.raises(InputError, match="which model answers"):
        await acompare("none", cheap, **options)
    late = LateCaller()
    with pytest.raises(InputError, match="each model would judge its own answers"):
        await acompare(cheap, unpriced, **{**options, "task": task(reward=judge(late), models=(late,))})
    assert not cheap.calls and not unpriced.calls
    with pytest.raises(BudgetExhausted):
        await acompare(cheap, unpriced, budget=Budget(tokens=200), **options)
    assert (await acompare(cheap, unpriced, **options)).spend["evaluate"]["calls"] == 40


async def test_a_fresh_comparison_draws_fresh_samples_unless_told_to_reuse(book, tmp_path):
    policy = ScriptedPolicy(told)
    options = {"task": task(), "model": policy, "runs": tmp_path / "runs"}
    one, two = [await acompare("none", book, **options) for _ in range(2)]
    assert len(policy.calls) == 80 and one.folder != two.folder
    again = await acompare("none", book, reuse=True, **options)
    assert len(policy.calls) == 80 and again.folder == two.folder and again.a == two.a
