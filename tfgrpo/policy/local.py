"""`local/smollm2` and `local/FOLDER`: a transformers model inside this process, on the CPU or a GPU.

Requests that wait are answered together (tfgrpo.policy.local_engine): they join the running batch between two tokens
and leave it when they end. One worker thread owns the model; the event loop never waits for a computation.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from tfgrpo.errors import InputError, RequestError, TfgrpoError, TransportError, missing_extra
from tfgrpo.policy.base import Price, Sampling
from tfgrpo.policy.packaged_models import PACKAGED, packaged_file, packaged_model
from tfgrpo.types import Completion, FinishReason, Message, Segment, Usage, message_text

if TYPE_CHECKING:
    from tfgrpo.policy.local_engine import Engine, Row
    from tfgrpo.policy.local_loading import LoadedModel

GATHER_S = 0.004  # how long an idle model waits for more requests after the first
EXTRA = ("segments", "tempered")  # what `Sampling.extra` may hold


@dataclass(kw_only=True, slots=True, eq=False)
class _Request:
    messages: tuple[Message, ...]
    sampling: Sampling
    answer: Future[Completion] = field(default_factory=Future)
    started: float = field(default_factory=time.perf_counter)


class LocalPolicy:
    """A local model as a `Policy`. It costs nothing, and its price says so.

    `model` is `local/smollm2` (packaged weights, converted once) or `local/FOLDER` with a folder that transformers'
    `save_pretrained` wrote. Models whose layers all attend to everything are supported.

    With `Sampling.seed` an answer depends on its request alone: every request draws from its own generator, whatever
    else is in the batch. Matrix kernels round differently at different batch sizes, so a near tie may still fall
    the other way now and then; runs that submit the same requests in the same order on one machine agree exactly.
    Equal requests with equal seeds get equal answers: give each sample of a group a seed of its own.

    `Sampling.extra={"segments": True}` adds the token ids, and the model's own log-probabilities of the tokens it
    wrote (temperature 1, before top_p), to `Completion.segments`; with `"tempered": True` at the temperature they were
    sampled at.

    Args:
        model: `local/smollm2` or `local/FOLDER`.
        max_rows: answers that are written at the same time; None: 64 on a CPU, 256 on a GPU.
        device: "cpu", "cuda", ...; None: a GPU if there is one.
        dtype: "bfloat16" or "float32"; None: the faster one on this machine, found by a probe at the start.
        threads: of the CPU; None: `OMP_NUM_THREADS` if set, else found by the same probe.

    Example:
        >>> policy = LocalPolicy("local/smollm2")                                    # doctest: +SKIP
        >>> answer = await policy.complete([{"role": "user", "content": "Hello!"}],  # doctest: +SKIP
        ...                                Sampling(max_tokens=16))
    """

    def __init__(
        self,
        model: str = "local/smollm2",
        *,
        max_rows: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._name = model if model.startswith("local/") else f"local/{model}"
        self._place = self._name.removeprefix("local/")
        _check_installed(self._place)
        self._max_rows, self._device, self._dtype, self._threads = max_rows, device, dtype, threads
        self._loaded: LoadedModel | None = None
        self._engine: Engine | None = None
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        self._rows: dict[int, tuple[Row, _Request]] = {}  # by id(row), while it is written
        self._open: set[_Request] = set()
        self._lock = threading.RLock()  # a job that fails at once reports while it is still being submitted
        self._working = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tfgrpo-local")

    @property
    def name(self) -> str:
        return self._name

    @property
    def price(self) -> Price:
        return Price(prompt_usd_per_mtok=0.0, completion_usd_per_mtok=0.0, cached_usd_per_mtok=0.0)

    @property
    def setup(self) -> str:
        """What the model runs on ("bfloat16 on cpu, 1 thread"); "" before the first call."""
        return self._loaded.words if self._loaded else ""

    async def start(self) -> None:
        """Loads the model now instead of at the first call (the packaged one is converted on its very first use)."""
        await asyncio.wrap_future(self._thread.submit(self._load))

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One answer, written together with whatever else is waiting.

        Raises:
            RequestError: the prompt is longer than the model's context, or an option is not known here.
            TransportError: the model failed (out of memory) or was closed.
        """
        check_sampling(self.name, sampling)
        request = _Request(messages=with_schema(messages, sampling), sampling=sampling)
        with self._lock:
            self._open.add(request)
            self._waiting.put(request)
            if not self._working:
                self._working = True
                try:
                    self._thread.submit(self._work).add_done_callback(self._stopped)
                except RuntimeError as error:  # the executor was shut down
                    self._working = False
                    self._open.discard(request)
                    raise TransportError(f"{self.name} was closed; make a new LocalPolicy") from error
        return await asyncio.wrap_future(request.answer)

    async def aclose(self) -> None:
        """Answers what is running, refuses what comes later, gives the memory back."""
        await asyncio.to_thread(self._thread.shutdown, wait=True)
        self._engine = self._loaded = None

    def _load(self) -> Engine:
        if self._engine is None:
            try:
                from tfgrpo.policy.local_engine import Engine  # noqa: PLC0415
                from tfgrpo.policy.local_loading import load_model  # noqa: PLC0415
            except ImportError as error:
                raise missing_extra(error.name or "transformers", "local", f"the model {self.name!r}") from error
            folder = packaged_model(self._place) if self._place in PACKAGED else Path(self._place).expanduser()
            self._loaded = load_model(folder, device=self._device, dtype=self._dtype, threads=self._threads)
            on_cpu = self._loaded.device == "cpu"
            self._engine = Engine(
                self._loaded.model,
                self._loaded.stop_ids,
                max_rows=self._max_rows or (64 if on_cpu else 256),
                prefill_tokens=512 if on_cpu else 8192,
            )
        return self._engine

    def _work(self) -> None:
        """Runs on the worker thread until nothing is left to do."""
        engine = self._load()
        time.sleep(GATHER_S)
        while True:
            self._admit(engine)
            if engine.running:
                engine.step()
                self._settle()
                continue
            with self._lock:
                if self._waiting.empty():
                    self._working = False
                    return

    def _stopped(self, job: Future[None]) -> None:
        """After `_work`: if it failed, all who wait are told; a next call starts it again."""
        if (error := job.exception()) is None:
            return
        with self._lock:
            self._working = False
            failed, self._open = self._open, set()
            self._waiting = SimpleQueue()
            self._rows.clear()
            self._engine = None
        told = error if isinstance(error, TfgrpoError) else TransportError(f"{self.name} failed: {error!r}")
        for request in failed:
            if request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(told)

    def _admit(self, engine: Engine) -> None:
        """Lets waiting requests in once a quarter of the rows is free: equal prompts then arrive together."""
        waiting = self._waiting.qsize()
        if not waiting or engine.room < min(waiting, max(1, engine.max_rows // 4)):
            return
        rows: list[Row] = []
        while len(rows) < engine.room:
            try:
                request = self._waiting.get_nowait()
            except Empty:
                break
            if (row := self._row(request)) is not None:
                self._rows[id(row)] = row, request
                rows.append(row)
        engine.add(rows)
        self._settle()

    def _row(self, request: _Request) -> Row | None:
        """The request as a row of the engine; None when it cannot be asked, which its caller is told."""
        assert self._loaded is not None
        try:
            prompt = self._loaded.prompt_ids(request.messages)
            return row_of(self._loaded, prompt, request.sampling, gone=request.answer.cancelled)
        except RequestError as error:
            self._open.discard(request)
            if request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(error)
            return None

    def _settle(self) -> None:
        """Hands out the answers that are finished."""
        for key, (row, request) in list(self._rows.items()):
            if row.done:
                del self._rows[key]
                self._open.discard(request)
                if request.answer.set_running_or_notify_cancel():
                    request.answer.set_result(self._completion(row, request))

    def _completion(self, row: Row, request: _Request) -> Completion:
        assert self._loaded is not None
        done = completion_of(self._loaded, row, request.messages, request.sampling)
        return replace(done, policy=self.name, latency_s=time.perf_counter() - request.started)


def check_sampling(name: str, sampling: Sampling) -> None:
    """Refuses options that a local model does not know."""
    if "tools" in sampling.extra:
        raise RequestError(f"{name} has no tool calls of its own; use react(..., protocol='text')")
    if unknown := set(sampling.extra) - set(EXTRA):
        raise RequestError(f"{name} knows no option {sorted(unknown)}; Sampling.extra may hold {EXTRA}")
    if sampling.max_tokens < 1:
        raise RequestError(f"max_tokens must be at least 1, got {sampling.max_tokens}")


def row_of(loaded: LoadedModel, prompt: tuple[int, ...], sampling: Sampling, *, gone: Callable[[], bool] = bool) -> Row:
    """A request, its prompt as token ids, as a row of the decoder; it also ends when nobody waits for it any more."""
    from tfgrpo.policy.local_engine import Row  # noqa: PLC0415

    return Row(
        prompt=prompt,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=min(sampling.max_tokens, loaded.context - len(prompt)),
        rng=random.Random(sampling.seed),
        logprobs=bool(sampling.extra.get("segments")),
        heat=sampling.temperature if sampling.extra.get("tempered") and sampling.temperature > 0 else 1.0,
        finished=lambda row: gone() or _stop_at(loaded, row, sampling) is not None,
    )


def completion_of(loaded: LoadedModel, row: Row, messages: tuple[Message, ...], sampling: Sampling) -> Completion:
    """The finished row as an answer."""
    cut = _stop_at(loaded, row, sampling)
    ended: FinishReason = "stop" if cut is not None or row.tokens[-1] in loaded.stop_ids else "length"
    text = loaded.text(row.tokens)[:cut]
    segments = (
        Segment(token_ids=row.prompt, train=False),
        Segment(token_ids=tuple(row.tokens), train=True, logps=tuple(row.logps)),
    )
    return Completion(
        prompt=messages,
        messages=({"role": "assistant", "content": text},),
        text=text,
        policy=f"local/{loaded.name}",
        model=loaded.name,
        usage=Usage(prompt_tokens=len(row.prompt), completion_tokens=len(row.tokens)),
        cost_usd=0.0,
        finish_reason=ended,
        segments=segments if row.logprobs else (),
    )


def _stop_at(loaded: LoadedModel, row: Row, sampling: Sampling) -> int | None:
    """Where the answer's text is cut, if one of the stop strings stands in it."""
    if not sampling.stop:
        return None
    text = loaded.text(row.tokens)
    return min((at for stop in sampling.stop if (at := text.find(stop)) >= 0), default=None)


def _check_installed(place: str) -> None:
    """Fails early, before any heavy import, for what cannot work."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "local", f"the model 'local/{place}'")
    if place in PACKAGED:
        packaged_file(PACKAGED[place])
    elif not (Path(place).expanduser() / "config.json").is_file():
        names = ", ".join(f"local/{name}" for name in PACKAGED)
        raise InputError(
            f"unknown model 'local/{place}': no file config.json in the folder {place!r}. Known: {names}, "
            "or local/FOLDER with a folder that transformers' save_pretrained wrote"
        )


def with_schema(messages: Sequence[Message], sampling: Sampling) -> tuple[Message, ...]:
    """Structured output in words: a local model is asked for the schema, nothing forces it to comply."""
    if sampling.schema is None or not messages:
        return tuple(messages)
    words = f"\n\nAnswer with JSON only, following this JSON schema:\n{json.dumps(sampling.schema)}"
    last = {**messages[-1], "content": message_text(messages[-1]) + words}
    return (*messages[:-1], last)
