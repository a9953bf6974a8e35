"""The consistency task: its corpus in Chroma, its grader, its three measures, and one run with a real model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import experience_store
from experience_store import Edit
from tasks._corpus import Corpus, workshops
from tasks.consistency import QUESTIONS, SAYS, names_only_the_answer, task
from tests.scripted import ScriptedPolicy
from tfgrpo import Budget, Sampling, aevaluate, alearn, connect
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.changes import changes
from tfgrpo.errors import InputError, MissingExtraError, TransportError
from tfgrpo.evaluation import Evaluation, evaluate_problems
from tfgrpo.grouping import resolve_grouping
from tfgrpo.rewards.base import score_answers
from tfgrpo.task import Task
from tfgrpo.types import Completion, Group, Message, Rollout, Score


@pytest.fixture(scope="module")
def made() -> Task:
    return task(learn=6, gate=2, test=4)


def answer(text: str, variant: int = 0) -> Completion:
    return Completion(prompt=(), messages=(), text=text, policy="p", variant=variant)


def test_every_wording_brings_its_own_documents(made: Task) -> None:
    for problem in made.problems:
        assert len(problem.variants) == 5 and len(problem.meta["retrieved"]) == 6
        for prompt, question in zip((problem.question, *problem.variants), problem.meta["wordings"], strict=True):
            assert prompt.startswith("Documents:\n[1] ") and f"Question: {question}" in prompt
        assert all(len(ids) == 3 for ids in problem.meta["retrieved"])
    assert len({ids for p in made.problems for ids in p.meta["retrieved"]}) > len(made.problems)
    assert {len(wordings) for wordings in QUESTIONS.values()} == {6}


def test_the_documents_hold_the_answers_and_other_names() -> None:
    documents = {n: t for shop in workshops(5, 0) for n, t in shop.documents().items()}
    with Corpus(documents, embedder="hashing") as corpus:
        name = workshops(5, 0)[0].name
        (found,) = corpus.search([f"Who founded the workshop {name}?"], 20)
        assert found[0] == f"{name}/history" and len(found) == 20
        assert corpus.search([f"Who founded {name}?"] * 2, 3)[0] == corpus.search([f"Who founded {name}?"], 3)[0]


def test_a_kept_collection_is_used_again_and_never_mixed(tmp_path: Path) -> None:
    first = task(learn=2, gate=1, test=1, corpus=5, folder=str(tmp_path / "corpus"))
    again = task(learn=2, gate=1, test=1, corpus=5, folder=str(tmp_path / "corpus"))
    assert first.fingerprint() == again.fingerprint() == task(learn=2, gate=1, test=1, corpus=5).fingerprint()
    with pytest.raises(InputError, match="another corpus"):
        task(learn=2, gate=1, test=1, corpus=6, folder=str(tmp_path / "corpus"))


@pytest.mark.parametrize("options", [{"wordings": 1}, {"wordings": 7}, {"k": 0}, {"corpus": 0}, {"corpus": 57}])
def test_what_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        task(learn=2, gate=1, test=1, **options)


async def test_only_the_one_word_is_an_answer(made: Task) -> None:
    problem = made.learn[0]
    rival = problem.meta["rivals"][0]
    texts = (f"{problem.answer}.", f"It is {problem.answer}!", f"{problem.answer} or {rival}", rival, "")
    outcomes = await score_answers(names_only_the_answer, problem, [answer(t) for t in texts])
    assert [o.value for o in outcomes if isinstance(o, Score)] == [1, 1, 0, 0, 0]


async def test_the_task_scores_a_group_over_wordings_and_compares_within_each(made: Task) -> None:
    problem = made.learn[0]
    prompts = resolve_grouping(str(made.grouping), 6)(problem, 0)
    assert [p.variant for p in prompts] == [0, 0, 1, 1, 2, 2]
    texts = [problem.answer, "unknown", problem.answer, problem.answer, "unknown", "unknown"]
    completions = [answer(t, p.variant) for t, p in zip(texts, prompts, strict=True)]
    outcomes = await score_answers(made.reward, problem, completions)
    scores = [o for o in outcomes if isinstance(o, Score)]
    assert [s.parts["consistency"] for s in scores] == [0.5, 0.5, 0.25, 0.25, 0.75 - 0.5 + 0.5 - 0.5, 0.25]
    group = Group(
        problem=problem,
        rollouts=tuple(Rollout(completion=c, score=s) for c, s in zip(completions, scores, strict=True)),
    )
    advantages = resolve_advantage(made.advantage)(Table.of([group]))
    assert advantages == pytest.approx([2**-0.5, -(2**-0.5), 0, 0, 0, 0], abs=1e-4)


class Answerer:
    """Answers by whether the documents say it, and fails for some prompts."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str | Exception:
        text = str(messages[-1]["content"])
        if self.broken and self.broken in text:
            return TransportError("gone")
        found = re.search(r"(\w+) founded", text)
        return found[1] if found and "found" in text.partition("Question")[2] else "unknown"


async def measured(task: Task, policy: ScriptedPolicy, n: int = 4) -> tuple[Evaluation, dict[str, float]]:
    """The evaluation, and the means of what stands beside the score."""
    caller = Caller(policy, record=None, ledger=Ledger(Budget()))
    found = await evaluate_problems(
        task.test[:n], task.reward, caller, sampling=task.sampling, measures=task.measures, probes=task.probes
    )
    return found, {change.name: change.after.mean for change in changes(None, found) if change.after is not None}


async def test_measures_apart(made: Task) -> None:
    policy = ScriptedPolicy(Answerer())
    found, said = await measured(made, policy)
    assert tuple(said) == SAYS and found.missing == 0
    assert all(0 <= said[name] <= 1 for name in SAYS[:4]) and said["entropy_gap"] == 0  # one word each
    assert len(policy.calls) <= 4 * 12 and made.answers_per_test(1) == 12
    assert sum(s.temperature == 0 for _, s in policy.calls) == len(policy.calls) - 4


async def test_the_parts_of_the_chain_are_told_apart(made: Task) -> None:
    """A generator that repeats its first document is consistent by itself; what it is given is not."""

    def first_document(messages: Sequence[Message], sampling: Sampling) -> str:
        return str(messages[-1]["content"]).partition("[1] ")[2].partition("\n")[0]

    _, said = await measured(made, ScriptedPolicy(first_document))
    assert said["generator_consistency"] == 1.0 and said["retriever_consistency"] < 1.0
    assert said["end_to_end_consistency"] < 1.0 and said["entropy_gap"] > 0


async def test_a_constant_generator_is_consistent_and_wrong(made: Task) -> None:
    found, said = await measured(made, ScriptedPolicy(lambda messages, sampling: "I do not know"))
    assert said["generator_consistency"] == said["end_to_end_consistency"] == 1.0
    assert said["accuracy_over_wordings"] == found.mean_at_k == 0.0  # the collapse shows beside it
    assert said["retriever_consistency"] < 1.0


async def test_missing_answers_are_in_no_mean(made: Task) -> None:
    question = made.test[0].meta["wordings"][1]
    policy = ScriptedPolicy(Answerer(broken=question))
    found, said = await measured(made, policy, n=1)
    assert tuple(said) == SAYS and "no reply" in found.faults["wordings"]
    policy = ScriptedPolicy(lambda messages, sampling: TransportError("gone"))
    found, said = await measured(made, policy, n=1)
    assert list(said) == ["retriever_consistency"] and found.missing == 1


async def test_collapse_shows_before_and_after(tmp_path: Path) -> None:
    """An experience that makes the model say one thing for ever gains consistency and loses accuracy."""
    asks_all = task(learn=2, gate=0, test=12, wordings=3)

    def collapses(messages: Sequence[Message], sampling: Sampling) -> str:
        text = "\n".join(str(m["content"]) for m in messages)
        return "nothing" if "Say: nothing." in text else str(Answerer()(messages, sampling))

    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text="Say: nothing.")])
        report = await aevaluate(
            asks_all, model=ScriptedPolicy(collapses), store=store, against="none", runs=tmp_path / "runs"
        )
    rows = {change.name: change for change in report.beside}
    together, right = rows["end_to_end_consistency"], rows["accuracy_over_wordings"]
    assert tuple(rows) == SAYS and together.after is not None and right.before is not None
    assert together.after.mean == 1.0 and together.gain is not None and together.gain.mean > 0
    assert right.before.mean > 0 and right.gain is not None and right.gain.mean < 0
    assert rows["retriever_consistency"].gain_words.startswith("+0.000 ")
    assert "end_to_end_consistency  " in str(report) and "accuracy_over_wordings  " in str(report)


def test_without_the_probe_nothing_more_is_asked() -> None:
    assert task(learn=2, gate=1, test=1, probe=False).answers_per_test(3) == 3


@pytest.mark.slow
async def test_a_run_with_a_real_model(tmp_path: Path) -> None:
    tiny = task(learn=3, gate=0, test=2, wordings=3, corpus=6)
    policy = connect("local/smollm2")
    try:
        with experience_store.open(tmp_path / "store", embedder="hashing") as store:
            report = await alearn(
                tiny, model=policy, critic="examples", store=store, budget=Budget(calls=80), group=4, runs=tmp_path
            )
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        await policy.aclose()
    assert report.groups >= 1 and report.rollouts >= 4
    assert [change.name for change in report.beside] == list(SAYS)
    assert all(change.before is not None for change in report.beside)
