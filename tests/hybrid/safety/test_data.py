"""Labelled answers from files, and their split: bad rows, missing labels, and families that never leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.safety.data import Labelled, LabelledSet, labelled_file, labelled_rows
from hybrid.safety.split import deal
from tfgrpo.errors import InputError

HEADS = ("politeness", "safety")


def row(**changes: Any) -> dict[str, Any]:
    return {"question": "How?", "answer": "So.", "family": "plain", "politeness": 0.5, "safety": 1.0, **changes}


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def test_missing_labels_are_unknown_and_never_0(tmp_path: Path) -> None:
    rows = [row(), row(answer="No.", safety=None), row(answer="Yes.", politeness="", safety=0)]
    del rows[0]["politeness"]
    found = labelled_file(jsonl(tmp_path, *rows), heads=HEADS)
    np.testing.assert_array_equal(found.labels(), [[np.nan, 1.0], [0.5, np.nan], [np.nan, 0.0]])
    assert found.families == ("plain",) and not found.generated and found.notices == ()


def test_foreign_columns_nested_labels_and_grades(tmp_path: Path) -> None:
    foreign = {"prompt": "How?", "response": "So.", "attack": "story", "labels": {"polite": 4, "is_safe": True}}
    columns = {"politeness": "polite", "safety": "is_safe"}
    found = labelled_file(
        jsonl(tmp_path, foreign), heads=["politeness"], columns={"politeness": "polite"}, scale=(1, 5)
    )
    assert found.labels().tolist() == [[0.75]] and found.rows[0].family == "story"
    with pytest.raises(
        InputError, match=r"answers.jsonl:1: expected 'polite' to be a number from 0 to 1, got 4; .*--scale"
    ):
        labelled_file(tmp_path / "answers.jsonl", heads=HEADS, columns=columns)
    named = labelled_rows(
        [{"q": "How?", "a": "So.", "kind": "x", "system": "Be brief.", "safety": False}],
        heads=["safety"],
        columns={"question": "q", "answer": "a", "family": "kind"},
    )
    assert named.rows[0] == Labelled(question="Be brief.\n\nHow?", answer="So.", family="x", labels={"safety": 0.0})


def test_a_csv_file_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("prompt,response,category,safety\nHow?,So.,a,0.25\nWhy?,Because.,b,\n", encoding="utf-8")
    found = labelled_file(path, heads=["safety"])
    assert [r.labels for r in found.rows] == [{"safety": 0.25}]
    assert found.notices == ("1 rows without any label were left out",)


def test_several_labels_of_one_answer_are_averaged() -> None:
    rows = [row(safety=0.0), row(safety=1.0, politeness=None), row(family="story")]
    found = labelled_rows(rows, heads=HEADS)
    assert [dict(r.labels) for r in found.rows] == [
        {"politeness": 0.5, "safety": 0.5},
        {"politeness": 0.5, "safety": 1.0},
    ]
    assert found.notices == ("1 rows repeat another answer; their labels were averaged",)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(safety=1.5), "answers.jsonl:2: expected 'safety' to be a number from 0 to 1, got 1.5; grades of another"),
        (row(safety=-0.1), "from 0 to 1, got -0.1"),
        (row(safety="high"), "from 0 to 1, got 'high'"),
        ('{"question": "How?", "answer": "So.", "safety": NaN}', "from 0 to 1, got nan"),
        (row(question=" "), "expected the question in a column question or prompt or input"),
        ({"question": "How?", "safety": 1}, "expected the answer in a column answer or response"),
        (row(answer=["So."]), "expected 'answer' to be a text"),
        ([1], "expected an object with a question"),
        ("{", "expected one JSON object"),
    ],
)
def test_bad_rows_are_listed_with_their_place(tmp_path: Path, bad: Any, said: str) -> None:
    with pytest.raises(InputError) as raised:
        labelled_file(jsonl(tmp_path, row(), bad, row(safety=7)), heads=HEADS)
    assert said in str(raised.value) and "answers.jsonl:3" in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([row(safety=None)], {}, "no row has a label 'safety'; leave that head out"),
        ([row(safety=None, politeness=None)], {}, "without any label"),
        ([], {}, "got 0 rows"),
        ([row(), row(answer="x", family="")], {}, "1 of 2 rows have no family"),
        ([row()], {"columns": {"colour": "red"}}, "columns: expected question, answer"),
        ([row()], {"scale": (5, 1)}, "its lowest and its highest grade"),
        ([row()], {"heads": ("safety", "safety")}, "a name of its own"),
    ],
)
def test_what_cannot_be_used(rows: list[Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        labelled_rows(rows, **{"heads": HEADS, **options})


def test_more_errors_than_can_be_read_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="and 5 more"):
        labelled_file(jsonl(tmp_path, *[row(safety=9)] * 15), heads=HEADS)


# -- the split --------------------------------------------------------------------------------------------------------


def spread(families: dict[str, list[str]]) -> LabelledSet:
    """One row for each question of each family."""
    rows = [
        Labelled(question=q, answer=f"{f}{k}", family=f, labels={"safety": 1.0})
        for f in families
        for k, q in enumerate(families[f])
    ]
    return LabelledSet(rows=tuple(rows), heads=("safety",), source="rows", generated=False)


def test_whole_families_are_held_out_and_validate() -> None:
    data = spread({f"f{k}": [f"{k}.{n}" for n in range(10)] for k in range(8)})
    split = deal(data, seed=1)
    of = [{data.rows[n].family for n in part} for part in (split.train, split.validation, split.test)]
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2] and set().union(*of) == set(data.families)
    assert len(split.test) == 30 and len(split.validation) == 10 and split.unit == "family" and split.dropped == 0
    assert deal(data, seed=1) == split != deal(data, seed=2)
    assert deal(data, held=["f3"]).held == ("f3",)


def test_with_few_families_validation_takes_questions() -> None:
    data = spread({f"f{k}": [f"{k}.{n}" for n in range(10)] for k in range(3)})
    split = deal(data)
    questions = [{data.rows[n].question for n in part} for part in (split.train, split.validation, split.test)]
    assert len(split.held) == 1 and split.validation and not questions[0] & questions[1]


def test_without_families_questions_are_dealt() -> None:
    data = spread({"": [f"{n // 2}" for n in range(40)]})
    split = deal(data)
    questions = [{data.rows[n].question for n in part} for part in (split.train, split.validation, split.test)]
    assert split.unit == "question" and split.held == () and all(questions)
    assert not questions[0] & questions[1] and not (questions[0] | questions[1]) & questions[2]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 12)), min_size=4, max_size=60), st.integers(0, 3))
def test_no_question_of_a_held_out_row_is_ever_trained_on(rows: list[tuple[str, int]], seed: int) -> None:
    """Also where families share questions."""
    families: dict[str, list[str]] = {}
    for family, question in rows:
        families.setdefault(family, []).append(str(question))
    data = spread(families)
    try:
        split = deal(data, seed=seed)
    except InputError:
        return  # too few of something, which the message says
    asked = [{data.rows[n].question for n in part} for part in (split.train, split.validation, split.test)]
    assert not asked[2] & (asked[0] | asked[1]) and not asked[0] & asked[1]
    assert not {data.rows[n].family for n in split.seen} & set(split.held)
    assert len(split.train) + len(split.validation) + len(split.test) + split.dropped == len(data.rows)


@pytest.mark.parametrize(
    ("families", "options", "said"),
    [
        ({"a": ["1", "2", "3"]}, {}, "has 1 family: nothing can be held out"),
        ({"": ["1", "2"]}, {}, "has 2 questions"),
        ({"a": ["1", "2"], "b": ["3"]}, {"held": ["c"]}, "no family 'c' to hold out; rows has a, b"),
        ({"a": ["1", "2"], "b": ["3"]}, {"held": ["a", "b"]}, "all 2 families are held out"),
        ({"a": ["1", "2"], "b": ["1", "2"]}, {}, "stand in the others too"),
        ({"a": ["1"], "b": ["2"]}, {}, "too few questions"),
        ({"a": ["1", "2"], "b": ["3"]}, {"share": 1.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_split(families: dict[str, list[str]], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        deal(spread(families), **options)
