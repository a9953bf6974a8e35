"""Who writes the answers of a training run: one row per engine, by the setting `rollouts`. Light to import.

| rollouts | answers come from | weights |
|---|---|---|
| live | the decoder of `local/...` in this process | those that are trained |
| vllm | a vLLM server that is started for the run, on loopback | handed over after every update |
| http://HOST:PORT/v1#NAME | a running vLLM server with development endpoints | handed over after every update |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hybrid.settings import Settings
from tfgrpo.errors import InputError, unknown_name

if TYPE_CHECKING:
    from hybrid.rollouts import Rollouts, Worker
    from hybrid.trainer import Trainer
    from hybrid.writing import Writer
    from tfgrpo.policy.local_loading import LoadedModel


class Tell(Protocol):
    """Takes words about what an engine is doing."""

    def __call__(self, *, words: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """What engines are made of."""

    loaded: LoadedModel
    trainer: Trainer
    writer: Writer
    worker: Worker
    settings: Settings
    out: Path  # the run's folder
    tell: Tell


async def open_rollouts(stack: AsyncExitStack, needed: Needed) -> Rollouts:
    """The engine that `settings.rollouts` names, ready and with the weights as they are now; `stack` closes it.

    Raises:
        InputError: no such engine, or a server that cannot be started, reached or used.
        RolloutError: the server does not take the weights.
    """
    if needed.trainer.cut and needed.settings.rollouts != "live":
        raise InputError(
            f"cut weights (parallel=fsdp) are not handed over to a server yet; train with parallel=ddp, or let the "
            f"trainer itself write the answers (rollouts=live), not {needed.settings.rollouts!r}"
        )
    return await ENGINES[engine_of(needed.settings.rollouts)](stack, needed)


def engine_of(rollouts: str) -> str:
    """The engine's row.

    Example:
        >>> engine_of("http://127.0.0.1:8000/v1#NAME")
        'http'

    Raises:
        InputError: there is none of that name.
    """
    name = rollouts.partition(":")[0]
    if name not in ENGINES:
        raise unknown_name("engine for the setting rollouts", rollouts, ENGINES)
    return name


async def _live(stack: AsyncExitStack, needed: Needed) -> Rollouts:
    from hybrid.rollouts import LiveRollouts  # noqa: PLC0415 - torch

    rollouts = LiveRollouts(needed.writer, needed.worker, name=f"local/{needed.loaded.name}")
    stack.push_async_callback(rollouts.aclose)
    return rollouts


async def _own_vllm(stack: AsyncExitStack, needed: Needed) -> Rollouts:
    from hybrid.vllm_rollouts import VLLMRollouts  # noqa: PLC0415 - a network client
    from hybrid.vllm_server import own_server  # noqa: PLC0415

    return await VLLMRollouts.opened(stack, needed, own_server)


async def _running_vllm(stack: AsyncExitStack, needed: Needed) -> Rollouts:
    from hybrid.vllm_rollouts import VLLMRollouts  # noqa: PLC0415 - a network client
    from hybrid.vllm_server import running_server  # noqa: PLC0415

    return await VLLMRollouts.opened(stack, needed, running_server)


ENGINES: Mapping[str, Callable[[AsyncExitStack, Needed], Awaitable[Rollouts]]] = {
    "live": _live,
    "vllm": _own_vllm,
    "http": _running_vllm,
    "https": _running_vllm,
}
