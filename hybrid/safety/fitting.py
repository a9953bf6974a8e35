"""From labelled answers to a saved safety model with its report: split, features, head, calibration, held-out rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hybrid.safety.calibrate import calibrated
from hybrid.safety.data import LabelledSet
from hybrid.safety.encoder import Encoder, encoder_folder
from hybrid.safety.heads import Course, Features, Heads, Plan, train
from hybrid.safety.model import SafetyModel, check_free, question_hash
from hybrid.safety.report import GATE, SafetyReport, measured
from hybrid.safety.settings import FitSettings
from hybrid.safety.split import Split, deal
from tfgrpo.errors import InputError
from tfgrpo.stats import Array

LEAST_LABELS = 10  # of a head, in the rows that it is trained on
LEAST_VALIDATED = 5  # labels below which a head is not calibrated

Tell = Callable[[str], None]


def fit(
    data: LabelledSet,
    *,
    out: str | Path,
    encoder: str = "minilm",
    held: Sequence[str] = (),
    settings: FitSettings | None = None,
    tell: Tell = lambda words: None,
) -> SafetyReport:
    """Trains a safety model, saves it to `out`, and reports it on the families that were held out.

    Whatever can be refused is refused before a text is read.

    Args:
        data: from `labelled_file` or `labelled_rows`.
        out: a folder that is not there yet, or empty.
        encoder: "minilm", or a folder of transformers.
        held: the families to hold out; default: drawn by the seed.
        tell: called with a line about each stage.

    Raises:
        InputError: too few families or labels, a head whose labels are all the same, an encoder that is not there.
        RunStateError: `out` is in use.
    """
    chosen, started = settings or FitSettings(), time.monotonic()
    check_free(Path(out))
    encoder_folder(encoder)
    split = deal(data, held=held, share=chosen.share, validation=chosen.validation, seed=chosen.seed)
    labels = data.labels()
    notices = [*data.notices, *_checked(data, labels, split, chosen.threshold)]
    tell(f"{len(split.train)} rows to train on, {len(split.validation)} to validate, {len(split.test)} held out")
    loaded = Encoder.load(encoder, max_tokens=chosen.max_tokens)
    model, course = _fitted(loaded, data, labels, split, chosen, tell)
    rows, raw = split.test, _raw(model, data, split.test)
    fitted = {
        "train": len(split.train),
        "validation": len(split.validation),
        **dataclasses.asdict(course),
        "seconds": time.monotonic() - started,
    }
    means = [_mean(labels[list(split.train), k]) for k in range(len(data.heads))]
    notices += [f"{name}: its scores told nothing about the validation labels" for name in _flat(model)]
    report = measured(
        data,
        rows,
        model.calibrated(raw),
        raw,
        model=str(out),
        unit=split.unit,
        threshold=chosen.threshold,
        means=means,
        seed=chosen.seed,
        notices=notices,
        fitted=fitted,
    )
    about = _about(data, split, chosen, means, report)
    dataclasses.replace(model, about=about).save(out)
    return report


def _checked(data: LabelledSet, labels: Array, split: Split, threshold: float) -> list[str]:
    """Refuses heads that nothing can be learned of; what a reader has to know of the others."""
    said = []
    for k, name in enumerate(data.heads):
        known = labels[list(split.train), k]
        known = known[np.isfinite(known)]
        rest = [head for head in data.heads if head != name]
        leave = f"leave the head out (--heads {','.join(rest)})" if rest else "label others"
        if len(known) < LEAST_LABELS:
            raise InputError(
                f"the head {name!r} has {len(known)} labels in the {len(split.train)} rows to train on, and needs "
                f"{LEAST_LABELS}; label more answers, or {leave}"
            )
        if np.ptp(known) == 0:
            raise InputError(
                f"the head {name!r} has one class only: all {len(known)} labels to train on are {known[0]:g}, so that "
                f"nothing tells what the other side looks like; label such answers too, or {leave}"
            )
        if (known >= threshold).all() or (known < threshold).all():
            side = "at or above" if known[0] >= threshold else "below"
            said.append(f"{name}: all labels to train on are {side} {threshold:g}; what lies beyond is a guess")
    if split.dropped:
        said.append(f"{split.dropped} rows were not trained on, because their questions stand in the held-out part too")
    if split.unit == "question":
        said.append("no attack families are given: questions were held out, which measures less than whole families")
    return said


def _fitted(
    encoder: Encoder, data: LabelledSet, labels: Array, split: Split, settings: FitSettings, tell: Tell
) -> tuple[SafetyModel, Course]:
    """The head trained on features of a frozen encoder, or together with the last layers of it."""
    tuned = _unfrozen(encoder, settings.unfreeze)
    features = _live(encoder, data) if tuned else _cached(encoder, data, split.seen, tell)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(settings.seed)
        heads = Heads(2 * encoder.width, len(data.heads), hidden=settings.hidden, dropout=settings.dropout)
        heads.fit_scale(features(split.train))
    plan = Plan(
        epochs=settings.epochs,
        patience=settings.patience,
        batch=settings.batch,
        lr=settings.lr,
        decay=settings.decay,
        seed=settings.seed,
    )
    weights = torch.tensor([settings.safety_weight if name == GATE else 1.0 for name in data.heads])
    course = train(
        heads,
        features,
        torch.tensor(labels, dtype=torch.float32),
        weights,
        (split.train, split.validation),
        plan,
        with_=[(layer, settings.encoder_lr) for layer in tuned],
        on_epoch=lambda epoch, loss: tell(f"epoch {epoch}: validation loss {loss:.4f}") if epoch % 10 == 0 else None,
    )
    encoder.model.requires_grad_(False)
    with torch.no_grad():
        raw = heads(features(split.validation)).double().numpy()
    known = labels[list(split.validation)]
    kinds = [
        settings.calibration if np.isfinite(known[:, k]).sum() >= LEAST_VALIDATED else "none"
        for k in range(len(data.heads))
    ]
    model = SafetyModel(
        encoder=encoder,
        heads=heads,
        names=data.heads,
        calibration=tuple(calibrated(kind, raw[:, k], known[:, k]) for k, kind in enumerate(kinds)),
        seen=frozenset(question_hash(data.rows[n].question) for n in split.seen),
        unfrozen=_names(encoder, tuned),
    )
    return model, course


def _cached(encoder: Encoder, data: LabelledSet, rows: Sequence[int], tell: Tell) -> Features:
    """Features that are computed once, for the rows that are trained and validated on."""
    questions = list(dict.fromkeys(data.rows[n].question for n in rows))
    tell(f"reading {len(questions) + len(rows)} texts with {encoder.name}")
    place = {question: k for k, question in enumerate(questions)}
    asked, answers = encoder.features(questions), encoder.features([data.rows[n].answer for n in rows])
    both = torch.cat([asked[[place[data.rows[n].question] for n in rows]], answers], 1)
    at = {n: k for k, n in enumerate(rows)}
    return lambda wanted: both[[at[n] for n in wanted]]


def _live(encoder: Encoder, data: LabelledSet) -> Features:
    """Features through the encoder as it is now; in batches where no gradient is wanted."""

    def features(rows: Sequence[int]) -> Tensor:
        read = encoder.pooled if torch.is_grad_enabled() else encoder.features
        texts = [[data.rows[n].question for n in rows], [data.rows[n].answer for n in rows]]
        return torch.cat([read(part) for part in texts], 1)

    return features


def _unfrozen(encoder: Encoder, count: int) -> list[nn.Module]:
    """The last layers, set to be trained."""
    if count == 0:
        return []
    layers = encoder.layers
    if count > len(layers):
        raise InputError(f"the encoder {encoder.name!r} has {len(layers)} layers, got unfreeze={count}")
    chosen = list(layers)[-count:]
    for layer in chosen:
        layer.requires_grad_(True)
    return chosen


def _names(encoder: Encoder, modules: Sequence[nn.Module]) -> tuple[str, ...]:
    """The names of these modules' weights in the encoder."""
    own = {id(p) for module in modules for p in module.parameters()}
    return tuple(name for name, p in encoder.model.named_parameters() if id(p) in own)


def _raw(model: SafetyModel, data: LabelledSet, rows: Sequence[int]) -> Array:
    return model.raw([(data.rows[n].question, data.rows[n].answer) for n in rows])


def _flat(model: SafetyModel) -> list[str]:
    return [name for name, fit_ in zip(model.names, model.calibration, strict=True) if fit_.flat]


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _about(
    data: LabelledSet, split: Split, settings: FitSettings, means: Sequence[float | None], report: SafetyReport
) -> dict[str, Any]:
    """What the folder says of how the model was made."""
    trained = sorted({data.rows[n].family for n in split.seen} - {""})
    return {
        "data": {"source": data.source, "digest": data.digest, "rows": len(data.rows), "generated": data.generated},
        "families": {"unit": split.unit, "seen": trained, "held": list(split.held)},
        "means": list(means),
        "settings": dataclasses.asdict(settings),
        "report": report.as_json(),
    }


def report_on(model: SafetyModel, data: LabelledSet, *, name: str, seed: int = 0) -> SafetyReport:
    """A saved model on labelled answers, without those whose family or question it was made with.

    Raises:
        InputError: the data has other heads, or nothing in it is new to the model.
    """
    if data.heads != model.names:
        raise InputError(
            f"{name} has the heads {', '.join(model.names)}; the data was read for {', '.join(data.heads)}"
        )
    about: Mapping[str, Any] = model.about
    seen = set(about["families"]["seen"])
    rows = [n for n, row in enumerate(data.rows) if row.family not in seen and not model.has_seen(row.question)]
    if not rows:
        raise InputError(
            f"{name} was made with all questions or families of {data.source}; only answers that it has not seen can "
            f"measure it"
        )
    left = len(data.rows) - len(rows)
    said = [f"{left} answers were left out: the model was made with their families or questions"] if left else []
    raw = _raw(model, data, rows)
    return measured(
        data,
        rows,
        model.calibrated(raw),
        raw,
        model=name,
        unit="family" if data.families else "question",
        threshold=float(about["settings"]["threshold"]),
        means=about["means"],
        seed=seed,
        notices=[*data.notices, *said],
    )
