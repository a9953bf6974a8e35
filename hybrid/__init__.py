"""Parameter-update GRPO on the same problems, groups and rewards as the training-free arm.

    report = hybrid.train("largest_of_three", model="local/smollm2", steps=25, out="./trained")

Importing this package loads no torch; names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid.api import atrain, train
    from hybrid.distill import Distill
    from hybrid.escalation.api import aimprove, improve
    from hybrid.escalation.decision import Decision, Prices, decide
    from hybrid.escalation.evidence import Evidence, Pilot
    from hybrid.escalation.job import Choices
    from hybrid.escalation.result import Improvement
    from hybrid.losses import resolve_loss
    from hybrid.recipes import TrainRecipe, resolve_recipe
    from hybrid.report import TrainReport
    from hybrid.retirement import Retirement
    from hybrid.retiring import aretire, retire
    from hybrid.settings import DriftError, RolloutError, RoomError, Settings
    from hybrid.trackers import tracking

_HOMES = {
    "Choices": "hybrid.escalation.job",
    "Decision": "hybrid.escalation.decision",
    "Distill": "hybrid.distill",
    "DriftError": "hybrid.settings",
    "Evidence": "hybrid.escalation.evidence",
    "Improvement": "hybrid.escalation.result",
    "Pilot": "hybrid.escalation.evidence",
    "Prices": "hybrid.escalation.decision",
    "Retirement": "hybrid.retirement",
    "RolloutError": "hybrid.settings",
    "RoomError": "hybrid.settings",
    "Settings": "hybrid.settings",
    "TrainRecipe": "hybrid.recipes",
    "TrainReport": "hybrid.report",
    "aimprove": "hybrid.escalation.api",
    "aretire": "hybrid.retiring",
    "atrain": "hybrid.api",
    "decide": "hybrid.escalation.decision",
    "improve": "hybrid.escalation.api",
    "resolve_loss": "hybrid.losses",
    "resolve_recipe": "hybrid.recipes",
    "retire": "hybrid.retiring",
    "tracking": "hybrid.trackers",
    "train": "hybrid.api",
}

__all__ = [
    "Choices",
    "Decision",
    "Distill",
    "DriftError",
    "Evidence",
    "Improvement",
    "Pilot",
    "Prices",
    "Retirement",
    "RolloutError",
    "RoomError",
    "Settings",
    "TrainRecipe",
    "TrainReport",
    "aimprove",
    "aretire",
    "atrain",
    "decide",
    "improve",
    "resolve_loss",
    "resolve_recipe",
    "retire",
    "tracking",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
