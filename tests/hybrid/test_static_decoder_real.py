"""The static decoder on a real model, through the compiler, and on a GPU where there is one."""

from __future__ import annotations

import random
import shutil
from typing import Any

import pytest
import torch
from tinymodel import tiny_model

from hybrid.folders import model_folder
from hybrid.static_decoder import StaticDecoder
from tfgrpo.policy.local_attention import ATTENTION
from tfgrpo.policy.local_engine import Engine, Row
from tfgrpo.policy.local_loading import load_model

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def rows(words: int, count: int, longest: int) -> list[Row]:
    numbers = random.Random(0)
    prompts = [[numbers.randrange(words) for _ in range(20 + 7 * n)] for n in range(count // 4)]
    return [
        Row(
            prompt=tuple(prompts[n // 4]),
            temperature=0.9,
            top_p=1.0,
            max_tokens=longest - n % 4 * 5,
            rng=random.Random(n),
            logprobs=True,
            heat=0.9,
        )
        for n in range(count)
    ]


def written(decoder: Any, left: list[Row]) -> list[Row]:
    every = list(left)
    while left or decoder.running:
        if left and decoder.room:
            room = decoder.room
            decoder.add(left[:room])
            del left[:room]
        if decoder.running:
            decoder.step()
    return every


def assert_same(ours: list[Row], theirs: list[Row], *, within: float) -> None:
    assert [one.tokens for one in ours] == [other.tokens for other in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=within)


def miss(model: Any, one: Row, at: int, uniform: float) -> float:
    """By how much of the distribution function, summed exactly, a token is not the one that `uniform` falls on."""
    ids = torch.tensor([[*one.prompt, *one.tokens[:at]]])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[0, -1].double()
    chances = torch.softmax(logits / one.temperature, -1)
    upper = chances[: one.tokens[at] + 1].sum().item()
    return max(upper - chances[one.tokens[at]].item() - uniform, uniform - upper, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("way", [{}, {"exact": False, "look_every": 8}], ids=["exact", "rounded"])
def test_smollm2_writes_the_same_answers(way: dict[str, Any]) -> None:
    """But for near ties: among 49,152 words, float32 sums of either decoder err by some 1e-7, and rare words are that
    close together. After one of them answers differ."""
    loaded = load_model(model_folder("local/smollm2"), device="cpu", dtype="float32", threads=None)
    words = loaded.model.config.vocab_size
    ours = written(StaticDecoder(loaded.model, loaded.stop_ids, max_rows=20, **way), rows(words, 32, 24))
    theirs = written(Engine(loaded.model, loaded.stop_ids, max_rows=20), rows(words, 32, 24))
    same = 0
    for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
        apart = next((at for at, (mine, its) in pairs if mine != its), None)
        assert one.logps[:apart] == pytest.approx(other.logps[:apart], abs=1e-3)
        if apart is None:
            assert one.tokens == other.tokens
            same += 1
        else:
            numbers = random.Random(n)
            uniform = [numbers.random() for _ in range(apart + 1)][apart]
            assert max(miss(loaded.model, row, apart, uniform) for row in (one, other)) < 5e-6
    assert same >= 24


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("default")  # of the compiler itself
def test_the_step_compiles_into_one_graph() -> None:
    model = tiny_model(num_hidden_layers=1)
    model.config._attn_implementation = ATTENTION
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    decoder = StaticDecoder(model, {2}, max_rows=8, exact=False, look_every=4, compiled=True)
    ours = written(decoder, rows(26, 8, 24))
    assert_same(ours, written(Engine(model, {2}, max_rows=8), rows(26, 8, 24)), within=1e-3)
    assert not torch._dynamo.utils.counters["graph_break"]


@ON_GPU
@pytest.mark.parametrize("compiled", [False, True])
def test_graphs_write_what_the_other_decoder_does(compiled: bool) -> None:
    """Many waves, so that every shape is first stepped, then recorded, then replayed; weights change in between."""
    model = tiny_model(max_position_embeddings=512).cuda()
    model.config._attn_implementation = ATTENTION
    torch.set_float32_matmul_precision("highest")
    static, slots = StaticDecoder(model, {2}, max_rows=40, compiled=compiled), Engine(model, {2}, max_rows=40)
    for wave in range(4):
        ours, theirs = (written(decoder, rows(26, 40, 60)) for decoder in (static, slots))
        assert_same(ours, theirs, within=1e-3)
        with torch.no_grad():
            for n, p in enumerate(model.parameters()):
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(wave * 100 + n)).cuda())
        static.forget()
        slots.forget()
