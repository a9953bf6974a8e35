"""Empty masks, NaN, ratios beyond all bounds, weights, and everything that is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenbatch import count, drawn, golden, gradient

from hybrid.batch import Tokens, Totals
from hybrid.losses import (
    LOSSES,
    check_loss,
    clipped,
    compose,
    dropped,
    masked,
    mixed,
    resolve_aggregate,
    resolve_correction,
    resolve_loss,
    resolve_regulariser,
    thr_advantage,
    token_influence,
    truncated,
)
from hybrid.losses.regularisers import entropy_band, llds
from tfgrpo.errors import InputError

FULL = {"old", "reference", "entropy", "tempered", "influence", "success"}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_train_on_is_zero(name: str) -> None:
    tokens = replace(drawn(0), mask=torch.zeros(6, 7))
    value, slope, metrics = gradient(resolve_loss(name), tokens)
    assert value == 0 and not slope.any() and not any(metrics.values())


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    tokens = drawn(1)
    short = {n: c.bfloat16() for n, c in tokens.columns().items() if c.is_floating_point()}
    value, _ = resolve_loss(name)(replace(tokens, **short), count(tokens))
    assert value.dtype == torch.float32 and math.isfinite(value.item())


def one(logp: float, old: float, advantage: float = -1.0) -> Tokens:
    return Tokens(
        logp=torch.tensor([[logp]]),
        old=torch.tensor([[old]]),
        mask=torch.ones(1, 1),
        advantage=torch.tensor([advantage]),
    )


@pytest.mark.parametrize(("name", "most"), [("bnpo", math.exp(20)), ("gspo", math.exp(10)), ("rec_one_side_is", None)])
def test_ratios_beyond_all_bounds_stay_finite(name: str, most: float | None) -> None:
    value, slope, metrics = gradient(resolve_loss(name), one(-0.5, -500.0))
    assert math.isfinite(value) and torch.isfinite(slope).all()
    if most:
        assert value == pytest.approx(most, rel=1e-5) and metrics["ratio"] == pytest.approx(most, rel=1e-5)
        assert slope.item() == 0  # what was cut has no gradient
    below, _, _ = gradient(resolve_loss(name), one(-500.0, -0.5, 1.0))
    assert math.isfinite(below)
    far, _, _ = gradient(resolve_loss("grpo", beta=1.0), replace(one(-500.0, -500.0), reference=torch.zeros(1, 1)))
    assert math.isfinite(far)


@pytest.mark.parametrize("scope", ["token", "answer", "answer_mean"])
def test_a_sampler_far_off_is_cut_or_dropped_and_said(scope: Any) -> None:
    tokens = replace(golden(), sampler=golden().old - 5.0)
    totals = count(tokens)
    kept, metrics = resolve_loss("bnpo", correction=truncated(cap=2.0, scope=scope))(tokens, totals)
    assert kept.item() == pytest.approx(2 * -0.18) and metrics["sampler_capped"] == 1
    assert metrics["sampler_gap"] == pytest.approx(5.0)
    gone, metrics = resolve_loss("bnpo", correction=dropped(scope=scope))(tokens, totals)
    assert gone.item() == 0 and metrics["sampler_dropped"] == 1
    off, metrics = resolve_loss("bnpo", correction=None)(tokens, totals)
    assert off.item() == pytest.approx(-0.18) and "sampler_gap" not in metrics


def test_part_of_the_tokens_is_dropped_and_stays_in_the_denominator() -> None:
    gap = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    tokens = replace(golden(), sampler=golden().old - gap)
    value, metrics = resolve_loss("bnpo", correction=dropped())(tokens, count(tokens))
    assert metrics["sampler_dropped"] == pytest.approx(0.2)
    assert value.item() == pytest.approx(-0.18 + 1 / 5)
    capped, metrics = resolve_loss("bnpo")(tokens, count(tokens))
    assert metrics["sampler_capped"] == pytest.approx(0.2) and capped.item() == pytest.approx(-0.18 - 1 / 5)


def test_the_weight_of_an_answer_scales_its_losses_and_not_the_denominator() -> None:
    tokens = golden(weight=torch.tensor([2.0, 0.0]))
    value, _ = resolve_loss("bnpo")(tokens, count(tokens))
    assert value.item() == pytest.approx(2 * (-1.2 - 1 - 0.5) / 5)


@pytest.mark.parametrize(
    ("column", "place"), [("advantage", (1,)), ("logp", (0, 1)), ("old", (1, 1)), ("reference", (0, 0))]
)
def test_what_is_not_a_number_is_named(column: str, place: tuple[int, ...]) -> None:
    tokens = golden()
    broken = getattr(tokens, column).clone()
    broken[place] = float("nan")
    with pytest.raises(InputError, match=rf"the loss is nan: not finite: {column} at \({place[0]}, "):
        resolve_loss("grpo", beta=0.1)(replace(tokens, **{column: broken}), count(tokens))


def test_entropies_without_uncertainty_share_by_half() -> None:
    tokens = golden(entropy=torch.zeros(2, 3))
    value, metrics = resolve_loss("dhpo", share="entropy")(tokens, count(tokens))
    assert value.item() == pytest.approx(-0.175611, abs=1e-6) and metrics["token_share"] == pytest.approx(0.5)


def test_columns_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"'old' has the shape \(2, 2\), but logp has \(2, 3\): give \(2, 3\)"):
        golden(old=torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"'advantage' has the shape \(3,\).* give \(2,\) or \(2, 3\)"):
        golden(advantage=torch.zeros(3))
    with pytest.raises(InputError, match=r"logp has the shape \(3,\)"):
        Tokens(logp=torch.zeros(3), old=torch.zeros(3), mask=torch.zeros(3), advantage=torch.zeros(3))


PER_TOKEN = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: resolve_loss("gspo", aggregate="seq_mean_token_sum"), "multiplies the length back in"),
        (lambda: resolve_loss("gspo", aggregate="constant"), "take seq_mean_token_mean"),
        (lambda: resolve_loss("gspo", aggregate=resolve_aggregate("constant", limit=8)), "multiplies the length"),
        (lambda: resolve_loss("thr", level="sequence"), "gspo_token"),
        (lambda: resolve_loss("gspo")(golden(advantage=PER_TOKEN), count(golden())), "advantages are per token"),
        (lambda: resolve_loss("llds", regularisers=[llds()]), "'llds' twice"),
        (lambda: resolve_loss("grpo", beta=0.1)(golden(reference=None), count(golden())), "needs the column 'refer"),
        (lambda: resolve_loss("dcpo")(golden(), count(golden())), "needs the column 'success' and 'tempered'"),
        (lambda: check_loss(resolve_loss("llds"), offered={"old"}, updates=1), "0 until the policy has moved"),
        (lambda: check_loss(resolve_loss("grpo"), offered=set(), updates=1), "reads old, which this training"),
        (lambda: check_loss(resolve_loss("thr"), offered={"old"}, updates=1), "reads influence"),
        (lambda: clipped(low=1.5), "low must lie in 0..1"),
        (lambda: clipped(high=-0.1), "high must be at least 0"),
        (lambda: clipped(high=float("nan")), "high must be at least 0"),
        (lambda: clipped(dual=1.0), "must be above 1"),
        (lambda: clipped(level="answer"), "unknown ratio level 'answer'"),  # type: ignore[arg-type]
        (lambda: masked("one-side"), "did you mean 'one_side'"),  # type: ignore[arg-type]
        (lambda: masked("ring", far_low=0.1), "outside its near ones"),
        (lambda: masked(weight="both"), "unknown weight"),  # type: ignore[arg-type]
        (lambda: mixed(share=1.5), "must lie in 0..1 or be 'entropy'"),
        (lambda: truncated(cap=0.5), "cap must be at least 1"),
        (lambda: dropped(low=1.2), "must contain 1"),
        (lambda: truncated(scope="sequence"), "unknown scope"),  # type: ignore[arg-type]
        (lambda: resolve_aggregate("token-mean"), "did you mean 'token_mean'"),
        (lambda: resolve_aggregate("token_mean", limit=3), "only the aggregation 'constant'"),
        (lambda: resolve_loss("dr_grpo", limit=0)(golden(), count(golden())), "give limit= above 0"),
        (lambda: llds(gate="row"), "unknown gate"),  # type: ignore[arg-type]
        (lambda: entropy_band(low=1.0, high=0.5), "0 <= low <= high"),
        (lambda: resolve_regulariser("entropy_band"), "needs low and high"),
        (lambda: resolve_regulariser("k4"), "did you mean"),
        (lambda: resolve_correction("truncate"), "did you mean 'truncated'"),
        (lambda: resolve_loss("gropo"), "did you mean 'grpo'"),
        (lambda: resolve_loss("grpo", eps=0.1), "unknown option of loss 'grpo' 'eps'"),
        (lambda: resolve_loss("llds", base="glpo"), "unknown loss 'glpo'"),
        (lambda: resolve_loss("thr", p=1.5), "p must lie in -1..1"),
        (lambda: thr_advantage(torch.ones(1), torch.ones(1), p=-2), "p must lie in -1..1"),
        (lambda: token_influence(torch.ones(2, 3), torch.zeros(3).long(), torch.ones(2, 1), torch.ones(2)), "3 tokens"),
    ],
)
def test_refusals(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        make()


def test_what_a_training_offers_is_enough_for_every_preset() -> None:
    for name in LOSSES:
        check_loss(resolve_loss(name), offered=FULL, updates=2)
    for name in ("reinforce", "asymre", "red"):  # data whose old log-probs nobody knows
        check_loss(resolve_loss(name), offered=set(), updates=1)


def test_totals_know_the_columns_they_count() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    found = Totals.of(
        mask=mask, advantage=torch.tensor([0.0, 1.0, -1.0]), success=torch.tensor([True, True, False]), entropy=0.3
    )
    assert found == Totals(tokens=3, sequences=2, max_tokens=3, successes=1, success_tokens=2, preserved=1, entropy=0.3)
    per_token = torch.tensor([[-1.0, 1.0, 9.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    assert Totals.of(mask=mask, advantage=per_token).preserved == 1
    assert compose(lambda t: t.logp * 0)(golden(), Totals(tokens=0, sequences=0, max_tokens=0))[0].item() == 0


def test_tokens_move_and_are_cut() -> None:
    tokens = drawn(2)
    part = tokens.to("cpu").rows(torch.tensor([4, 0]))
    assert part.logp.shape == (2, 7) and part.advantage.shape == (2,)
    assert torch.equal(part.mask, tokens.mask[[4, 0]])
