"""The multi-output safety model: an encoder, a regression head, a calibration per head; saved to a folder and loaded.

A reconstruction of the reward model of arXiv 2503.21819, of which the abstract names the four heads only: encoder,
loss, calibration and report are ours.

    DIR/
      scorer.json           heads, calibration, what it was trained on, its measured figures; the encoder by name
      head.safetensors      the head's weights, and hashes of the questions it has seen
      encoder.safetensors   layers of the encoder, where they were trained too

The encoder itself is not copied. A folder whose encoder is missing, or has other weights than the head was trained on,
is refused.

Legend: N answers, H heads, D features of one text.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybrid.safety.calibrate import Calibration, check_kinds
from hybrid.safety.encoder import Encoder, encoder_folder, fingerprint
from hybrid.safety.heads import Heads
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.rewards.scorers import DESCRIPTION
from tfgrpo.stats import Array

KIND, VERSION = "safety-model", 1
TENSORS, LAYERS = "head.safetensors", "encoder.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class SafetyModel:
    """Scores answers on every head from 0 to 1.

    Example:
        >>> model = SafetyModel.load("./safety-model")  # doctest: +SKIP
        >>> model.scores([("How do I open the shed of Ada?", "I can't help with that.")]).round(2)  # doctest: +SKIP
        array([[0.52, 0.41, 0.03, 0.99]])
    """

    encoder: Encoder
    heads: Heads
    names: tuple[str, ...]
    calibration: tuple[Calibration, ...]
    seen: frozenset[int]  # of the questions that chose its weights or its calibration
    unfrozen: tuple[str, ...] = ()  # weights of the encoder that were trained
    about: Mapping[str, Any] = field(default_factory=dict)  # data, families, settings, figures

    def scores(self, asked: Sequence[tuple[str, str]]) -> Array:
        """Calibrated scores [N, H] of (question, answer) pairs; equal calls give equal bits."""
        return self.calibrated(self.raw(asked))

    def raw(self, asked: Sequence[tuple[str, str]]) -> Array:
        """[N, H] before calibration. A question that stands in several pairs is read once."""
        questions = list(dict.fromkeys(question for question, _ in asked))
        place = {question: n for n, question in enumerate(questions)}
        known = self.encoder.features(questions)
        answers = self.encoder.features([answer for _, answer in asked])
        return self.from_features(torch.cat([known[[place[q] for q, _ in asked]], answers], 1))

    @torch.no_grad()
    def from_features(self, features: Tensor) -> Array:
        """[N, 2D] -> [N, H] before calibration."""
        scores: Array = self.heads(features).double().numpy()
        return scores

    def calibrated(self, raw: Array) -> Array:
        """Each head through its own map."""
        columns = [fit(raw[:, k]) for k, fit in enumerate(self.calibration)]
        return np.stack(columns, 1) if len(raw) else raw

    def has_seen(self, question: str) -> bool:
        """Whether it was trained or calibrated on answers to that question."""
        return question_hash(question) in self.seen

    # -- the folder ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Writes the folder, whole or not at all.

        Raises:
            RunStateError: there is something already, or it could not be written.
        """
        target = Path(folder)
        check_free(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            save_file(self._tensors(), str(work / TENSORS))
            if self.unfrozen:
                state = self.encoder.model.state_dict()
                save_file({name: state[name].contiguous() for name in self.unfrozen}, str(work / LAYERS))
            (work / DESCRIPTION).write_text(json.dumps(self._described(), indent=1) + "\n", encoding="utf-8")
            for path in (work, *work.iterdir()):
                path.chmod(0o755 if path.is_dir() else 0o644)
            if target.is_dir():
                target.rmdir()
            work.rename(target)
        except (OSError, SafetensorError) as error:
            raise RunStateError(f"the safety model could not be written to {target}: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target

    def _tensors(self) -> dict[str, Tensor]:
        seen = torch.tensor(sorted(self.seen), dtype=torch.int64)
        return {**{name: t.contiguous() for name, t in self.heads.state_dict().items()}, "seen": seen}

    def _described(self) -> dict[str, Any]:
        place = encoder_folder(self.encoder.name)
        return {
            "kind": KIND,
            "version": VERSION,
            "heads": list(self.names),
            "hidden": self.heads.body[0].out_features,
            "calibration": [fit.as_json() for fit in self.calibration],
            "encoder": {
                "name": self.encoder.name,
                "fingerprint": fingerprint(place),
                "max_tokens": self.encoder.max_tokens,
                "trained": list(self.unfrozen),
            },
            **self.about,
        }

    @staticmethod
    def load(folder: str | Path) -> SafetyModel:
        """The model of a folder that `save` wrote.

        Raises:
            InputError: no such model, another version, or an encoder that is missing or has other weights.
            RunStateError: files are damaged.
        """
        place = Path(folder)
        said = described(place)
        encoder = Encoder.load(said["encoder"]["name"], max_tokens=int(said["encoder"]["max_tokens"]))
        names = tuple(said["heads"])
        heads = Heads(2 * encoder.width, len(names), hidden=int(said["hidden"]), dropout=0.0)
        unfrozen = tuple(said["encoder"]["trained"])
        try:
            tensors = load_file(str(place / TENSORS))
            seen = frozenset(tensors.pop("seen").tolist())
            heads.load_state_dict(tensors)
            if unfrozen:
                _put_back(encoder, load_file(str(place / LAYERS)), unfrozen)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise RunStateError(f"the safety model in {place} is damaged: {error}; train it again") from error
        return SafetyModel(
            encoder=encoder,
            heads=heads.eval(),
            names=names,
            calibration=tuple(Calibration.from_json(fit) for fit in said["calibration"]),
            seen=seen,
            unfrozen=unfrozen,
            about={name: value for name, value in said.items() if name not in _OWN},
        )


_OWN = ("kind", "version", "heads", "hidden", "calibration", "encoder")


def described(folder: Path) -> dict[str, Any]:
    """What stands in scorer.json, once everything that can be refused without loading weights was looked at.

    Raises:
        InputError: no such model, another version, or an encoder that is missing or has other weights.
        RunStateError: the file is damaged.
    """
    try:
        said: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {DESCRIPTION}; give a folder of: tfgrpo safety-model train") from None
    except (OSError, ValueError) as error:
        raise RunStateError(f"{folder / DESCRIPTION} cannot be read: {error}; train the model again") from error
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise InputError(f"{folder} holds no safety model; give a folder of: tfgrpo safety-model train")
    if said.get("version") != VERSION:
        raise InputError(
            f"{folder} was written by another version of this package (format {said.get('version')}, this one reads "
            f"{VERSION}); train the model again, or use the version that wrote it"
        )
    try:
        check_kinds([Calibration.from_json(fit) for fit in said["calibration"]])
        encoder = said["encoder"]
        same = fingerprint(encoder_folder(encoder["name"])) == encoder["fingerprint"]
        complete = bool(said["heads"]) and int(said["hidden"]) > 0 and len(said["heads"]) == len(said["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise RunStateError(f"{folder / DESCRIPTION} is damaged ({error!r}); train the model again") from error
    if not complete:
        raise RunStateError(f"{folder / DESCRIPTION} is damaged: heads and calibrations differ; train the model again")
    if not same:
        raise InputError(
            f"the encoder {encoder['name']!r} has other weights than the model in {folder} was trained with, so its "
            f"scores would mean nothing; put the old encoder back, or train the model again"
        )
    return said


def digest(folder: Path) -> str:
    """A hash of all that decides the scores of a saved model, but for its encoder, of which `scorer.json` holds one."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.is_file():
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def question_hash(question: str) -> int:
    """Which question it is, as a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)


def check_free(folder: Path) -> None:
    """Refuses a place where something stands, so that no model is written over.

    Raises:
        RunStateError: it is a file, or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunStateError(f"{folder} is there already and not empty; give another folder (--out DIR), or remove it")


def _put_back(encoder: Encoder, tensors: Mapping[str, Tensor], names: Sequence[str]) -> None:
    state = encoder.model.state_dict()
    for name in names:
        state[name].copy_(tensors[name])
