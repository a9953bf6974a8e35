"""How an update is made: everything that has a sound default and is rarely changed. Plain data, light to import."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfgrpo.errors import InputError, RunStateError, TfgrpoError, unknown_name

WORLD = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
PLACE = frozenset(
    {
        "device",
        "threads",
        "max_rows",
        "decoder",
        "checkpoint_s",
        "keep_free",
        "parallel",
        "hang_s",
        "share",
        "timeout_s",
    }
)
"""Settings that change where and how often something is done, not what comes out."""
WORDS = frozenset({"betas", "dtype", "device", "decoder", "parallel", "rollouts", "share", "checkpointing"})
SWITCHES = frozenset({"shared_prompts"})
CHECKPOINTING = ("selective", "full", "none")
"""See `hybrid.recompute`."""
WHOLE = frozenset({"updates", "token_budget", "threads", "max_rows", "lora", "warmup"})
FROM_ZERO = frozenset({"warmup", "decay", "checkpoint_s", "keep_free"})


def world() -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this host, as torchrun tells them; (0, 1, 0) without it."""
    rank, size, local = (int(os.environ.get(name, alone)) for name, alone in WORLD.items())
    return rank, size, local


def leading() -> bool:
    """Whether this is the process that tells what comes out."""
    return world()[0] == 0


class DriftError(TfgrpoError, RuntimeError):
    """Sampler and trainer disagree about the log-probs of the same tokens: one of them works on other weights."""


class RoomError(RunStateError):
    """There is too little memory for an update. Nothing was changed, and the last checkpoint is whole."""


class RolloutError(TfgrpoError, RuntimeError):
    """The server that writes answers lost the weights, did not get the new ones, or says less than training needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The optimiser, the layout of batches, and the limits.

    Example:
        >>> Settings(lr=3e-6).rate(0), Settings(lr=1e-5, warmup=4).rate(1)
        (3e-06, 5e-06)
    """

    lr: float = 1e-5  # of AdamW, constant after `warmup` steps
    warmup: int = 0  # steps over which the rate rises from lr / warmup to lr
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0  # weight decay
    clip: float = 1.0  # of the gradient's norm
    updates: int = 1  # optimiser steps on each batch of rollouts; more than 1 and the ratios of a loss matter
    token_budget: int | None = None  # tokens of one packed row; None: 384 on a CPU, 16384 on a GPU; long answers: more
    shared_prompts: bool = True  # the prompt of a group stored once per row
    checkpointing: str = "selective"  # activations computed again: "selective", "full" (less memory, slower), "none"
    temperature: float | None = None  # of training rollouts; None: the task's
    drift: float | None = None  # mean |log-prob of sampler - of trainer| that stops; None: 0.005, 0.1 in bfloat16
    dtype: str | None = None  # "bfloat16" or "float32" of the computation; None: the faster one, by a probe
    device: str | None = None  # None: a GPU if there is one
    threads: int | None = None  # of a CPU; None: by the same probe
    max_rows: int | None = None  # answers written at the same time
    decoder: str | None = None  # "slots", "static" or "compiled"; None: "static" on a GPU, "slots" on a CPU
    rollouts: str = "live"  # who writes them: "live", "vllm" (a server of our own), or http://HOST:PORT/v1#NAME
    share: str | None = None  # folder where a server finds new weights; None: memory of this machine, else the run's
    timeout_s: float = 600.0  # for an answer of a server, and for a change of its weights
    checkpoint_s: float = 120.0  # seconds between checkpoints; the last step always has one
    keep_free: float = 2.0  # GiB of the disk that a checkpoint may not use
    parallel: str = "ddp"  # of several processes: "ddp" keeps all weights on each, "fsdp" a part
    hang_s: float = 1800.0  # seconds after which a process that does not come back from its work ends all of them
    lora: int | None = None  # rank of low-rank adapters that are trained instead of the weights
    lora_alpha: float | None = None  # their scale is lora_alpha / lora; None: 2 x lora

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _check(name, value)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"the setting betas must be two numbers from 0 to below 1, got {self.betas!r}")
        if self.dtype not in (None, "bfloat16", "float32"):
            raise InputError(f"the setting dtype must be 'bfloat16' or 'float32', got {self.dtype!r}")
        if self.checkpointing not in CHECKPOINTING:
            raise InputError(
                f"the setting checkpointing must be one of {', '.join(CHECKPOINTING)}, got {self.checkpointing!r}"
            )
        if self.parallel not in ("ddp", "fsdp"):
            raise InputError(f"the setting parallel must be 'ddp' or 'fsdp', got {self.parallel!r}")
        if self.lora is None and self.lora_alpha is not None:
            raise InputError("lora_alpha is the scale of adapters; give their rank too (lora=16)")

    @staticmethod
    def of(given: Settings | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> Settings:
        """A `Settings` as it is; single settings by name laid over `defaults`, which lie over those of this class.

        Example:
            >>> Settings.of({"clip": 0.5}, {"lr": 5e-6, "clip": 2.0}).clip
            0.5

        Raises:
            InputError: an unknown setting (the near ones are listed), or a value that is none.
        """
        if isinstance(given, Settings):
            return given
        chosen = {**defaults, **(given or {})}
        known = [f.name for f in dataclasses.fields(Settings)]
        for name in chosen:
            if name not in known:
                raise unknown_name("setting", name, known)
        return Settings(**chosen)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr if step >= self.warmup else self.lr * (step + 1) / self.warmup

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        values = dataclasses.asdict(self)
        if "://" in self.rollouts:  # another address of the same kind of server
            values["rollouts"] = "vllm"
        return {name: value for name, value in sorted(values.items()) if name not in PLACE}


def _check(name: str, value: Any) -> None:
    """Refuses what is no number where one belongs, and one that is too small."""
    if name in WORDS or value is None:
        return
    if name in SWITCHES:
        fine, wanted = isinstance(value, bool), "true or false"
    elif name in FROM_ZERO:
        fine, wanted = _number(value) and 0 <= value < float("inf"), "a number of at least 0"
    else:
        fine, wanted = _number(value) and 0 < value < float("inf"), "a number above 0"
    if name in WHOLE:
        fine, wanted = fine and value == int(value), wanted.replace("number", "whole number")
    if not fine:
        raise InputError(f"the setting {name} must be {wanted}, got {value!r}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How long the run is and how large its steps are; None is no limit."""

    steps: int | None
    seconds: float | None
    prompts: int  # groups of one step
    group: int  # answers of one group

    def words(self) -> str:
        """Such as "25 steps of 8 problems x 8 answers"."""
        length = f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} s in steps"
        return f"{length} of {self.prompts} problems x {self.group} answers"
