"""Checkpoints: a folder per step that any transformers user can load, with what training needs to go on beside it.

OUT/
  run.sqlite                 the run's record: every answer, every event
  step-000025/
    model.safetensors ...    weights, config and tokenizer: AutoModelForCausalLM.from_pretrained("OUT/step-000025")
    adapter/                 with LoRA: the adapter alone, as peft and vLLM read it (the weights above have it merged)
    trainer/                 float32 masters, the moments of AdamW, a teacher that is a moving average; written by
                             torch.distributed.checkpoint
    trainer.json             step, order of problems, seconds spent

Every rank writes its part of `trainer/`, and any number of ranks can read it. Of several hosts, OUT must be a folder
that all of them see. A checkpoint is written beside its place and renamed, so that one with a name is whole. Only the
last one is kept.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from hybrid.export import save_model
from hybrid.parallel import Ranks
from hybrid.trainer import Trainer
from tfgrpo.errors import RunStateError
from tfgrpo.policy.local_loading import LoadedModel

TENSORS, STATE = "trainer", "trainer.json"
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True, weakref_slot=True)
class Checkpoints:
    """The checkpoints of one run folder. Rank 0 asks; saving and restoring are jobs of all ranks."""

    folder: Path
    keep_free: float  # GiB
    loaded: LoadedModel
    trainer: Trainer
    dtype: torch.dtype  # of the weights that are saved

    def __post_init__(self) -> None:
        self.ranks.jobs |= {"save a checkpoint": self._write, "restore a checkpoint": self._read}

    @property
    def ranks(self) -> Ranks:
        return self.trainer.ranks

    def last(self) -> Path | None:
        """The newest one; what a killed process left half written is removed."""
        for rest in self.folder.glob(".step-*"):
            shutil.rmtree(rest, ignore_errors=True)
        found = sorted(path for path in self.folder.glob("step-*") if (path / STATE).is_file())
        return found[-1] if found else None

    def check_room(self) -> None:
        """Refuses to start where two checkpoints will not fit: a new one is whole before the old one goes.

        Raises:
            RunStateError: says how much is free and how much is needed.
        """
        masters = sum(m.numel() * m.element_size() for m in self.trainer.weights.masters.values())
        model = sum(p.numel() * self.dtype.itemsize for p in self.loaded.model.parameters())
        teacher = self.trainer.teacher.state() if self.trainer.teacher else {}
        needed = 2 * (3 * masters + model + sum(tensor.nbytes for tensor in teacher.values()))
        free = shutil.disk_usage(self.folder).free - self.keep_free * GIB
        if free < needed:
            raise RunStateError(
                f"{self.folder} has room for {max(free, 0) / GIB:.1f} GiB (keeping {self.keep_free:g} free), and two "
                f"checkpoints of this model need {needed / GIB:.1f}; free some, or choose another folder"
            )

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes the checkpoint of a step and removes those before it.

        Raises:
            RunStateError: it could not be written; the one before is whole.
        """
        target = self.folder / f"step-{step:06d}"
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=self.folder))
        try:
            self.ranks.lead("save a checkpoint", work=str(work))
            kept = {"updates": self.trainer.updates, "entropy": self.trainer.entropy, "step": step, **state}
            (work / STATE).write_text(json.dumps(kept) + "\n", encoding="utf-8")
            work.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            work.rename(target)
        except (OSError, SafetensorError, CheckpointException) as error:
            raise RunStateError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error} (is the disk full?). "
                f"The one before it is whole; make room, and the same command goes on from there"
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        for other in self.folder.glob("step-*"):
            if other != target:
                shutil.rmtree(other, ignore_errors=True)
        return target

    def restore(self, place: Path) -> dict[str, Any]:
        """Weights, optimiser and counters as they were, on every rank; the rest of the state is returned.

        Raises:
            RunStateError: damaged, or of another model.
        """
        state: dict[str, Any] = self.ranks.lead("restore a checkpoint", place=str(place))
        return state

    # -- jobs of every rank -------------------------------------------------------------------------------------------

    def _write(self, work: str) -> None:
        save_model(self.loaded, Path(work), self.dtype, keep=self.ranks.leading)
        tensors = self.trainer.state()
        with _alone_is_fine():
            save(tensors, checkpoint_id=Path(work) / TENSORS, **self._group())

    def _read(self, place: str) -> dict[str, Any]:
        folder = Path(place)
        try:
            state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
            known = FileSystemReader(folder / TENSORS).read_metadata().state_dict_metadata
            shapes = {n: tuple(kept.size) for n, kept in known.items() if isinstance(kept, TensorStorageMetadata)}
            room = self.trainer.empty_state(shapes)
            with _alone_is_fine():
                load(room, checkpoint_id=folder / TENSORS, **self._group())
        except (OSError, ValueError, CheckpointException, EOFError, AttributeError) as error:
            raise RunStateError(f"the checkpoint {place} cannot be read: {error}; start a new run") from error
        self.trainer.restore(room)
        self.trainer.updates, self.trainer.entropy = int(state["updates"]), float(state["entropy"])
        return state

    def _group(self) -> dict[str, Any]:
        return {"process_group": self.ranks.control} if self.ranks.size > 1 else {"no_dist": True}


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """torch warns of a checkpoint by one process even when told that there is just one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
