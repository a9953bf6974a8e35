"""What the caller of `improve` chose, checked before anything is begun, and the problems dealt for it."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experience_store import ExperienceStore
from hybrid.folders import model_folder, place_of
from hybrid.identity import check_same
from hybrid.settings import Settings
from tfgrpo.budget import Budget
from tfgrpo.critic import CriticSpec
from tfgrpo.errors import InputError, MissingExtraError
from tfgrpo.events import Event
from tfgrpo.policy import Policy
from tfgrpo.policy.local import LocalPolicy
from tfgrpo.record import RunRecord
from tfgrpo.task import Task
from tfgrpo.types import Problem

if TYPE_CHECKING:
    from hybrid.losses import Loss

SET_ASIDE = 32
"""Problems for the decision, at most."""
SAMPLES_ASIDE = 2
"""Of each of them, at most: more problems tell more than more samples, and they are measured four times."""
LEAST = 2
"""Problems without which nothing can be compared."""
PILOT_STEPS = 12
"""Fewer show no trend through the noise of a step; more are training already."""
LARGE = 1.5e9
"""Bytes of weights from which on a model is not trained on a CPU without being asked to."""
HOSTED = ("openai/", "azure/", "vllm/")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How training is done if it comes to that, and what the decision is told.

    Example:
        >>> Choices().loss, Choices(force=True).pilot_steps
        ('dapo', 12)
    """

    loss: Loss | str = "dapo"
    group: int = 8
    prompts: int = 8
    pilot_steps: int = PILOT_STEPS  # at most
    settings: Settings = field(default_factory=Settings)
    force: bool = False  # train whatever the forecast says
    horizon_days: float | None = None  # in which the expected calls come, for the words alone

    def __post_init__(self) -> None:
        if self.group < 2 or self.prompts < 1 or self.pilot_steps < 1:
            raise InputError(
                f"a group needs 2 answers, a step 1 problem and a pilot 1 step; got group={self.group}, "
                f"prompts={self.prompts}, pilot_steps={self.pilot_steps}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "name", repr(self.loss))
        return {**plain, "loss": str(loss), "settings": self.settings.identity}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the caller of `improve` chose."""

    task: Task
    model: Policy | str
    train_model: str | None
    critic: Policy | CriticSpec | str | None
    store: ExperienceStore | str | None
    budget: Budget
    gpu_usd_per_hour: float | None
    traffic_calls: float | None
    out: Path
    seed: int
    concurrency: int
    choices: Choices
    on_event: Callable[[Event], None] | None

    @property
    def model_name(self) -> str:
        return self.model if isinstance(self.model, str) else self.model.name

    @property
    def local(self) -> bool:
        """Whether the prompt arm runs on this machine, so that its time costs what the machine costs."""
        if isinstance(self.model, str):
            return self.model.startswith(("local/", "vllm/"))
        return isinstance(self.model, LocalPolicy)

    @property
    def same_model(self) -> bool:
        """Whether training begins with the weights of the prompt arm."""
        return self.train_model is not None and place_of(self.model_name) == place_of(self.train_model)

    def check(self) -> None:
        """Refuses what cannot work, before anything is begun.

        Raises:
            InputError: a budget of nothing, no held-out problems, a price below 0.
        """
        limits = {name: value for name, value in dataclasses.asdict(self.budget).items() if value is not None}
        empty = [name for name, value in limits.items() if value == 0]
        if empty:
            raise InputError(
                f"a budget of 0 {empty[0]} pays for nothing, not even for measuring the model as it is; nothing was "
                f"begun. Give more, or leave that limit out"
            )
        for name in ("gpu_usd_per_hour", "traffic_calls"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} must be at least 0, got {value!r}")
        if len(self.task.test) < LEAST:
            raise InputError(
                f"task {self.task.name!r} has {len(self.task.test)} test problems; the arms are compared on held-out "
                f"problems, at least {LEAST}: give some (--test FILE, Task(test=...))"
            )

    def same(self, record: RunRecord) -> None:
        """Refuses to go on in a folder that holds another story.

        Raises:
            RunStateError: naming what differs.
        """
        check_same(record, self.identity, self.out, kind="story")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides what is done."""
        critic = self.critic if self.critic is None or isinstance(self.critic, str | CriticSpec) else self.critic.name
        store = self.store if self.store is None or isinstance(self.store, str) else self.store.location
        return {
            "task": self.task.fingerprint(),
            "model": self.model_name,
            "train_model": self.train_model,
            "critic": None if critic is None else str(critic),
            "store": store,
            "budget": dataclasses.asdict(self.budget),
            "gpu_usd_per_hour": self.gpu_usd_per_hour,
            "traffic_calls": self.traffic_calls,
            "seed": self.seed,
            "choices": self.choices.identity,
        }


# -- the problems ------------------------------------------------------------------------------------------------------


def set_aside(task: Task, seed: int) -> Task:
    """The task for learning and training: a part of its gate and learning problems became its test problems.

    The decision is made on those, so that the real test problems stay unseen until the end. Half of the gate problems
    are taken, and where they are few up to a quarter of the learning problems, 32 in all at most.

    Raises:
        InputError: there are too few problems.
    """
    rng = np.random.default_rng((seed, 11))
    gate = [task.gate[i] for i in rng.permutation(len(task.gate))]
    learn = [task.learn[i] for i in rng.permutation(len(task.learn))]
    of_gate = min(len(gate) // 2, SET_ASIDE)
    of_learn = min(max(SET_ASIDE - of_gate, 0), max(len(learn) // 4, LEAST - of_gate))
    taken = {p.id for p in (*gate[:of_gate], *learn[:of_learn])}
    if len(taken) < LEAST or of_learn >= len(learn):
        raise InputError(
            f"task {task.name!r} has {len(learn)} learning and {len(gate)} gate problems; that is too few to learn "
            f"from some and to decide on others. Give at least {2 * LEAST} learning problems"
        )
    return dataclasses.replace(
        task,
        learn=tuple(p for p in task.learn if p.id not in taken),
        gate=tuple(p for p in task.gate if p.id not in taken),
        test=tuple(p for p in (*task.gate, *task.learn) if p.id in taken),
        test_samples=min(task.test_samples, SAMPLES_ASIDE),
    )


def held_out(task: Task, seed: int) -> tuple[Problem, ...]:
    """The test problems in a random order, so that the first of them stand for all."""
    order = np.random.default_rng((seed, 12)).permutation(len(task.test))
    return tuple(task.test[i] for i in order)


# -- whether training is possible --------------------------------------------------------------------------------------


def no_training(job: Job) -> str:
    """Why there can be no training here, in words; "" where there can.

    Raises:
        InputError: `train_model` looks like a folder and is none.
    """
    model = job.train_model
    if model is None:
        return "no model to train was given (train_model=..., --train-model)"
    if "://" in model or model.startswith(HOSTED):
        return f"{model} is asked over a server: there are no weights on this machine that could be trained"
    for package in ("torch", "transformers", "safetensors"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package!r} is not installed: pip install 'tfgrpo[train]'"
    paid = [m.name for m in job.task.models if m.policy is not None and not _free(m.policy)]
    if paid and job.budget.usd is not None:
        return f"the reward asks {paid[0]}, and training does not limit what that costs; judge with a local model"
    try:
        folder = model_folder(model)
    except MissingExtraError as error:
        return str(error)
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    size = sum(file.stat().st_size for file in files)
    if size > LARGE and job.choices.settings.device is None and not _has_gpu():
        return f"there is no GPU, and {size / 1e9:.1f} GB of weights are not trained on a CPU (--set device=cpu tries)"
    return ""


def _free(policy: Policy) -> bool:
    price = policy.price
    return price is not None and price.cost_usd(1_000_000, 1_000_000) == 0


def _has_gpu() -> bool:
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()
