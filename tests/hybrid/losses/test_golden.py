"""Golden rows of the losses: numbers that can be checked on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenbatch import golden, gradient, log

from hybrid.batch import Tokens, Totals
from hybrid.losses import (
    capped,
    clipped,
    compose,
    formulas,
    masked,
    mismatch,
    mixed,
    nthr_advantage,
    resolve_loss,
    resolve_regulariser,
    thr_advantage,
    token_influence,
)
from hybrid.losses.credit import dcpo_advantage, dcpo_share, dcpo_temperature
from hybrid.losses.regularisers import nll_on_correct

TOKENS = golden()
TOTALS = Totals.of(mask=TOKENS.mask, advantage=TOKENS.advantage, max_tokens=4)

VALUES: list[tuple[str, dict[str, Any], float]] = [
    ("grpo", {}, 0.0),
    ("grpo", {"beta": 1.0}, 0.108824),
    ("grpo_kl", {}, 0.04 * 0.108824),
    ("dr_grpo", {}, -0.1125),  # the most tokens an answer may have are 4
    ("dr_grpo", {"limit": 8}, -0.05625),
    ("bnpo", {}, -0.18),
    ("dapo", {}, -0.196),
    ("gspo", {}, 0.055898),
    ("gspo_token", {}, 0.055898),
    ("gspo", {"low": 0.2, "high": 0.2}, (-0.887904 + 0.8) / 2),
    ("dhpo", {}, -0.175611),
    ("rec_one_side", {}, 0.505146),
    ("rec_one_side_is", {}, 0.274887),
]
METRICS: list[tuple[str, dict[str, Any], dict[str, float]]] = [
    ("opmd", {}, {"near_old": 0.17092188}),  # times 0.1: 0.017092
    ("asymre", {}, {"likelihood": 1.09453415}),  # times 0.1: 0.109453
    ("grpo", {}, {"ratio": 4.5 / 5, "clipped_high": 0.2, "clipped_low": 0.2}),
    ("dapo", {"high": 0.5}, {"clipped_high": 0.0, "clipped_low": 0.2}),
    ("rec_one_side", {}, {"dropped": 0.4}),
    ("cispo", {"high": 0.2}, {"clipped_high": 0.2, "clipped_low": 0.0}),
]


@pytest.mark.parametrize(("name", "options", "value"), VALUES)
def test_values(name: str, options: dict[str, Any], value: float) -> None:
    loss, _ = resolve_loss(name, **options)(TOKENS, TOTALS)
    assert loss.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("name", "options", "metrics"), METRICS)
def test_metrics(name: str, options: dict[str, Any], metrics: dict[str, float]) -> None:
    _, found = resolve_loss(name, **options)(TOKENS, TOTALS)
    assert {n: found[n] for n in metrics} == pytest.approx(metrics, abs=1e-6)


def rows(*values: list[float]) -> Any:
    return pytest.approx(torch.tensor(values, dtype=torch.float64).numpy(), abs=1e-6)


RATIO = torch.tensor([[1.4, 1.0, 0.5], [0.6, 1.0, 1.0]], dtype=torch.float64)
SPREAD = TOKENS.advantage[:, None].expand(2, 3)


def terms(surrogate: Any) -> Any:
    clean = TOKENS.clean()
    return (surrogate.run(clean)[0] * clean.mask).numpy()


def test_token_losses() -> None:
    clean = TOKENS.clean()
    assert formulas.token_ratio(clean.logp, clean.old, clean.mask).numpy() == rows([1.4, 1, 0.5], [0.6, 1, 1])
    sequence = formulas.sequence_ratio(TOKENS.logp, TOKENS.old, TOKENS.mask)
    assert sequence[:, 0].numpy() == pytest.approx([0.887904, 0.774597], abs=1e-6)
    assert terms(clipped()) == rows([-1.2, -1, -0.5], [0.8, 1, 0])
    assert terms(clipped(high=0.28)) == rows([-1.28, -1, -0.5], [0.8, 1, 0])
    assert terms(clipped(level="sequence", low=3e-4, high=4e-4))[:, 0] == pytest.approx([-0.887904, 0.9997], abs=1e-6)
    assert terms(mixed()) == rows([-1.139850, -0.943952, -0.693952], [0.899850, 0.999850, 0])
    assert terms(capped(high=0.2)) == rows([1.2 * 0.356675, 0.916291, 0.5 * 2.302585], [-0.6 * 1.203973, -0.693147, 0])


def test_dual_clip() -> None:
    ratio, advantage = torch.tensor([5.0, 0.5]), torch.tensor([-1.0, -1.0])
    assert formulas.ppo_min(ratio, advantage, low=0.2, high=0.2).tolist() == pytest.approx([5.0, 0.8])
    assert formulas.ppo_min(ratio, advantage, low=0.2, high=0.2, dual=3.0).tolist() == pytest.approx([3.0, 0.8])


def test_estimators_of_kl() -> None:
    on = TOKENS.clean()
    assert on.reference is not None
    x = on.logp, on.reference
    assert (formulas.k1(*x) * on.mask).numpy() == rows([0.336472, -0.223144, -0.693147], [-0.510826, 0.223144, 0])
    assert (formulas.k2(*x) * on.mask).numpy() == rows([0.056607, 0.024897, 0.240227], [0.130471, 0.024897, 0])
    assert (formulas.k3(*x) * on.mask).numpy() == rows([0.050758, 0.026856, 0.306853], [0.155841, 0.023144, 0])


@pytest.mark.parametrize(
    ("estimate", "expected", "value"),
    [
        (formulas.k1, [0, 0, 0], 0.183787),
        (formulas.k2, [0.263080, -0.175387, -0.087693], 0.181677),  # the gradient of KL(policy || reference)
        (formulas.k3, [0.3, -0.2, -0.1], 0.183787),  # the gradient of KL(reference || policy)
    ],
)
def test_what_the_gradient_of_a_kl_estimator_follows(estimate: Any, expected: list[float], value: float) -> None:
    """In expectation over samples of the policy, with respect to its logits."""
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), log([0.4, 0.4, 0.2])[0]
    logits = policy.log().requires_grad_()
    terms = estimate(logits.log_softmax(-1), reference)
    assert (policy * terms).sum().item() == pytest.approx(value, abs=1e-6)
    (gradient,) = torch.autograd.grad((policy * terms).sum(), logits)
    assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("mask", "options", "sign", "kept"),
    [
        ("one_side", {}, 1, [1, 1, 1, 0, 0]),
        ("two_side", {}, 1, [0, 0, 1, 0, 0]),
        ("ring", {}, 1, [1, 0, 1, 0, 0]),
        ("one_side", {"low": 0.6, "high": 2.0}, 1, [1, 1, 1, 1, 0]),
        ("one_side", {}, -1, [0, 0, 1, 1, 1]),
        ("two_side", {}, -1, [0, 0, 1, 0, 0]),
        ("ring", {}, -1, [0, 0, 1, 0, 1]),
        ("one_side", {"low": 0.6, "high": 2.0}, -1, [0, 1, 1, 1, 1]),
        ("one_side", {}, 0, [1, 1, 1, 1, 1]),  # nothing is learned of A = 0 either way
        ("none", {}, 1, [1, 1, 1, 1, 1]),
    ],
)
def test_masks(mask: Any, options: dict[str, float], sign: float, kept: list[int]) -> None:
    ratio = torch.tensor([[0.3, 0.7, 1.0, 1.3, 3.5]], dtype=torch.float64)
    old = torch.full_like(ratio, -2.0)
    tokens = Tokens(logp=old + ratio.log(), old=old, mask=torch.ones(1, 5), advantage=torch.full((1,), 1.0 * sign))
    _, found = compose(masked(mask, **options))(tokens, Totals.of(mask=tokens.mask, advantage=tokens.advantage))
    assert found.get("dropped", 0.0) == pytest.approx(1 - sum(kept) / 5)
    if sign:
        _, slope, _ = gradient(compose(masked(mask, **options)), tokens)
        assert (slope != 0).int()[0].tolist() == kept


def test_a_ratio_on_the_bound_is_kept() -> None:
    edge, ones = torch.tensor([0.5, 1.5]), torch.ones(2)
    assert formulas.two_side(edge, ones, low=0.5, high=0.5).tolist() == [1, 1]
    assert formulas.one_side(edge, ones, low=0.5, high=0.5).tolist() == [1, 1]
    assert formulas.one_side(edge, -ones, low=0.5, high=0.5).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bnpo", [[0, -0.2, -0.1], [0, 0.2, 0]]),
        ("rec_one_side_is", [[0, -0.2, -0.1], [0, 0.2, 0]]),
        ("rec_one_side", [[0, -0.2, -0.2], [0, 0.2, 0]]),
        ("reinforce", [[-0.2, -0.2, -0.2], [0.2, 0.2, 0]]),
        ("gspo", [[-0.887904 / 6] * 3, [0, 0, 0]]),  # A s / |o|, halved by two answers
    ],
)
def test_gradients(name: str, expected: list[list[float]]) -> None:
    _, slope, _ = gradient(resolve_loss(name), TOKENS, TOTALS)
    assert slope.numpy() == rows(*expected)


def test_opmd_of_whole_answers() -> None:
    logp = torch.tensor([[-2.0], [-3.0], [-1.5]], dtype=torch.float64)
    tokens = Tokens(
        logp=logp,
        old=torch.tensor([[-2.1], [-2.8], [-1.8]], dtype=torch.float64),
        mask=torch.ones(3, 1),
        advantage=torch.tensor([2 / 3, -1 / 3, -1 / 3], dtype=torch.float64),
    )
    value, slope, _ = gradient(resolve_loss("opmd_answers", tau=1.0), tokens)
    assert value == pytest.approx(-0.032222, abs=1e-6)
    assert slope[:, 0].tolist() == pytest.approx([-0.188889, 0.044444, 0.211111], abs=1e-6)


ACTIONS = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("gate", "segment", "expected"),
    [
        ("action", ACTIONS, 0.091746),
        ("action", None, (0.223144 + 0.510826) / 4 / 2),
        ("answer", ACTIONS, (0.223144 + 0.510826) / 4 / 2),
        ("token", ACTIONS, 0.119639),
    ],
)
def test_lost_likelihood(gate: Any, segment: Any, expected: float) -> None:
    tokens = Tokens(
        logp=log([0.4, 0.6, 0.3, 0.5], [0.8, 0.8, 0.4, 0.9]),
        old=log([0.5] * 4, [0.5] * 4),
        mask=torch.ones(2, 4),
        advantage=torch.tensor([1.0, 0.0]),
        segment=segment,
    )
    totals = Totals.of(mask=tokens.mask, advantage=tokens.advantage)
    loss = compose(lambda t: 0.0 * t.logp, resolve_regulariser("llds", gate=gate))
    value, metrics = loss(tokens, totals)
    assert metrics["llds"] == pytest.approx(expected, abs=1e-6)
    assert value.item() == pytest.approx(0.2 * expected, abs=1e-6)  # 0.018349 for the first


def test_likelihood_of_right_answers() -> None:
    tokens = Tokens(
        logp=torch.tensor([[-0.5, -0.3], [-4.0, -5.0]]),
        old=torch.zeros(2, 2),
        mask=torch.ones(2, 2),
        advantage=torch.zeros(2),
        success=torch.tensor([True, False]),
    )
    totals = Totals.of(mask=tokens.mask, advantage=tokens.advantage, success=tokens.success)
    value, _ = compose(lambda t: 0.0 * t.logp, nll_on_correct())(tokens, totals)
    assert value.item() == pytest.approx(0.04)


def test_entropy_outside_its_band() -> None:
    entropy = torch.tensor([[0.1, 0.3, float("nan")], [1.0, 2.0, 0.3]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    found = formulas.outside_band(entropy, mask, low=0.3, high=1.0)
    assert found[:, 0].tolist() == pytest.approx([0.1, 0.5])


def test_dcpo() -> None:
    share = dcpo_share(0.42, 0.25, target=0.5)
    assert share == pytest.approx(0.242424, abs=1e-6)
    assert dcpo_share(0.42, 0.0, target=0.5) == 0.0
    assert dcpo_temperature(0.42, target=0.5) == 1.2 and dcpo_temperature(0.51, target=0.5) == 0.8
    ratio = torch.tensor([[1.1, 0.9], [1, 1], [1, 1], [1, 1]])
    advantage = torch.tensor([0.75, -0.25, -0.25, -0.25])
    right = torch.tensor([True, False, False, False])
    found = dcpo_advantage(advantage[:, None].expand(4, 2), right, ratio.log(), torch.zeros(4, 2), share)
    assert found.numpy() == rows([0.834848, 0.786364], *[[-0.189394] * 2] * 3)
    policy = torch.tensor([0.6, 0.3, 0.1])
    tempered = (policy.log() / 1.2).log_softmax(-1)
    assert tempered.exp().tolist() == pytest.approx([0.559942, 0.314257, 0.125801], abs=1e-6)
    pull = dcpo_advantage(torch.zeros(1, 3), torch.tensor([True]), tempered[None], policy.log()[None], 1.0)
    assert pull[0].tolist() == pytest.approx([0.933237, 1.047523, 1.258009], abs=1e-6)


PROBABILITIES = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]])
HIDDEN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
RIGHT = torch.tensor([True, True, False, False])
ANSWER = torch.tensor([0, 0, 1, 2])
BASE = torch.tensor([1.5, 1.5, -0.5, -0.5])


def test_hidden_rewards_of_tokens() -> None:
    s = token_influence(PROBABILITIES, torch.tensor([0, 1, 2, 0]), HIDDEN, RIGHT)
    assert s.tolist() == pytest.approx([0.38, 0.38, -0.62, 0.52])
    assert nthr_advantage(BASE, s, ANSWER, RIGHT, eta=0.5).tolist() == pytest.approx([1.5, 1.5, -0.5, -0.25])
    of_four = torch.tensor([0, 0, 1, 2, 3])  # one right of four: eta is 2 |1/2 - 1/4|
    more = torch.cat([s, torch.tensor([-1.0])])
    found = nthr_advantage(torch.cat([BASE, BASE[-1:]]), more, of_four, torch.cat([RIGHT, RIGHT[-1:]]))
    assert found.tolist() == pytest.approx([1.5, 1.5, -0.5, -0.25, -0.5])
    assert thr_advantage(BASE, s, p=0.2, threshold=0.1).tolist() == pytest.approx([1.8, 1.8, -0.6, -0.4])
    assert thr_advantage(BASE, s, p=-0.2, threshold=0.1).tolist() == pytest.approx([1.2, 1.2, -0.4, -0.6])
    assert thr_advantage(BASE, s, p=0.0, threshold=0.4).tolist() == pytest.approx([0, 0, -0.5, -0.5])


def test_groups_all_right_or_all_wrong_keep_their_advantages() -> None:
    s = torch.tensor([0.38, 0.38, -0.62, 0.52])
    for right in (torch.ones(4).bool(), torch.zeros(4).bool()):
        assert torch.equal(nthr_advantage(BASE, s, ANSWER, right), BASE)


def test_mismatch_of_sampler_and_trainer() -> None:
    old, sampler = log([0.5, 0.6, 0.9]), log([0.25, 0.6, 0.1])
    mask = torch.tensor([[1, 1, 0]])
    assert mismatch(old, sampler, mask).tolist() == [pytest.approx([2.0, 1.0, 1.0])]
    assert mismatch(old, sampler, mask, scope="answer").tolist() == [pytest.approx([2.0] * 3)]
    assert mismatch(old, sampler, mask, scope="answer_mean").tolist() == [pytest.approx([2.0**0.5] * 3)]
    long = torch.full((1, 100), 0.012).double()
    assert mismatch(long, torch.zeros_like(long), torch.ones(1, 100), scope="answer")[0, 0].item() > 3.3
