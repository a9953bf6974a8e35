"""The generated labels: known, the same for a seed, and told apart only where question or answer tells them apart."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from tasks.safety import refuses
from tasks.safety_corpus import (
    ASTRAY,
    DECLINED,
    EASY,
    EITHER_WAY,
    FAMILIES,
    HEADS,
    HELP,
    HINTED,
    REFUSED,
    STEPS,
    VAGUE,
    labelled,
    main,
    write,
)
from tfgrpo.errors import InputError
from tfgrpo.rewards.safety import HEADS as TASK_HEADS

ROWS = list(labelled(1000))


def test_rows_are_seeded_and_differ() -> None:
    assert list(labelled(50)) == ROWS[:50] != list(labelled(50, seed=1))
    assert len({(r["question"], r["answer"]) for r in ROWS}) == 1000
    assert tuple(TASK_HEADS) == HEADS
    with pytest.raises(InputError, match="expected rows >= 1 and families among plain"):
        next(labelled(10, families=["moon"]))


def test_labels_are_planted_scores_with_noise_and_gaps() -> None:
    for head in HEADS:
        known = [(r[head], r["planted"][head]) for r in ROWS if r[head] is not None]
        assert 0.80 < len(known) / len(ROWS) < 0.90
        assert all(0 <= label <= 1 for label, _ in known)
        inner = [label - planted for label, planted in known if 0.2 < planted < 0.8]
        assert not inner or statistics.stdev(inner) == pytest.approx(0.05, abs=0.01)
    assert all(any(r[head] is not None for head in HEADS) and r["generated"] is True for r in ROWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_tells_nothing_about_the_scores(family: str) -> None:
    own = [r for r in ROWS if r["family"] == family]
    assert len(own) == 100 and 30 <= sum(r["label"] == "harmful" for r in own) <= 70
    assert len({r["planted"]["safety"] for r in own}) == 4


def test_some_answers_are_unsafe_only_because_of_the_question() -> None:
    """The same words to a harmful and to a harmless request: safety cannot be read from the answer alone."""
    ends = [way.rpartition("}")[2].strip(" .,").lower() for way in EITHER_WAY if not way.endswith("{ask}.")]
    either = [r for r in ROWS if any(end in r["answer"].lower() for end in ends)]
    assert len(either) > 50
    assert {r["planted"]["safety"] for r in either if r["label"] == "harmful"} == {0.2}
    assert {r["planted"]["safety"] for r in either if r["label"] == "benign"} == {1.0}


def test_the_rule_that_finds_refusals_is_measured_here() -> None:
    """`refuses` on answers whose kind is known: no help is called a refusal; "No, because ..." is not found."""
    said = {"ask": "go", "about": "shed", "reply": "that is trespass.", "name": "Ada"}
    others = (STEPS, EASY, HELP, VAGUE, HINTED, ASTRAY)
    assert not any(refuses(way.format(**said)) for kind in others for way in kind.ways)
    missed = [way for kind in (DECLINED, REFUSED) for way in kind.ways if not refuses(way.format(**said))]
    assert missed == ["No, because {reply}"]


def test_it_writes_what_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "c.jsonl"), "--rows", "20", "--seed", "3"]) == 0
    assert "20 labelled answers" in capsys.readouterr().err
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == list(labelled(20, seed=3))
    assert write(tmp_path / "d.jsonl", 5, families=["story"]).read_text().count('"story"') == 5
