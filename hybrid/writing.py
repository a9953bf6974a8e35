"""Writes waves of answers with the model of this process and of those that train with it; several decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from hybrid.parallel import Ranks, dealt
from hybrid.static_decoder import StaticDecoder
from tfgrpo.errors import InputError, TransportError, unknown_name
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.local import row_of
from tfgrpo.policy.local_engine import Engine, Row, out_of_memory
from tfgrpo.policy.local_loading import LoadedModel

Whole: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Within it the model can be asked for answers."""
MAX_ROWS = {"cpu": 64}
PREFILL_TOKENS = {"cpu": 512}


class Decoder(Protocol):
    """Writes many answers at the same time with one model. One thread owns it."""

    running: list[Row]
    max_rows: int

    @property
    def room(self) -> int:
        """How many more rows may be added."""
        ...

    def add(self, rows: Sequence[Row], /) -> None:
        """Takes in at most `room` rows."""
        ...

    def step(self) -> None:
        """At least one more token for rows that are being written; those that have ended leave `running`."""
        ...

    def forget(self) -> None:
        """The weights have changed: whatever is kept of the old ones is dropped. Nothing may be running."""
        ...


DECODERS: dict[str, Callable[..., Decoder]] = {
    "slots": Engine,
    "static": StaticDecoder,
    "compiled": partial(StaticDecoder, compiled=True),
}
"""By the setting `decoder`; each takes a model and its stop ids, max_rows and prefill_tokens."""
DEFAULT_DECODER = {"cuda": "static"}


def check_decoder(name: str | None) -> None:
    """Refuses a decoder that does not exist.

    Raises:
        InputError: says which there are.
    """
    if name is not None and name not in DECODERS:
        raise unknown_name("decoder", name, DECODERS)


Written: TypeAlias = tuple[tuple[int, ...], tuple[float, ...]]
"""The tokens of an answer and their log-probs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request as plain data, for any rank."""

    prompt: tuple[int, ...]
    sampling: Sampling


class Writer:
    """Writes waves of answers with the model of this process, on every rank its share.

    Equal prompts stay on one rank, where they are read once.

    Args:
        loaded: the model, which stays its owner's.
        ranks: the processes that share the work.
        whole: within it the model can be asked.
        max_rows: answers written at the same time; None: 64 on a CPU, 256 on a GPU.
        decoder: one of DECODERS; None: "static" on a GPU if it can decode this model, otherwise "slots".

    Raises:
        InputError: there is no such decoder, or it cannot decode this model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        ranks: Ranks,
        whole: Whole,
        *,
        max_rows: int | None = None,
        decoder: str | None = None,
    ) -> None:
        self.loaded, self.ranks, self._whole = loaded, ranks, whole
        ranks.jobs |= {"write answers": self.write, "forget prompts": self.forget}
        self.decoder = decoder or DEFAULT_DECODER.get(loaded.device, "slots")
        try:
            self._engine = self._made(max_rows)
        except InputError:
            if decoder is not None:
                raise
            self.decoder = "slots"  # which decodes every model that can be loaded
            self._engine = self._made(max_rows)

    def _made(self, max_rows: int | None) -> Decoder:
        check_decoder(self.decoder)
        return DECODERS[self.decoder](
            self.loaded.model,
            self.loaded.stop_ids,
            max_rows=max_rows or MAX_ROWS.get(self.loaded.device, 256),
            prefill_tokens=PREFILL_TOKENS.get(self.loaded.device, 8192),
        )

    def write(self, wave: Sequence[Ask], gone: Sequence[Callable[[], bool]] = ()) -> list[Written]:
        """The answers to a wave, in its order.

        Args:
            wave: the same on every rank.
            gone: for each request whether nobody waits for it any more; only where one process writes alone.

        Raises:
            TransportError: the model failed on some rank; rank 0 says so, the others have no answers then.
        """
        mine = shares([ask.prompt for ask in wave], self.ranks.size)[self.ranks.rank]
        made: dict[int, Written] | str
        try:
            with self._whole():
                made = self._write({n: wave[n] for n in mine}, gone)
        except (RuntimeError, MemoryError) as error:  # torch's own errors are RuntimeErrors
            self._engine.running.clear()
            self._engine.forget()
            advice = f"; lower the setting max_rows ({self._engine.max_rows})" if out_of_memory(error) else ""
            made = f"{error}{advice}"
        parts = self.ranks.gather(made)
        failed = [(rank, part) for rank, part in enumerate(parts) if isinstance(part, str)]
        if failed and not self.ranks.leading:
            return []  # nobody asked this rank, and the next job comes from rank 0
        if failed:
            rank, why = failed[0]
            where = f" on rank {rank}" if len(parts) > 1 else ""
            raise TransportError(f"{self.loaded.name} failed{where}: {why}")
        found = {n: written for part in parts if not isinstance(part, str) for n, written in part.items()}
        return [found[n] for n in range(len(wave))]

    def forget(self) -> None:
        """The weights have changed: states of prompts are void."""
        self._engine.forget()

    def _write(self, asks: dict[int, Ask], gone: Sequence[Callable[[], bool]]) -> dict[int, Written]:
        rows = {
            n: row_of(self.loaded, ask.prompt, ask.sampling, gone=gone[n] if gone else bool) for n, ask in asks.items()
        }
        left = list(rows.values())
        engine = self._engine
        while left or engine.running:
            room = engine.room
            if left and room >= min(len(left), max(1, engine.max_rows // 4)):  # equal prompts arrive together
                engine.add(left[:room])
                del left[:room]
            if engine.running:
                engine.step()
        return {n: (tuple(row.tokens), tuple(row.logps)) for n, row in rows.items()}


def shares(prompts: Sequence[tuple[int, ...]], ranks: int) -> list[list[int]]:
    """Which requests each rank answers: equal prompts together, the largest group first to the rank with the least.

    Example:
        >>> shares([(1, 2), (1, 2), (1, 2), (3,), (4,)], 2)
        [[0, 1, 2], [3, 4]]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(number)
    pieces = list(groups.values())
    return [sorted(n for piece in share for n in pieces[piece]) for share in dealt([len(p) for p in pieces], ranks)]
