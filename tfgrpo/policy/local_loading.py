"""Loads a transformers folder for `local/...` and finds out what this machine computes fastest with.

Imports torch and transformers at the top; only `tfgrpo.policy.local` imports it, on first use.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError

from tfgrpo.errors import InputError, RequestError
from tfgrpo.policy.local_attention import ATTENTION
from tfgrpo.types import Message, message_text

PROBE_ROWS = 32
WORTH = 1.15  # another data type or more threads must be faster by this factor: busy machines flatter them


@dataclass(kw_only=True)
class LoadedModel:
    """A model, its tokenizer, and what is asked of both."""

    name: str
    model: Any
    tokenizer: Any
    device: str
    words: str  # "bfloat16 on cpu, 1 thread"
    stop_ids: set[int]
    context: int

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The messages as the model's chat template writes them; a model without one reads them one after another.

        Raises:
            RequestError: they do not fit into the context, or the template refuses them.
        """
        plain = [{**message, "content": message_text(message)} for message in messages]
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(str(message["content"]) for message in plain)
        else:
            try:
                text = self.tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
            except TemplateError as error:
                raise RequestError(f"the chat template of {self.name} refuses the messages: {error}") from error
        ids = self.tokenizer(text, add_special_tokens=self.tokenizer.chat_template is None)["input_ids"]
        if not 0 < len(ids) < self.context:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; {self.name} reads 1 to {self.context - 1}. Shorten it."
            )
        return tuple(ids)

    def text(self, tokens: Sequence[int]) -> str:
        words: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return words


def load_model(folder: Path, *, device: str | None, dtype: str | None, threads: int | None) -> LoadedModel:
    """The model in a folder, on the given device or the best one, in the given or the fastest data type.

    Raises:
        InputError: the folder holds no causal language model, or one whose layers do not all attend to everything.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, attn_implementation=ATTENTION, dtype=getattr(torch, dtype or "bfloat16")
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder} is no folder of a causal language model: {error}") from error
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or model.config.is_encoder_decoder:
        raise InputError(f"local/ runs models with full attention in every layer; {folder} has {sorted(kinds)}")
    model = model.to(place).eval()
    words = f"{dtype or 'bfloat16'} on {place}"
    if place == "cpu":
        model, words = _fastest(model, dtype, threads)
    return LoadedModel(
        name=folder.name,
        model=model,
        tokenizer=tokenizer,
        device=place.partition(":")[0],
        words=words,
        stop_ids=_stop_ids(model, tokenizer),
        context=int(getattr(model.config, "max_position_embeddings", None) or 2**31),
    )


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    found: set[int] = set()
    for ids in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return found


def _fastest(model: Any, dtype: str | None, threads: int | None) -> tuple[Any, str]:
    """Data type and thread count by a short race on the model itself. `OMP_NUM_THREADS` is obeyed where it is set.

    bfloat16 is fast only on CPUs with AVX512-bf16 or AMX; two threads on a busy machine spin and are slower than one.
    """
    given = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
    torch.set_num_threads(given or 1)
    if dtype is None:
        narrow = _pass_s(model)
        model = model.float()
        if _pass_s(model) < narrow * WORTH:  # equally fast: rather the exact one
            dtype = "float32"
        else:
            model, dtype = model.bfloat16(), "bfloat16"
    if not given:
        given, best = 1, _pass_s(model)
        torch.set_num_threads(cores := len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        if cores > 1 and _pass_s(model) * WORTH < best:
            given = cores
        torch.set_num_threads(given)
    return model, f"{dtype} on cpu, {given} thread{'s' if given > 1 else ''}"


@torch.inference_mode()
def _pass_s(model: Any) -> float:
    """Median seconds of one step of PROBE_ROWS rows, of three after one to warm up."""
    ids = torch.zeros(PROBE_ROWS, 1, dtype=torch.long)
    mask = torch.ones(PROBE_ROWS, 1, 1, 1, dtype=torch.bool)
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        model(input_ids=ids, attention_mask=mask, use_cache=False)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for a load or a save of a few seconds."""
    log: Any = transformers.utils.logging
    shown = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            log.enable_progress_bar()
