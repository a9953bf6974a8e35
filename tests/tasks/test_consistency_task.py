"""The consistency task: its corpus in Chroma, its grader, its three measures, and one run with a real model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import experience_store
from tasks._corpus import Corpus, workshops
from tasks.consistency import QUESTIONS, measure, names_only_the_answer, task
from tests.judges import ScriptedJudge
from tfgrpo import Budget, alearn, connect
from tfgrpo.advantage import Table
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.errors import InputError, MissingExtraError, TransportError
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
    assert not isinstance(made.advantage, str)
    advantages = made.advantage(Table.of([group]))
    assert advantages == pytest.approx([2**-0.5, -(2**-0.5), 0, 0, 0, 0], abs=1e-4)


class Answerer:
    """Answers by whether the documents say it, and fails for some prompts."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def __call__(self, messages: Sequence[Message]) -> str | Exception:
        text = str(messages[-1]["content"])
        if self.broken and self.broken in text:
            return TransportError("gone")
        found = re.search(r"(\w+) founded", text)
        return found[1] if found and "found" in text.partition("Question")[2] else "unknown"


async def test_measures_apart(made: Task) -> None:
    model = ScriptedJudge(answer=Answerer())
    found = await measure(made.test, model)
    assert found.problems == 4 and found.missing == 0
    for value in (found.retriever, found.generator, found.end_to_end, found.accuracy):
        assert value is not None and 0 <= value <= 1
    assert all(key.purpose == "consistency" and s.temperature == 0 for _, key, s in model.asked)
    assert len(model.asked) <= 4 * 11


async def test_a_constant_generator_is_consistent_and_wrong(made: Task) -> None:
    found = await measure(made.test, ScriptedJudge("I do not know"))
    assert found.generator == found.end_to_end == 1.0 and found.accuracy == 0.0
    assert found.retriever is not None and found.retriever < 1.0


async def test_missing_answers_are_in_no_mean(made: Task) -> None:
    found = await measure(made.test[:1], ScriptedJudge(TransportError("gone")))
    assert (found.generator, found.end_to_end, found.accuracy) == (None, None, None) and found.missing > 0
    assert found.retriever is not None


@pytest.mark.slow
async def test_a_run_with_a_real_model(tmp_path: Path) -> None:
    tiny = task(learn=3, gate=0, test=2, wordings=3, corpus=6)
    policy = connect("local/smollm2")
    try:
        with experience_store.open(tmp_path / "store", embedder="hashing") as store:
            report = await alearn(
                tiny, model=policy, critic="examples", store=store, budget=Budget(calls=30), group=4, runs=tmp_path
            )
        caller = Caller(policy, record=None, ledger=Ledger(Budget(calls=40)))
        found = await measure(tiny.test, caller)
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        await policy.aclose()
    assert report.groups >= 1 and report.rollouts >= 4
    assert found.missing == 0 and found.generator is not None and found.retriever is not None
