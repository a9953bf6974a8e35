"""Checkpoints: a folder per step that any transformers user can load, with what training needs to go on beside it.

OUT/
  run.sqlite                 the run's record: every answer, every event
  step-000025/
    model.safetensors ...    weights, config and tokenizer: AutoModelForCausalLM.from_pretrained("OUT/step-000025")
    trainer.safetensors      float32 masters, the moments of AdamW, a teacher that is a moving average
    trainer.json             step, order of problems, seconds spent

A checkpoint is written beside its place and renamed, so that one with a name is whole. Only the last one is kept.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hybrid.trainer import Trainer
from tfgrpo.errors import RunStateError
from tfgrpo.policy.local_loading import LoadedModel, quiet

TENSORS, STATE = "trainer.safetensors", "trainer.json"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run folder."""

    folder: Path
    keep_free: float  # GiB

    def last(self) -> Path | None:
        """The newest one; what a killed process left half written is removed."""
        for rest in self.folder.glob(".step-*"):
            shutil.rmtree(rest, ignore_errors=True)
        found = sorted(path for path in self.folder.glob("step-*") if (path / STATE).is_file())
        return found[-1] if found else None

    def check_room(self, trainer: Trainer) -> None:
        """Refuses to start where two checkpoints will not fit: a new one is whole before the old one goes.

        Raises:
            RunStateError: says how much is free and how much is needed.
        """
        masters = sum(m.nbytes for m in trainer.weights.masters.values())
        teacher = sum(t.nbytes for t in trainer.teacher.state().values()) if trainer.teacher else 0
        needed = 2 * (3 * masters + teacher + sum(p.nbytes for p in trainer.weights.parameters.values()))
        free = shutil.disk_usage(self.folder).free - self.keep_free * GIB
        if free < needed:
            raise RunStateError(
                f"{self.folder} has room for {max(free, 0) / GIB:.1f} GiB (keeping {self.keep_free:g} free), and two "
                f"checkpoints of this model need {needed / GIB:.1f}; free some, or choose another folder"
            )

    def save(self, loaded: LoadedModel, trainer: Trainer, step: int, state: Mapping[str, Any]) -> Path:
        """Writes the checkpoint of a step and removes those before it.

        Raises:
            RunStateError: it could not be written; the one before is whole.
        """
        target = self.folder / f"step-{step:06d}"
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=self.folder))
        kept = {"updates": trainer.updates, "entropy": trainer.entropy, "step": step, **state}
        try:
            with quiet():
                loaded.model.save_pretrained(work)
                loaded.tokenizer.save_pretrained(work)
            save_file(trainer.state(), str(work / TENSORS))
            (work / STATE).write_text(json.dumps(kept) + "\n", encoding="utf-8")
            work.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            work.rename(target)
        except (OSError, SafetensorError) as error:
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

    def restore(self, place: Path, trainer: Trainer) -> dict[str, Any]:
        """Weights, optimiser and counters as they were; the rest of the state is returned.

        Raises:
            RunStateError: damaged, or of another model.
        """
        try:
            state: dict[str, Any] = json.loads((place / STATE).read_text(encoding="utf-8"))
            tensors = load_file(str(place / TENSORS))
        except (OSError, SafetensorError, ValueError) as error:
            raise RunStateError(f"the checkpoint {place} cannot be read: {error}; start a new run") from error
        trainer.restore(tensors)
        trainer.updates, trainer.entropy = int(state["updates"]), float(state["entropy"])
        return state
