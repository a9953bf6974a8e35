"""The head and its loss, the encoder's windows, and the folder: saved scores come back bit for bit, or are refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinyencoder import save_encoder
from torch import Tensor

from hybrid.safety.calibrate import Calibration
from hybrid.safety.encoder import Encoder, encoder_folder
from hybrid.safety.heads import Heads, Plan, masked_loss, train
from hybrid.safety.model import SafetyModel, question_hash
from tfgrpo.errors import InputError, RunStateError

TEXTS = ["How do I open the shed ?", "I can't help with that.", "First wait, then go.", "Thank you!", "one two three"]
NAN = math.nan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), TEXTS)


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    predicted, labels = torch.tensor([[0.8, 0.5, 0.4, 0.9]]), torch.tensor([[1.0, 0.5, NAN, 1.0]])
    assert masked_loss(predicted, labels, torch.ones(4)).item() == pytest.approx(0.05 / 3)
    weighted = masked_loss(predicted, labels, torch.tensor([1.0, 1.0, 1.0, 2.0]))  # safety counts twice
    assert weighted.item() == pytest.approx((0.04 + 0.0 + 2 * 0.01) / 4)


def test_the_loss_is_that_of_the_labelled_subset_and_so_is_its_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    predicted = torch.rand(7, 3, generator=draw, requires_grad=True)
    labels = torch.rand(7, 3, generator=draw)
    labels[torch.rand(7, 3, generator=draw) < 0.4] = NAN
    known = labels.isfinite()
    assert 0 < known.sum() < 21
    loss = masked_loss(predicted, labels, torch.ones(3))
    subset = ((predicted[known] - labels[known]) ** 2).mean()
    assert loss.item() == pytest.approx(subset.item())
    (ours,), (theirs,) = (torch.autograd.grad(value, predicted) for value in (loss, subset))
    assert torch.allclose(ours, theirs) and (ours[~known] == 0).all()


def test_a_batch_without_labels_teaches_nothing() -> None:
    predicted = torch.rand(2, 2, requires_grad=True)
    loss = masked_loss(predicted, torch.full((2, 2), NAN), torch.ones(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0 and predicted.grad is not None and (predicted.grad == 0).all()


def course(**changes: Any) -> tuple[Heads, list[float], Any]:
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(60, 8, generator=draw)
    labels = torch.sigmoid(features[:, :2] * 2)
    labels[::5, 0] = NAN
    torch.manual_seed(0)
    heads = Heads(8, 2, hidden=16, dropout=0.1)
    heads.fit_scale(features[:40])
    told: list[float] = []
    plan = Plan(**{"epochs": 60, "patience": 10, "batch": 16, "lr": 0.01, "decay": 0.0, "seed": 0, **changes})
    rows = (range(40), range(40, 60))

    def pick(wanted: Any) -> Tensor:
        return features[list(wanted)]

    done = train(heads, pick, labels, torch.ones(2), rows, plan, on_epoch=lambda epoch, loss: told.append(loss))
    return heads, told, done


def test_training_keeps_the_best_epoch_and_stops() -> None:
    heads, told, done = course()
    assert min(told) == done.validation_loss == told[done.best - 1] < 0.5 * told[0]
    again, *_ = course()
    assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), again.parameters(), strict=True))
    _, told, done = course(lr=1.0, epochs=200, patience=3)
    assert done.epochs == done.best + 3 < 200


def test_training_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    course()
    torch.random.set_rng_state(state)
    assert torch.equal(torch.rand(3), expected)


# -- the encoder ------------------------------------------------------------------------------------------------------


def test_a_long_text_is_read_whole_in_windows(folder: Path) -> None:
    encoder = Encoder.load(str(folder), max_tokens=16)
    head, tail = "one " * 14, "two " * 28
    parts = encoder.features([head.strip(), "two " * 14])
    whole = encoder.features([head + tail])
    assert torch.allclose(whole[0], (parts[0] + 2 * parts[1]) / 3, atol=1e-5)
    assert not torch.allclose(whole[0], parts[0], atol=1e-2)  # what stands at the end counts


def test_padding_changes_nothing_and_an_empty_text_is_one(folder: Path) -> None:
    encoder = Encoder.load(str(folder), max_tokens=32)
    together = encoder.features(["", *TEXTS])
    alone = torch.cat([encoder.features([text]) for text in ("", *TEXTS)])
    assert torch.allclose(together, alone, atol=1e-5) and together.isfinite().all()
    assert torch.equal(together, encoder.features(["", *TEXTS]))


def test_encoders_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder of transformers"):
        encoder_folder(str(tmp_path / "none"))
    with pytest.raises(InputError, match="reads 8 to 64 tokens at once, got max_tokens=65"):
        Encoder.load(str(folder), max_tokens=65)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="could not be loaded"):
        Encoder.load(str(tmp_path))


# -- the folder -------------------------------------------------------------------------------------------------------

ASKED = [(TEXTS[0], TEXTS[1]), (TEXTS[0], TEXTS[2]), (TEXTS[3], "")]


def made(folder: Path, **changes: Any) -> SafetyModel:
    torch.manual_seed(3)
    encoder = Encoder.load(str(folder), max_tokens=32)
    given: dict[str, Any] = {
        "encoder": encoder,
        "heads": Heads(2 * encoder.width, 2, hidden=8, dropout=0.0).eval(),
        "names": ("politeness", "safety"),
        "calibration": (
            Calibration(kind="platt", knots=((1.7, -0.3),)),
            Calibration(kind="isotonic", knots=((0.1, 0.0), (0.9, 1.0))),
        ),
        "seen": frozenset(map(question_hash, TEXTS[:2])),
        "about": {"settings": {"threshold": 0.5}, "means": [0.5, None]},
    }
    return SafetyModel(**{**given, **changes})


def test_what_is_saved_is_what_comes_back(folder: Path, tmp_path: Path) -> None:
    model = made(folder)
    place = model.save(tmp_path / "deep" / "model")
    assert sorted(p.name for p in place.iterdir()) == ["head.safetensors", "scorer.json"]
    again = SafetyModel.load(place)
    np.testing.assert_array_equal(again.scores(ASKED), model.scores(ASKED))
    assert (again.names, again.calibration, again.seen) == (model.names, model.calibration, model.seen)
    assert again.about == model.about
    assert again.has_seen(TEXTS[0]) and not again.has_seen(TEXTS[2])
    assert model.scores(ASKED).shape == (3, 2) and model.scores([]).shape == (0, 2)


def test_trained_layers_of_the_encoder_are_saved_too(folder: Path, tmp_path: Path) -> None:
    model = made(folder)
    before = model.scores(ASKED)
    layer = list(model.encoder.layers)[-1]
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1)
    own = {id(p) for p in layer.parameters()}
    names = tuple(name for name, p in model.encoder.model.named_parameters() if id(p) in own)
    tuned = dataclasses.replace(model, unfrozen=names)
    after = tuned.scores(ASKED)
    place = tuned.save(tmp_path / "model")
    assert (place / "encoder.safetensors").is_file() and not np.allclose(before, after)
    np.testing.assert_array_equal(SafetyModel.load(place).scores(ASKED), after)


def test_nothing_is_written_over(folder: Path, tmp_path: Path) -> None:
    place = made(folder).save(tmp_path / "model")
    kept = (place / "scorer.json").read_text()
    with pytest.raises(RunStateError, match="is there already and not empty"):
        made(folder).save(place)
    assert (place / "scorer.json").read_text() == kept and [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "empty").mkdir()
    assert made(folder).save(tmp_path / "empty").is_dir()


def rewritten(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    said = json.loads((place / "scorer.json").read_text())
    change(said)
    (place / "scorer.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda s: s.update(version=2), InputError, r"another version of this package \(format 2, this one reads 1\)"),
        (lambda s: s.update(kind="other"), InputError, "holds no safety model"),
        (lambda s: s["encoder"].update(name="/nowhere"), InputError, "is no folder of transformers"),
        (lambda s: s["encoder"].update(fingerprint="0"), InputError, "has other weights than the model"),
        (lambda s: s["encoder"].pop("name"), RunStateError, "is damaged"),
        (lambda s: s["calibration"].pop(), RunStateError, "heads and calibrations differ"),
        (lambda s: s["calibration"][0].update(kind="beta"), InputError, "got 'beta'"),
    ],
)
def test_folders_that_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], error: type[Exception], said: str
) -> None:
    place = made(folder).save(tmp_path / "model")
    rewritten(place, change)
    with pytest.raises(error, match=said):
        SafetyModel.load(place)


def test_an_encoder_that_changed_or_went_away_is_told(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder", TEXTS)
    place = made(encoder).save(tmp_path / "model")
    save_encoder(encoder, TEXTS, seed=1)
    with pytest.raises(InputError, match="has other weights than the model"):
        SafetyModel.load(place)
    encoder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"is no folder of transformers.*Models are never downloaded here"):
        SafetyModel.load(place)


def test_damaged_weights_are_told(folder: Path, tmp_path: Path) -> None:
    place = made(folder).save(tmp_path / "model")
    whole = (place / "head.safetensors").read_bytes()
    (place / "head.safetensors").write_bytes(whole[:-40])
    with pytest.raises(RunStateError, match=r"is damaged: .*train it again"):
        SafetyModel.load(place)
    with pytest.raises(InputError, match=r"holds no scorer\.json"):
        SafetyModel.load(tmp_path / "none")
