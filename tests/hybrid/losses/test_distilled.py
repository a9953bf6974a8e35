"""One denominator for two parts: SRPO's worked example, and what the combination is equal to."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest
import torch
from tokenbatch import drawn, gradient
from torch import Tensor

import hybrid.losses.distilled
from hybrid.batch import Tokens, Totals
from hybrid.losses import compose, resolve_loss
from hybrid.losses.distilled import Distilled
from hybrid.losses.divergences import confidence
from tfgrpo.errors import InputError

GRPO = torch.tensor([[-0.9, -1.1]], dtype=torch.float64)  # token losses of the right answer
SDPO = torch.tensor([[0.10, 0.40], [0.20, 0.05]], dtype=torch.float64)  # of the wrong ones
TEACHER = torch.tensor([[0.2, 1.5], [0.8, 0.1]], dtype=torch.float64)  # entropies


def example(beta: float) -> Tokens:
    """Three rollouts of two tokens: one right, two wrong with a right sibling."""
    trust = confidence(TEACHER, beta)
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    return Tokens.of_probabilities(
        new=[[0.5, 0.5]] * 3,
        advantage=[[0.9, 1.1], [0, 0], [0, 0]],
        taught=torch.tensor([False, True, True]),
        divergence=torch.cat([nothing, SDPO]),
        trust=torch.cat([nothing, trust / trust.mean()]),
    )


def plain(tokens: Tokens) -> Tensor:
    return -tokens.advantage + 0 * tokens.logp


def test_examples() -> None:
    assert doctest.testmod(hybrid.losses.distilled).failed == 0


def test_srpo_worked_example() -> None:
    loss = Distilled(policy=compose(plain))
    tokens = example(beta=1.0)
    share, metrics = loss(tokens, tokens.totals())
    assert share.item() == pytest.approx(-0.24812762534524266, abs=1e-12)
    assert metrics["policy"] == pytest.approx(-2.0 / 6) and metrics["taught/loss"] == pytest.approx(share + 2.0 / 6)
    even = example(beta=0.0)
    assert loss(even, even.totals())[0].item() == pytest.approx(-0.20833333333333334, abs=1e-12)


def test_micro_batches_have_the_batchs_denominator() -> None:
    """Means of micro-batches would give -0.436096, a denominator for each part -0.872191."""
    loss, tokens = Distilled(policy=compose(plain)), example(beta=1.0)
    shares = [loss(tokens.rows(part), tokens.totals())[0].item() for part in (slice(0, 1), slice(1, 3))]
    assert sum(shares) == pytest.approx(-0.24812762534524266, abs=1e-12)


def with_teacher(seed: int) -> Tokens:
    tokens = drawn(seed)
    draw = torch.Generator().manual_seed(seed + 1)
    taught = torch.tensor([True, False, True, False, True, False])
    columns = {n: torch.rand(tokens.logp.shape, generator=draw, dtype=torch.float64) for n in ("divergence", "trust")}
    return replace(tokens, taught=taught, **columns)


NAMES = ["grpo", "dapo", "dr_grpo", "gspo"]


@pytest.mark.parametrize("name", NAMES)
def test_the_policys_part_is_its_loss_without_the_taught(name: str) -> None:
    tokens, policy = with_teacher(3), resolve_loss(name)
    totals = tokens.totals(max_tokens=9)
    bare = replace(tokens, taught=None, divergence=None, trust=None)
    assert tokens.taught is not None
    value, slope, metrics = gradient(Distilled(policy=policy), tokens, totals)
    wanted, wanted_slope, wanted_metrics = gradient(policy, bare.rows(~tokens.taught), totals)
    assert torch.equal(slope[~tokens.taught], wanted_slope)
    assert value - metrics["taught/loss"] == pytest.approx(wanted)
    assert all(metrics[n] == v for n, v in wanted_metrics.items())


@pytest.mark.parametrize("name", NAMES)
def test_cutting_a_batch_changes_nothing(name: str) -> None:
    tokens, loss = with_teacher(4), Distilled(policy=resolve_loss(name))
    totals = tokens.totals(max_tokens=9)
    whole, metrics = loss(tokens, totals)
    parts = [loss(tokens.rows(torch.tensor(rows)), totals) for rows in ([0, 1, 3], [2, 4], [5])]
    assert sum(s.item() for s, _ in parts) == pytest.approx(whole.item())
    for key, value in metrics.items():
        assert sum(m.get(key, 0.0) for _, m in parts) == pytest.approx(value)


def test_nobody_taught_is_the_policys_loss() -> None:
    tokens, policy = with_teacher(5), resolve_loss("dapo")
    nobody = replace(tokens, taught=torch.zeros(6, dtype=torch.bool))
    bare = replace(tokens, taught=None, divergence=None, trust=None)
    for given in (nobody, bare):
        value, slope, _ = gradient(Distilled(policy=policy), given)
        wanted, wanted_slope, _ = gradient(policy, bare)
        assert value == wanted and torch.equal(slope, wanted_slope)


def test_the_ratio_to_the_sampling_policy_is_cut() -> None:
    tokens = Tokens.of_probabilities(
        new=[[0.9, 0.2]],
        old=[[0.3, 0.4]],
        sampler=[[0.4, 0.4]],
        advantage=[0],
        taught=torch.tensor([True]),
        divergence=torch.ones(1, 2, dtype=torch.float64),
        trust=torch.ones(1, 2, dtype=torch.float64),
    )
    share, metrics = Distilled(policy=resolve_loss("dapo"), cap=2.0)(tokens, tokens.totals())
    assert share.item() == pytest.approx((2.0 * 0.75 + 0.5) / 2) == metrics["taught/weight"]
    weighed = replace(tokens, weight=torch.tensor([3.0]))
    assert Distilled(policy=resolve_loss("dapo"))(weighed, tokens.totals())[0].item() == pytest.approx(3 * share.item())


def test_a_loss_of_your_own_never_sees_the_taught() -> None:
    seen: list[int] = []

    def own(tokens: Tokens, totals: Totals) -> tuple[Tensor, dict[str, float]]:
        seen.append(len(tokens.logp))
        return (tokens.logp * tokens.mask).nan_to_num().sum() / totals.tokens, {}

    tokens = with_teacher(6)
    Distilled(policy=own)(tokens, tokens.totals())
    Distilled(policy=own)(tokens.rows(torch.tensor([0, 2])), tokens.totals())
    assert seen == [3]


def test_what_is_no_number_is_refused() -> None:
    tokens = example(beta=1.0)
    broken = replace(tokens, divergence=torch.full_like(tokens.logp, torch.nan))
    with pytest.raises(InputError, match="a teacher teaches is nan"):
        Distilled(policy=compose(plain))(broken, tokens.totals())
