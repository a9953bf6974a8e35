"""Experiences that are retired: a scripted model that needs one of them, in a file and a store; a model of weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedPolicy
from tinymodel import save_tiny
from tinytraining import says_numbers

import experience_store
import hybrid
import hybrid.retirement
from experience_store import Edit, Experience, Layout, Library, Snapshot, Version
from experience_store.library import save
from hybrid import Retirement
from hybrid.retiring import WRITER
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.events import Event
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Message, Problem, Score, message_text

NEEDED = "Say yes to the nine."
TEXTS = ("Check the units.", NEEDED, "Read it twice.", "Be brief and polite.")


def snapshot(texts: Sequence[str] = TEXTS) -> Snapshot:
    entries = tuple(Experience(id=f"E{n}", text=text, row=f"E{n}@1-x") for n, text in enumerate(texts, 1))
    version = Version(number=3, parent=2, rows=tuple(e.row for e in entries), layout=Layout())
    return Snapshot(version=version, experiences=entries)


class Counting(ScriptedPolicy):
    """Tells the words of a prompt as its tokens."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        made = await super().complete(messages, sampling)
        words = sum(len(message_text(m).split()) for m in messages)
        return dataclasses.replace(made, usage=dataclasses.replace(made.usage, prompt_tokens=words))


def distilled(messages: Sequence[Message], sampling: Sampling) -> str:
    """Every tenth problem is answered right only with one of the experiences, as if it had not been learned."""
    question = message_text(messages[-1])
    shown = any(NEEDED in message_text(m) for m in messages)
    return "yes" if shown or int(question.split()[-1]) % 10 != 9 else "no"


def ignorant(messages: Sequence[Message], sampling: Sampling) -> str:
    return "yes" if any(NEEDED in message_text(m) for m in messages) else "no"


@reward
def says_yes(problem: Problem, completion: Completion) -> Score:
    return Score(value=float(completion.text == "yes"))


def problems(name: str, count: int) -> tuple[Problem, ...]:
    return tuple(
        Problem(id=f"{name}{n}", messages=({"role": "user", "content": f"{name} yes {n}"},)) for n in range(count)
    )


def task(gate: int = 400, test: int = 40, **changes: Any) -> Task:
    plain = Task(
        name="yes",
        learn=problems("learn", 2),
        gate=problems("gate", gate),
        test=problems("test", test),
        reward=says_yes,
        test_samples=1,
    )
    return dataclasses.replace(plain, **changes)


def retire(out: Path, library: Path | str, policy: Any, **changes: Any) -> Retirement:
    given = {"before": Counting(ignorant, name="before"), **changes}
    return hybrid.retire(given.pop("task", task()), model=policy, library=str(library), out=out, **given)


def store_with(place: Path, texts: Sequence[str] = TEXTS) -> str:
    with experience_store.open(place, embedder="hashing") as store:
        store.commit([Edit(op="add", text=text) for text in texts], note="learned")
    return str(place)


def test_what_is_needed_stays_and_a_file_gets_a_shorter_one_beside_it(tmp_path: Path) -> None:
    file = save(snapshot(), tmp_path / "library.json")
    begun, told = file.read_bytes(), list[Event]()
    report = retire(tmp_path / "run", file, Counting(distilled, name="after"), on_event=told.append)
    assert (report.retired, report.kept) == (("E1", "E3", "E4"), ("E2",))
    means = {name: found.mean for name, found in report.accuracy.items()}
    assert means == {"before_with": 1.0, "before_without": 0.0, "with": 1.0, "left": 1.0, "without": 0.9}
    assert report.changes["of distillation, without the library"].mean == pytest.approx(0.9)
    assert report.changes["of leaving out everything"].mean == pytest.approx(-0.1)
    assert [test["verdict"] for test in report.tests] == [
        "inferior",
        "inferior",
        "non-inferior",
        "non-inferior",
        "inferior",
    ]
    gone = sum(len(text.split()) + 1 for text in TEXTS if text != NEEDED)  # a dash before each
    assert report.saved_tokens == gone and report.prompt_tokens["without"] == 3
    assert file.read_bytes() == begun
    left = Library.load(report.written)
    assert [e.text for e in left.served] == [NEEDED] and (left.version.number, left.version.parent) == (4, 3)
    assert left.version.writer == WRITER and left.version.evidence["retirement"]["saved_tokens"] == gone
    assert "retired 3 of 4 experiences" in left.version.note
    words = str(report)
    for part in ("after, without ", "retired   E1, E3, E4", "of retiring", f"{gone} prompt tokens", "written   "):
        assert part in words, words
    assert [e.name for e in told].count("removal_tested") == 5 and told[-1].name == "finished"
    assert json.loads(json.dumps(report.as_json()))["saved_tokens"] == gone


def test_a_store_gets_a_version_and_keeps_its_history(tmp_path: Path) -> None:
    place = store_with(tmp_path / "store")
    policy = Counting(distilled, name="after")
    report = retire(tmp_path / "run", place, policy)
    assert report.written == f"{place}@v2"
    calls = len(policy.calls)
    again = retire(tmp_path / "run", place, policy)  # the head is the shorter version by now
    assert again == report and len(policy.calls) == calls
    with experience_store.open(place) as store:
        assert [len(store.at(n)) for n in (1, 2)] == [4, 1] and store.head().number == 2
        assert {edit.op for edit in store.head().edits} == {"drop"}
        assert "non-inferior" in json.dumps(dict(store.head().evidence))
        assert store.rollback(1).number == 3
    with pytest.raises(RunStateError, match="another measured"):
        retire(tmp_path / "run", place, policy, seed=1)


def test_when_all_is_learned_all_goes_at_once(tmp_path: Path) -> None:
    place = store_with(tmp_path / "store")
    policy = Counting(lambda messages, sampling: "yes", name="after")
    report = retire(tmp_path / "run", place, policy, before=None)
    assert report.kept == () and len(report.tests) == 1 and report.before is None
    assert set(report.accuracy) == {"with", "left", "without"}
    with experience_store.open(place) as store:
        assert len(store.at("head")) == 0 and len(store.at(1)) == 4
    assert retire(tmp_path / "run", place, policy, before=None) == report


def test_a_run_that_breaks_asks_for_nothing_twice(tmp_path: Path) -> None:
    file = save(snapshot(), tmp_path / "library.json")
    whole = Counting(distilled, name="after")
    expected = retire(tmp_path / "whole", file, whole)
    broken = Counting(distilled, name="after")

    def stop(event: Event) -> None:
        if event.name == "removal_tested" and len(event.data["out"]) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retire(tmp_path / "broken", file, broken, on_event=stop)
    report = retire(tmp_path / "broken", file, broken)
    assert dataclasses.replace(report, written="") == dataclasses.replace(expected, written="")
    assert len(broken.calls) == len(whole.calls)


def test_too_few_gate_problems_keep_everything_and_say_so(tmp_path: Path) -> None:
    file = save(snapshot(), tmp_path / "library.json")
    policy = Counting(distilled, name="after")
    report = retire(tmp_path / "run", file, policy, task=task(gate=100))
    assert report.retired == () and report.written == "" and "100 gate problems are too few" in str(report)
    assert len(policy.calls) == 2 * 40  # the test problems, with and without
    assert report.accuracy["without"].mean == 0.9
    wider = retire(tmp_path / "wider", file, policy, task=task(gate=100), margin=0.05)
    assert wider.retired == ("E1", "E3", "E4")


def test_bad_input(tmp_path: Path) -> None:
    file = save(snapshot(), tmp_path / "library.json")
    policy = Counting(distilled)
    for given, words in (
        ({"task": task(gate=0)}, "got 0, 40 and 1"),
        ({"samples": 0}, "and 0"),
        ({"margin": 0}, "margin must lie"),
    ):
        with pytest.raises(InputError, match=words):
            retire(tmp_path / "run", file, policy, **given)
    with pytest.raises(InputError, match="serves no experience"):
        retire(tmp_path / "run", save(snapshot(()), tmp_path / "empty.json"), policy)
    assert not policy.calls


def test_a_model_of_weights_counts_tokens_by_its_tokenizer(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    file = save(snapshot(("one two", "three four")), tmp_path / "library.json")
    words = [Problem(id=f"t{n}", messages=({"role": "user", "content": "which number"},)) for n in range(4)]
    small = task(gate=8, test=4, reward=says_numbers)
    small = dataclasses.replace(small, test=tuple(words), sampling=Sampling(temperature=1.0, max_tokens=4))
    report = retire(tmp_path / "run", file, f"local/{folder}", before=None, task=small, margin=0.5)
    # <s> user which number </s> <s> assistant, and before it <s> system HEADING - one two - three four </s>
    heading = len(experience_store.render.HEADING.split())  # type: ignore[attr-defined]
    assert report.prompt_tokens["without"] == 7 and report.prompt_tokens["with"] == 7 + 3 + heading + 6
