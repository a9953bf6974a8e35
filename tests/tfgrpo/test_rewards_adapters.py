"""Reward functions as users of TRL, verl and verifiers write them, unmodified; the real packages in the slow suite."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import experience_store
from tests.scripted import ScriptedPolicy
from tfgrpo import Budget, Task, alearn
from tfgrpo.errors import InputError, RewardError
from tfgrpo.events import EventLog
from tfgrpo.problems import problems_from
from tfgrpo.record import RunRecord
from tfgrpo.rewards.base import Outcome, Reward, score_answers, scores_alone
from tfgrpo.rewards.calling import TrainerState, metrics_to, training
from tfgrpo.rewards.named import as_reward, resolve_reward
from tfgrpo.rewards.trl import from_trl
from tfgrpo.rewards.verifiers import from_verifiers
from tfgrpo.rewards.verl import from_verl
from tfgrpo.types import Completion, Problem, Score

(PLAIN,) = problems_from([{"prompt": "What is 2 + 3?", "answer": "5", "level": "easy"}])
(VERL,) = problems_from([{
    "data_source": "sums", "prompt": [{"role": "user", "content": "What is 2 + 3?"}], "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"}, "extra_info": {"split": "train", "index": 7},
}])  # fmt: skip
(VERIFIERS,) = problems_from([{"question": "What is 2 + 3?", "answer": "5", "info": {"unit": "eggs"}, "task": "sums"}])


def answer(text: str, **more: Any) -> Completion:
    message = {"role": "assistant", "content": text}
    return Completion(prompt=(), messages=(message,), text=text, policy="scripted", **more)


async def scored(made: Reward, *texts: str, problem: Problem = PLAIN) -> tuple[Outcome, ...]:
    return await score_answers(made, problem, [answer(t) for t in texts])


async def values(made: Reward, *texts: str, problem: Problem = PLAIN) -> list[float | None]:
    found = await scored(made, *texts, problem=problem)
    assert not any(isinstance(o, RewardError) for o in found), found
    return [o.value if isinstance(o, Score) else None for o in found]


# ------------------------------------------------------------------------------------- written for TRL


def format_reward_func(completions, **kwargs):  # type: ignore[no-untyped-def]
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, content) else 0.0 for content in contents]


def per_level(prompts, completions, completion_ids, level, trainer_state, **kwargs):  # type: ignore[no-untyped-def]
    share = trainer_state.global_step / trainer_state.max_steps
    return [share if one == "easy" else None for one in level]


async def asynchronous(prompts, completions, ground_truth, **kwargs):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0)
    return [float(c[-1]["content"] == g) for c, g in zip(completions, ground_truth, strict=True)]


def logging_func(completions, solution, log_extra, log_metric, **kwargs):  # type: ignore[no-untyped-def]
    right = [c[0]["content"] == s for c, s in zip(completions, solution, strict=True)]
    log_extra("parsed", [c[0]["content"][:3] for c in completions])
    log_extra("one too few", [1])
    log_metric("accuracy", sum(right) / len(right))
    return [float(r) for r in right]


def texts_only(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(p) + len(c)) for p, c in zip(prompts, completions, strict=True)]


class Bonus:
    """Stateful rewards are written as classes."""

    def __init__(self, bonus: float) -> None:
        self.bonus = bonus

    def __call__(self, completions: list[Any], **kwargs: Any) -> list[float]:
        return [self.bonus for _ in completions]


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (format_reward_func, [1.0, 0.0]),
        (per_level, [0.0, 0.0]),
        (asynchronous, [0.0, 1.0]),
        (logging_func, [0.0, 1.0]),
        (texts_only, [14 + 38, 14 + 1]),
        (Bonus(0.5), [0.5, 0.5]),
        (functools.partial(Bonus.__call__, Bonus(0.25)), [0.25, 0.25]),
    ],
)
async def test_trl_functions(fn: Any, expected: list[float]) -> None:
    assert await values(as_reward(fn), "<think>2 + 3</think><answer>5</answer>", "5") == expected


async def test_what_a_trl_function_logs_becomes_words_and_events() -> None:
    log, seen = EventLog(), []
    log.subscribe(seen.append)
    with metrics_to(log.emit):
        right, wrong = await scored(as_reward(logging_func), "5", "six eggs")
    assert isinstance(right, Score) and isinstance(wrong, Score)
    assert (right.feedback, wrong.feedback) == ("parsed: 5", "parsed: six") and not right.parts
    assert [(e.name, dict(e.data)) for e in seen] == [
        ("reward_metric", {"reward": "logging_func", "problem": PLAIN.id, "metric": "accuracy", "value": 0.5})
    ]
    assert await values(as_reward(logging_func), "5") == [1.0]  # nobody listens


async def test_what_is_logged_stands_in_the_record_of_a_run(tmp_path: Path) -> None:
    (one, two) = problems_from([{"prompt": f"What is 2 + {k}?", "answer": str(2 + k)} for k in (3, 4)])
    task = Task(name="sums", learn=(one,), test=(two,), reward=as_reward(logging_func))
    solver = ScriptedPolicy(lambda messages, sampling: "5")
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        report = await alearn(
            task, model=solver, critic="examples", store=store, budget=Budget(calls=8), group=2, runs=tmp_path
        )
    with RunRecord.open(report.folder, read_only=True) as record:
        logged = [event.data for event in record.events("reward_metric")]
    assert {(d["reward"], d["metric"]) for d in logged} == {("logging_func", "accuracy")}
    assert {d["problem"]: d["value"] for d in logged} == {one.id: 1.0, two.id: 0.0}


async def test_the_state_of_the_training_is_told() -> None:
    with training(TrainerState(global_step=30, max_steps=120)):
        assert await values(as_reward(per_level), "5") == [0.25]
    hard = Problem(id="p", messages=PLAIN.messages, answer="5", meta={"level": "hard"})
    assert await values(as_reward(per_level), "5", problem=hard) == [None]


async def test_trl_functions_may_return_parts_and_plain_texts_can_be_asked_for() -> None:
    def parts(completions, **kwargs):  # type: ignore[no-untyped-def]
        return [{"short": 1.0, "right": 0.0} for _ in completions]

    (score,) = await scored(from_trl(parts), "5")
    assert isinstance(score, Score) and dict(score.parts) == {"short": 1.0, "right": 0.0} and score.value == 0.5
    assert await values(from_trl(lambda completions: [len(c) for c in completions], conversational=False), "abc") == [
        3.0
    ]


async def test_bound_arguments_of_a_partial_stay() -> None:
    def fn(completions: list[Any], label: str, **kwargs: Any) -> list[float]:
        return [float(label == "mine") for _ in completions]

    assert await values(from_trl(functools.partial(fn, label="mine")), "x") == [1.0]


# ------------------------------------------------------------------------------------ written for verl


def compute_score(data_source, solution_str, ground_truth, extra_info=None):  # type: ignore[no-untyped-def]
    assert data_source == "sums" and extra_info["index"] == 7 and extra_info["num_turns"] == 1
    return float(solution_str.strip() == ground_truth)


def compute_score_dict(data_source, solution_str, ground_truth, extra_info):  # type: ignore[no-untyped-def]
    right = solution_str.strip() == ground_truth
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str.strip(), "nothing": None}


async def compute_score_async(data_source, solution_str, ground_truth, extra_info=None, **kwargs):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0)
    return kwargs.get("bonus", 0) + len(solution_str)


def compute_score_batch(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):  # type: ignore[no-untyped-def]
    assert [i["split"] for i in extra_infos] == ["train"] * len(solution_strs)
    return [{"score": float(s == g)} for s, g in zip(solution_strs, ground_truths, strict=True)]


async def test_verl_functions() -> None:
    assert await values(as_reward(compute_score), " 5", "6", problem=VERL) == [1.0, 0.0]
    assert await values(as_reward(compute_score_async), "abc", problem=VERL) == [3.0]
    assert await values(from_verl(compute_score_async, bonus=2), "abc", problem=VERL) == [5.0]
    assert await values(as_reward(compute_score_batch), "5", "6", problem=VERL) == [1.0, 0.0]
    assert await values(as_reward(compute_score_async), "abc", problem=PLAIN) == [3.0]  # data of another shape
    right, wrong = await scored(as_reward(compute_score_dict), "5", "6", problem=VERL)
    assert right == Score(value=1.0, parts={"acc": 1.0}, feedback="pred: 5", solved=True)
    assert wrong == Score(value=-1.0, parts={"acc": 0.0}, feedback="pred: 6", solved=False)
    assert scores_alone(as_reward(compute_score)) and not scores_alone(as_reward(compute_score_batch))


async def test_a_slow_verl_function_runs_in_a_thread_and_a_failing_one_loses_one_answer() -> None:
    seen: list[str] = []

    def fn(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> Any:
        seen.append(threading.current_thread().name)
        return {"five": 5}[solution_str]

    found = await scored(from_verl(fn), "five", "six", problem=VERL)
    assert isinstance(found[0], Score) and found[0].value == 5.0 and threading.main_thread().name not in seen
    assert isinstance(found[1], RewardError) and "KeyError: 'six'" in str(found[1])
    (lacking,) = await scored(from_verl(lambda solution_str: {"reward": 1}), "five", problem=VERL)
    assert isinstance(lacking, RewardError) and "must have a 'score' in it; got reward" in str(lacking)


# ------------------------------------------------------------------------------- written for verifiers


async def correct_answer(completion, answer) -> float:  # type: ignore[no-untyped-def]
    return 1.0 if completion[-1]["content"] == answer else 0.0


def uses_state(state, info, task, unit_of=None) -> float:  # type: ignore[no-untyped-def]
    state["seen"] = state.get("seen", 0) + 1
    return float(info["unit"] == "eggs" and task == "sums" and state["turn"] == 1 and state["seen"] == 1)


def reads_what_the_first_left(state) -> float:  # type: ignore[no-untyped-def]
    return float(state["seen"])


def parsed(parser, completion, answer, **kwargs) -> float:  # type: ignore[no-untyped-def]
    return float((parser.parse_answer(completion) or "") == answer)


def different_answers(completions, states) -> list[float]:  # type: ignore[no-untyped-def]
    texts = [c[-1]["content"] for c in completions]
    return [float(texts.count(t) == 1) for t in texts]


class FirstLine:
    def parse_answer(self, completion: Any) -> str:
        return str(completion[-1]["content"]).splitlines()[0]


class RubricLike:
    """The members that a rubric of verifiers has."""

    def __init__(self, funcs: list[Any], weights: list[float], parser: Any = None) -> None:
        self.funcs, self.weights, self.parser = funcs, weights, parser
        self.class_objects = {"parser": parser} if parser else {}


async def test_verifiers_functions() -> None:
    assert await values(as_reward(correct_answer), "5", "6", problem=VERIFIERS) == [1.0, 0.0]
    assert await values(as_reward(uses_state), "5", problem=VERIFIERS) == [1.0]
    assert await values(as_reward(different_answers), "5", "6", "5", problem=VERIFIERS) == [0.0, 1.0, 0.0]
    assert await values(from_verifiers(parsed, parser=FirstLine()), "5\nindeed", problem=VERIFIERS) == [1.0]
    (lacking,) = await scored(from_verifiers(parsed), "5", problem=VERIFIERS)
    assert isinstance(lacking, RewardError) and "asks for the columns parser" in str(lacking)

    def with_column(completion, answer, level) -> float:  # type: ignore[no-untyped-def]
        return float(level == "easy")

    assert await values(as_reward(with_column), "5") == [1.0]


async def test_rubrics() -> None:
    rubric = RubricLike(
        [correct_answer, parsed, uses_state, reads_what_the_first_left], [1.0, 0.2, 0.0, 0.0], FirstLine()
    )
    right, partly = await scored(as_reward(rubric), "5", "5\nindeed", problem=VERIFIERS)
    assert isinstance(right, Score) and isinstance(partly, Score)
    assert right.value == pytest.approx(1.2) and right.success and partly.value == pytest.approx(0.2)
    assert not partly.success and right.parts["reads_what_the_first_left"] == 1.0
    assert not partly.parts["correct_answer"] and partly.parts["parsed"] == 1.0
    (lenient,) = await scored(from_verifiers(rubric, solved_at=0.8), "5", problem=VERIFIERS)
    assert isinstance(lenient, Score) and lenient.success


async def test_groups_of_rubrics_and_environments() -> None:
    class Several:
        rubrics = [RubricLike([correct_answer], [1.0]), RubricLike([different_answers], [0.5])]

    class Environment:
        rubric = Several.rubrics[0]

    assert await values(as_reward(Several()), "5", "6", "6", problem=VERIFIERS) == [1.5, 0.0, 0.0]
    assert await values(as_reward(Environment()), "5", problem=VERIFIERS) == [1.0]
    assert scores_alone(as_reward(Environment())) and not scores_alone(as_reward(Several()))
    with pytest.raises(InputError, match="a rubric with a positive weight"):
        from_verifiers(RubricLike([correct_answer], [0.0]))


async def test_failures_of_verifiers_functions() -> None:
    def sometimes(completion: Any) -> float | None:
        return {"5": 1.0, "6": None}[completion[-1]["content"]]

    found = await scored(from_verifiers(sometimes), "5", "6", "7", problem=VERIFIERS)
    assert isinstance(found[0], Score) and found[1] is None and isinstance(found[2], RewardError)
    too_few = await scored(from_verifiers(lambda completions: [1.0]), "5", "6", problem=VERIFIERS)
    assert all(isinstance(o, RewardError) and "returned 1 scores for 2 answers" in str(o) for o in too_few)


# -------------------------------------------------------------------------------------------- dispatch

MODULE = """
def native(problem, completion): return 1
def native_too(p, completion): return 2
def native_group(problem, completions): return [3] * len(completions)
def trl(completions, **kwargs): return [4] * len(completions)
def trl_column(completions, answers): return [5 if a == "5" else 0 for a in answers]
def verl(data_source, solution_str, ground_truth, extra_info=None): return 6
def verifiers(completion, answer): return 7
def verifiers_prompt(prompt, completion): return 8
def verifiers_group(states): return [9] * len(states)
class rubric: funcs, weights = [verifiers], [2.0]
rubric = rubric()
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [("native", 1), ("native_too", 2), ("native_group", 3), ("trl", 4), ("trl_column", 5), ("verl", 6),
     ("verifiers", 7), ("verifiers_prompt", 8), ("verifiers_group", 9), ("rubric", 14)],
)  # fmt: skip
async def test_each_kind_is_known_by_its_parameters(tmp_path: Path, name: str, value: float) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    assert await values(resolve_reward(f"{path}:{name}"), "5") == [value]


def test_what_is_nothing_of_these() -> None:
    for found in (lambda trace: 1.0, lambda x: 1.0, lambda queries, prompts, labels: 1.0):
        with pytest.raises(InputError, match=r"verifiers' fn\(completion, answer, ...\) or rubric; got the parameters"):
            as_reward(found)


# ----------------------------------------------------------------------------------- the real packages


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_the_rewards_that_trl_ships() -> None:
    rewards = pytest.importorskip("trl.rewards")
    (boxed,) = problems_from([{"prompt": "A third?", "solution": r"\boxed{\frac{1}{3}}"}])
    texts = (r"It is \boxed{\frac{1}{3}}", r"\boxed{\frac{1}{2}}", "<think>\nhm\n</think>\nyes")
    found = await scored(as_reward(rewards.accuracy_reward), *texts, problem=boxed)
    assert [o.value for o in found if isinstance(o, Score)] == [1.0, 0.0, 0.0]
    assert isinstance(found[0], Score) and "solution: " in found[0].feedback  # what it gives to log_extra
    assert await values(as_reward(rewards.think_format_reward), *texts, problem=boxed) == [0.0, 0.0, 1.0]
    assert await values(as_reward(rewards.get_soft_overlong_punishment(10, 5)), "5", problem=boxed) == [0.0]
    assert await values(as_reward(rewards.get_repetition_penalty_reward(2, -1.0)), "a b c d", problem=boxed) == [0.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_the_same_answers_score_the_same_in_trl_itself() -> None:
    """Through `GRPOTrainer._calculate_rewards`, the method that calls reward functions there."""
    torch = pytest.importorskip("torch")
    trainers = pytest.importorskip("trl.trainer.grpo_trainer")
    fns = [format_reward_func, asynchronous]
    texts = ["<think>x</think><answer>5</answer>", "5"]
    prompts = [[{"role": "user", "content": "What is 2 + 3?"}]] * 2
    completions: Sequence[Any] = [[{"role": "assistant", "content": t}] for t in texts]

    class Stand:  # what the method reads of its trainer
        reward_funcs, reward_processing_classes = fns, [None, None]
        reward_func_names = ["format", "right"]
        environments = None
        state = TrainerState()

        class accelerator:  # noqa: N801
            device, num_processes, is_main_process = torch.device("cpu"), 1, True

        class args:  # noqa: N801
            report_to: list[str] = []

        _log_completion_extra = _log_metric = staticmethod(lambda *a: None)
        async_loop = asyncio.new_event_loop()

    thread = threading.Thread(target=Stand.async_loop.run_forever, daemon=True)
    thread.start()
    try:
        inputs = [{"prompt": p, "ground_truth": "5"} for p in prompts]
        theirs = await asyncio.to_thread(
            trainers.GRPOTrainer._calculate_rewards, Stand(), inputs, prompts, completions, [[1], [2]]
        )
    finally:
        Stand.async_loop.call_soon_threadsafe(Stand.async_loop.stop)
        thread.join()
        Stand.async_loop.close()
    ours = [await values(as_reward(fn), *texts) for fn in fns]
    assert theirs.T.tolist() == ours


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_real_rubrics_of_verifiers() -> None:
    vf = pytest.importorskip("verifiers")
    parser = vf.XMLParser(["think", "answer"], answer_field="answer")

    def right(parser, completion, answer) -> float:  # type: ignore[no-untyped-def]
        return 1.0 if parser.parse_answer(completion) == answer else 0.0

    rubric = vf.Rubric(funcs=[right, parser.get_format_reward_func()], weights=[1.0, 0.2], parser=parser)
    texts = ("<think>\n2+3\n</think>\n<answer>\n5\n</answer>", "5")
    states = [
        {"prompt": VERIFIERS.messages, "completion": [{"role": "assistant", "content": t}], "answer": "5", "info": {},
         "task": "sums", "trajectory": [], "timing": {"total_ms": 0, "scoring_ms": 0}}
        for t in texts
    ]  # fmt: skip
    await rubric.score_group(states)
    assert await values(as_reward(rubric), *texts, problem=VERIFIERS) == pytest.approx([s["reward"] for s in states])
    assert json.dumps([s["reward"] for s in states])
