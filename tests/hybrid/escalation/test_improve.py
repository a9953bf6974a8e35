"""Whole stories on a tiny model and on a loopback provider: they end well, in their budget, and go on after a stop."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flagworld
import pytest
import torch
from cli import call, empty_store, served
from scripted import ScriptedPolicy
from storyworld import CALLS, CHOICES, improve, improve_served, problems, task
from tinymodel import save_tiny

from hybrid import Choices, Improvement
from hybrid.escalation.decision import FORCED, RISING, SHOWN
from hybrid.escalation.job import LEAST, held_out, set_aside
from tfgrpo.budget import Budget
from tfgrpo.errors import BudgetExhausted, InputError, RunStateError
from tfgrpo.events import Event
from tfgrpo.policy.base import Price
from tfgrpo.record import RunRecord
from tfgrpo.rewards.base import reward
from tfgrpo.types import Completion, Problem, Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def told() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("story") / "out"


@pytest.fixture(scope="module")
def story(folder: Path, told: list[Event], out: Path) -> Improvement:
    return improve(folder, out, on_event=told.append)


def test_it_ends_with_trained_weights_that_are_better(story: Improvement, told: list[Event], out: Path) -> None:
    assert story.decision.action == "train" and story.decision.why == SHOWN, str(story)
    assert [arm.name for arm in story.arms][:1] == ["base"] and story.arm("trained") is not None
    gain = story.pair("base", "trained")
    assert gain is not None and gain.gain.low > 0.1 and gain.p_value < 0.01
    assert story.recommended in ("trained", "trained_library") and "over the model as it is" in story.why
    assert story.training is not None and story.pilot is not None
    assert story.pilot.steps == 2 < story.training.steps == 20  # so far a pilot of 2 steps reaches
    assert story.training.checkpoint in story.how and (out.parent / story.training.checkpoint / "config.json").exists()
    phases = [e.data["phase"] for e in told if e.name == "phase"]
    assert phases[:4] == ["baseline", "prompts", "pilot", "training"] and phases[-1].startswith("final_")
    assert "time of this machine is not in the dollars" in " ".join(story.notices)


def test_it_is_told_in_words_in_json_and_on_a_page(story: Improvement, out: Path) -> None:
    assert Improvement.from_json(story.as_json()).as_json() == story.as_json()
    assert json.loads((out / "report.json").read_text())["recommended"] == story.recommended
    text = (out / "report.txt").read_text()
    for words in ("as it is", "trained", "decision  train", "use ", "spent ", "held out  "):
        assert words in text, text
    page = (out / "report.html").read_text()
    seen = _Seen(page)
    assert not {"script", "img", "link"} & set(seen.tags)
    for words in ("Recommended: trained", "What the arms differ by", "The decision", "Training", "What it cost"):
        assert words in seen.text
    learning, training = links_of(out / "report.html")
    assert learning.parent.parent == out / "prompts" and training == out / "training" / "report.html"
    assert "trained" in _Seen(training.read_text()).text


def links_of(page: Path) -> list[Path]:
    """Where the links of a page lead; all of them somewhere."""
    found = [page.parent / str(value) for name, value in _Seen(page.read_text()).attributes if name == "href"]
    assert all(path.is_file() for path in found), found
    return [Path(os.path.normpath(path)) for path in found]


def test_a_story_is_opened_and_listed_like_any_run(story: Improvement, out: Path, tmp_path: Path) -> None:
    said = call("report", out, "--out", tmp_path / "page.html")
    assert said.code == 0, said.err
    assert [path.name for path in links_of(tmp_path / "page.html")] == ["report.html", "report.html"]
    assert "Recommended: trained" in _Seen((tmp_path / "page.html").read_text()).text
    (line,) = [row for row in call("runs", "--runs", out.parent, "--json").json if row["folder"] == str(out)]
    assert (line["kind"], line["state"], line["result"]) == ("improve", "finished", story.why)
    assert line["calls"] == story.spend["calls"]


def test_a_story_that_has_not_ended_has_a_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        improve(folder, out, on_event=stop_at("update_done", "training", 1))
    said = call("report", out)
    assert said.code == 0, said.err
    text = _Seen((out / "report.html").read_text()).text
    for words in ("This story has not ended", "Learning experiences", "The decision", "The pilot of training"):
        assert words in text, words
    assert len(links_of(out / "report.html")) == 2
    (line,) = [row for row in call("runs", "--runs", tmp_path, "--json").json if row["folder"] == str(out)]
    assert (line["kind"], line["state"]) == ("improve", "unfinished")


class _Seen(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_finished_story_is_shown_again_and_asks_nothing(story: Improvement, folder: Path, out: Path) -> None:
    events: list[Event] = []
    again = improve(folder, out, on_event=events.append)
    assert not events and "finished before" in again.notices[-1]
    assert again.as_json() == story.noted(again.notices[-1]).as_json()


def test_nothing_was_learned_from_or_decided_on_held_out_problems(story: Improvement, out: Path) -> None:
    mine = task()
    tested, aside = {p.id for p in mine.test}, {p.id for p in set_aside(mine, 0).test}
    seen = {"prompts": set[str](), "training": set[str]()}
    for name in seen:
        for path in (out / name).rglob("run.sqlite"):
            with RunRecord.open(path.parent, read_only=True) as record:
                for call in record.calls():
                    seen[name].add(call.key.problem)
                    assert call.key.purpose == "evaluate" or call.key.problem not in aside
        assert seen[name] and not seen[name] & tested
    with RunRecord.open(out, read_only=True) as record:
        assert {call.key.problem for call in record.calls()} <= tested


def test_problems_are_set_aside_from_the_gate_and_then_from_learning() -> None:
    mine = task()
    aside = set_aside(mine, 0)
    assert [len(s) for s in (aside.learn, aside.gate, aside.test)] == [18, 6, 12]
    assert {p.id for p in aside.problems} == {p.id for p in (*mine.learn, *mine.gate)}
    assert set_aside(mine, 0) == aside != set_aside(mine, 1)
    bare = set_aside(task(gate=(), learn=mine.learn[:8]), 0)
    assert (len(bare.learn), len(bare.test)) == (6, LEAST)
    assert {p.id for p in held_out(mine, 0)} == {p.id for p in mine.test}
    with pytest.raises(InputError, match="too few"):
        set_aside(task(gate=(), learn=mine.learn[:2]), 0)


# -- what is refused, and what is not possible -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": Budget(usd=0.0)}, "a budget of 0 usd pays for nothing"),
        ({"budget": Budget(calls=0)}, "a budget of 0 calls"),
        ({"budget": Budget(seconds=0.0, calls=9)}, "a budget of 0 seconds"),
        ({"gpu_usd_per_hour": -1.0}, "at least 0"),
        ({"task": task(test=())}, "0 test problems"),
        ({"task": task(grouping="repeats")}, "repeat"),
        ({"train_model": "./nowhere"}, "unknown model './nowhere': there are no weights"),
        ({"train_model": None, "choices": Choices(force=True)}, "not possible: no model to train was given"),
        ({"train_model": "openai/gpt-5", "choices": Choices(force=True)}, "over a server"),
        ({"critic": "lesons"}, "lessons"),
    ],
)
def test_wrong_requests_are_refused_before_anything_begins(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        improve(folder, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_dollar_budget_needs_prices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the price of 'unpriced' is unknown"):
        improve(ScriptedPolicy(lambda m, s: "one", name="unpriced", price=None), tmp_path / "out",
                train_model=None, budget=Budget(usd=1.0))  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_another_story_is_not_overwritten(story: Improvement, folder: Path, out: Path) -> None:
    for changes, words in (
        ({"budget": Budget(calls=CALLS + 1)}, "another budget"),
        ({"seed": 3}, "another seed"),
        ({"choices": dataclasses.replace(CHOICES, loss="grpo")}, "another choices"),
        ({"task": task(test_samples=1)}, "another task"),
    ):
        with pytest.raises(RunStateError, match=words):
            improve(folder, out, **changes)


def test_without_weights_the_best_prompt_only_result_is_given(folder: Path, tmp_path: Path) -> None:
    found = improve(folder, tmp_path, train_model=None)
    assert found.decision.action in ("stop", "continue") and found.training is None and found.pilot is None
    assert found.decision.training.gain is None
    said = str(found)
    assert "nothing was trained: no model to train was given" in said and "best prompt-only result" in said
    assert {arm.name for arm in found.arms} <= {"base", "library"}


@pytest.mark.parametrize("model", ["openai/gpt-4.1", "http://127.0.0.1:1/v1#m", "vllm/Qwen/Qwen3-1.7B"])
def test_a_model_behind_a_server_is_not_trained(folder: Path, tmp_path: Path, model: str) -> None:
    found = improve(folder, tmp_path, train_model=model, budget=Budget(calls=80))
    assert "there are no weights on this machine" in str(found)


def test_weights_that_cannot_be_trained_are_said_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    silent = save_tiny(tmp_path / "silent", template=None)
    found = improve(folder, tmp_path / "out", train_model=str(silent))
    assert "training is not possible" in str(found) and "chat template" in str(found)
    assert found.recommended in ("base", "library")


def test_too_little_memory_for_training_leaves_the_best_prompt_only_result(folder: Path, tmp_path: Path) -> None:
    def hungry(tokens: Any, totals: Any) -> Any:
        raise MemoryError("no room for the activations")

    found = improve(folder, tmp_path / "out", choices=dataclasses.replace(CHOICES, loss=hungry))
    said = str(found)
    assert "nothing was trained: training is not possible: too little memory for an update" in said, said
    assert "Lower the setting token_budget" in said and found.recommended in ("base", "library")
    assert found.prompts is not None and found.training is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_large_weights_are_not_trained_without_a_gpu_unless_asked_for(tmp_path: Path, name: str) -> None:
    from hybrid.escalation.job import Job, no_training

    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / name).open("wb") as file:
        file.truncate(3_000_000_000)  # a hole: nothing is on the disk
    job = Job(task=task(), model="local/smollm2", train_model=str(tmp_path), critic=None, store=None,
              budget=Budget(calls=9), gpu_usd_per_hour=None, traffic_calls=None, out=tmp_path, seed=0, concurrency=1,
              choices=Choices(), on_event=None)  # fmt: skip
    assert no_training(job) == (
        "there is no GPU, and 3.0 GB of weights are not trained on a CPU (--set device=cpu tries)"
    )
    forced = Choices(settings=dataclasses.replace(CHOICES.settings, device="cpu"))
    assert no_training(dataclasses.replace(job, choices=forced)) == ""


def test_a_reward_that_asks_a_paid_model_is_not_trained_on_within_a_dollar_budget(tmp_path: Path) -> None:
    from hybrid.escalation.job import Job, no_training
    from tfgrpo.late import LateCaller

    judge = ScriptedPolicy(
        lambda m, s: "1", name="judge", price=Price(prompt_usd_per_mtok=1, completion_usd_per_mtok=1)
    )
    mine = task(models=(LateCaller(judge),))
    job = Job(task=mine, model="local/smollm2", train_model="local/smollm2", critic=None, store=None,
              budget=Budget(usd=1.0), gpu_usd_per_hour=None, traffic_calls=None, out=tmp_path, seed=0, concurrency=1,
              choices=Choices(), on_event=None)  # fmt: skip
    assert "the reward asks judge" in no_training(job)
    assert no_training(dataclasses.replace(job, budget=Budget(calls=9))) == ""


def test_a_time_budget_too_small_for_a_step_says_so(folder: Path, tmp_path: Path) -> None:
    @reward
    def slow(problem: Problem, completion: Completion) -> Score:
        import time

        time.sleep(0.02)
        return Score(value=0.0)

    found = improve(folder, tmp_path, task=task(reward=slow), budget=Budget(seconds=9.0))
    assert found.spend["seconds"] < 9.0 + 3.0
    assert found.training is None and "nothing was trained" in str(found), str(found)


def test_a_budget_that_pays_for_no_baseline_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetExhausted, match="does not pay for measuring the model as it is"):
        improve(folder, tmp_path, budget=Budget(calls=1))


def test_dollars_pay_for_time_of_the_machine(folder: Path, tmp_path: Path) -> None:
    """An answer costs nothing but time: 20 cents at 72 dollars an hour are 10 seconds."""
    found = improve(folder, tmp_path / "out", budget=Budget(usd=0.2), gpu_usd_per_hour=72.0)
    assert found.spend["calls_usd"] == 0.0
    assert found.spend["machine_usd"] == pytest.approx(found.spend["machine_s"] * 72 / 3600)
    assert 0 < found.spend["machine_usd"] <= 0.2 * 1.2, str(found)
    with pytest.raises(BudgetExhausted, match="does not pay for measuring"):
        improve(folder, tmp_path / "poor", budget=Budget(usd=1e-6), gpu_usd_per_hour=72.0)


def test_a_budget_that_pays_for_no_group_leaves_the_baseline(folder: Path, tmp_path: Path) -> None:
    found = improve(folder, tmp_path, budget=Budget(calls=6), train_model=None)
    assert "no experiences were learned" in str(found) and found.recommended == "base"
    assert [arm.name for arm in found.arms] == ["base"]


def test_forced_training_trains(folder: Path, tmp_path: Path) -> None:
    @reward
    def hopeless(problem: Problem, completion: Completion) -> Score:
        return Score(value=0.0)

    choices = dataclasses.replace(CHOICES, force=True, pilot_steps=2)
    found = improve(folder, tmp_path, task=task(reward=hopeless), choices=choices, budget=Budget(calls=60))
    assert (found.decision.action, found.decision.why) == ("train", FORCED)
    assert found.training is not None and found.training.steps == 20  # a pilot of 2 reaches 20
    assert found.recommended == "base" and "nothing is shown to be better" in found.why


# -- a provider as the prompt arm, weights of another model ------------------------------------------------------------


def flags(**changes: Any) -> Any:
    plain = {
        "learn": flagworld.problems(0, 40),
        "gate": flagworld.problems(40, 60),
        "test": flagworld.problems(60, 120),
    }
    return flagworld.flag_task(**{**plain, **changes})


@pytest.fixture(scope="module")
def asked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Improvement:
    home = tmp_path_factory.mktemp("asked")
    with served() as server:
        return improve_served(
            server.url, home / "out", task=flags(), train_model=str(folder), store=str(empty_store(home)),
            budget=Budget(usd=0.4), gpu_usd_per_hour=0.5, traffic_calls=100_000,
            choices=dataclasses.replace(CHOICES, force=True, pilot_steps=2),
        )  # fmt: skip


def test_two_models_are_compared_and_called_that(asked: Improvement) -> None:
    names = [arm.name for arm in asked.arms]
    assert names[:2] == ["base", "library"] and "untrained" in names and "trained" in names
    assert asked.recommended == "library"
    gain = asked.pair("base", "library")
    assert gain is not None and gain.gain.low > 0
    assert asked.pair("untrained", "trained") is not None and asked.pair("library", "trained") is not None
    said = str(asked)
    assert asked.arm("trained_library") is None  # the tiny model's context is too short for the experiences
    assert "'trained, with experiences' could not be measured" in said and "reads 1 to 95" in said
    assert "are different models" in said and "with the experiences of" in asked.how
    assert "expected calls" in said and asked.decision.traffic_usd is not None and asked.decision.traffic_usd > 0


def test_dollars_are_counted_and_never_exceeded(asked: Improvement) -> None:
    with RunRecord.open(Path(asked.out), read_only=True) as record:
        own = sum(spend.usd for spend in record.spend().values())
    (learned,) = [path.parent for path in (Path(asked.out) / "prompts").rglob("run.sqlite")]
    with RunRecord.open(learned, read_only=True) as record:
        learning = sum(spend.usd for spend in record.spend().values())
    assert asked.spend["calls_usd"] == pytest.approx(own + learning)
    assert asked.spend["machine_usd"] == pytest.approx(asked.spend["machine_s"] * 0.5 / 3600)
    assert 0 < asked.spend["calls_usd"] + asked.spend["machine_usd"] <= 0.4
    assert all(arm.call_usd is not None and arm.call_usd > 0 for arm in asked.arms)


@pytest.mark.parametrize("calls", [40, 150, 400])
def test_calls_are_never_exceeded(tmp_path: Path, calls: int) -> None:
    with served() as server:
        found = improve_served(
            server.url, tmp_path / "out", task=flags(), train_model=None, budget=Budget(calls=calls),
            store=str(empty_store(tmp_path)),
        )  # fmt: skip
        solved = sum("response_format" not in request for request in server.requests)
    assert solved <= calls
    assert found.spend["calls"] == len(server.requests)


def test_learning_goes_on_where_that_is_the_decision(tmp_path: Path) -> None:
    """A model that is right ever more often, whatever stands in its prompt: the curve rises, and nobody trains."""
    asked = [0]

    def better_and_better(messages: Any, sampling: Any) -> str:
        asked[0] += 1
        return "one two" if flagworld.luck("rise", asked[0]) < asked[0] / 2000 else "the of"

    found = improve(
        ScriptedPolicy(better_and_better), tmp_path / "out", train_model="http://127.0.0.1:1/v1#x",
        budget=Budget(usd=1.0), task=task(learn=problems("learn", 36)),
    )  # fmt: skip
    assert found.first_decision is not None, str(found)
    assert (found.first_decision.action, found.first_decision.why) == ("continue", RISING)
    assert found.more_prompts is not None and found.more_prompts.groups > 0
    assert "at first  continue" in str(found) and "Learning goes on" in (tmp_path / "out" / "report.html").read_text()


# -- stopped anywhere --------------------------------------------------------------------------------------------------


class Stop(BaseException):
    pass


def stop_at(name: str, phase: str, count: int = 1) -> Callable[[Event], None]:
    """Breaks off at the n-th event of that name within a phase."""
    seen = {"phase": "", "count": 0}

    def listen(event: Event) -> None:
        if event.name == "phase":
            seen["phase"] = str(event.data["phase"])
        seen["count"] += event.name == name and seen["phase"] == phase
        if seen["count"] == count:
            raise Stop

    return listen


MOMENTS = [("group_done", "prompts", 5), ("update_done", "training", 2)]
MORE_MOMENTS = [
    ("arm_progress", "baseline", 1),
    ("phase", "prompts", 1),
    ("finished", "prompts", 1),
    ("update_done", "pilot", 1),
    ("finished", "pilot", 1),
    ("finished", "training", 1),
    ("phase", "final_trained", 1),
    ("arm_progress", "final_trained", 1),
]


@pytest.mark.parametrize(
    "moment",
    [*MOMENTS, *(pytest.param(moment, marks=pytest.mark.slow) for moment in MORE_MOMENTS)],
    ids=lambda m: f"{m[1]}-{m[0]}",
)
def test_a_story_that_breaks_anywhere_ends_as_if_it_had_not(
    story: Improvement, folder: Path, tmp_path: Path, moment: tuple[str, str, int]
) -> None:
    with pytest.raises(Stop):
        improve(folder, tmp_path / "out", on_event=stop_at(*moment))
    events: list[Event] = []
    found = improve(folder, tmp_path / "out", on_event=events.append)
    assert result(found) == result(story)
    phases = [e.data["phase"] for e in events if e.name == "phase"]
    assert phases[:1] != ["baseline"] or moment[1] == "baseline"


def result(found: Improvement) -> dict[str, Any]:
    """What does not depend on the clock or the place."""
    assert found.training is not None and found.pilot is not None and found.prompts is not None
    return {
        "arms": [(arm.name, arm.score) for arm in found.arms],
        "pairs": found.pairs,
        "recommended": (found.recommended, found.why),
        "decision": (found.decision.action, found.decision.training.gain, found.decision.training.amount),
        "pilot": (found.pilot.steps, found.pilot.gain),
        "training": (found.training.steps, found.training.gain),
        "prompts": (found.prompts.groups, found.prompts.why, found.prompts.before),
        "calls": found.spend["calls"],
    }
