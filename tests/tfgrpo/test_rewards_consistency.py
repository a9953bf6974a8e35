"""PS-GRPO and information consistency: golden rows, identities, and what may not happen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judges import ScriptedJudge
from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Outcome, Reward, reward, score_answers
from tfgrpo.rewards.consistency import (
    answer_consistency,
    consistent,
    entropy_gap,
    group_similarity,
    information_consistency,
    ps_grpo,
    references,
    retriever_consistency,
    stability,
    word_entropy,
)
from tfgrpo.rewards.likeness import similar
from tfgrpo.rewards.similarity import bleu, by_judge, by_tokens
from tfgrpo.rewards.simple import contains, exact
from tfgrpo.types import Completion, FinishReason, Problem, Score

PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Capital?"},), answer="paris")
GOLDEN = (("paris", "paris france"), ("paris", "lyon"), ("paris", "paris"))


def answers(*wordings: Sequence[str], ends: dict[str, FinishReason] | None = None) -> list[Completion]:
    return [
        Completion(
            prompt=(), messages=(), text=text, policy="p", variant=v, finish_reason=(ends or {}).get(text, "stop")
        )
        for v, texts in enumerate(wordings)
        for text in texts
    ]


@reward
def zero(problem: Problem, completion: Completion) -> float:
    return 0.0


async def parts(given: Reward, completions: list[Completion], name: str) -> list[float | None]:
    outcomes = await score_answers(given, PROBLEM, completions)
    return [o.parts.get(name) if isinstance(o, Score) else None for o in outcomes]


def value(outcome: Outcome) -> float:
    assert isinstance(outcome, Score), outcome
    return outcome.value


async def test_golden_rewards() -> None:
    consistent = await parts(ps_grpo(with_=zero, similarity="bleu1"), answers(*GOLDEN), "consistency")
    assert consistent == pytest.approx([0.75, 0.375, 0.842, 0, 0.592, 0.592], abs=5e-4)
    joined = await score_answers(ps_grpo(with_=similar(), similarity="bleu1"), PROBLEM, answers(*GOLDEN))
    assert [value(o) for o in joined] == pytest.approx([0.875, 0.5208, 0.921, 0, 0.796, 0.796], abs=5e-4)
    assert [o.success for o in joined if isinstance(o, Score)] == [True, False, True, False, True, True]


async def test_golden_matrix_of_two_wordings() -> None:
    table = {("a", "c"): 0.9, ("a", "d"): 0.1, ("b", "c"): 0.7, ("b", "d"): 0.3}

    def sim(own: str, other: str) -> float:
        return table[min(own, other), max(own, other)]

    found = await parts(ps_grpo(with_=zero, similarity=sim), answers("ab", "cd"), "consistency")
    assert found == pytest.approx([0.5, 0.5, 0.8, 0.2])


async def test_everyone_saying_nothing_is_worth_nothing_with_a_partner() -> None:
    same = answers(*[["i dont know"] * 2] * 3)
    assert await parts(ps_grpo(with_=contains()), same, "consistency") == [1.0] * 6
    outcomes = await score_answers(ps_grpo(with_=contains()), PROBLEM, same)
    assert [value(o) for o in outcomes] == [0.5] * 6 and not any(o.success for o in outcomes if isinstance(o, Score))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "cannot be the only reward"),
        ({"with_": zero, "weights": (1.0, 0.0)}, "I don't know"),
        ({"with_": zero, "weights": (0.0, 1.0)}, "both weights"),
        ({"with_": zero, "kappa": 0}, "at least 1"),
        ({"with_": zero, "similarity": "blue2"}, "did you mean 'bleu2'"),
    ],
)
def test_what_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        ps_grpo(**options)  # type: ignore[arg-type]
    assert said in str(caught.value)


async def test_empty_answers_are_like_nothing_and_truncated_ones_are_no_reference() -> None:
    empty = await parts(ps_grpo(with_=zero), answers(["", "paris"], ["", "paris"]), "consistency")
    assert empty == [0.0, 0.5, 0.0, 0.5]
    cut: dict[str, FinishReason] = {"paris is": "length"}
    found = await parts(
        ps_grpo(with_=zero, similarity="exact"), answers(["paris"], ["paris is", "paris"], ends=cut), "consistency"
    )
    assert found == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "completions", [answers(["paris", "lyon"]), answers(["paris is"], ["paris is"], ends={"paris is": "length"})]
)
async def test_nothing_to_compare_with_leaves_the_partner(completions: list[Completion]) -> None:
    outcomes = await score_answers(ps_grpo(with_=contains()), PROBLEM, completions)
    assert [o.parts for o in outcomes if isinstance(o, Score)] == [{"contains": value(o)} for o in outcomes]
    assert value(outcomes[0]) == 1.0


async def test_a_partner_that_does_not_apply_or_fails_is_not_replaced_by_consistency() -> None:
    @reward
    def picky(problem: Problem, completion: Completion) -> float | None:
        if completion.text == "lyon":
            raise KeyError("x")
        return None if completion.variant == 0 else 1.0

    first, second, third = await score_answers(ps_grpo(with_=picky), PROBLEM, answers(["a"], ["a", "lyon"]))
    assert first is None and value(second) == 1.0 and isinstance(third, RewardError)


# -- the formula ------------------------------------------------------------------------------------------------------


def test_the_sample_of_the_golden_example() -> None:
    draws = {(0, 3): bleu("paris", "lyon", order=1), (0, 4): bleu("paris", "paris", order=1)}
    assert group_similarity([[[3], [4]]], lambda i, m: draws[i, m]) == [0.5]


@pytest.mark.parametrize(
    ("n", "g", "kappa", "s", "calls"), [(6, 4, None, None, 480), (6, 4, 3, 1, 72), (5, 6, None, None, 720)]
)
def test_costs(n: int, g: int, kappa: int | None, s: int | None, calls: int) -> None:
    variants = [v for v in range(n) for _ in range(g)]
    compared = references(variants, [True] * (n * g), kappa=kappa, per_wording=s, seed="p")
    assert sum(len(members) for wordings in compared for members in wordings) == calls
    assert all(variants[m] != variants[i] for i, ws in enumerate(compared) for members in ws for m in members)


def test_draws_are_seeded_and_distinct() -> None:
    variants, usable = [0, 0, 1, 1, 2, 2, 3, 3], [True] * 8
    first = references(variants, usable, kappa=2, per_wording=1, seed="p")
    assert first == references(variants, usable, kappa=2, per_wording=1, seed="p")
    assert first != references(variants, usable, kappa=2, per_wording=1, seed="q")
    assert references(variants, usable, kappa=9, per_wording=9, seed="p")[0].__len__() == 3


def test_the_sample_is_unbiased() -> None:
    texts, variants = ["a", "b", "a b", "c", "a", "b c"], [0, 0, 1, 1, 2, 2]
    exact = group_similarity(references(variants, [True] * 6), lambda i, m: bleu(texts[i], texts[m]))[0]
    sampled = [
        group_similarity(
            references(variants, [True] * 6, kappa=1, per_wording=1, seed=str(k)), lambda i, m: bleu(texts[i], texts[m])
        )[0]
        for k in range(2000)
    ]
    assert exact is not None and statistics.mean(s for s in sampled if s is not None) == pytest.approx(exact, abs=0.02)


@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=2), min_size=2, max_size=5), st.randoms())
def test_whole_sets_are_the_published_double_sum(rows: list[list[float]], draw: object) -> None:
    flat = [x for row in rows for x in row]
    variants = [v for v, row in enumerate(rows) for _ in row]

    def sim(i: int, m: int) -> float:
        return 1 - abs(flat[i] - flat[m])

    found = group_similarity(references(variants, [True] * len(flat)), sim)
    for i in range(len(flat)):
        others = [sim(i, m) for m in range(len(flat)) if variants[m] != variants[i]]
        assert found[i] == pytest.approx(math.fsum(others) / len(others))


async def test_a_judge_is_sampled_and_its_failures_are_left_out() -> None:
    model = ScriptedJudge('{"reason": "", "same": 5}')
    texts = [[f"answer {v} {j}" for j in range(4)] for v in range(6)]
    found = await parts(ps_grpo(with_=zero, similarity=by_judge(model)), answers(*texts), "consistency")
    assert found == [0.5] * 24 and len(model.asked) <= 72
    broken = ps_grpo(with_=zero, similarity=by_judge(ScriptedJudge("no")))
    assert [o.parts for o in await score_answers(broken, PROBLEM, answers(["a"], ["b"])) if isinstance(o, Score)] == [
        {"zero": 0.0}
    ] * 2


# -- information consistency ------------------------------------------------------------------------------------------

WORDINGS = (("buy index funds", "buy bonds buy bonds"), ("buy index funds and bonds", "buy index funds"))


async def test_information_golden() -> None:
    assert [word_entropy(t) for t in (*WORDINGS[0], *WORDINGS[1])] == pytest.approx(
        [1.0986, 0.6931, 1.6094, 1.0986], abs=5e-5
    )
    given = information_consistency()
    assert await parts(given, answers(*WORDINGS), "informativeness") == pytest.approx([0.4425, 0, 1, 0.4425], abs=5e-5)
    assert await parts(given, answers(*WORDINGS), "stability") == pytest.approx(
        [0.7213, 0.2787, 0.2213, 0.7787], abs=5e-5
    )
    outcomes = await score_answers(given, PROBLEM, answers(*WORDINGS))
    assert [value(o) for o in outcomes] == pytest.approx([0.5819, 0.1394, 0.6106, 0.6106], abs=5e-5)


def test_the_published_stability_is_invisible_to_centring_and_ours_is_not() -> None:
    entropies = [1.0986, 0.6931, 1.6094, 1.0986]
    informed = [(h - 0.6931) / (1.6094 - 0.6931) for h in entropies]
    constant = [0.5 * h + 0.5 * 0.5 for h in informed]
    centred = [0.5 * h - statistics.mean(0.5 * x for x in informed) for h in informed]
    assert [c - statistics.mean(constant) for c in constant] == pytest.approx(centred)
    assert len({round(f or 0, 6) for f in stability(entropies, [0, 0, 1, 1], [True] * 4)}) > 1


async def test_information_edges() -> None:
    same = await score_answers(information_consistency(), PROBLEM, answers(["a b"], ["c d"]))
    assert [o.parts for o in same if isinstance(o, Score)] == [{"informativeness": 0.5, "stability": 1.0}] * 2
    assert await score_answers(information_consistency(), PROBLEM, answers(["a", "b c"])) == (None, None)
    assert word_entropy("") == 0.0 and word_entropy("a b c d", first=1) == 0.0
    with pytest.raises(InputError, match="positive sum"):
        information_consistency(weights=(0, 0))


# -- measuring --------------------------------------------------------------------------------------------------------


def test_retriever_consistency() -> None:
    assert retriever_consistency(["1234", "3456", "1234"]) == pytest.approx(0.5556, abs=5e-5)
    assert retriever_consistency([["a"]]) is None and retriever_consistency([[], []]) == 1.0


async def test_answer_consistency() -> None:
    assert await answer_consistency(PROBLEM, ["paris", "paris", "lyon"], by_tokens()) == pytest.approx(1 / 3)
    assert await answer_consistency(PROBLEM, ["paris"], by_tokens()) is None


async def test_any_reward_becomes_the_partner_of_consistency_once() -> None:
    made = consistent(exact(), similarity="exact")
    assert made.name == "ps_grpo(exact, similarity=exact)" and consistent(made) is made
    assert consistent(information_consistency()).name == "information_consistency"
    outcomes = await score_answers(made, PROBLEM, answers(("paris", "lyon"), ("paris",)))
    assert [o.parts for o in outcomes if isinstance(o, Score)] == [
        {"consistency": 1.0, "exact": 1.0},
        {"consistency": 0.0, "exact": 0.0},
        {"consistency": 0.5, "exact": 1.0},
    ]


@pytest.mark.parametrize(
    ("said", "gap"),
    [([], None), (["one"], None), (["one", "two"], 0.0), (["", "one two"], 0.6931), (["a b", "a"] * 2, 0.4621)],
)
def test_the_gap_of_entropies_is_a_mean_over_pairs(said: list[str], gap: float | None) -> None:
    found = entropy_gap(said)
    assert found is None if gap is None else found == pytest.approx(gap, abs=1e-4)
