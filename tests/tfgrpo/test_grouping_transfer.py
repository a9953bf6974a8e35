"""Gates and transfer tests of hints: golden numbers and refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.errors import InputError
from tfgrpo.grouping.transfer import (
    hint_reliance,
    hint_reward,
    mixed_gate,
    no_hint_lift,
    transfer_weight,
)


@pytest.mark.parametrize(
    ("p", "gate"), [(0.01, 0.0773), (0.05, 0.3366), (0.125, 0.6564), (0.5, 0.9922), (0.9, 0.5695), (0, 0), (1, 0)]
)
def test_the_gate_of_a_mixed_group(p, gate):
    assert float(mixed_gate(p, 8)) == pytest.approx(gate, abs=5e-5)


@pytest.mark.parametrize(
    ("solved", "reliance", "worth"),
    [(4, -0.6, 0.1343), (2, -0.1, 0.6448), (1, -0.05, 0.5556), (8, -0.01, 0.0), (0, None, 0.0), (3, 0.1, 0.9763)],
)
def test_what_a_hint_is_worth(solved, reliance, worth):
    assert hint_reward(solved, 8, reliance) == pytest.approx(worth, abs=5e-5)


def test_the_weak_hint_that_transfers_wins_over_the_strong_one_that_is_leaned_on():
    worth = [
        hint_reward(4, 8, -0.6),
        hint_reward(2, 8, -0.1),
        hint_reward(0, 8, None),
        hint_reward(0, 8, None, refused=True),
    ]
    values = resolve_advantage("grpo")(Table.of_rewards([worth]))
    assert values.round(3).tolist() == [-0.029, 1.387, -0.402, -0.956]


def test_reliance_is_a_mean_of_means_over_solved_answers():
    bare = [np.array([-1.0, -0.8]), np.array([-0.5])]
    assert hint_reliance(bare, [np.array([-0.4, -0.2]), np.array([-0.5])]) == pytest.approx(-0.3)
    assert hint_reliance(bare, bare) == 0.0
    assert hint_reliance([], []) is None


@pytest.mark.parametrize(
    ("bare", "hinted"),
    [([[-1.0]], []), ([[-1.0]], [[-1.0, -2.0]]), ([[]], [[]]), ([[np.nan]], [[-1.0]]), ([[-np.inf]], [[-1.0]])],
)
def test_log_probs_that_do_not_fit_are_refused(bare, hinted):
    with pytest.raises(InputError):
        hint_reliance(bare, hinted)


def test_the_lift_is_measured_without_hints():
    test = no_hint_lift([0, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1])
    assert (test.lift, test.accepted) == (0.5, True)
    assert test.weight == pytest.approx(np.exp(-0.25 / 0.3))
    same = no_hint_lift([0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1])
    assert not same.accepted  # the hint helped, the lesson did not
    assert no_hint_lift([0] * 4, [1] * 4).weight == 1.0


@pytest.mark.parametrize("sample", [[0, 1, 1], [0, 1, 1, 2], [0, 1, 1, np.nan], [[0, 1], [1, 1]]])
def test_too_few_or_impossible_samples_are_refused(sample):
    with pytest.raises(InputError, match="at least 4"):
        no_hint_lift([0, 0, 0, 0], sample)


@pytest.mark.parametrize(
    "call", [lambda: mixed_gate(1.5, 8), lambda: mixed_gate(0.5, 0), lambda: hint_reward(9, 8, 0.0)]
)
def test_impossible_rates_are_refused(call):
    with pytest.raises(InputError):
        call()


@given(st.floats(0, 1), st.integers(1, 64))
def test_the_gate_is_symmetric_and_largest_at_one_half(p, group):
    gate = float(mixed_gate(p, group))
    assert gate == pytest.approx(float(mixed_gate(1 - p, group)), abs=1e-12)
    assert -1e-12 <= gate <= float(mixed_gate(0.5, group)) + 1e-12


@given(st.floats(-20, 20))
def test_a_transfer_weight_is_a_share(reliance):
    assert 0.0 <= transfer_weight(reliance) <= 1.0
    with pytest.raises(InputError):
        transfer_weight(reliance, 0.0)
