"""`tfgrpo compare` on real runs of training and of a whole story: what they said of themselves comes out again."""

from __future__ import annotations

from pathlib import Path

import pytest
import storyworld
import tinytraining
from tinymodel import save_tiny

import tfgrpo
from tfgrpo.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def test_a_training_run_before_and_after(folder: Path, tmp_path: Path) -> None:
    report = tinytraining.train(folder, tmp_path / "run", steps=8)
    assert report.before is not None and report.gain is not None
    run = str(tmp_path / "run")
    found = tfgrpo.compare(f"{run}:before", run, task=tinytraining.task(), runs=tmp_path)
    assert found.difference is not None and found.spend == {}
    assert found.difference.mean == pytest.approx(report.gain.mean) and found.difference.n == report.gain.n
    assert found.a.score.mean == pytest.approx(report.before.mean) and found.a.score.samples == 4
    assert report.checkpoint in found.b.model and found.b.recorded


@pytest.mark.slow
def test_the_arms_of_a_story(folder: Path, tmp_path: Path) -> None:
    story = storyworld.improve(folder, tmp_path / "out")
    said, run = story.pair("base", "trained"), str(tmp_path / "out")
    assert said is not None
    found = tfgrpo.compare(f"{run}:base", f"{run}:trained", task=storyworld.task(), runs=tmp_path / "runs")
    assert found.difference is not None and found.spend == {}
    assert found.difference.mean == pytest.approx(said.gain.mean) and found.difference.n == said.gain.n
    assert (found.better, found.worse) == (said.better, said.worse)
    with pytest.raises(InputError, match=r"measured base, .*trained.*, and no 'untraind'"):
        tfgrpo.compare(f"{run}:untraind", f"{run}:base", task=storyworld.task(), runs=tmp_path / "runs")
