"""The teacher that reads a library: what it reads and the student does not; the recipe; whole runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import save_tiny
from tinytraining import FAST, assert_same_end, results, task, train, weights

import experience_store
from experience_store import Edit, Experience, Layout, Snapshot, Version
from experience_store.library import save
from hybrid import Distill, TrainReport, resolve_recipe
from hybrid.answers import Batch
from hybrid.library_teacher import open_library, teaching, with_library
from hybrid.losses import resolve_loss
from hybrid.model import load_trainable
from hybrid.reprompt import with_teachers
from hybrid.settings import Settings
from hybrid.trainer import Trainer
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.cli.main import main
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.events import Event
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.task import Task
from tfgrpo.types import Completion, Group, Problem, Rollout, Score, Segment

EXACT = Settings(dtype="float32", device="cpu", threads=1, drift=1e9)
ASKED = ({"role": "user", "content": "which is the largest"},)
READS = resolve_recipe("distill-library", library="anything.json").distill


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_trainable(folder, EXACT)


def snapshot(*texts: str, trial: Sequence[str] = (), **layout: Any) -> Snapshot:
    entries = tuple(Experience(id=f"E{n}", text=text, row=f"E{n}@1-x") for n, text in enumerate(texts, 1))
    rows = tuple(e.row for e in entries)
    return Snapshot(
        version=Version(number=3, parent=2, rows=rows, trial=tuple(trial), layout=Layout(**layout)), experiences=entries
    )


def exported(place: Path, *texts: str, **layout: Any) -> Path:
    return save(snapshot(*texts, **layout), place)


def group(loaded: LoadedModel, *texts: str) -> Group:
    rollouts = []
    for n, text in enumerate(texts):
        tokens = (*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], 2)
        segments = (
            Segment(token_ids=loaded.prompt_ids(ASKED), train=False),
            Segment(token_ids=tokens, train=True, logps=(-1.0,) * len(tokens)),
        )
        answer = Completion(prompt=ASKED, messages=(), text=text, policy="p", segments=segments)
        rollouts.append(Rollout(completion=answer, score=Score(value=float(n == 0))))
    return Group(problem=Problem(id="p", messages=ASKED), rollouts=tuple(rollouts))


def taught(loaded: LoadedModel, read: Snapshot, **changes: Any) -> Batch:
    groups = [group(loaded, "ten", "two three"), group(loaded, "six")]
    batch = Batch.of(groups, resolve_advantage("dr_grpo").columns(Table.of(groups)))
    assert READS is not None
    return with_library(batch, groups, dataclasses.replace(READS, **changes), loaded, read)


def prompts(loaded: LoadedModel, batch: Batch) -> list[str | None]:
    return [
        None if sample is None else str(loaded.tokenizer.decode([*sample.prompt, *sample.tokens]))
        for sample in batch.teachers
    ]


# -- what is read -----------------------------------------------------------------------------------------------------


def test_the_teacher_reads_the_library_and_the_student_does_not(loaded: LoadedModel) -> None:
    batch = taught(loaded, snapshot("the answer is ten", "then nine", trial=["E2"]))
    assert batch.taught.all() and batch.in_loss.all()
    for student, told in zip(batch.samples, prompts(loaded, batch), strict=True):
        bare = str(loaded.tokenizer.decode([*student.prompt, *student.tokens]))
        assert "system" not in bare and "answer is ten" not in bare
        assert told is not None and "the answer is ten" in told and "nine" not in told
        assert told.startswith("<s> system") and told.endswith(bare)
    for student, teacher in zip(batch.samples, batch.teachers, strict=True):
        assert teacher is not None and teacher.tokens == student.tokens and teacher.logps == student.logps
    counts = {name: count for name, count in batch.counts.items() if count}
    assert counts == {"route/taught": 3.0, "route/by_library": 3.0}


def test_it_reads_what_serving_would_show(loaded: LoadedModel) -> None:
    read = snapshot("the largest", "seven", select="retrieve", max_entries=1, placement="user")
    served = loaded.tokenizer.decode(loaded.prompt_ids(read.apply(ASKED).messages))
    told = prompts(loaded, taught(loaded, read))[0]
    assert told is not None and told.startswith(served) and "seven" not in told


def test_only_wrong_ones_and_what_becomes_of_the_others(loaded: LoadedModel) -> None:
    read = snapshot("ten")
    batch = taught(loaded, read, rows="wrong", others="policy")
    assert batch.taught.tolist() == [False, True, False] and batch.in_loss.all()
    assert taught(loaded, read, rows="wrong").in_loss.tolist() == [False, True, False]


def test_what_does_not_fit_is_left_out_from_the_end(loaded: LoadedModel) -> None:
    read = snapshot("one " * 5, "two " * 5, "three " * 5)
    whole = taught(loaded, read).teachers[0]
    assert whole is not None
    length = len(whole.prompt)
    batch = taught(loaded, read, max_prompt=length - 1)
    told = prompts(loaded, batch)[0]
    assert told is not None and "two two" in told and "three" not in told and batch.counts["route/cut"] == 3
    long = taught(loaded, snapshot(*["one " * 60] * 4))  # longer than the context of 96
    told = prompts(loaded, long)[0]
    assert told is not None and told.count("one") == 60 and long.counts["route/cut"] == 3
    nothing = taught(loaded, snapshot("one " * 100))
    assert not nothing.taught.any() and not nothing.in_loss.any() and nothing.counts["route/too_long"] == 3


@pytest.mark.parametrize("teacher", ["trust_region", "ema", "live"])
def test_a_library_that_shows_nothing_teaches_nothing(folder: Path, teacher: Any) -> None:
    loaded = load_trainable(folder, EXACT)
    batch = taught(loaded, snapshot("ten", trial=["E1"]))
    assert batch.taught.all()
    assert all(t is not None and t.prompt == s.prompt for s, t in zip(batch.samples, batch.teachers, strict=True))
    assert READS is not None
    spec = dataclasses.replace(READS, teacher=teacher)
    metrics = Trainer(loaded, resolve_loss("dapo"), EXACT, temperature=1.0, distill=spec).update(batch, max_tokens=6)
    assert abs(metrics["loss"]) < 1e-6 and abs(metrics["taught/kl"]) < 1e-6 and metrics["grad_norm"] < 1e-5


@pytest.mark.parametrize("lora", [None, 4])
def test_the_teacher_stays_the_first_model(folder: Path, lora: int | None) -> None:
    """After updates it says of the same answers what it said before the first; with adapters: as if there were none."""
    settings = dataclasses.replace(EXACT, lr=1e-2, lora=lora)
    loaded, bare = load_trainable(folder, settings), load_trainable(folder, EXACT)
    batch = taught(loaded, snapshot("the answer is ten"))
    trainer = Trainer(loaded, resolve_loss("dapo"), settings, temperature=1.0, distill=READS)
    other = Trainer(bare, resolve_loss("dapo"), EXACT, temperature=1.0, distill=READS)
    assert trainer.teacher is not None and other.teacher is not None and not trainer.teacher.state()
    losses = [trainer.update(batch, max_tokens=6)["taught/divergence"] for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]
    said, first = (t.lessons(batch.teachers, range(3)).lesson.logp for t in (trainer.teacher, other.teacher))
    torch.testing.assert_close(said, first, atol=1e-5, rtol=1e-5)


# -- the choice -------------------------------------------------------------------------------------------------------


def test_the_recipe() -> None:
    assert READS is not None
    assert (READS.alpha, READS.rows, READS.others, READS.rate) == (1.0, "all", "mask", 0.0)
    assert "library" not in READS.identity and READS.words().startswith("all rows from the first model that reads any")
    assert resolve_recipe("distill-library", library="x", k=None, teacher="ema").distill == dataclasses.replace(
        READS, library="x", k=None, teacher="ema"
    )
    for given, words in (
        ({}, "--recipe-option library=FILE"),
        ({"library": "x", "siblings": True}, "siblings=False"),
        ({"library": 7}, "library of distillation must be"),
        ({"libary": "x"}, "needs the library"),
    ):
        with pytest.raises(InputError, match=words):
            resolve_recipe("distill-library", **given)
    with pytest.raises(InputError, match="knows no more"):
        Distill(siblings=False, feedback="never")
    assert teaching(None) is with_teachers


def test_libraries_are_files_or_versions_of_a_store(tmp_path: Path) -> None:
    store = experience_store.open(tmp_path / "store", embedder="hashing")
    first = store.commit([Edit(op="add", text="ten")])
    store.commit([Edit(op="add", text="nine")])
    file = store.export(1, tmp_path / "library.json")
    store.close()
    with ExitStack() as stack:
        of_file, of_version, head = (
            open_library(stack, str(spec)) for spec in (file, f"{tmp_path / 'store'}@v1", tmp_path / "store")
        )
        assert of_file.digest == of_version.digest != head.digest
        assert (of_version.snapshot.version.number, of_file.store) == (first.number, None)
        assert of_version.place == str(tmp_path / "store")
        with pytest.raises(experience_store.StoreError, match="no store at"):
            open_library(stack, str(tmp_path / "nowhere"))
        empty = save(snapshot("ten", trial=["E1"]), tmp_path / "empty.json")
        with pytest.raises(InputError, match="serves no experience"):
            open_library(stack, str(empty))


# -- whole runs -------------------------------------------------------------------------------------------------------


def recipe(file: Path | str, **options: Any) -> Any:
    return resolve_recipe("distill-library", library=str(file), **options)


def test_a_run_comes_near_to_the_teacher(folder: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "library.json", "the answer is ten then nine")
    report = train(folder, tmp_path / "run", recipe=recipe(file), steps=25, group=8, prompts=4)
    apart = [point["taught/kl"] for point in report.curve]
    assert sum(apart[-5:]) < 0.6 * sum(apart[:5]), apart
    first = report.curve[0]
    assert first["route/by_library"] == first["route/taught"] == first["answers"] == 32
    assert report.config["library"] and "the first model that reads" in str(report)


class Stop(BaseException):
    pass


def stop_at(step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if event.name == "update_done" and event.data["step"] == step:
            raise Stop

    return listen


@pytest.mark.parametrize("lora", [None, 4])
def test_a_run_that_breaks_goes_on_to_the_same_end(folder: Path, tmp_path: Path, lora: int | None) -> None:
    file = exported(tmp_path / "library.json", "the answer is ten then nine")
    given: dict[str, Any] = {"recipe": recipe(file), "settings": dataclasses.replace(FAST, lora=lora)}
    whole: TrainReport = train(folder, tmp_path / "whole", **given)
    with pytest.raises(Stop):
        train(folder, tmp_path / "broken", on_event=stop_at(2), **given)
    moved = file.rename(tmp_path / "elsewhere.json")  # what is in it counts, not where it is
    broken = train(folder, tmp_path / "broken", **{**given, "recipe": recipe(moved)})
    assert_same_end(whole, broken)
    assert not any(name.startswith("teacher/") for name in weights(whole))
    assert any(point["loss"] > 0 for point in results(whole))
    other = exported(tmp_path / "other.json", "the answer is one")
    with pytest.raises(RunStateError, match="another library"):
        train(folder, tmp_path / "broken", **{**given, "recipe": recipe(other)})


def test_a_run_reads_a_version_of_a_store(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    with experience_store.open(place, embedder="hashing") as store:
        store.commit([Edit(op="add", text="the answer is ten")])
        file = store.export(1, tmp_path / "library.json")
    of_file = train(folder, tmp_path / "a", recipe=recipe(file), steps=2)
    of_store = train(folder, tmp_path / "b", recipe=recipe(place), steps=2)
    assert_same_end(of_file, of_store)
    with experience_store.open(place) as store:
        store.commit([Edit(op="add", text="the answer is one")])
    with pytest.raises(RunStateError, match="another library"):
        train(folder, tmp_path / "b", recipe=recipe(place), steps=3)
    assert train(folder, tmp_path / "b", recipe=recipe(f"{place}@v1"), steps=3).steps == 3


def test_an_exported_library_needs_no_store_and_no_network(folder: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "library.json", "the answer is ten")
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from tinytraining import train
from hybrid import resolve_recipe
recipe = resolve_recipe("distill-library", library={str(file)!r})
train({str(folder)!r}, {str(tmp_path / "run")!r}, recipe=recipe, steps=1)
print(sorted({{"chromadb", "openai", "litellm", "aiohttp", "requests", "pydantic"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def numbers_task() -> Task:
    """What the command line is given as module:function."""
    return task()


def test_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    file = exported(tmp_path / "library.json", "the answer is ten")
    command = ["train", "test_library_teacher:numbers_task", "--model", str(folder), "--steps", "2", "--group", "4"]
    command += ["--prompts", "2", "--set", "dtype=float32", "--set", "threads=1", "--set", "keep_free=0"]
    command += ["--recipe", "distill-library", "--out", str(tmp_path / "a")]
    assert main(command) == 2
    assert "--recipe-option library=FILE" in capsys.readouterr().err
    assert main([*command, "--recipe-option", f"library={tmp_path / 'nothing'}"]) == 2
    assert "there is no store at" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert main([*command, "--recipe-option", f"library={file}", "--set", "lora=2"]) == 0
    assert "recipe distill-library" in capsys.readouterr().out
