"""A vLLM server whose weights change: how it is started, what is asked of it, how a lost one is noticed.

What vLLM offers for this are its development endpoints (`VLLM_SERVER_DEV_MODE=1`), read in the source of 0.32:

- `/pause` and `/resume` end what is being written, drop the cached states of prompts, hold back what comes in between;
- `/collective_rpc` has every worker read safetensors from a folder into the tensors that are there;
- `/update_weight_version` and `/weight_info` put a mark on the weights and read it. A server that was started again
  has another one ("default"), so a look after an answer tells whether it came from the weights that were marked.

Whoever reaches the port can replace the weights: a server of our own listens on loopback only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.settings import RolloutError
from tfgrpo.errors import InputError
from tfgrpo.policy.kinds import address, checked_key
from tfgrpo.policy.openai_compatible import OpenAIWire, is_loopback, openai_wire, shown_url
from tfgrpo.policy.vllm import VLLMServer, command_here
from tfgrpo.policy.wire import Failure

if TYPE_CHECKING:
    from hybrid.engines import Needed
    from hybrid.vllm_weights import Source

DEVELOPMENT = {"VLLM_SERVER_DEV_MODE": "1"}
TEMPERED = "processed_logprobs"  # those of the distribution that was drawn from, at the temperature of the request
MEMORY = Path("/dev/shm")
ROOM = 1.1  # of the bytes of the weights, that must be free in a folder
HOW = (
    f"start it as: VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode {TEMPERED} (0.32 or newer), or let "
    f"training start one (rollouts=vllm)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a server says about itself."""

    context: int  # tokens of prompt and answer together
    rows: int  # answers that it writes at the same time


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server as training sees it."""

    wire: OpenAIWire
    url: str  # ends in /v1
    model: str  # the name it serves
    folder: Path  # where it finds new weights
    timeout_s: float
    own: VLLMServer | None  # the process, if it was started here

    @property
    def where(self) -> str:
        return shown_url(self.url)

    async def facts(self) -> Facts:
        """Whether it can be used at all, asked before anything is spent.

        Raises:
            InputError: it cannot be reached, serves another model, or lacks what training needs.
        """
        served = (await self._fact("/v1/models")).get("data", ())
        mine = next((model for model in served if model.get("id") == self.model), None)
        if mine is None:
            names = ", ".join(str(model.get("id")) for model in served) or "none"
            raise InputError(f"the server at {self.where} serves no model {self.model!r}; it serves: {names}")
        config: Any = (await self._fact("/server_info?config_format=json")).get("vllm_config")
        try:
            mode, rows = config["model_config"]["logprobs_mode"], int(config["scheduler_config"]["max_num_seqs"])
            context = int(mine["max_model_len"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the server at {self.where} tells no {error} about itself; {HOW}") from error
        if mode != TEMPERED:
            raise InputError(
                f"the server at {self.where} tells log-probs in the mode {mode!r}, and training needs those of the "
                f"distribution that answers are drawn from; {HOW}"
            )
        return Facts(context=context, rows=rows)

    async def order(self, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """POST to a development endpoint.

        Raises:
            RolloutError: it was not obeyed.
        """
        outcome = await self.wire.call(self._root + path, self.timeout_s, body=body or {})
        if isinstance(outcome, Failure):
            raise RolloutError(f"{self.where} did not obey {path}: {outcome.words}.{self.last_words()}")
        return outcome

    async def mark(self) -> str | Failure:
        """What stands on its weights."""
        outcome = await self.wire.call(f"{self._root}/weight_info", self.timeout_s)
        return outcome if isinstance(outcome, Failure) else str(outcome.get("weight_version"))

    def last_words(self) -> str:
        """The end of the log of a server of our own that is no more; "" of any other."""
        if self.own is None or self.own.running:
            return ""
        return f" The server is no more; its last words:\n{self.own.log_tail()}\n"

    @property
    def _root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    async def _fact(self, path: str) -> Mapping[str, Any]:
        outcome = await self.wire.call(self._root + path, self.timeout_s)
        if isinstance(outcome, Failure):
            raise InputError(f"the server at {self.where} does not answer {path}: {outcome.words}; {HOW}")
        return outcome


async def own_server(stack: AsyncExitStack, needed: Needed, source: Source) -> Server:
    """A server on this machine, with random weights: before it has been given others nothing fits.

    It computes in the data type of the trainer; for all else what the user wrote in `TFGRPO_VLLM_ARGS` holds.

    Raises:
        InputError: vLLM is not installed, or the server does not start; the end of its log is in the message.
    """
    settings, name = needed.settings, source.loaded.name
    folder = _meeting_place(stack, needed, source, near=True, mode=0o700)
    await source.save_shape(folder / "shape")
    more = ["--served-model-name", name, "--load-format", "dummy", "--dtype", source.dtype]
    more += ["--logprobs-mode", TEMPERED, "--disable-uvicorn-access-log"]
    if settings.max_rows is not None:
        more += ["--max-num-seqs", str(settings.max_rows)]
    own = VLLMServer(
        name, command=lambda port: command_here(str(folder / "shape"), port, *more), environment=DEVELOPMENT
    )
    stack.push_async_callback(asyncio.to_thread, own.stop)
    return _server(stack, await own.start(), name, folder, settings.timeout_s, own)


async def running_server(stack: AsyncExitStack, needed: Needed, source: Source) -> Server:
    """A server that somebody else started, as http://HOST:PORT/v1#NAME.

    Raises:
        InputError: the address has another form.
    """
    url, name = address(needed.settings.rollouts)
    folder = _meeting_place(stack, needed, source, near=is_loopback(url), mode=0o755)
    return _server(stack, url, name, folder, needed.settings.timeout_s, None)


def _server(
    stack: AsyncExitStack, url: str, name: str, folder: Path, timeout_s: float, own: VLLMServer | None
) -> Server:
    key = None if own else checked_key(os.environ.get("TFGRPO_API_KEY"))
    wire = openai_wire(url, key, foreign=True)
    stack.push_async_callback(wire.aclose)
    return Server(wire=wire, url=url, model=name, folder=folder, timeout_s=timeout_s, own=own)


def _meeting_place(stack: AsyncExitStack, needed: Needed, source: Source, *, near: bool, mode: int) -> Path:
    """An empty folder for new weights, removed with the stack: what the user shares, memory of a machine that both are
    on, else the run's own folder.

    Raises:
        InputError: there is no room.
    """
    wanted = needed.settings.share
    places = [Path(wanted)] if wanted else [*([MEMORY] if near and os.access(MEMORY, os.W_OK) else []), needed.out]
    size = int(ROOM * source.size)
    place = next((p for p in places if p.is_dir() and shutil.disk_usage(p).free > size), None)
    if place is None:
        raise InputError(
            f"new weights take {size / 2**30:.2f} GiB on their way to the server, and there is no such room in "
            f"{' or '.join(map(str, places))}; make room, or give another folder that both see (the setting share)"
        )
    run = sha256(str(needed.out.resolve()).encode()).hexdigest()[:12]
    folder = place.resolve() / f"tfgrpo-weights-{run}"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(mode=mode)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder
