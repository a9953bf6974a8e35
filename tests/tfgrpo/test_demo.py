"""The demo with the real model: what it keeps is the model's own, and nothing of it answers a test problem."""

import json
import subprocess
import sys

import pytest

import experience_store
from tfgrpo import load_task
from tfgrpo.policy.packaged_models import packaged_model
from tfgrpo.record import RunRecord
from tfgrpo.rewards.text import numbers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    packaged_model()  # the conversion is not part of what is tested
    home = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "tfgrpo.cli.main", "demo", "--json", "--budget-calls", "480"]
    places = ["--store", str(home / "experience"), "--runs", str(home / "runs")]
    done = subprocess.run([*command, *places], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def test_it_reports_what_the_summary_needs(demo):
    _, report = demo
    assert report["mixed_share_before"] >= 0.3
    assert report["before"]["n"] == report["after"]["n"] if report["accepted"] else report["after"] is None
    assert sum(row["solver_calls"] for row in report["spend"].values()) <= 480
    assert report["why"]


def test_every_example_is_a_recorded_answer_of_the_model_itself(demo):
    home, report = demo
    with RunRecord.open(report["folder"], read_only=True) as record:
        said = {call.completion.text.strip() for call in record.calls("solve")}
    with experience_store.open(home / "experience") as store:
        entries = [e for version in store.log() for e in store.at(version.number).experiences]
    assert entries
    assert all(e.kind == "example" and e.text in said for e in entries)


def test_no_answer_of_a_test_problem_stands_in_the_store(demo):
    home, _ = demo
    task = load_task("largest_of_three")
    answers = {problem.answer for problem in task.test}
    with experience_store.open(home / "experience") as store:
        for version in store.log():
            for e in store.at(version.number).experiences:
                assert e.source["problem"] in {p.id for p in task.learn}
                assert not {str(n.value) for n in numbers(e.question)} & answers
                assert e.text not in answers
