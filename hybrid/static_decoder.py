"""A decoder for a bare GPU: steps on tensors of fixed places, replayed as CUDA graphs; without one, the same steps.

It offers what `tfgrpo.policy.local_engine.Engine` offers, and the same seeds give the same answers. How it differs:

- *A prompt once.* The answers of a group share the keys and values of their prompt while they are written
  (`hybrid.cascade`), where the other decoder copies them into every row.
- *No talk with the host.* A step samples on the device (`hybrid.decode_step`). The host looks every few tokens: it
  takes out the rows that have ended, cuts what they wrote beyond their end, fills their places. Answers depend neither
  on how often it looks nor on who else is being written.
- *Few shapes.* Rows and widths are rounded up, so that a few graphs serve all steps (`hybrid.decode_graphs`).

Places are dense: the first rows of `running` are being written, each at its own number; the others wait for room.

Legend: R rows, P blocks of prompts, M places of a block, K steps between two looks of the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from hybrid.cascade import Store
from hybrid.decode_check import check_model
from hybrid.decode_graphs import Replay
from hybrid.decode_step import Frame, Shape, decode_step
from tfgrpo.policy.local_engine import PromptReader, Row, begin, tell

T = TypeVar("T")
LOOK_EVERY = {"cpu": 1}
"""Steps between two looks of the host; it waits for the device each time."""
GPU_LOOK_EVERY = 16
FEWEST_ROWS = 8  # of a graph: fewer are not faster, the weights are what is read
MOST_PLACES = 16  # of a block
CPU_KV_BYTES = 4 * 2**30
GPU_KV_SHARE = 0.3  # of the memory that is free when the first answer is asked for


@dataclass(slots=True, eq=False)
class _Block:
    """A prompt whose keys and values are held, and the answers that stand on it."""

    prompt: tuple[int, ...]
    members: list[Row] = field(default_factory=list)


class StaticDecoder:
    """Steps many rows through one model. Not thread-safe: one thread owns it.

    Args:
        model: with full attention in every layer, loaded for `slot_attention`.
        stop_ids: tokens that end an answer.
        max_rows: answers that are taken in at the same time.
        prefill_tokens: new tokens in one pass over prompts.
        look_every: K; None: 1 on a CPU, 16 on a GPU.
        exact: whether steps have exactly as many rows and columns as are in use; None: where there are no graphs.
        kv_bytes: limit for keys and values, beyond which rows wait for others to end; None: 4 GiB on a CPU, 30 % of
            what is free on a GPU.
        compiled: whether the step goes through `torch.compile`, which makes one kernel of many small ones.

    Raises:
        InputError: the model cannot be decoded in this way.

    Example:
        >>> decoder.add(rows)                       # doctest: +SKIP
        >>> while decoder.running: decoder.step()   # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        stop_ids: set[int],
        *,
        max_rows: int,
        prefill_tokens: int = 512,
        look_every: int | None = None,
        exact: bool | None = None,
        kv_bytes: int | None = None,
        compiled: bool = False,
    ) -> None:
        device = model.device
        self.model = model
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self.running: list[Row] = []
        self.look_every = look_every or LOOK_EVERY.get(device.type, GPU_LOOK_EVERY)
        self._exact = device.type != "cuda" if exact is None else exact
        self._geometry = check_model(model)
        self._kv_bytes = kv_bytes
        self._reader = PromptReader(model, prefill_tokens=prefill_tokens, remembered=2 * max_rows)
        self._prompts, self._answers = Store(self._geometry), Store(self._geometry)
        self._blocks: list[_Block] = []
        self._placed = 0  # rows of `running` that are being written
        self._places = 1  # M
        step: Callable[[Any, Frame], None] = torch.compile(decode_step, dynamic=True) if compiled else decode_step
        self._replay: Replay[Frame] = Replay(partial(step, model), device)

    @property
    def room(self) -> int:
        return self.max_rows - len(self.running)

    @property
    def held_bytes(self) -> int:
        """Of keys and values, in use or not."""
        return self._have.tokens * self._geometry.token_bytes

    def forget(self) -> None:
        """Drops every state that is kept for later: it is worth nothing once the model's weights have changed."""
        assert not self.running, "answers that are being written hold states of the old weights"
        self._reader.forget()
        self._blocks.clear()
        self._placed = 0
        self._replay.forget_moved(self.model)

    @torch.inference_mode()
    def add(self, rows: Sequence[Row]) -> None:
        """Takes in at most `room` rows; those that fit into memory are begun at once."""
        self.running += rows
        self._admit()

    @torch.inference_mode()
    def step(self) -> None:
        """Up to K more tokens for every row that is being written; finished ones leave `running`."""
        self._admit()
        if not self._placed:
            return
        rows = self.running[: self._placed]
        steps = min(self.look_every, min(row.max_tokens - len(row.tokens) for row in rows))
        shape = self._shape(rows, steps)
        frame = self._replay.frame(shape, lambda: self._frame(shape))
        self._fill(frame, rows, steps)
        self._replay(shape, times=steps)
        written = frame.tokens[:steps].T.tolist(), frame.logps[:steps].T.tolist()
        for row, tokens, logps in zip(rows, *(part[: len(rows)] for part in written), strict=True):
            for token, logp in zip(tokens, logps, strict=True):
                if not row.done:
                    tell(row, token, logp, self.stop_ids)
        if any(row.done for row in rows):
            self._leave()

    # -- coming and going ---------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begins as many of the waiting rows as there is memory for."""
        waiting = self.running[self._placed :]
        if not waiting:
            return
        if not self._placed:
            self._places = min(_power(max(Counter(row.prompt for row in waiting).values())), MOST_PLACES)
        fitting = self._make_room(waiting)
        late = waiting[fitting:]
        del self.running[self._placed :]
        for row, state in begin(self._reader, waiting[:fitting], self.stop_ids):
            self._place(row, state)
        self.running += late

    def _place(self, row: Row, state: Tensor) -> None:
        """The row's number is its place in `running`; its prompt is in a block that still has a place, or a new one."""
        block = next((b for b in self._blocks if b.prompt == row.prompt and len(b.members) < self._places), None)
        if block is None:
            block = _Block(row.prompt)
            self._prompts.load(len(self._blocks), state)
            self._blocks.append(block)
        block.members.append(row)
        self.running.append(row)
        self._placed += 1

    def _leave(self) -> None:
        """Takes out finished rows and blocks without rows; the last ones move into their places."""
        placed, late = self.running[: self._placed], self.running[self._placed :]
        width = max(len(row.tokens) for row in placed)
        placed = _closed(placed, [not row.done for row in placed], partial(self._answers.move, width=width))
        for block in self._blocks:
            block.members = [row for row in block.members if not row.done]
        width = max(len(block.prompt) for block in self._blocks)
        live = [bool(block.members) for block in self._blocks]
        self._blocks = _closed(self._blocks, live, partial(self._prompts.move, width=width))
        self.running[:] = [*placed, *late]
        self._placed = len(placed)

    # -- memory -------------------------------------------------------------------------------------------------------

    def _make_room(self, waiting: Sequence[Row]) -> int:
        """How many of the waiting rows are begun now, the first of all in any case; allocates what they need."""
        known = [*self.running[: self._placed], *waiting]
        widths = _width(max(len(row.prompt) for row in known)), _width(max(row.max_tokens for row in known))
        free: Counter[tuple[int, ...]] = Counter()
        for block in self._blocks:
            free[block.prompt] += self._places - len(block.members)
        blocks, fitting = len(self._blocks), 0
        need = _Need(0, widths[0], 0, widths[1])
        for number, row in enumerate(waiting, start=1):
            if not free[row.prompt]:
                free[row.prompt] += self._places
                blocks += 1
            free[row.prompt] -= 1
            more = _Need(_rows(blocks), widths[0], _rows(self._placed + number), widths[1])
            if not self._fits(more) and (fitting or self._placed):
                break
            need, fitting = more, number
        if fitting:
            self._allocate(need)
        return fitting

    @property
    def _have(self) -> _Need:
        return _Need(self._prompts.rows, self._prompts.width, self._answers.rows, self._answers.width)

    def _fits(self, need: _Need) -> bool:
        if self._kv_bytes is None:
            device = self._geometry.device
            on_gpu = device.type == "cuda"
            self._kv_bytes = int(torch.cuda.mem_get_info(device)[0] * GPU_KV_SHARE) if on_gpu else CPU_KV_BYTES
        return need.tokens * self._geometry.token_bytes <= self._kv_bytes

    def _allocate(self, need: _Need) -> None:
        """Buffers that are large enough, and once they must change also for all that was ever needed, if that fits."""
        have = self._have
        both = need.joined(have)
        if both == have:
            return
        sizes = both if self._fits(both) else need
        self._replay.clear()
        self._prompts.allocate(sizes.blocks, sizes.prompt, keep=len(self._blocks))
        self._answers.allocate(sizes.rows, sizes.answer, keep=self._placed)

    # -- frames -------------------------------------------------------------------------------------------------------

    def _shape(self, rows: Sequence[Row], steps: int) -> Shape:
        """The smallest shape for the next steps."""
        prompt = max(len(block.prompt) for block in self._blocks)
        answer = max(len(row.tokens) for row in rows) - 1 + steps
        return Shape(
            rows=len(rows) if self._exact else _rows(len(rows)),
            blocks=len(self._blocks) if self._exact else _rows(len(self._blocks)),
            places=self._places,
            prompt=prompt if self._exact else _width(prompt),
            answer=answer if self._exact else _width(answer),
            nucleus=any(row.top_p < 1 for row in rows),
        )

    def _frame(self, shape: Shape) -> Frame:
        return Frame.of(
            shape,
            steps=self.look_every,
            prompts=self._prompts.views(shape.blocks, shape.prompt),
            answers=self._answers.views(shape.rows, shape.answer),
        )

    def _fill(self, frame: Frame, rows: Sequence[Row], steps: int) -> None:
        """All that the next steps need to know but keys and values."""
        number = {id(row): n for n, row in enumerate(rows)}
        place = [0] * len(rows)
        members = [[0] * self._places for _ in range(frame.shape.blocks)]
        for b, block in enumerate(self._blocks):
            for m, row in enumerate(block.members):
                members[b][m] = number[id(row)]
                place[number[id(row)]] = b * self._places + m
        ints = [
            [row.tokens[-1] for row in rows],
            [len(row.tokens) - 1 for row in rows],
            [len(row.prompt) for row in rows],
            place,
        ]
        floats = [[row.temperature for row in rows], [row.heat for row in rows], [row.top_p for row in rows]]
        uniform = [[row.rng.random() for row in rows] for _ in range(steps)]
        used = len(rows)
        frame.ints.zero_()  # rows that are not in use write at the beginning of their places
        frame.ints[:, :used] = torch.tensor(ints)
        frame.floats[:, :used] = torch.tensor(floats)
        frame.uniform[:steps, :used] = torch.tensor(uniform)
        frame.members.copy_(torch.tensor(members))
        frame.column.zero_()


@dataclass(frozen=True, slots=True)
class _Need:
    """Sizes of the buffers."""

    blocks: int
    prompt: int
    rows: int
    answer: int

    @property
    def tokens(self) -> int:
        return self.blocks * self.prompt + self.rows * self.answer

    def joined(self, other: _Need) -> _Need:
        return _Need(
            max(self.blocks, other.blocks),
            max(self.prompt, other.prompt),
            max(self.rows, other.rows),
            max(self.answer, other.answer),
        )


def _closed(items: Sequence[T], live: Sequence[bool], move: Callable[[list[int], list[int]], None]) -> list[T]:
    """The live items without gaps: the last ones move to the numbers of those that are gone."""
    count = sum(live)
    targets = [n for n in range(count) if not live[n]]
    sources = [n for n in range(count, len(items)) if live[n]]
    if targets:
        move(sources, targets)
    kept = list(items[:count])
    for source, target in zip(sources, targets, strict=True):
        kept[target] = items[source]
    return kept


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _rows(count: int) -> int:
    return max(FEWEST_ROWS, _power(count))


def _width(tokens: int) -> int:
    """A width for so many tokens: at most a quarter more, in few different sizes."""
    step = max(16, _power(tokens) // 8)
    return -(-tokens // step) * step
