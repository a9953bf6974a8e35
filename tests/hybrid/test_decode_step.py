"""The parts of a decoding step: attention in two parts, sampling without the host, replays."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tinymodel import tiny_model
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid.cascade import Cascade, Geometry, Store
from hybrid.decode_graphs import Replay
from hybrid.decode_step import Frame, Shape, decode_step, log_prob, pick, sample
from tfgrpo.policy.local_attention import ATTENTION
from tfgrpo.policy.local_engine import Row, draw

CPU = torch.device("cpu")


def geometry(device: torch.device = CPU, *, layers: int = 1, heads: int = 2, size: int = 8) -> Geometry:
    return Geometry(layers=layers, heads=heads, size=size, dtype=torch.float32, device=device)


def test_two_parts_attend_as_one_row_of_all_tokens() -> None:
    """Against torch's own attention over repeated prompts; prompts of 2, 5 and 3 tokens, answers of 1 to 5."""
    torch.manual_seed(0)
    shape = geometry(heads=2, size=8)
    prompts, answers = Store(shape), Store(shape)
    prompts.allocate(4, 7, keep=0)
    answers.allocate(8, 6, keep=0)
    states = [torch.randn(1, 2, 2, n, 8) for n in (2, 5, 3)]
    for block, state in enumerate(states):
        prompts.load(block, state)
    written = [torch.randn(1, 2, 2, n, 8) if n else torch.zeros(1, 2, 2, 0, 8) for n in (0, 3, 1, 4, 2)]
    for row, state in enumerate(written):
        answers.load(row, state)
    block_of = [1, 0, 1, 2, 2]
    place = torch.tensor([2, 0, 3, 4, 5])
    members = torch.tensor([[1, 0], [0, 2], [3, 4]])  # the second place of the first block is not in use
    query, key, value = torch.randn(5, 6, 1, 8), torch.randn(5, 2, 1, 8), torch.randn(5, 2, 1, 8)
    lengths = torch.tensor([states[b].shape[3] for b in block_of])
    at = torch.tensor([state.shape[3] for state in written])
    cascade = Cascade(
        prompts=prompts.views(3, 6),
        answers=answers.views(5, 5),
        members=members,
        place=place,
        at=at,
        visible=Cascade.seen(lengths, at, 6, 5),
    )
    out = cascade(0, query, key, value, 0.3)
    for row in range(5):
        parts = states[block_of[row]][0], written[row][0], torch.stack((key[row], value[row]))
        keys, values = torch.cat(parts, 2)
        expected = scaled_dot_product_attention(query[row], keys, values, scale=0.3, enable_gqa=True)
        assert torch.allclose(out[row, 0], expected[:, 0], atol=1e-5)
    for row in range(5):  # and the new token was written where the next one will see it
        assert torch.equal(answers.buffers[0][0][row, :, at[row]], key[row, :, 0])
        assert torch.equal(answers.buffers[0][1][row, :, at[row]], value[row, :, 0])


class Copies(TorchDispatchMode):
    """Remembers how large the copies are that operations make of what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("clone", "copy_", "_to_copy", "expand_copy"):
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("widths", [(64, 64), (48, 32)])  # whole buffers, and parts of them
def test_keys_and_values_are_read_in_place(widths: tuple[int, int]) -> None:
    """Reading them is what a step spends its time on: a copy would double or triple that."""
    prompts, answers = Store(geometry(heads=2, size=32)), Store(geometry(heads=2, size=32))
    prompts.allocate(4, 64, keep=0)
    answers.allocate(16, 64, keep=0)
    lengths, at = torch.full((8,), 5), torch.full((8,), 3)
    cascade = Cascade(
        prompts=prompts.views(2, widths[0]),
        answers=answers.views(8, widths[1]),
        members=torch.arange(8).view(2, 4),
        place=torch.arange(8),
        at=at,
        visible=Cascade.seen(lengths, at, *widths),
    )
    query, new = torch.randn(8, 4, 1, 32), torch.randn(8, 2, 1, 32)
    with Copies() as copies:
        cascade(0, query, new, new, 0.3)
    assert copies.sizes and max(copies.sizes) < min(2 * 2 * widths[0] * 32, 8 * 2 * widths[1] * 32)


def test_a_store_keeps_its_content_when_it_grows_and_moves() -> None:
    store = Store(geometry(layers=2))
    store.allocate(2, 3, keep=0)
    first, second = torch.randn(2, 2, 2, 3, 8), torch.randn(2, 2, 2, 2, 8)
    store.load(0, first)
    store.load(1, second)
    store.allocate(4, 5, keep=2)
    store.move([1, 0], [3, 2], 3)
    for layer, (keys, values) in enumerate(store.buffers):
        assert torch.equal(torch.stack((keys[2, :, :3], values[2, :, :3])), first[layer])
        assert torch.equal(torch.stack((keys[3, :, :2], values[3, :, :2])), second[layer])
        assert keys.shape == (4, 2, 5, 8) and not keys[:2, :, 3:].any()


weights = st.lists(st.sampled_from([0.0, 1e-12, 1e-4, 0.3, 1.0, 7.0]), min_size=1, max_size=70).filter(any)


@given(weights, st.floats(0, 1))
@example([1.0, 0.0, 0.0], 1.0)  # what the largest numbers below 1 are in float32
@example([0.0, 0.0, 1.0], 0.0)
def test_the_pick_inverts_the_distribution(values: list[float], uniform: float) -> None:
    (column,) = pick(torch.tensor([values]), torch.tensor([[uniform]])).tolist()[0]
    before, here, total = sum(values[:column]), values[column], sum(values)
    assert here > 0
    assert before / total - 1e-5 <= uniform <= (before + here) / total + 1e-5


def test_over_a_vocabulary_the_pick_is_that_of_the_other_decoder() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(64, 49_152, generator=generator)
    kinds = [(0.7, 1.0, 0.7), (0.0, 1.0, 1.0), (1.3, 0.8, 1.0), (1.0, 1e-6, 2.0)]
    rows = []
    for n in range(64):
        temperature, top_p, heat = kinds[n % 4]
        rows.append(
            Row(
                prompt=(1,),
                temperature=temperature,
                top_p=top_p,
                max_tokens=9,
                rng=random.Random(n),
                logprobs=True,
                heat=heat,
            )
        )
    numbers = [[row.temperature, row.heat, row.top_p, random.Random(n).random()] for n, row in enumerate(rows)]
    heat, told, top_p, uniform = torch.tensor(numbers).T[:, :, None]
    expected, logps = draw(logits, rows)
    drawn = sample(logits, uniform, heat, top_p)
    assert drawn.tolist() == expected
    assert log_prob(logits, drawn, told).tolist() == pytest.approx(logps, abs=1e-5)
    whole = sample(logits[::4], uniform[::4], heat[::4], None)
    assert whole.tolist() == expected[::4]


@pytest.mark.parametrize("nucleus", [False, True])
def test_a_step_is_a_function_of_tensors_that_asks_the_host_for_nothing(nucleus: bool) -> None:
    """On the meta device tensors have no values: whatever looked at one, or chose a size by one, would fail."""
    meta = torch.device("meta")
    prompts, answers = (Store(geometry(meta, layers=2)) for _ in range(2))
    prompts.allocate(2, 16, keep=0)
    answers.allocate(8, 32, keep=0)
    shape = Shape(rows=8, blocks=2, places=4, prompt=16, answer=32, nucleus=nucleus)
    frame = Frame.of(shape, steps=4, prompts=prompts.views(2, 16), answers=answers.views(8, 32))
    model = tiny_model()
    model.config._attn_implementation = ATTENTION
    with torch.inference_mode():
        decode_step(model.to(meta), frame)
    with pytest.raises((RuntimeError, NotImplementedError)):
        frame.column.item()


def test_frames_are_kept_while_they_are_used() -> None:
    made: list[str] = []

    def frame(name: str) -> torch.Tensor:
        made.append(name)
        return torch.zeros(1)

    replay = Replay(lambda one: one.add_(1), CPU, kept=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        replay.frame(name, lambda name=name: frame(name))
        replay(name, times=2)
    assert made == ["a", "b", "c", "b"]
    assert replay.frame("a", lambda: torch.zeros(1)).item() == 6
    assert replay.frame("b", lambda: torch.zeros(1)).item() == 2


def test_frames_survive_updates_in_place_and_no_others() -> None:
    model = torch.nn.Linear(2, 2)
    replay = Replay(lambda one: one.add_(1), CPU)
    replay.forget_moved(model)
    kept = replay.frame("a", lambda: torch.zeros(1))
    with torch.no_grad():
        model.weight.mul_(2)
    replay.forget_moved(model)
    assert replay.frame("a", lambda: torch.ones(1)) is kept
    model.weight = torch.nn.Parameter(torch.zeros(2, 2))
    replay.forget_moved(model)
    assert replay.frame("a", lambda: torch.ones(1)) is not kept
