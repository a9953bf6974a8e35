"""Details of single methods that the golden numbers do not touch."""

from __future__ import annotations

import pytest
import torch
from tokenbatch import golden, gradient, log

from hybrid.batch import Tokens
from hybrid.losses import compose, credit, formulas, nthr_advantage, resolve_loss, resolve_regulariser


def lost(new: list[float], actions: list[int], mask: list[int] | None = None) -> list[float]:
    """Which tokens LLDS would push up, by how much; all were at 0.5."""
    columns = log(new), log([0.5] * len(new)), torch.tensor([mask or [1] * len(new)])
    found = formulas.lost_likelihood(*columns, segment=torch.tensor([actions]))
    return [round(value, 6) for value in found[0].tolist()]


def test_each_action_has_its_own_gate() -> None:
    assert lost([0.25, 0.25, 0.9, 0.4, 0.25, 0.9], [0, 0, 1, 1, 2, 2]) == [0.693147, 0.693147, 0, 0, 0.693147, 0]
    assert lost([0.25, 0.25, 0.9, 0.4], [4, 4, 9, 9]) == [0.693147, 0.693147, 0, 0]  # any numbers will do
    assert lost([0.4, 0.9, 0.25], [0, 0, 0], mask=[1, 0, 1]) == [0.223144, 0, 0.693147]  # a tool's words in between


def test_an_action_that_only_moved_its_likelihood_has_not_lost() -> None:
    assert lost([0.25, 1.0], [0, 0]) == [0, 0]
    moved = log([0.25, 1.0]), log([0.5, 0.5]), torch.ones(1, 2)
    assert not formulas.lost_likelihood(*moved, gate="answer").any()
    assert formulas.lost_likelihood(*moved, gate="token").any()


def test_what_was_good_is_told_by_the_advantages_that_were_given() -> None:
    """A credit step changes what is learned, not which answers LLDS keeps."""
    tokens = golden(influence=torch.tensor([[-1.0] * 3, [-1.0] * 3]))
    loss = resolve_loss("thr", p=1.0, regularisers=[resolve_regulariser("llds")])
    _, metrics = loss(tokens, tokens.totals())
    plain = compose(lambda t: 0.0 * t.logp, resolve_regulariser("llds"))
    assert metrics["llds"] == plain(tokens, tokens.totals())[1]["llds"] > 0
    inverted = compose(
        lambda t: 0.0 * t.logp,
        resolve_regulariser("llds"),
        credits=[credit_of(lambda t: -t.advantage - 1.0)],
    )
    assert inverted(tokens, tokens.totals())[1]["llds"] == metrics["llds"]


def credit_of(step):  # type: ignore[no-untyped-def]
    from hybrid.losses import Credit

    return Credit(name="own", run=lambda tokens, totals: step(tokens))


def test_credit_steps_follow_one_another() -> None:
    double = credit_of(lambda t: 2 * t.advantage)
    _, slope, _ = gradient(compose(lambda t: -t.advantage * t.logp, credits=[double, double]), golden())
    assert slope[0].tolist() == pytest.approx([-0.8] * 3)


def test_the_threshold_of_nthr_is_the_least_influential_right_answer() -> None:
    s = torch.tensor([0.5, 0.1, 0.3, 0.15])
    answer, right = torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, False])
    found = nthr_advantage(torch.tensor([1.0, 1.0, -1.0, -1.0]), s, answer, right, eta=0.0)
    assert found.tolist() == [1, 1, 0, 0]
    assert nthr_advantage(-torch.ones(4), s, answer, right, beta=2.0, eta=0.0).tolist() == [-1, -1, 0, -1]


def test_dcpo_counts_right_answers_and_not_their_tokens() -> None:
    right = torch.tensor([True, False, False, False])
    tokens = Tokens.of_probabilities(
        new=[[0.5, 0.5], [0.5, 0.5], [0.5], [0.5]],
        advantage=[0.75, -0.25, -0.25, -0.25],
        success=right,
        tempered=torch.full((4, 2), 0.5).log(),
    )
    share = credit.dcpo_share(0.42, 0.25, target=0.5)
    _, slope, _ = gradient(resolve_loss("dcpo", target=0.5), tokens, tokens.totals(entropy=0.42))
    assert slope[0, 0].item() == pytest.approx(-((1 - share) * 0.75 + share) / 2 / 4)
    assert slope[2, 0].item() == pytest.approx((1 - share) * 0.25 / 4)


def test_opmd_with_its_own_advantage_divides_the_policy_term_only() -> None:
    _, _, plain = gradient(resolve_loss("opmd"), golden())
    value, _, divided = gradient(resolve_loss("opmd", tau=2.0), golden())
    assert divided["policy"] == pytest.approx(plain["policy"] / 3) and divided["near_old"] == plain["near_old"]
    assert value == pytest.approx(plain["policy"] / 3 + 0.017092, abs=1e-6)


def test_pairwise_consistency_is_the_variance_that_opmd_follows() -> None:
    """`(1/K^2) sum_{i<j} (a_i - a_j)^2` of `a = r - tau (lp - old)` has the gradient `-2 tau / K (r - mean)` at 0."""
    rewards, gap = torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([0.1, -0.2, 0.3]).double()
    a = rewards - gap
    assert sum((a[i] - a[j]) ** 2 for i in range(3) for j in range(i)) / 9 == pytest.approx(0.242222, abs=1e-6)
    at_zero = Tokens.of_probabilities(new=[[0.5]] * 3, advantage=(rewards - rewards.mean()).tolist())
    _, slope, _ = gradient(resolve_loss("opmd_answers"), at_zero)
    assert (2 * slope[:, 0]).tolist() == pytest.approx([-0.444444, 0.222222, 0.222222], abs=1e-6)
