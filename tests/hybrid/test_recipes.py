"""Recipes by name: what they fix, what wins over them, and whole runs of each on a tiny model."""

from __future__ import annotations

import dataclasses
import doctest
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import NUMBERS, WORDS, save_tiny, trainer_state

import hybrid
import hybrid.recipes
import hybrid.report
import hybrid.settings
from hybrid import Distill, Settings, TrainRecipe, TrainReport, resolve_recipe
from hybrid.recipes import RECIPES
from tfgrpo.cli.main import main
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.events import Event
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

FAST = Settings(dtype="float32", device="cpu", threads=1, lr=5e-3, keep_free=0.0, checkpoint_s=0.0)


def score(problem: Problem, completion: Completion, *, says: bool = True, least: float = 0.5) -> Score:
    words = completion.text.split()
    share = sum(word in NUMBERS for word in words) / max(1, len(words))
    return Score(value=share, solved=share >= least, feedback="" if share >= least or not says else "one two three")


@reward
def numbers(problem: Problem, completion: Completion) -> Score:
    """The share of words that are numbers; solved when half of them are, else with words."""
    return score(problem, completion)


@reward
def silent(problem: Problem, completion: Completion) -> Score:
    """The same without words."""
    return score(problem, completion, says=False)


@reward
def hopeless(problem: Problem, completion: Completion) -> Score:
    """The same with nothing ever solved, and without words."""
    return score(problem, completion, says=False, least=2.0)


@reward
def easy(problem: Problem, completion: Completion) -> Score:
    """The same with everything solved."""
    return score(problem, completion, least=0.0)


def task(**changes: Any) -> Task:
    learn, test = (
        tuple(
            Problem(id=f"{a}{n}", messages=({"role": "user", "content": f"{words[n % 10]} {words[(3 * n + 1) % 10]}"},))
            for n in range(10)
        )
        for a, words in (("learn", WORDS[:10]), ("test", WORDS[10:]))
    )
    plain = Task(
        name="numbers",
        learn=learn,
        test=test,
        reward=numbers,
        sampling=Sampling(temperature=1.0, max_tokens=6),
        test_samples=4,
    )
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def train(folder: Path, out: Path, **changes: Any) -> TrainReport:
    given = {"steps": 4, "group": 4, "prompts": 3, "settings": FAST, **changes}
    return hybrid.train(given.pop("task", task()), model=str(folder), out=out, **given)


def weights(report: TrainReport) -> dict[str, torch.Tensor]:
    return trainer_state(report)


def same_weights(one: TrainReport, other: TrainReport) -> bool:
    mine, theirs = ({n: t for n, t in weights(r).items() if n.startswith("master/")} for r in (one, other))
    return mine.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in mine.items())


def results(report: TrainReport) -> list[dict[str, float]]:
    return [{n: v for n, v in point.items() if not n.endswith(("_s", "_gib"))} for point in report.curve]


# -- the table --------------------------------------------------------------------------------------------------------


def test_examples() -> None:
    for module in (hybrid.recipes, hybrid.report, hybrid.settings):
        assert doctest.testmod(module).failed == 0


def test_the_rows() -> None:
    assert list(RECIPES) == ["grpo", "sdpo", "srpo", "distill-library"]
    for name in ("grpo", "sdpo", "srpo"):
        assert resolve_recipe(name).name == name
    srpo, sdpo = resolve_recipe("srpo").distill, resolve_recipe("sdpo").distill
    assert srpo is not None and sdpo is not None
    assert (srpo.rows, srpo.others, srpo.beta) == ("wrong", "policy", 1.0)
    assert (sdpo.rows, sdpo.others, sdpo.beta) == ("all", "mask", 0.0)
    for distill in (srpo, sdpo):
        assert (distill.k, distill.alpha, distill.tail, distill.is_cap) == (100, 0.5, True, 2.0)
        assert (distill.teacher, distill.rate, distill.exclude_self) == ("ema", 0.05, True)


def test_options_are_those_of_distillation() -> None:
    made = resolve_recipe("srpo", teacher="live", k=None)
    assert made.distill is not None and (made.distill.teacher, made.distill.k) == ("live", None)
    assert resolve_recipe(made, beta=0.0).distill == dataclasses.replace(made.distill, beta=0.0)
    for name, options, words in (
        ("srop", {}, "did you mean 'srpo'"),
        ("srpo", {"taecher": "live"}, "did you mean 'teacher'"),
        ("grpo", {"teacher": "live"}, "distils nothing"),
        ("srpo", {"teacher": "dead"}, "unknown teacher of distillation 'dead'"),
    ):
        with pytest.raises(InputError, match=words):
            resolve_recipe(name, **options)
    with pytest.raises(InputError, match="a name or a TrainRecipe"):
        resolve_recipe(3)  # type: ignore[arg-type]


def test_a_recipe_may_change_the_task() -> None:
    asked = task(advantage="rloo")
    made = TrainRecipe(name="own", grouping="hints", reward=lambda own: silent if own is numbers else own)
    changed = made.of_task(asked)
    assert (changed.advantage, changed.grouping, changed.reward) == ("rloo", "hints", silent)
    assert resolve_recipe("srpo").of_task(asked).advantage == "dr_grpo"
    assert resolve_recipe("srpo").without("advantage").of_task(asked).advantage == "rloo"


def test_settings_by_name_lie_over_the_recipes() -> None:
    assert Settings.of({"clip": 2.0}, {"clip": 0.1, "lr": 1e-6}) == Settings(clip=2.0, lr=1e-6)
    assert Settings.of(None, {"lr": 1e-6}) == Settings(lr=1e-6)
    assert Settings.of(FAST, {"lr": 1e-6}) is FAST
    with pytest.raises(InputError, match="did you mean 'clip'"):
        Settings.of({"clib": 1.0}, {})


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["srpo", "sdpo", "grpo"])
def test_each_recipe_learns(folder: Path, tmp_path: Path, name: str) -> None:
    report = train(folder, tmp_path, recipe=name, steps=25, group=8, prompts=4)
    assert report.before is not None and report.after is not None
    if name != "sdpo":  # random weights make no use of what a teacher is shown, so it only learns to be like it
        assert report.after.mean > report.before.mean + 0.1, str(report)
    assert report.methods["recipe"] == name and f"recipe {name}" in str(report)
    assert max(point.get("parity_max", 0.0) for point in report.curve) < 1e-3
    assert ("distil" in report.methods) == (name != "grpo")
    first = report.curve[0]
    if name == "grpo":
        assert not any(n.startswith(("route/", "taught/")) for n in first) and "taught" not in str(report)
        return
    assert first["route/taught"] + first["route/policy"] == (32 if name == "srpo" else first["answers"])
    assert first["route/by_sibling"] + first["route/by_feedback"] == first["route/taught"] > 0
    for metric in ("kl", "divergence", "teacher_entropy", "student_entropy", "weight", "loss"):
        assert first[f"taught/{metric}"] > 0
    assert ("policy" in first) == (name == "srpo")
    assert "  taught    " in str(report) and "KL to the teacher" in str(report)
    if name == "sdpo":
        apart = [point["taught/kl"] for point in report.curve]
        assert sum(apart[-5:]) < 0.6 * sum(apart[:5])


def test_without_a_recipe_it_is_grpo(folder: Path, tmp_path: Path) -> None:
    plain, named = train(folder, tmp_path / "a"), train(folder, tmp_path / "b", recipe="grpo")
    assert same_weights(plain, named) and results(plain) == results(named)
    assert plain.config == named.config


@pytest.mark.parametrize(("judge", "name"), [(hopeless, "srpo"), (easy, "srpo")])
def test_srpo_without_anybody_to_teach_is_grpo(folder: Path, tmp_path: Path, judge: Any, name: str) -> None:
    """All wrong without words, and all right."""
    events: list[Event] = []
    given = {"task": task(reward=judge), "steps": 3}
    plain = train(folder, tmp_path / "plain", advantage="dr_grpo", **given)
    taught = train(folder, tmp_path / "taught", recipe=name, on_event=events.append, **given)
    assert same_weights(plain, taught)
    bare = [{n: v for n, v in point.items() if not n.startswith("route/")} for point in results(taught)]
    assert bare == results(plain)
    told = [e.data["error"] for e in events if e.name == "teaching_failed"]
    assert len(told) == (3 if judge is hopeless else 0)
    assert all("nothing to teach with: none of 12" in words for words in told)


def test_sdpo_without_anything_to_teach_with_learns_nothing_and_says_so(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    report = train(folder, tmp_path, task=task(reward=hopeless), recipe="sdpo", steps=2)
    begun, ended = (AutoModelForCausalLM.from_pretrained(place) for place in (folder, report.checkpoint))
    assert all(torch.equal(p, q) for p, q in zip(begun.parameters(), ended.parameters(), strict=True))
    assert report.steps == 2
    assert all(point["updates"] == 0 and point["route/alone"] == 12 for point in report.curve)


class Stop(BaseException):
    pass


def stop_at(step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if event.name == "update_done" and event.data["step"] == step:
            raise Stop

    return listen


@pytest.mark.parametrize("teacher", ["ema", "live", "trust_region"])
def test_a_run_that_breaks_goes_on_to_the_same_end(folder: Path, tmp_path: Path, teacher: str) -> None:
    recipe = resolve_recipe("srpo", teacher=teacher, rate=0.2)
    whole = train(folder, tmp_path / "whole", recipe=recipe, steps=5)
    with pytest.raises(Stop):
        train(folder, tmp_path / "broken", recipe=recipe, steps=5, on_event=stop_at(3))
    broken = train(folder, tmp_path / "broken", recipe=recipe, steps=5)
    assert results(broken) == results(whole)
    mine, theirs = weights(whole), weights(broken)
    assert mine.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in mine.items())
    assert any(n.startswith("teacher/") for n in mine) == (teacher == "ema")
    assert (whole.before, whole.after) == (broken.before, broken.after)


def test_another_way_to_distil_is_another_run(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path, recipe="srpo", steps=1)
    for recipe, words in (
        (resolve_recipe("srpo", k=7), "another option of distillation k"),
        ("grpo", "advantage, distill"),
        ("sdpo", "another option of distillation rows"),
    ):
        with pytest.raises(RunStateError, match=words):
            train(folder, tmp_path, recipe=recipe, steps=1)
    same = TrainRecipe(name="mine", advantage="dr_grpo", distill=Distill())
    assert train(folder, tmp_path, recipe=same, steps=1).steps == 1


def test_what_is_said_wins_over_the_recipe(folder: Path, tmp_path: Path) -> None:
    report = train(folder, tmp_path, recipe="srpo", steps=1, advantage="rloo", loss="cispo", settings={"keep_free": 0})
    assert (report.methods["advantage"], report.methods["loss"]) == ("rloo", "cispo")
    assert report.config["settings"]["lr"] == 1e-5


def numbers_task() -> Task:
    """What the command line is given as module:function."""
    return task()


def test_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    command = ["train", "test_recipes:numbers_task", "--model", str(folder), "--steps", "2", "--group", "4"]
    command += ["--prompts", "2", "--set", "dtype=float32", "--set", "threads=1", "--set", "keep_free=0"]
    srpo = [*command, "--out", str(tmp_path / "a"), "--recipe", "srpo", "--recipe-option", "teacher=live"]
    assert main(srpo) == 0
    said = capsys.readouterr()
    assert "advantage dr_grpo, loss dapo" in said.out and "recipe srpo" in said.out and "the live teacher" in said.out
    assert "taught" in said.err
    explicit = [*command, "--out", str(tmp_path / "b"), "--recipe", "srpo", "--advantage", "rloo", "--json"]
    assert main([*explicit, "--loss-option", "high=0.3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["methods"]["advantage"] == "rloo" and report["methods"]["loss"] == "dapo(high=0.3)"
    assert report["config"]["distill"]["k"] == 100
    for wrong, words in (
        (["--recipe", "srop"], "did you mean 'srpo'"),
        (["--recipe-option", "k=3"], "--recipe-option needs --recipe"),
        (["--recipe", "srpo", "--recipe-option", "kk=3"], "unknown option of recipe 'srpo' 'kk'"),
        (["--recipe", "srpo", "--recipe-option", "k=0"], "give alpha=1"),
    ):
        assert main([*command, "--out", str(tmp_path / "c"), *wrong]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert main(["methods", "recipe/srpo"]) == 0
    assert "arXiv 2604.02288" in capsys.readouterr().out
