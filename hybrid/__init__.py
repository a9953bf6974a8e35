"""Parameter-update GRPO on the same problems, groups and rewards as the training-free arm.

    report = hybrid.train("largest_of_three", model="local/smollm2", steps=25, out="./trained")

Importing this package loads no torch; names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid.api import atrain, train
    from hybrid.losses import resolve_loss
    from hybrid.report import TrainReport
    from hybrid.settings import DriftError, RolloutError, Settings

_HOMES = {
    "DriftError": "hybrid.settings",
    "RolloutError": "hybrid.settings",
    "Settings": "hybrid.settings",
    "TrainReport": "hybrid.report",
    "atrain": "hybrid.api",
    "resolve_loss": "hybrid.losses",
    "train": "hybrid.api",
}

__all__ = ["DriftError", "RolloutError", "Settings", "TrainReport", "atrain", "resolve_loss", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
