"""The static decoder beside the other one: the same answers for the same seeds, however it is set and filled."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodel import tiny_model

from hybrid.decode_check import check_model
from hybrid.static_decoder import StaticDecoder
from tfgrpo.errors import InputError
from tfgrpo.policy.local_attention import ATTENTION
from tfgrpo.policy.local_engine import Engine, Row

STOP = {2}
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "rounded": {"exact": False},
    "seldom": {"look_every": 7},
    "as on a GPU": {"exact": False, "look_every": 16},
    "little memory": {"exact": False, "look_every": 3, "kv_bytes": 60_000},
}


@pytest.fixture(scope="module")
def model() -> Any:
    return made()


def made(**options: Any) -> Any:
    model = tiny_model(**{"max_position_embeddings": 512, **options})
    model.config._attn_implementation = ATTENTION
    return model


def row(n: int, **changes: Any) -> Row:
    """The n-th of many rows: groups of four, prompts of 3 to 30 tokens, answers of 1 to 60, mixed temperatures."""
    words = random.Random(n // 4)
    given = {
        "prompt": tuple(words.randrange(3, 26) for _ in range(3 + 5 * (n // 4) % 28)),
        "temperature": 0.0 if n % 5 == 4 else 0.6 + n % 3 / 5,
        "top_p": 0.7 if n % 7 == 3 else 1.0,
        "max_tokens": (1, 60, 7, 25, 2)[n % 5],
        "rng": random.Random(1000 + n),
        "logprobs": True,
        "heat": 0.6 + n % 3 / 5,
    }
    return Row(**{**given, **changes})


def written(decoder: Any, rows: list[Row], *, eager: bool = True) -> list[Row]:
    """All rows to their ends, refilled as soon as there is room, or only when nothing runs."""
    left = list(rows)
    while left or decoder.running:
        if left and decoder.room and (eager or not decoder.running):
            room = decoder.room
            decoder.add(left[:room])
            del left[:room]
        if decoder.running:
            decoder.step()
    assert decoder.room == decoder.max_rows
    return rows


def assert_same(ours: list[Row], theirs: list[Row]) -> None:
    assert [one.tokens for one in ours] == [other.tokens for other in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.done and one.logps == pytest.approx(other.logps, abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("max_rows", [5, 40])
def test_equal_seeds_give_equal_answers(model: Any, way: str, max_rows: int) -> None:
    """Ragged prompts, ends at different times, refills, widths over many buckets, greedy rows and nuclei."""
    theirs = written(Engine(model, STOP, max_rows=9), [row(n) for n in range(40)])
    ours = written(StaticDecoder(model, STOP, max_rows=max_rows, **WAYS[way]), [row(n) for n in range(40)])
    assert_same(ours, theirs)
    lengths = {len(one.tokens) for one in ours}
    assert {1, 2, 7, 60} <= lengths and len(lengths) > 8  # limits were reached, and stop tokens met
    assert all(one.tokens[-1] in STOP or len(one.tokens) == one.max_tokens for one in ours)


@pytest.mark.parametrize("way", WAYS)
def test_one_decoder_serves_many_waves(model: Any, way: str) -> None:
    """Groups of other sizes, longer prompts, more rows: buffers grow, shapes come back."""
    decoder = StaticDecoder(model, STOP, max_rows=24, **WAYS[way])
    for numbers, limit in ((range(4), 9), (range(8, 32), 60), (range(3), 9), (range(0, 40, 4), 30)):
        ours = written(decoder, [row(n, max_tokens=limit) for n in numbers])
        assert_same(ours, written(Engine(model, STOP, max_rows=24), [row(n, max_tokens=limit) for n in numbers]))


@pytest.mark.parametrize("look_every", [1, 4, 16])
def test_what_was_written_after_the_end_is_cut(model: Any, look_every: int) -> None:
    """A stop string, here "the third 7 or 9": asked after every token, whenever the host looks."""

    def finished(one: Row) -> bool:
        asked[id(one)] = asked.get(id(one), 0) + 1
        return sum(token in (7, 9) for token in one.tokens) >= 3

    def rows() -> list[Row]:
        return [row(n, max_tokens=60, temperature=3.0, top_p=1.0, finished=finished) for n in range(12)]

    asked: dict[int, int] = {}
    ours = written(StaticDecoder(model, set(), max_rows=6, exact=False, look_every=look_every), rows())
    assert sum(len(one.tokens) < 60 for one in ours) > 6
    for one in ours:
        assert asked[id(one)] == min(len(one.tokens), 59)
        assert len(one.tokens) == 60 or (one.tokens[-1] in (7, 9) and sum(t in (7, 9) for t in one.tokens) == 3)
    assert_same(ours, written(Engine(model, set(), max_rows=6), rows()))


@pytest.mark.parametrize("look_every", [1, 5])
def test_a_caller_who_leaves_ends_his_row_at_the_next_look(model: Any, look_every: int) -> None:
    gone: list[bool] = []
    leaver = row(1, max_tokens=60, finished=lambda _: bool(gone))
    others = [row(n, max_tokens=30) for n in (2, 3, 4, 9)]
    decoder = StaticDecoder(model, set(), max_rows=8, look_every=look_every)
    decoder.add([*others[:2], leaver, *others[2:]])
    for _ in range(3):
        decoder.step()
    before = len(leaver.tokens)
    gone.append(True)
    decoder.step()
    assert leaver.done and len(leaver.tokens) == before + 1
    assert all(one is not leaver for one in decoder.running)
    written(decoder, [])
    assert_same(others, written(Engine(model, set(), max_rows=8), [row(n, max_tokens=30) for n in (2, 3, 4, 9)]))


def changed(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("way", WAYS)
def test_after_a_change_of_weights_nothing_old_is_used(way: str) -> None:
    model, same = made(), made()
    decoder = StaticDecoder(model, STOP, max_rows=12, **WAYS[way])

    def rows() -> list[Row]:
        return [row(n, max_tokens=20) for n in range(12)]

    before = written(decoder, rows())
    changed(model)
    stale = written(decoder, rows())
    decoder.forget()
    renewed = written(decoder, rows())
    assert_same(renewed, written(Engine(changed(same), STOP, max_rows=12), rows()))
    told = [[one.logps[0] for one in some] for some in (before, stale, renewed)]
    assert told[0] == told[1] != told[2]  # first tokens come from states of prompts, which are kept until `forget`


def test_running_answers_forbid_forgetting(model: Any) -> None:
    decoder = StaticDecoder(model, set(), max_rows=3)
    decoder.add([row(1)])
    with pytest.raises(AssertionError, match="old weights"):
        decoder.forget()


def test_after_a_failure_it_can_be_used_again(model: Any) -> None:
    decoder = StaticDecoder(model, STOP, max_rows=8)
    decoder.add([row(n) for n in range(8)])
    decoder.step()
    broken = model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="memory"):
        decoder.step()
    broken.remove()
    decoder.running.clear()
    decoder.forget()
    assert_same(
        written(decoder, [row(n) for n in range(8)]),
        written(Engine(model, STOP, max_rows=8), [row(n) for n in range(8)]),
    )


def test_rows_wait_for_memory(model: Any) -> None:
    """16 rows of 48 + 64 tokens would be 16 x 64 + 8 x 16 tokens of 256 bytes: with half of that, they take turns."""
    rows = [row(n // 2, max_tokens=64, temperature=2.0, prompt=(3, 4 + n // 2)) for n in range(16)]
    whole = StaticDecoder(model, set(), max_rows=16, exact=False)
    limited = StaticDecoder(model, set(), max_rows=16, exact=False, kv_bytes=180_000)
    assert limited.held_bytes == 0
    whole.add([row(n // 2, max_tokens=64, temperature=2.0, prompt=(3, 4 + n // 2)) for n in range(16)])
    limited.add(rows)
    assert whole.held_bytes == (16 * 64 + 8 * 16) * 256
    assert limited.held_bytes == (8 * 64 + 8 * 16) * 256
    assert sum(bool(one.tokens) for one in rows) == 8 and len(limited.running) == 16
    assert_same(written(limited, []) or rows, written(whole, []) or rows)
    assert limited.held_bytes <= 180_000


def test_one_row_is_written_whatever_it_needs(model: Any) -> None:
    decoder = StaticDecoder(model, STOP, max_rows=4, kv_bytes=1)
    assert_same(
        written(decoder, [row(n) for n in range(6)]),
        written(Engine(model, STOP, max_rows=4), [row(n) for n in range(6)]),
    )


def in_order(model: Any, one: Row, seed: int) -> bool:
    """Whether every token is where the true distribution passes the row's uniform numbers, and its log-prob is true."""
    ids = torch.tensor([[*one.prompt, *one.tokens]])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[0, len(one.prompt) - 1 : -1].double()
    chances = torch.softmax(logits / one.temperature, -1)
    told = torch.log_softmax(logits / one.heat, -1)
    numbers = random.Random(seed)
    for at, token in enumerate(one.tokens):
        uniform, upper = numbers.random(), chances[at, : token + 1].sum().item()
        if not upper - chances[at, token].item() - 1e-5 <= uniform <= upper + 1e-5:
            return False
    logps = told.gather(1, torch.tensor(one.tokens)[:, None])[:, 0]
    return one.logps == pytest.approx(logps.tolist(), abs=1e-3)


schedules = st.lists(
    st.tuples(
        st.integers(0, 3),  # whose prompt
        st.integers(1, 40),  # max_tokens
        st.integers(0, 4),  # steps before the next row is added
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=25)
@given(
    schedules,
    st.integers(1, 6),
    st.sampled_from([1, 2, 16]),
    st.booleans(),
    st.sampled_from([1, 40_000, None]),
    st.sampled_from([frozenset[int](), frozenset({2, 9})]),
)
def test_any_schedule_writes_what_the_model_says(
    schedule: list[tuple[int, int, int]],
    max_rows: int,
    look_every: int,
    exact: bool,
    kv_bytes: int | None,
    stop: frozenset[int],
) -> None:
    decoder = StaticDecoder(
        MODEL(), set(stop), max_rows=max_rows, look_every=look_every, exact=exact, kv_bytes=kv_bytes
    )
    rows = []
    for n, (prompt, limit, steps) in enumerate(schedule):
        words = random.Random(prompt)
        rows.append(
            row(
                n,
                prompt=tuple(words.randrange(3, 26) for _ in range(1 + 9 * prompt)),
                max_tokens=limit,
                temperature=0.8,
                top_p=1.0,
                rng=random.Random(n),
            )
        )
        while not decoder.room:
            decoder.step()
        decoder.add(rows[-1:])
        for _ in range(steps):
            decoder.step()
    written(decoder, [])
    for n, one in enumerate(rows):
        ended = one.tokens[-1] in stop or len(one.tokens) == one.max_tokens
        assert one.done and ended and not stop & set(one.tokens[:-1])
        assert in_order(MODEL(), one, n)


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    kept: list[Any] = []
    return lambda: kept[0] if kept else (kept.append(make()) or kept[0])


MODEL = once(made)


def test_models_that_it_cannot_decode_are_refused() -> None:
    moving = made(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    with pytest.raises(InputError, match=r"dynamic.*'slots'"):
        check_model(moving)
    other = tiny_model()  # loaded for another attention, which does not know what it is given
    other.config._attn_implementation = "sdpa"
    with pytest.raises(InputError, match="'slots'"):
        check_model(other)


def test_it_knows_what_keys_look_like(model: Any) -> None:
    assert check_model(model).token_bytes == 2 * 2 * 2 * 8 * 4
    assert check_model(made(num_key_value_heads=4).bfloat16()).token_bytes == 2 * 2 * 4 * 8 * 2
