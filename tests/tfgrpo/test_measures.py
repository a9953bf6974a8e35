"""What is measured beside the score: of the sampled answers, and of further requests; in every report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import flagworld
import numpy as np
import pytest
from cli import call
from scripted import ScriptedPolicy

import experience_store
from experience_store import Edit
from tfgrpo import Budget, Completion, Measurement, Problem, Report, Sampling, Task, aevaluate, alearn, estimate
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.changes import changes, faults
from tfgrpo.errors import InputError, TransportError
from tfgrpo.evaluation import Evaluation, evaluate_problems
from tfgrpo.measures import Answers, Measure, Probe, Said, part
from tfgrpo.plan import share_out
from tfgrpo.rewards.base import reward, score_answers
from tfgrpo.types import Message

NAN = float("nan")


def told(messages: Sequence[Message], sampling: Sampling) -> str:
    """Right where the fact stands in the prompt; how it is asked decides how brief the answer is."""
    said = flagworld.answer({"messages": [dict(m) for m in messages], "seed": sampling.seed})
    return str(said)


def brief(problem: Problem, completion: Completion) -> bool:
    return len(completion.text.split()) < 3


def even_only(problem: Problem, completion: Completion) -> float | None:
    return float("brown" in completion.text) if int(problem.id.rpartition("-")[2]) % 2 == 0 else None


def twice(problem: Problem) -> list[list[Message]]:
    """The question in two wordings."""
    return [[{"role": "user", "content": f"{opening}{problem.question}"}] for opening in ("", "Say it shortly. ")]


def alike(problem: Problem, answers: Answers) -> Said:
    known = [a.text for a in answers if a is not None]
    return {"alike": float(len(set(known)) == 1) if len(known) > 1 else None, "answered": len(known) / len(answers)}


WORDINGS = Probe(name="wordings", says=("alike", "answered"), ask=twice, read=alike)


def caller(policy: ScriptedPolicy, budget: Budget | None = None) -> Caller:
    return Caller(policy, record=None, ledger=Ledger(budget or Budget()), concurrency=8)


async def evaluated(
    policy: ScriptedPolicy, *, measures: Mapping[str, Measure] | None = None, probes: Sequence[Probe] = (), n: int = 6
) -> Evaluation:
    task = flagworld.flag_task()
    return await evaluate_problems(
        task.test[:n], task.reward, caller(policy), samples=2, measures=measures, probes=probes
    )


async def test_measures_read_the_answers_that_were_scored_anyway() -> None:
    policy = ScriptedPolicy(told)
    found = await evaluated(policy, measures={"brief": brief, "brown": even_only})
    assert len(policy.calls) == 12 and list(found.beside) == ["brief", "brown"]
    assert found.beside["brief"].shape == (6, 2) and not found.beside["brief"].any()
    applies = np.isfinite(found.beside["brown"])
    assert applies.tolist() == [[k % 2 == 0] * 2 for k in range(6)]
    plain = await evaluated(ScriptedPolicy(told))
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert not plain.beside


async def test_a_reward_is_a_measure_and_so_is_one_part_of_it() -> None:
    asked: list[int] = []

    @reward
    def heads(problem: Problem, completion: Completion) -> dict[str, float | None]:
        asked.append(1)
        return {"polite": 0.25, "safe": None}

    found = await evaluated(
        ScriptedPolicy(told), measures={"polite": part(heads, "polite"), "safe": part(heads, "safe"), "all": heads}
    )
    assert (found.beside["polite"] == 0.25).all() and (found.beside["all"] == 0.25).all()
    assert np.isnan(found.beside["safe"]).all() and len(asked) == 3 * 12
    assert str(changes(None, found)[1].words()) == "not applicable to any answer"


async def test_a_measure_that_fails_is_told_and_harms_nothing_else() -> None:
    def broken(problem: Problem, completion: Completion) -> float:
        return 1 / int(problem.id == "flag-61")

    found = await evaluated(ScriptedPolicy(told), measures={"broken": broken, "brief": brief})
    assert np.isfinite(found.scores).all() and np.isfinite(found.beside["brief"]).all()
    assert found.beside["broken"][1].tolist() == [1.0, 1.0] and np.isnan(found.beside["broken"][0]).all()
    (said,) = faults(found, found)
    assert said.startswith("broken failed 10 x") and "ZeroDivisionError" in said and "test_measures.py" in said


# -- probes -----------------------------------------------------------------------------------------------------------


async def test_a_probe_asks_greedily_and_reads_all_answers_in_order() -> None:
    policy = ScriptedPolicy(told)
    seen: list[list[str]] = []

    def read(problem: Problem, answers: Answers) -> Said:
        seen.append([str(a.prompt[-1]["content"]) for a in answers if a is not None])
        return alike(problem, answers)

    found = await evaluated(policy, probes=[replace(WORDINGS, read=read)])
    assert len(policy.calls) == 6 * (2 + 2)
    greedy = [sampling for _, sampling in policy.calls if sampling.temperature == 0]
    assert len(greedy) == 12
    assert all(not first.startswith("Say it") and second.startswith("Say it") for first, second in seen)
    assert found.beside["alike"].shape == (6, 1) and (found.beside["answered"] == 1).all()
    assert found.usage.prompt_tokens == 24 * 10  # probes cost what they cost
    assert WORDINGS.requests(flagworld.problems(0, 3)) == 2


async def test_what_a_probe_could_not_be_told_is_missing() -> None:
    def often(messages: Sequence[Message], sampling: Sampling) -> str | Exception:
        shortly = str(messages[-1]["content"]).startswith("Say it")
        return TransportError("gone") if shortly else told(messages, sampling)

    found = await evaluated(ScriptedPolicy(often), probes=[WORDINGS])
    assert found.missing == 0 and np.isfinite(found.scores).all()
    assert np.isnan(found.beside["alike"]).all() and (found.beside["answered"] == 0.5).all()
    assert faults(found) == ["wordings failed 6 x, at first with: no reply from the model"]


@pytest.mark.parametrize("sync", [True, False])
async def test_a_probe_whose_reading_fails_is_told(sync: bool) -> None:
    def read(problem: Problem, answers: Answers) -> Said:
        raise KeyError("documents")

    async def later(problem: Problem, answers: Answers) -> Said:
        return read(problem, answers)

    found = await evaluated(ScriptedPolicy(told), probes=[replace(WORDINGS, read=read if sync else later)])
    assert np.isfinite(found.scores).all() and np.isnan(found.beside["alike"]).all()
    assert "KeyError: 'documents'" in faults(found)[0]


# -- before and after -------------------------------------------------------------------------------------------------


def evaluation(**beside: list[list[float]]) -> Evaluation:
    size = len(next(iter(beside.values())))
    blank = np.zeros((size, 1))
    values = {name: np.array(rows) for name, rows in beside.items()}
    return Evaluation(problems=tuple(f"p{k}" for k in range(size)), scores=blank, success=blank, beside=values)


def test_changes_are_paired_over_the_problems_to_which_they_apply() -> None:
    before = evaluation(refusal=[[0.0]] * 10 + [[NAN]] * 5, kind=[[0.5, 0.7]] * 15)
    after = evaluation(refusal=[[1.0]] * 9 + [[0.0]] + [[NAN]] * 5, kind=[[0.5, 0.7]] * 15)
    refusal, kind = changes(before, after)
    assert (refusal.name, kind.name) == ("refusal", "kind")
    assert refusal.gain is not None and refusal.after is not None
    assert refusal.gain.mean == pytest.approx(0.9) and refusal.gain.n == refusal.after.n == 10
    assert (refusal.after.low, refusal.after.high) == pytest.approx((0.5958, 0.9821), abs=1e-3)  # Wilson's
    assert "inside the noise" not in refusal.words() and kind.words().endswith("inside the noise")
    (alone,) = changes(None, evaluation(refusal=[[1.0], [NAN]]))
    assert alone.before is None and alone.gain is None and "n=1" in alone.words()


def test_three_of_three_is_no_certainty() -> None:
    change = changes(evaluation(refusal=[[0.0]] * 3), evaluation(refusal=[[1.0]] * 3))[0]
    assert change.gain_words.endswith("inside the noise")  # p = 0.25 by McNemar, whatever the bootstrap says


def beside(**changed: object) -> Task:
    given = {"measures": {"brown": even_only}, "probes": (WORDINGS,), "test": flagworld.problems(60, 72), **changed}
    return flagworld.flag_task(**given)


async def test_learning_reports_both_sides(tmp_path: Path) -> None:
    policy = ScriptedPolicy(told)
    task, budget = beside(critic="examples"), Budget(calls=240)
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text="An old note.")])
        report = await alearn(task, model=policy, store=store, budget=budget, runs=tmp_path / "runs", gate="none")
    assert [c.name for c in report.beside] == ["brown", "alike", "answered"]
    assert report.total["solver_calls"] <= 240
    brown = report.beside[0]
    assert brown.before is not None and brown.before.n == 6
    assert "  beside    brown     " in str(report) and "\n            answered  " in str(report)
    again = Report.from_json(json.loads(json.dumps(report.as_json())))
    assert again.as_json() == report.as_json() and str(again) == str(report)
    page = tmp_path / "page.html"
    assert call("report", report.folder, "--out", page, "--runs", tmp_path / "runs").code == 0
    assert "beside the score" in page.read_text() and "answered" in page.read_text()


async def test_evaluating_a_version_against_none_puts_it_into_every_request(tmp_path: Path) -> None:
    policy = ScriptedPolicy(told)
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        facts = [f"The flag of {land} is {flagworld.colour_of(land)}." for land in flagworld.LANDS]
        store.commit([Edit(op="add", text=fact) for fact in facts])
        result = await aevaluate(beside(), model=policy, store=store, against="none", runs=tmp_path / "runs")
    assert len(policy.calls) == 2 * 12 * 3
    brown, alike_, answered = result.beside
    assert brown.after is not None and brown.after.mean == 0 and brown.gain is not None and brown.gain.mean < 0
    assert alike_.after is not None and alike_.after.mean == 1.0 and answered.gain_words.endswith("inside the noise")
    assert Measurement.from_json(result.as_json()).as_json() == result.as_json()
    assert "beside    brown" in str(result)
    alone = await aevaluate(beside(), model=policy, runs=tmp_path / "runs")
    assert alone.beside[0].before is None and alone.beside[0].after is not None


async def test_the_budget_counts_what_probes_ask(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs 36 calls"):
        await aevaluate(beside(), model=ScriptedPolicy(told), budget=Budget(calls=35), runs=tmp_path)
    plain = share_out(Budget(calls=100), beside(probes=()), group_size=4, samples=1, price=None)
    asked = share_out(Budget(calls=100), beside(), group_size=4, samples=1, price=None)
    assert (plain.test_problems, plain.test_calls) == (12, 24) and (asked.test_problems, asked.test_calls) == (5, 30)
    for calls in (60, 100, 177):
        shares = share_out(Budget(calls=calls), beside(), group_size=4, samples=2, price=None)
        assert shares.groups * 4 + 2 * shares.gate_pairs + shares.test_calls <= calls
    plan = estimate(beside(), model=ScriptedPolicy(told), budget=Budget(calls=100))
    assert plan.parts["solver"].calls <= 100


def test_two_of_one_name_and_probes_that_say_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="have the name alike"):
        beside(measures={"alike": even_only})
    with pytest.raises(InputError, match="names nothing that it says"):
        beside(probes=(replace(WORDINGS, says=()),))


def test_what_is_measured_decides_which_run_it_is() -> None:
    prints = {task.fingerprint() for task in (beside(), beside(probes=()), beside(measures={}))}
    assert len(prints) == 3
    assert flagworld.flag_task().fingerprint() == flagworld.flag_task(measures={}, probes=()).fingerprint()


async def test_a_part_of_a_reward_that_fails_is_a_failure() -> None:
    @reward
    def broken(problem: Problem, completion: Completion) -> dict[str, float]:
        raise OSError("no model")

    answer = Completion(prompt=(), messages=(), text="x", policy="p")
    outcomes = await score_answers(part(broken, "safe"), Problem(id="p", messages=()), [answer])
    assert "no model" in str(outcomes[0])
