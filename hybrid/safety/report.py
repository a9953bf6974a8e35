"""How well a safety model scores answers that it never saw: per head, per family, and for the gate. Light to import.

Legend: N answers, H heads; labels [N, H] with NaN where unknown, predictions [N, H].
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hybrid.safety.data import LabelledSet
from hybrid.safety.scores import auc, by_families, mae, spearman
from tfgrpo.stats import Array, Estimate

NOT_REAL = "generated answers with planted scores: not measured on real labels"
GATE = "safety"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number with its 95 % interval over families; None where it does not exist or is unbounded."""

    mean: float | None
    low: float | None
    high: float | None
    n: int

    @staticmethod
    def of(e: Estimate, *, least: float = -math.inf, most: float = math.inf) -> Figure:
        """An estimate, its interval cut to where the figure can lie."""
        known = math.isfinite(e.low) and math.isfinite(e.high)
        ends = (max(least, e.low), min(most, e.high)) if known else (None, None)
        return Figure(mean=None if math.isnan(e.mean) else e.mean, low=ends[0], high=ends[1], n=e.n)

    def words(self) -> str:
        """Such as "0.912 (0.880..0.951)"."""
        if self.mean is None:
            return "–"
        return f"{self.mean:.3f} " + ("(one family)" if self.low is None else f"({self.low:.3f}..{self.high:.3f})")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadReport:
    """One head on answers of held-out families."""

    name: str
    mae: Figure
    mae_raw: float | None  # before calibration
    mae_constant: float | None  # of always saying the mean label of the training rows
    spearman: Figure
    auc: Figure
    positives: float | None  # share of the labels at or above the threshold
    length: tuple[
        float | None, float | None
    ]  # rank correlation of predictions, and of labels, with the answer's length


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """What a hard gate at the threshold does with the held-out answers."""

    head: str
    unsafe: int
    passed: int  # unsafe answers that it lets through
    safe: int
    stopped: int  # safe ones that it stops
    passed_share: Figure
    stopped_share: Figure

    def words(self, threshold: float) -> str:
        return (
            f"{self.head} at {threshold:g}: {self.passed} of {self.unsafe} unsafe answers pass "
            f"({self.passed_share.words()}), {self.stopped} of {self.safe} safe ones are stopped "
            f"({self.stopped_share.words()})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyReport:
    """A safety model on labelled answers that took no part in its making; `print` it."""

    model: str
    source: str
    rows: int
    unit: str  # what was held out as a whole: "family" or "question"
    families: Sequence[str]
    threshold: float
    heads: Sequence[HeadReport]
    gate: GateReport | None
    by_family: Sequence[Mapping[str, Any]]
    generated: bool
    notices: Sequence[str] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)  # how training went, in a report of `train`

    def as_json(self) -> dict[str, Any]:
        """JSON values only; what does not exist is null."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def head(self, name: str) -> HeadReport:
        """The figures of one head."""
        return next(head for head in self.heads if head.name == name)

    def __str__(self) -> str:
        named = f" ({', '.join(self.families[:6])}{', ...' if len(self.families) > 6 else ''})" if self.families else ""
        held = f"{len(self.families)} held-out families{named}" if self.families else "held-out questions"
        return "\n".join(
            [
                f"safety model {self.model} on {self.source}: {self.rows} answers of {held}",
                *self._table(),
                *([f"  gate      {self.gate.words(self.threshold)}"] if self.gate else []),
                *self._families(),
                *self._lengths(),
                f"  labels    {NOT_REAL if self.generated else f'as given in {self.source}'}",
                *self._fitted(),
                *(f"  note      {notice}" for notice in self.notices),
            ]
        )

    def _table(self) -> list[str]:
        head = ("", "labels", "MAE", "raw", "constant", "Spearman", f"AUC at {self.threshold:g}")
        rows = [
            (
                h.name,
                str(h.mae.n),
                h.mae.words(),
                _short(h.mae_raw),
                _short(h.mae_constant),
                h.spearman.words(),
                h.auc.words() if h.auc.mean is not None else f"– (one class: {h.positives or 0:.0%} yes)",
            )
            for h in self.heads
        ]
        widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
        return ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(r, widths, strict=True)).rstrip() for r in (head, *rows)]

    def _families(self) -> list[str]:
        if len(self.by_family) < 2:
            return []
        told = [f"{row['family']} {_short(row['mae'])}/{_short(row['auc'])}" for row in self.by_family]
        of = f"AUC of {self.gate.head}" if self.gate else "AUC of the first head"
        return [f"  families  MAE of all heads/{of}: {', '.join(told)}"]

    def _lengths(self) -> list[str]:
        odd = [
            f"{h.name} {h.length[0]:+.2f} (labels {h.length[1]:+.2f})"
            for h in self.heads
            if h.length[0] is not None and h.length[1] is not None
        ]
        return [f"  length    rank correlation of scores with the answer's length: {', '.join(odd)}"] if odd else []

    def _fitted(self) -> list[str]:
        f = self.fitted
        if not f:
            return []
        return [
            f"  fitted    {f['train']} rows, {f['validation']} to validate; {f['best']} epochs of {f['epochs']}, loss "
            f"{f['train_loss']:.4f} and {f['validation_loss']:.4f} there; {f['seconds']:.0f} s"
        ]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def measured(
    data: LabelledSet,
    rows: Sequence[int],
    predicted: Array,
    raw: Array,
    *,
    model: str,
    unit: str,
    threshold: float = 0.5,
    means: Sequence[float | None] = (),
    seed: int = 0,
    notices: Sequence[str] = (),
    fitted: Mapping[str, Any] | None = None,
) -> SafetyReport:
    """The report of predictions [len(rows), H] for those rows, raw and calibrated.

    Args:
        means: the mean label of each head in training, for the figure "constant".
        unit: "family", or "question" where intervals are over questions.
    """
    labels = data.labels()[list(rows)]
    chosen = [data.rows[n] for n in rows]
    units = [row.family if unit == "family" else row.question for row in chosen]
    lengths = np.array([float(len(row.answer.split())) for row in chosen])
    given = list(means) or [None] * len(data.heads)
    heads = []
    for k, name in enumerate(data.heads):
        y, p = labels[:, k], predicted[:, k]
        constant = None if given[k] is None else mae(y, np.full_like(p, given[k]))
        heads.append(
            HeadReport(
                name=name,
                mae=Figure.of(by_families(mae, y, p, units, seed=seed), least=0.0),
                mae_raw=_known(mae(y, raw[:, k])),
                mae_constant=_known(constant),
                spearman=Figure.of(by_families(spearman, y, p, units, seed=seed), least=-1.0, most=1.0),
                auc=Figure.of(by_families(_auc(threshold), y, p, units, seed=seed), least=0.0, most=1.0),
                positives=_known(float(np.mean(y[np.isfinite(y)] >= threshold)) if np.isfinite(y).any() else None),
                length=(_known(spearman(y * 0 + lengths, p)), _known(spearman(y, lengths))),
            )
        )
    return SafetyReport(
        model=model,
        source=data.source,
        rows=len(rows),
        unit=unit,
        families=tuple(sorted(set(units))) if unit == "family" else (),
        threshold=threshold,
        heads=heads,
        gate=_gate(data.heads, labels, predicted, units, threshold, seed),
        by_family=_by_family(data.heads, labels, predicted, units, threshold) if unit == "family" else (),
        generated=data.generated,
        notices=list(notices),
        fitted=dict(fitted or {}),
    )


def _auc(threshold: float) -> Any:
    return lambda y, p: auc(y, p, threshold=threshold)


def _gate(
    heads: Sequence[str], labels: Array, predicted: Array, units: Sequence[str], threshold: float, seed: int
) -> GateReport | None:
    if GATE not in heads:
        return None
    k = list(heads).index(GATE)
    y, opened = labels[:, k], (predicted[:, k] >= threshold).astype(float)
    bad = np.where(np.isfinite(y) & (y < threshold), opened, np.nan)  # 1 where an unsafe answer passes
    good = np.where(np.isfinite(y) & (y >= threshold), 1 - opened, np.nan)  # 1 where a safe one is stopped
    shares = [by_families(_mean, values, values, units, seed=seed) for values in (bad, good)]
    return GateReport(
        head=GATE,
        unsafe=int(np.isfinite(bad).sum()),
        passed=int(np.nansum(bad)),
        safe=int(np.isfinite(good).sum()),
        stopped=int(np.nansum(good)),
        passed_share=Figure.of(shares[0], least=0.0, most=1.0),
        stopped_share=Figure.of(shares[1], least=0.0, most=1.0),
    )


def _mean(y: Array, p: Array) -> float:
    return float(y[np.isfinite(y)].mean()) if np.isfinite(y).any() else math.nan


def _by_family(
    heads: Sequence[str], labels: Array, predicted: Array, units: Sequence[str], threshold: float
) -> list[dict[str, Any]]:
    k = list(heads).index(GATE) if GATE in heads else 0
    rows = []
    for name in sorted(set(units)):
        own = np.array([unit == name for unit in units])
        errors = [mae(labels[own, h], predicted[own, h]) for h in range(len(heads))]
        told = {
            "family": name,
            "rows": int(own.sum()),
            "mae": _known(float(np.nanmean(errors)) if np.isfinite(errors).any() else None),
            "auc": _known(auc(labels[own, k], predicted[own, k], threshold=threshold)),
        }
        rows.append(told)
    return rows


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
