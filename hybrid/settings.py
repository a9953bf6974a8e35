"""How an update is made: everything that has a sound default and is rarely changed. Plain data, light to import."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tfgrpo.errors import InputError, TfgrpoError

PLACE = frozenset({"device", "threads", "max_rows", "checkpoint_s", "keep_free", "share", "timeout_s"})
"""Settings that change where and how often something is done, not what comes out."""
WORDS = frozenset({"betas", "dtype", "device", "rollouts", "share"})
SWITCHES = frozenset({"shared_prompts", "checkpointing"})
FROM_ZERO = frozenset({"warmup", "decay", "checkpoint_s", "keep_free"})


class DriftError(TfgrpoError, RuntimeError):
    """Sampler and trainer disagree about the log-probs of the same tokens: one of them works on other weights."""


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
    token_budget: int | None = None  # tokens of one packed row; None: 512 on a CPU, 16384 on a GPU
    shared_prompts: bool = True  # the prompt of a group stored once per row
    checkpointing: bool = False  # activations are computed again in the backward pass: less memory, a third more time
    temperature: float | None = None  # of training rollouts; None: the task's
    drift: float | None = None  # mean |log-prob of sampler - of trainer| that stops; None: 0.005, 0.1 in bfloat16
    dtype: str | None = None  # "bfloat16" or "float32" of the computation; None: the faster one, by a probe
    device: str | None = None  # None: a GPU if there is one
    threads: int | None = None  # of a CPU; None: by the same probe
    max_rows: int | None = None  # answers written at the same time
    rollouts: str = "live"  # who writes them: "live", "vllm" (a server of our own), or http://HOST:PORT/v1#NAME
    share: str | None = None  # folder where a server finds new weights; None: memory of this machine, else the run's
    timeout_s: float = 600.0  # for an answer of a server, and for a change of its weights
    checkpoint_s: float = 120.0  # seconds between checkpoints; the last step always has one
    keep_free: float = 2.0  # GiB of the disk that a checkpoint may not use

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _check(name, value)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"the setting betas must be two numbers from 0 to below 1, got {self.betas!r}")
        if self.dtype not in (None, "bfloat16", "float32"):
            raise InputError(f"the setting dtype must be 'bfloat16' or 'float32', got {self.dtype!r}")

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
        fine, wanted = _number(value) and value >= 0, "a number of at least 0"
    else:
        fine, wanted = _number(value) and value > 0, "a number above 0"
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
