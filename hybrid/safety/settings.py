"""How a safety model is fitted: everything that has a sound default. Plain data, light to import."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tfgrpo.errors import InputError, unknown_name

CALIBRATIONS = ("auto", "isotonic", "platt", "none")
SHARES = ("share", "validation", "dropout", "threshold")
FROM_ZERO = ("decay", "unfreeze", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """The head, its training and its split.

    Example:
        >>> FitSettings(calibration="isotonic").hidden
        64
    """

    share: float = 0.3  # of the rows, in families that are held out
    validation: float = 0.2  # of the other rows, which stop the training and calibrate
    hidden: int = 64  # units of the head's middle layer
    dropout: float = 0.2
    lr: float = 2e-3  # of AdamW, for the head
    decay: float = 0.01
    batch: int = 64
    epochs: int = 200  # at most
    patience: int = 15  # epochs without a better validation loss
    safety_weight: float = 2.0  # of the head "safety" in the loss; the others have 1
    calibration: str = "auto"  # "isotonic" from 100 labels to validate on, else "platt"; either by name, or "none"
    threshold: float = 0.5  # from which on a label counts as yes, and the gate of a reward opens
    unfreeze: int = 0  # layers of the encoder that are trained too, from its output on; slow on a CPU
    encoder_lr: float = 2e-5
    max_tokens: int = 256  # that the encoder reads at once; longer texts go through it in windows
    seed: int = 0

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS:
            raise unknown_name("calibration", self.calibration, CALIBRATIONS)
        for name, value in dataclasses.asdict(self).items():
            if name == "calibration":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name in SHARES:
                fine, wanted = number and 0 <= value < 1, "a number from 0 to below 1"
            elif name in FROM_ZERO:
                fine, wanted = number and value >= 0, "a number of at least 0"
            else:
                fine, wanted = number and value > 0, "a number above 0"
            if not fine:
                raise InputError(f"the setting {name} must be {wanted}, got {value!r}")
