"""Packed rows with shared prompts give the outputs and gradients of one sequence at a time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodel import tiny_model

from hybrid.head import Head, token_scores
from hybrid.packing import Sample, check_attention, pack, padded, row_budget
from tfgrpo.errors import InputError
from tfgrpo.types import Completion, Segment


def sample(prompt: tuple[int, ...], tokens: tuple[int, ...], train: tuple[bool, ...] | None = None) -> Sample:
    trained = train or (True,) * len(tokens)
    logps = tuple(-0.1 * (n + 1) if t else 0.0 for n, t in enumerate(trained))
    return Sample(prompt=prompt, tokens=tokens, train=trained, logps=logps, segment=(0,) * len(tokens))


def ragged(vocab: int, *, groups: int = 4, seed: int = 0, longest: int = 9) -> list[Sample]:
    """Groups of 1 to 6 answers; every third answer holds tokens of a tool in its middle."""
    draw = random.Random(seed)
    made = []
    for _ in range(groups):
        prompt = tuple(draw.randrange(vocab) for _ in range(draw.randrange(2, 12)))
        for _ in range(draw.randrange(1, 7)):
            tokens = tuple(draw.randrange(vocab) for _ in range(draw.randrange(1, longest)))
            tool = len(made) % 3 == 2 and len(tokens) > 3
            made.append(sample(prompt, tokens, tuple(not (tool and n in (1, 2)) for n in range(len(tokens)))))
    return made


def packed_scores(
    model: Any, samples: list[Sample], *, budget: int, shared: bool
) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Log-probs of the trained tokens by sample, and the gradient of a weighted sum of them."""
    model.zero_grad()
    found: dict[int, list[float]] = {}
    for row in pack(samples, budget=budget, shared=shared):
        out = model.base_model(
            input_ids=row.ids[None], attention_mask=row.mask(), position_ids=row.place[None], use_cache=False
        )
        logp = row.spread(token_scores(out.last_hidden_state[0][row.source], row.target, Head.of(model))[0])
        mask = row.spread(torch.ones(len(row.target), dtype=logp.dtype))
        weights = torch.tensor([1.0 + 0.1 * n for n in row.samples], dtype=logp.dtype)
        (logp * weights[:, None]).sum().backward()
        for place, number in enumerate(row.samples):
            found[number] = logp[place][mask[place] > 0].tolist()
    return [found[n] for n in range(len(samples))], {n: p.grad.clone() for n, p in model.named_parameters()}


def plain_scores(model: Any, samples: list[Sample]) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """The same one sequence at a time, through the model's own causal attention and whole logits."""
    model.zero_grad()
    found = []
    for number, one in enumerate(samples):
        ids = torch.tensor([[*one.prompt, *one.tokens]])
        logps = torch.log_softmax(model(ids).logits[0, :-1].to(torch.promote_types(model.dtype, torch.float32)), -1)
        own = logps[len(one.prompt) - 1 :].gather(-1, torch.tensor(one.tokens)[:, None])[:, 0][torch.tensor(one.train)]
        ((1.0 + 0.1 * number) * own.sum()).backward()
        found.append(own.tolist())
    return found, {n: p.grad.clone() for n, p in model.named_parameters()}


def assert_equal(got: Any, expected: Any, *, values: float, grads: float) -> None:
    for one, other in zip(got[0], expected[0], strict=True):
        assert one == pytest.approx(other, abs=values)
    for name, grad in expected[1].items():
        scale = grad.abs().max().item() + 1e-12
        assert (got[1][name] - grad).abs().max().item() <= grads * scale, name


@pytest.mark.parametrize("attention", ["sdpa", "tfgrpo_slots"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("budget", "shared"), [(64, True), (25, True), (1000, True), (64, False)])
def test_outputs_and_gradients_are_those_of_repeated_prompts(
    attention: str, tied: bool, budget: int, shared: bool
) -> None:
    import tfgrpo.policy.local_engine  # noqa: F401 - makes "tfgrpo_slots" known

    plain = tiny_model(tie_word_embeddings=tied).double()
    model = tiny_model(tie_word_embeddings=tied, attn_implementation=attention).double()
    samples = ragged(26)
    got = packed_scores(model, samples, budget=budget, shared=shared)
    assert_equal(got, plain_scores(plain, samples), values=1e-5, grads=1e-6)  # norms are in float32


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "values", "grads"), [("float32", 2e-3, 2e-3), ("bfloat16", 0.6, 0.2)])
def test_the_packaged_model_agrees_to_its_precision(dtype: str, values: float, grads: float) -> None:
    """bfloat16 keeps 8 bits: single log-probs differ by tenths between any two ways to compute them."""
    from transformers import AutoModelForCausalLM

    from tfgrpo.policy.packaged_models import packaged_model

    model = AutoModelForCausalLM.from_pretrained(packaged_model(), dtype=getattr(torch, dtype)).eval()
    samples = ragged(49152, groups=2, longest=20)
    expected = plain_scores(model, samples)
    for shared in (True, False):
        assert_equal(packed_scores(model, samples, budget=256, shared=shared), expected, values=values, grads=grads)


@given(seed=st.integers(0, 10_000), budget=st.integers(2, 90), shared=st.booleans())
@settings(max_examples=60)
def test_every_token_is_packed_once_and_rows_keep_the_budget(seed: int, budget: int, shared: bool) -> None:
    samples = ragged(50, seed=seed)
    rows = pack(samples, budget=budget, shared=shared)
    assert sorted(n for row in rows for n in row.samples) == list(range(len(samples)))
    for row in rows:
        alone = len(row.samples) == 1
        assert row.tokens <= budget or alone
        logps = padded(row, samples, "logps")
        for place, number in enumerate(row.samples):
            one = samples[number]
            own = row.row == place
            assert row.target[own].tolist() == [t for t, train in zip(one.tokens, one.train, strict=True) if train]
            assert row.column[own].tolist() == [c for c, train in enumerate(one.train) if train]
            assert logps[place, : len(one.tokens)].tolist() == pytest.approx(list(one.logps))
        for target, source in zip(row.target, row.source, strict=True):
            assert row.place[source] >= 0
            assert target in row.ids
    if shared and budget >= 90:
        assert len(rows) <= len(samples)


def test_a_prompt_is_stored_once() -> None:
    samples = [sample((1, 2, 3), (4, 5)), sample((1, 2, 3), (6,)), sample((7, 8), (9,))]
    (row,) = pack(samples, budget=20)
    assert row.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert row.place.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2]
    assert row.source.tolist() == [2, 3, 2, 7]
    assert row.mask()[0, 0].int().tolist()[5] == [1, 1, 1, 0, 0, 1, 0, 0, 0]
    assert row.mask()[0, 0].int().tolist()[8] == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert sum(p.tokens for p in pack(samples, budget=20, shared=False)) == 12
    assert [p.samples for p in pack(samples, budget=20, chosen=[2, 0])] == [(0, 2)]


def test_a_group_that_needs_several_rows_is_cut_evenly() -> None:
    samples = [sample((1, 2), (3, 4, 5)) for _ in range(8)]
    rows = pack(samples, budget=23)  # seven answers fit: not seven and one, but four and four
    assert [len(row.samples) for row in rows] == [4, 4]
    ragged_group = [sample((1, 2), (3,) * size) for size in (5, 1, 1, 9, 2, 6)]
    assert sorted(row.samples for row in pack(ragged_group, budget=16)) == [(0, 1, 2), (3, 4), (5,)]


def test_a_row_has_room_for_two_answers_to_the_longest_prompt() -> None:
    short, long = sample((1, 2), (3, 4)), sample((1,) * 50, (2,) * 20)
    assert row_budget([short, long], [0], least=30) == 30
    assert row_budget([short, long], [0, 1], least=30) == 140
    (row,) = pack([long] * 4, budget=row_budget([long] * 4, range(4), least=30))
    assert row.tokens == 50 + 4 * 20


def test_the_added_mask_is_the_boolean_one() -> None:
    (row,) = pack([sample((1, 2, 3), (4, 5)), sample((1, 2, 3), (6,))], budget=20)
    added = row.added_mask(torch.bfloat16)
    assert added.dtype == torch.bfloat16
    assert added.shape == row.mask().shape
    assert torch.equal(added == 0, row.mask())
    assert torch.isneginf(added[~row.mask()]).all()
    assert added.stride(-2) % 16 == 0


def test_several_turns_train_on_the_models_own_tokens() -> None:
    def turn(ids: tuple[int, ...], train: bool) -> Segment:
        return Segment(token_ids=ids, train=train, logps=tuple(-float(i) for i in ids) if train else ())

    segments = (turn((1, 2), False), turn((3, 4), True), turn((5,), False), turn((6,), True))
    one = Sample.of(Completion(prompt=(), messages=(), text="", policy="p", segments=segments))
    assert (one.prompt, one.tokens) == ((1, 2), (3, 4, 5, 6))
    assert one.train == (True, True, False, True)
    assert one.segment == (0, 0, 1, 2)
    assert one.logps == (-3.0, -4.0, 0.0, -6.0)
    assert one.trained == 3


@pytest.mark.parametrize(
    "segments",
    [(), (Segment(token_ids=(1,), train=False),), (Segment(token_ids=(1,), train=True, logps=(0.0,)),)],
    ids=["no tokens", "nothing to train on", "no prompt"],
)
def test_answers_without_tokens_are_refused(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(InputError, match="no tokens to train on"):
        Sample.of(Completion(prompt=(), messages=(), text="", policy="p", origin="anchor", segments=segments))


def test_missing_log_probs_are_refused() -> None:
    segments = (Segment(token_ids=(1,), train=False), Segment(token_ids=(2, 3), train=True, logps=(0.0,)))
    with pytest.raises(InputError, match="without their log-probs"):
        Sample.of(Completion(prompt=(), messages=(), text="", policy="p", segments=segments))


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token budget of 1"):
        pack([], budget=1)
    model = tiny_model()
    check_attention(model)
    for other in ("flash_attention_2", "eager"):
        model.config._attn_implementation = other
        with pytest.raises(InputError, match=other):
            check_attention(model)
    model.config._attn_implementation = "sdpa"
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(InputError, match="full attention"):
        check_attention(model)
