import math

import pytest
from scripted import ScriptedPolicy

from tfgrpo import Budget, Problem, Sampling
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.gate import PAIRS_AT_ONCE, Gatekeeper, _result
from tfgrpo.rewards.simple import exact
from tfgrpo.types import Prompt

PROBLEMS = tuple(Problem(id=f"p{n}", messages=({"role": "user", "content": str(n)},), answer=str(n)) for n in range(64))


def prompts(hint):
    return lambda problem: Prompt(messages=({"role": "user", "content": f"{hint} {problem.question}"},))


def keeper(answer, calls=None, pairs=64):
    policy = ScriptedPolicy(lambda messages, sampling: answer(messages[-1]["content"]))
    caller = Caller(policy, record=None, ledger=Ledger(Budget(calls=calls)))
    return policy, Gatekeeper(caller=caller, reward=exact(), sampling=Sampling(), max_pairs=pairs)


def only_after(text):
    hint, number = text.split()
    return number if hint == "after" else "?"


async def test_a_clear_effect_needs_few_pairs():
    policy, gate = keeper(only_after)
    result = await gate.check(PROBLEMS, prompts("before"), prompts("after"))
    assert (result.verdict, result.passed, result.gain) == ("helps", True, 1.0)
    assert result.pairs == PAIRS_AT_ONCE
    assert len(policy.calls) == 2 * PAIRS_AT_ONCE


async def test_a_harm_is_found_and_does_not_pass():
    _, gate = keeper(only_after)
    result = await gate.check(PROBLEMS, prompts("after"), prompts("before"))
    assert (result.verdict, result.passed) == ("harms", False)


async def test_no_difference_stays_undecided_over_all_pairs_and_passes():
    _, gate = keeper(lambda text: text.split()[1])
    result = await gate.check(PROBLEMS, prompts("before"), prompts("after"))
    assert (result.pairs, result.verdict, result.gain, result.passed) == (64, "undecided", 0.0, True)


async def test_an_exhausted_budget_ends_the_check_with_what_there_is():
    _, gate = keeper(lambda text: "?", calls=3 * PAIRS_AT_ONCE)
    result = await gate.check(PROBLEMS, prompts("before"), prompts("after"))
    assert result.pairs == PAIRS_AT_ONCE


@pytest.mark.parametrize("pairs", [0, 5])
async def test_it_takes_no_more_pairs_than_it_may(pairs):
    policy, gate = keeper(lambda text: "?", pairs=pairs)
    result = await gate.check(PROBLEMS, prompts("before"), prompts("after"))
    assert (result.pairs, len(policy.calls)) == (pairs, 2 * pairs)
    assert result.passed
    assert pairs or (math.isnan(result.gain) and "not checked" in result.words())


@pytest.mark.parametrize(
    ("differences", "passed"),
    [([-1.0, 0.0, -1.0, 1.0], True), ([-0.1, -0.2, -0.1, -0.1, -0.2, -0.1], False), ([0.0, 0.0], True), ([1.0], True)],
)
def test_only_shown_harm_is_refused_and_a_loss_inside_the_noise_is_not(differences, passed):
    result = _result(differences, "undecided")
    assert result.passed is passed
    assert (result.high < 0) is not passed


@pytest.mark.parametrize(("differences", "passed"), [([-1.0, 0.0, 0.0], False), ([0.0, 0.0], True), ([1.0], True)])
def test_a_library_in_which_nothing_was_shown_to_help_must_not_look_worse(differences, passed):
    result = _result(differences, "undecided", proven=False)
    assert result.passed is passed
    assert ("nothing was shown to help" in result.words()) is not passed
