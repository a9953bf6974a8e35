"""X equals Y when Z: what must hold between losses, and between a batch and its parts."""

from __future__ import annotations

import itertools
from dataclasses import astuple, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenbatch import count, drawn, gradient

from hybrid.batch import Tokens, Totals
from hybrid.losses import (
    LOSSES,
    REGULARISERS,
    Composed,
    Loss,
    clipped,
    compose,
    dropped,
    masked,
    mixed,
    resolve_loss,
    resolve_regulariser,
    truncated,
)

BANDS: dict[str, dict[str, Any]] = {"entropy_band": {"low": 0.3, "high": 0.8}}
EVERY = [(name, resolve_loss(name)) for name in LOSSES] + [
    ("dhpo by entropy", resolve_loss("dhpo", share="entropy")),
    ("thr on whole answers", resolve_loss("thr", level="sequence_token")),
    ("grpo with dual clip", resolve_loss("grpo", dual=3.0)),
    ("llds on gspo", resolve_loss("llds", base="gspo")),
    ("dropped answers", resolve_loss("grpo", correction=dropped(scope="answer"))),
    ("dropped tokens", resolve_loss("dapo", correction=dropped(low=0.8, high=1.2))),
    *(
        (f"grpo with {name}", resolve_loss("grpo", regularisers=[resolve_regulariser(name, **BANDS.get(name, {}))]))
        for name in REGULARISERS
    ),
]


def on_policy(seed: int, **changes: Any) -> Tokens:
    tokens = drawn(seed, drift=0.0)
    return replace(tokens, old=tokens.logp.clone(), sampler=None, weight=None, **changes)


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aggregate", ["token_mean", "seq_mean_token_mean", "constant", "seq_mean_token_sum"])
@pytest.mark.parametrize("name", ["grpo", "rec_one_side", "rec_one_side_is", "rec_ring", "rec_two_side_is", "cispo"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_on_policy_the_gradient_is_minus_the_advantage(name: str, aggregate: str, seed: int) -> None:
    tokens = on_policy(seed)
    totals = count(tokens, max_tokens=9)
    _, slope, _ = gradient(resolve_loss(name, aggregate=aggregate), tokens, totals)
    _, plain, _ = gradient(resolve_loss("reinforce", aggregate=aggregate), tokens, totals)
    assert same(slope, plain)
    if aggregate == "token_mean":
        clean = tokens.clean()
        assert same(slope, -clean.advantage * clean.mask / totals.tokens)


@pytest.mark.parametrize("name", ["gspo", "gspo_token", "dhpo", "llds", "opmd", "nll_on_correct"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_on_policy_with_means_of_answers(name: str, seed: int) -> None:
    tokens = on_policy(seed, success=torch.zeros(6, dtype=torch.bool))
    _, slope, _ = gradient(resolve_loss(name, aggregate="seq_mean_token_mean"), tokens)
    _, plain, _ = gradient(resolve_loss("grpo"), tokens)
    assert same(slope, plain)


@given(seed=st.integers(0, 1000))
def test_llds_is_exactly_zero_before_the_policy_moved(seed: int) -> None:
    value, slope, metrics = gradient(compose(lambda t: 0.0 * t.logp, resolve_regulariser("llds")), on_policy(seed))
    assert value == 0 and metrics["llds"] == 0 and not slope.any()


@pytest.mark.parametrize(("name", "loss"), EVERY, ids=[name for name, _ in EVERY])
@given(seed=st.integers(0, 1000), cuts=st.sets(st.integers(1, 5), max_size=4))
@settings(max_examples=4)
def test_any_micro_batches_give_the_same(name: str, loss: Composed, seed: int, cuts: set[int]) -> None:
    tokens = drawn(seed)
    totals = count(tokens, max_tokens=9, entropy=0.4)
    value, slope, metrics = gradient(loss, tokens, totals)
    edges = [0, *sorted(cuts), 6]
    parts = [tokens.rows(slice(a, b)) for a, b in itertools.pairwise(edges)]
    first, *others = [count(part, max_tokens=9, entropy=0.4) for part in parts]
    assert astuple(sum(others, first)) == pytest.approx(astuple(totals))
    found = [gradient(loss, part, totals) for part in parts]
    assert sum(f[0] for f in found) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert same(torch.cat([f[1] for f in found]), slope)
    for metric, whole in metrics.items():
        assert sum(f[2][metric] for f in found) == pytest.approx(whole, rel=1e-9, abs=1e-12), metric


@pytest.mark.parametrize(("name", "loss"), EVERY, ids=[name for name, _ in EVERY])
@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_padding_and_order_do_not_matter(name: str, loss: Composed, seed: int) -> None:
    tokens = drawn(seed)
    totals = count(tokens, max_tokens=9)
    value, slope, _ = gradient(loss, tokens, totals)
    assert torch.isfinite(slope).all() and not slope[tokens.mask == 0].any()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    longer = {
        n: torch.nn.functional.pad(c, (0, 3), value=0 if n in ("mask", "segment") else float("nan"))
        for n, c in tokens.columns().items()
        if c.ndim == 2
    }
    wider = replace(tokens, **longer).rows(order)
    again, other, _ = gradient(loss, wider, totals)
    assert again == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert same(other[:, :7], slope[order]) and not other[:, 7:].any()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_identities_off_policy(seed: int) -> None:
    tokens = drawn(seed)

    def agree(one: Loss, two: Loss) -> None:
        assert same(gradient(one, tokens)[1], gradient(two, tokens)[1])

    agree(resolve_loss("rec_one_side_is"), resolve_loss("bnpo"))
    agree(resolve_loss("gspo"), resolve_loss("gspo_token"))
    agree(compose(mixed(share=1.0)), compose(clipped(high=0.28)))
    agree(compose(mixed(share=0.0), aggregate="seq_mean_token_mean"), resolve_loss("gspo"))
    agree(compose(masked("one_side", weight="token", low=1.0, high=1e9)), compose(masked("none", weight="token")))
    agree(resolve_loss("thr", p=0.0), resolve_loss("grpo"))
    shifted = replace(tokens, advantage=tokens.advantage + 0.1)
    _, more, _ = gradient(resolve_loss("reinforce", correction=None), shifted)
    _, pulled, _ = gradient(resolve_loss("asymre", coefficient=0.1, correction=None), tokens)
    assert same(more, pulled)


@given(seed=st.integers(0, 1000))
def test_whole_answers_have_the_value_of_one_ratio(seed: int) -> None:
    """GSPO's loss is that of `s_i` alone, and its gradient that of `s_i` with respect to every log-prob."""
    tokens = replace(drawn(seed), sampler=None, weight=None)
    value, slope, _ = gradient(resolve_loss("gspo", low=0.2, high=0.3), tokens)
    clean = tokens.clean()
    logp = clean.logp.clone().requires_grad_()
    lengths = clean.mask.sum(1)
    some = lengths > 0
    s = (((logp - clean.old) * clean.mask).sum(1) / lengths.clamp(min=1)).exp()[some]
    a = clean.advantage[some, 0]
    plain = -torch.minimum(s * a, s.clamp(0.8, 1.3) * a).mean()
    (expected,) = torch.autograd.grad(plain, logp)
    assert value == pytest.approx(plain.item()) and same(slope, expected)


@pytest.mark.parametrize(
    "loss",
    [
        resolve_loss("grpo", beta=0.1),
        resolve_loss("dapo", dual=3.0, regularisers=[resolve_regulariser("k2", coefficient=0.3)]),
        resolve_loss("llds", gate="answer"),
        resolve_loss("llds", gate="token"),
        resolve_loss("opmd_answers"),
        resolve_loss("nll_on_correct"),
        resolve_loss("dcpo"),
        resolve_loss("reinforce", correction=truncated(cap=1.1, scope="answer_mean")),
    ],
    ids=lambda loss: loss.name,
)
def test_gradients_against_finite_differences(loss: Composed) -> None:
    """Where no factor is held fixed, autograd must agree with differences of the value."""
    tokens = drawn(3)
    totals = count(tokens, entropy=0.4)
    _, slope, _ = gradient(loss, tokens, totals)
    step = 1e-6
    for place in (tokens.mask > 0).nonzero().tolist():
        ends = []
        for sign in (1, -1):
            logp = tokens.logp.clone()
            logp[tuple(place)] += sign * step
            ends.append(loss(replace(tokens, logp=logp), totals)[0].item())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope[tuple(place)].item(), abs=1e-6), place


def test_entropy_regularisers_reach_the_entropy() -> None:
    tokens = drawn(5)
    entropy = tokens.clean().entropy
    assert entropy is not None
    entropy.requires_grad_()
    for name in ("entropy_band", "entropy_bonus"):
        loss = compose(lambda t: 0.0 * t.logp, resolve_regulariser(name, **BANDS.get(name, {})))
        value, _ = loss(replace(tokens, entropy=entropy, weight=None), count(tokens))
        (slope,) = torch.autograd.grad(value, entropy)
        assert slope[tokens.mask > 0].any()
        if name == "entropy_bonus":
            assert (slope[tokens.mask > 0] < 0).all()


def test_red_weight_is_in_the_advantage() -> None:
    """RED-Weight is reinforce on `A exp(A / tau)`, as the advantage of that name gives it."""
    from tfgrpo.advantage import Table, resolve_advantage

    values = resolve_advantage("red_weight")(Table.of_rewards([[1, 0, 0, 0]]))
    assert values.tolist() == pytest.approx([1.587750] + [-0.194700] * 3, abs=1e-6)
    logp = torch.full((4, 2), -1.0, dtype=torch.float64)
    tokens = Tokens(logp=logp, old=logp, mask=torch.ones(4, 2), advantage=torch.tensor(values))
    _, slope, _ = gradient(resolve_loss("red"), tokens)
    assert slope[:, 0].tolist() == pytest.approx([-v / 8 for v in values.tolist()])


def test_unregularised_reinforce_on_stale_data_takes_the_wrong_arm_and_opmd_does_not() -> None:
    """Three arms asked by an old policy [.3, .6, .1] with rewards [0, .8, 1]: the flow of reinforce goes to the second,
    though the third is best, because pi_old (r - mean) is larger there. OPMD stays between both and the old policy."""
    behaviour, rewards = torch.tensor([0.3, 0.6, 0.1]).double(), torch.tensor([0.0, 0.8, 1.0]).double()
    advantage = rewards - behaviour @ rewards
    assert (behaviour * advantage).tolist() == pytest.approx([-0.174, 0.132, 0.042])

    def limit(loss: Any) -> torch.Tensor:
        logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(600):
            logp = logits.log_softmax(-1)[:, None]
            tokens = Tokens(
                logp=logp,
                old=behaviour.log()[:, None],
                mask=torch.ones(3, 1),
                advantage=advantage,
                weight=behaviour * 3,  # as often as the old policy asks each arm
            )
            value, _ = loss(tokens, Totals(tokens=3, sequences=3, max_tokens=1))
            (slope,) = torch.autograd.grad(value, logits)
            with torch.no_grad():
                logits -= 3.0 * slope
        return logits.softmax(-1)

    assert limit(resolve_loss("reinforce"))[1] > 0.99
    held = limit(resolve_loss("opmd", coefficient=0.5))
    assert held.min() > 0.05 and held.argmax() == 1
    assert held[2] / held[1] > behaviour[2] / behaviour[1]  # the best arm gains on the common one
