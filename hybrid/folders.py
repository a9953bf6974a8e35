"""Where the weights of a model lie. Light: nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from tfgrpo.errors import InputError
from tfgrpo.policy.packaged_models import PACKAGED, packaged_model


def place_of(model: str) -> str:
    """What a name stands for: the name of a packaged model, or a folder.

    Example:
        >>> place_of("local/smollm2"), place_of("./trained/step-000025")
        ('smollm2', './trained/step-000025')
    """
    return model.removeprefix("local/")


def model_folder(model: str) -> Path:
    """The folder that a model's name stands for: `local/NAME`, `local/FOLDER`, or either without "local/".

    Raises:
        InputError: neither a packaged model nor a folder with a config.json.
        MissingExtraError: the package of a packaged model is not installed.
    """
    place = place_of(model)
    if place in PACKAGED:
        return packaged_model(place)
    folder = Path(place).expanduser()
    if not (folder / "config.json").is_file():
        known = ", ".join(f"local/{name}" for name in PACKAGED)
        raise InputError(
            f"unknown model {model!r}: there are no weights to train. Known: {known}, or a folder that transformers' "
            f"save_pretrained wrote (a model of a hub is downloaded to one first)"
        )
    return folder
