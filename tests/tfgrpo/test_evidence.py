import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgrpo.evidence import BETS, NOISE_VARIANCE, EffectModel, Prior, Wealth


def test_one_entry_has_the_posterior_of_the_normal_formula():
    model = EffectModel()
    model.add(Prior(mean=0.2, sd=0.4))
    model.observe(np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([1.0, 1.0, 0.0, 1.0]))
    # centred: x = +-1/2, so x'x = 1 and x'y = 0.5; precision 1/0.16 + 1/0.2, shift 0.2/0.16 + 0.5/0.2
    assert model.mean[0] == pytest.approx((0.2 / 0.16 + 0.5 / 0.2) / (1 / 0.16 + 1 / 0.2))
    assert model.sd[0] == pytest.approx((1 / 0.16 + 1 / 0.2) ** -0.5)


def test_an_entry_that_is_always_or_never_shown_teaches_nothing():
    model = EffectModel()
    model.add(Prior(mean=0.1, sd=0.3))
    model.observe(np.ones((4, 1)), np.array([1.0, 0.0, 1.0, 1.0]))
    model.observe(np.zeros((4, 1)), np.array([1.0, 0.0, 1.0, 1.0]))
    assert model.mean[0] == pytest.approx(0.1)
    assert model.sd[0] == pytest.approx(0.3)


def many(rng: np.random.Generator, effects: np.ndarray, prior: Prior, groups: int = 120) -> EffectModel:
    """A model that has seen entries with these true effects, each in a random half of the prompts."""
    model = EffectModel()
    for _ in effects:
        model.add(prior)
    for _ in range(groups):
        shown = rng.integers(0, 2, (6, len(effects))).astype(float)
        model.observe(shown, 0.5 + shown @ effects + rng.normal(0, NOISE_VARIANCE**0.5, 6))
    return model


def test_what_looks_good_by_chance_among_many_that_harm_is_believed_less():
    prior, believed, still = Prior(mean=0.0, sd=0.2), 0, 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        effects = rng.normal(-0.03, 0.02, 40)
        plain = many(rng, effects, prior)
        learned = plain.refitted(range(40), prior)
        assert ((learned.mean - effects) ** 2).mean() < 0.65 * ((plain.mean - effects) ** 2).mean()
        believed, still = believed + (plain.mean > 0).sum(), still + (learned.mean > 0).sum()
    assert still < 0.65 * believed


def test_a_strong_effect_among_weak_ones_survives_a_learned_prior():
    rng, prior = np.random.default_rng(4), Prior(mean=0.0, sd=0.2)
    effects = np.r_[0.25, rng.normal(-0.03, 0.02, 30)]
    assert many(rng, effects, prior).refitted(range(31), prior).mean[0] > 0.15


def test_one_column_changes_little_and_none_nothing():
    rng, prior = np.random.default_rng(5), Prior(mean=0.0, sd=0.2)
    model = many(rng, np.array([0.1]), prior, groups=20)
    assert model.refitted([0], prior).mean[0] == pytest.approx(model.mean[0], abs=0.02)
    assert model.refitted([], prior) is model


def test_the_difficulty_of_a_group_does_not_matter():
    shown, reward = np.array([[1.0], [0.0]]), np.array([0.6, 0.1])
    easy, hard = EffectModel(), EffectModel()
    for model, level in ((easy, 0.4), (hard, 0.0)):
        model.add(Prior(mean=0.0, sd=1.0))
        model.observe(shown, reward + level)
    assert easy.mean[0] == pytest.approx(hard.mean[0])


def test_the_posterior_is_the_same_in_any_order_and_with_late_entries():
    rng = np.random.default_rng(0)
    groups = [(rng.integers(0, 2, (4, 2)).astype(float), rng.random(4)) for _ in range(6)]
    forward, backward = EffectModel(), EffectModel()
    for model, order in ((forward, groups), (backward, groups[::-1])):
        model.add(Prior(mean=0.2, sd=0.4))
        model.add(Prior(mean=0.0, sd=0.2))
        for shown, reward in order:
            model.observe(shown, reward)
    np.testing.assert_allclose(forward.mean, backward.mean)
    late = EffectModel()
    late.add(Prior(mean=0.2, sd=0.4))
    late.observe(groups[0][0][:, :1], groups[0][1])
    late.add(Prior(mean=0.0, sd=0.2))
    assert late.mean[1] == pytest.approx(0.0)


def test_rivals_that_stand_together_share_the_credit():
    model = EffectModel()
    for _ in range(2):
        model.add(Prior(mean=0.0, sd=1.0))
    for _ in range(5):
        model.observe(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([1.0, 0.0]))
    assert model.mean[0] == pytest.approx(model.mean[1])
    assert model.mean.sum() == pytest.approx(1.0, abs=0.15)


def test_draws_follow_the_posterior():
    model = EffectModel()
    model.add(Prior(mean=0.3, sd=0.1))
    rng = np.random.default_rng(0)
    draws = np.array([model.draw(rng)[0] for _ in range(2000)])
    assert draws.mean() == pytest.approx(0.3, abs=0.01)
    assert draws.std() == pytest.approx(0.1, abs=0.01)
    assert model.probability_of_help(0) == pytest.approx(0.99865, abs=1e-4)  # three deviations


def test_the_wealth_of_one_bet_is_the_mean_over_the_bets():
    wealth = Wealth()
    wealth.bet(0.5)
    assert math.exp(np.logaddexp.reduce(wealth.log_helps)) / len(BETS) == pytest.approx(np.mean(1 + BETS * 0.5))


@pytest.mark.parametrize(("d", "verdict"), [(1.0, "helps"), (-1.0, "harms"), (0.0, "undecided")])
def test_a_clear_effect_gets_its_verdict_and_none_stays_undecided(d, verdict):
    wealth = Wealth()
    for _ in range(10):
        wealth.bet(d)
    assert wealth.verdict(0.05) == verdict


def test_entries_without_effect_are_rarely_judged_however_often_one_looks():
    """Ville's bound: at most alpha per direction, over all looks. 400 processes of 200 groups, seen after each."""
    rng = np.random.default_rng(1)
    judged = {"helps": 0, "harms": 0}
    for _ in range(400):
        wealth = Wealth()
        rewards = rng.random((200, 4)) < rng.uniform(0.1, 0.9)
        for row in rewards:
            wealth.bet(float(row[:2].mean() - row[2:].mean()))
            if wealth.verdict(0.05) != "undecided":
                judged[wealth.verdict(0.05)] += 1
                break
    assert judged["helps"] <= 0.05 * 400 + 3 * math.sqrt(0.05 * 0.95 * 400)
    assert judged["harms"] <= 0.05 * 400 + 3 * math.sqrt(0.05 * 0.95 * 400)


def test_an_effect_of_0_3_is_found_within_sixty_groups_mostly():
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(100):
        wealth = Wealth()
        for _ in range(60):
            on, off = rng.random(2) < 0.6, rng.random(2) < 0.3
            wealth.bet(float(on.mean() - off.mean()))
        found += wealth.verdict(0.05) == "helps"
    assert found >= 80


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), max_size=40))
def test_the_two_directions_are_mirror_images(differences):
    one, other = Wealth(), Wealth()
    for d in differences:
        one.bet(d)
        other.bet(-d)
    np.testing.assert_allclose(one.log_helps, other.log_harms)


def test_the_noise_variance_is_between_a_sure_answer_and_a_coin():
    assert 0.0 < NOISE_VARIANCE < 0.25
