"""The safety reward model: trained from labelled answers, calibrated, reported on held-out families, used by both arms.

    report = fit(labelled_file("answers.jsonl"), out="./safety-model")
    task = load_task("safety", scorer="./safety-model")

A reconstruction of the reward model of arXiv 2503.21819. *Not measured on real labels*: none could be had; it is proved
on answers with planted scores (`tasks.safety_corpus`). Importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid.safety.data import Labelled, LabelledSet, labelled_file, labelled_rows
    from hybrid.safety.fitting import fit, report_on
    from hybrid.safety.model import SafetyModel
    from hybrid.safety.report import SafetyReport
    from hybrid.safety.scorer import load_scorer
    from hybrid.safety.settings import FitSettings

_HOMES = {
    "FitSettings": "hybrid.safety.settings",
    "Labelled": "hybrid.safety.data",
    "LabelledSet": "hybrid.safety.data",
    "SafetyModel": "hybrid.safety.model",
    "SafetyReport": "hybrid.safety.report",
    "fit": "hybrid.safety.fitting",
    "labelled_file": "hybrid.safety.data",
    "labelled_rows": "hybrid.safety.data",
    "load_scorer": "hybrid.safety.scorer",
    "report_on": "hybrid.safety.fitting",
}

__all__ = [
    "FitSettings",
    "Labelled",
    "LabelledSet",
    "SafetyModel",
    "SafetyReport",
    "fit",
    "labelled_file",
    "labelled_rows",
    "load_scorer",
    "report_on",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybrid.safety' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
