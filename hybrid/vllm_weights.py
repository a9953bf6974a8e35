"""The weights that are trained, on their way into a vLLM server, and the proof that they arrived.

A server that goes on with old weights answers as fluently as before, and one update changes log-probs by less than
bfloat16 rounds them. So a handover is proven, not assumed:

- *Once, at the start*, the server is given every weight at 0.7 of its size and asked for some tokens, whose log-probs
  under those weights the trainer knows. SmolLM2-135M in bfloat16: 0.04 to 0.06 nats apart when all of them arrived, and
  0.5 if one layer of 30 did not, 0.4 to 0.9 for the input embedding, 0.9 for the output head.
- *After every handover* the same is asked with the weights as they are, and the marks of `hybrid.vllm_server` tell
  whether they are still there when an answer comes back.

What this found: on a CPU vLLM 0.32 packs the output head when it loads a model, and a reload of a model that shares the
head with the input embedding leaves the packed one as it was. So our servers get the head as a tensor of its own. Who
starts a server for such a model (rollouts=http://...) serves a copy made so:

    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.save_pretrained(COPY)
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(COPY)
"""

from __future__ import annotations

import asyncio
import copy
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hybrid.export import plain_weights
from hybrid.packing import Sample, pack, padded
from hybrid.settings import RolloutError
from hybrid.trainer import Trainer
from tfgrpo.policy.local_loading import LoadedModel, quiet
from tfgrpo.types import Completion

if TYPE_CHECKING:
    from hybrid.rollouts import Worker
    from hybrid.vllm_server import Server

OTHER = 0.7
"""The size of the weights that are not those of the trainer."""
ONE_FILE = 2**62
"""Bytes of a file of weights: never two, whose index would hide the head that stands beside them."""


class Source:
    """The model that is trained, as the source of a server's weights."""

    def __init__(self, loaded: LoadedModel, trainer: Trainer, worker: Worker) -> None:
        self.loaded, self.trainer, self.worker = loaded, trainer, worker

    @property
    def dtype(self) -> str:
        """Such as "bfloat16"."""
        return str(self.loaded.model.dtype).removeprefix("torch.")

    @property
    def size(self) -> int:
        """Bytes of the weights in a folder."""
        tensors = [*self.loaded.model.parameters(), *_shared_head(self.loaded.model).values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    async def save(self, folder: Path) -> None:
        """The weights as they are now, in a folder that is there when it is whole.

        Raises:
            RolloutError: it could not be written.
        """
        await self.worker(lambda: self._save(folder))

    async def save_shape(self, folder: Path) -> None:
        """What a server needs to start without weights: the model's config with a head of its own, the tokenizer."""
        await self.worker(lambda: self._save_shape(folder))

    async def gap(self, answer: Completion) -> float:
        """Nats by which the log-probs that came with an answer are from the trainer's, a mean over its tokens."""
        return await self.worker(lambda: self._gap(Sample.of(answer)))

    @asynccontextmanager
    async def other_weights(self) -> AsyncIterator[None]:
        """Within it all weights are smaller; they need their own size once more."""
        kept = await self.worker(self._shrink)
        try:
            yield
        finally:
            await self.worker(lambda: self._restore(kept))

    # -- on the thread of the model -----------------------------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        work = folder.with_name(f".{folder.name}")
        try:
            with quiet():
                weights = plain_weights(self.loaded.model, self.loaded.model.dtype)
                self.loaded.model.save_pretrained(work, state_dict=weights, max_shard_size=ONE_FILE)
            if head := _shared_head(self.loaded.model):
                save_file(
                    {name: tensor.detach().clone() for name, tensor in head.items()}, str(work / "head.safetensors")
                )
            for path in work.iterdir():
                path.chmod(0o644)  # the folder says who may enter
            work.rename(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(work, ignore_errors=True)
            raise RolloutError(
                f"the new weights could not be written to {folder.parent}: {error} (is it full?). Make room there or "
                f"give another folder (the setting share); the same command then goes on from the last checkpoint"
            ) from error

    def _save_shape(self, folder: Path) -> None:
        config = copy.deepcopy(self.loaded.model.config)
        config.tie_word_embeddings = False
        config.architectures = [type(self.loaded.model).__name__]
        config.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def _gap(self, sample: Sample) -> float:
        (row,) = pack([sample], budget=max(2, len(sample.prompt) + len(sample.tokens)))
        row = row.to(self.loaded.model.device)
        logp = self.trainer.scores(row)[0]
        return float((logp - padded(row, [sample], "logps")).abs().sum() / sample.trained)

    @torch.no_grad()
    def _shrink(self) -> list[Tensor]:
        kept = [p.detach().clone() for p in self.loaded.model.parameters()]
        for p in self.loaded.model.parameters():
            p.mul_(OTHER)
        return kept

    @torch.no_grad()
    def _restore(self, kept: list[Tensor]) -> None:
        for p, before in zip(self.loaded.model.parameters(), kept, strict=True):
            p.copy_(before)


def _shared_head(model: Any) -> dict[str, Tensor]:
    """The output head by name, where it is the input embedding too and so is not saved under a name of its own."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return {}
    name = next(name for name, module in model.named_modules() if module is head)
    return {f"{name}.weight": head.weight}


async def hand_over(server: Server, source: Source, mark: str, *, transport: str = "files") -> None:
    """Gives a server the weights as they are now, and marks them.

    In between the server holds back requests and carries a mark that fits nothing, so that whoever dies half way
    leaves no server behind that answers with half of the weights.

    Raises:
        RolloutError: says which part failed and what to do.
    """
    try:
        await server.order("/pause?mode=abort&clear_cache=true")
        await server.order("/update_weight_version", {"new_version": f"{mark}, on its way"})
        await TRANSPORTS[transport](server, source)
        forgot = await server.order("/reset_prefix_cache")
        if forgot.get("success") is not True:
            raise RolloutError(f"{server.where} keeps states of prompts that older weights have read")
        await server.order("/update_weight_version", {"new_version": mark})
        await server.order("/resume")
    except RolloutError as error:
        advice = "" if server.own else " Start that server again: it may hold half of the weights, and is left paused."
        raise RolloutError(
            f"the weights {mark!r} did not reach the server: {error}{advice} No answer was taken from it since; the "
            f"same command goes on from the last checkpoint"
        ) from error


async def through_files(server: Server, source: Source) -> None:
    """By a folder that both sides see: on one machine in memory."""
    place = server.folder / f"weights-{uuid4().hex[:8]}"  # never the same twice, so that nothing can be cached by name
    try:
        await source.save(place)
        await _every_worker(server, "update_config", args=[{"load_config": {"load_format": "auto"}}])
        await _every_worker(server, "reload_weights", kwargs={"weights_path": str(place)})
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


async def _every_worker(server: Server, method: str, **arguments: Any) -> None:
    await server.order("/collective_rpc", {"method": method, "timeout": server.timeout_s, **arguments})


Transport: TypeAlias = Callable[["Server", Source], Awaitable[None]]
"""A way of the weights into a server that is paused. One that needs no file (NCCL, CUDA IPC) is another row."""

TRANSPORTS: Mapping[str, Transport] = {"files": through_files}
