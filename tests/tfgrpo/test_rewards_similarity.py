"""Likeness of texts: golden rows, bounds, batches that agree with the plain functions, and a judge that fails."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience_store.embed import HashingEmbedder
from tests.judges import ScriptedJudge
from tfgrpo.errors import BudgetExhausted, InputError, RequestError, RewardError, TransportError
from tfgrpo.rewards.base import Reward, score_answers
from tfgrpo.rewards.likeness import bmas, bmas_of, similar
from tfgrpo.rewards.similarity import (
    SIMILARITIES,
    bag,
    bleu,
    by_bleu,
    by_embedding,
    by_function,
    by_judge,
    cosine_similarity,
    exact_match,
    resolve_similarity,
    token_f1,
    words,
)
from tfgrpo.types import Completion, Problem, Score

PROBLEM = Problem(
    id="p", messages=({"role": "user", "content": "What is the capital?"},), answer=["paris", "Paris France"]
)
TEXTS = st.lists(st.sampled_from(["paris", "lyon", "france", "is", "-3", "a"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Paris, FRANCE!", ["paris", "france"]),
        ("2.5 kg and −3", ["2.5", "kg", "and", "-3"]),
        ("3-4 x-1", ["3", "4", "x", "1"]),
        ("東京 Tower", ["東", "京", "tower"]),
        ("?!", ["?!"]),
        ("", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("own", "other", "value"),
    [
        ("paris", "paris", 1.0),
        ("paris france", "paris", 0.5),
        ("paris", "paris france", math.exp(-1)),
        ("paris", "lyon", 0.0),
        ("paris paris", "paris", 0.5),  # clipped
        ("", "paris", 0.0),
        ("paris", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_bleu_of_single_words(own: str, other: str, value: float) -> None:
    assert bleu(own, other, order=1) == pytest.approx(value)


def test_bleu_of_higher_orders_is_smoothed_for_short_answers() -> None:
    assert bleu("paris", "paris", order=4) == 1.0
    assert bleu("a b c", "a b d", order=2) == pytest.approx(math.sqrt(2 / 3 * (1 + 1) / (2 + 1)))
    assert bleu("b a", "a b", order=2) == pytest.approx(math.sqrt(1 * 1 / 2))
    with pytest.raises(InputError, match="at least 1"):
        by_bleu(order=0)


def test_other_functions_of_two_texts() -> None:
    assert token_f1("paris france", "paris") == pytest.approx(2 / 3)
    assert token_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert exact_match("Paris.", " paris") == 1.0 and exact_match("", "") == 0.0 and exact_match("+", "-") == 0.0
    hashing = HashingEmbedder()
    assert cosine_similarity("the gate", "the gate!", hashing) == pytest.approx(1.0)
    assert cosine_similarity("", "the gate", hashing) == 0.0
    assert sum(n for _, n in bag("aab")) == 1


@given(TEXTS, TEXTS)
def test_bounds_and_identities(a: str, b: str) -> None:
    for value in (bleu(a, b), bleu(a, b, order=3), token_f1(a, b), exact_match(a, b)):
        assert 0.0 <= value <= 1.0
    assert token_f1(a, b) == token_f1(b, a)
    assert token_f1(a, a) == bleu(a, a) == float(bool(a))
    assert exact_match(a, b) <= token_f1(a, b)


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
async def test_a_batch_is_the_function_pair_by_pair(name: str) -> None:
    similarity = by_embedding(embedder="hashing") if name == "embedding" else resolve_similarity(name)
    plain = {
        "bleu1": lambda a, b: bleu(a, b, order=1),
        "bleu2": bleu,
        "token_f1": token_f1,
        "exact": exact_match,
        "embedding": lambda a, b: cosine_similarity(a, b, HashingEmbedder()),
    }[name]
    draw = random.Random(0)
    texts = ["", " ", *(" ".join(draw.choices(["paris", "is", "a", "city"], k=draw.randint(1, 6))) for _ in range(8))]
    pairs = [(a, b) for a in texts for b in texts]
    assert await similarity(PROBLEM, pairs) == pytest.approx([plain(a, b) for a, b in pairs])
    assert not similarity.costly and await similarity(PROBLEM, []) == []


async def test_names_and_own_functions() -> None:
    def same_length(a: str, b: str) -> float:
        return float(len(a) == len(b))

    assert await resolve_similarity(same_length)(PROBLEM, [("ab", "cd"), ("a", "cd")]) == [1.0, 0.0]
    assert by_function(same_length).name == "same_length"
    with pytest.raises(InputError, match="did you mean 'token_f1'"):
        resolve_similarity("token_f2")


async def test_a_judge_is_asked_once_for_a_pair_in_either_order_and_never_for_equal_texts() -> None:
    model = ScriptedJudge('{"reason": "", "same": 7}')
    pairs = [("it is paris", "paris"), ("paris", "it is paris"), ("Paris!", "paris"), ("", "paris")]
    assert await by_judge(model)(PROBLEM, pairs) == [0.7, 0.7, 1.0, 0.0]
    assert len(model.asked) == 1 and model.asked[0][1].purpose == "judge"


@pytest.mark.parametrize(
    "replies",
    [("no", "still no"), ('{"same": 11}', '{"same": true}'), (TransportError("gone"),), (RequestError("too long"),)],
)
async def test_a_judge_that_fails_is_missing(replies: Sequence[str | Exception]) -> None:
    assert await by_judge(ScriptedJudge(*replies))(PROBLEM, [("paris", "lyon")]) == [None]


async def test_a_judge_is_repaired_once_and_the_budget_stops() -> None:
    model = ScriptedJudge("no json", '{"same": "4"}')
    assert await by_judge(model)(PROBLEM, [("paris", "lyon")]) == [0.4]
    assert "it holds no JSON object" in model.asked[1][0][-1]["content"]
    with pytest.raises(BudgetExhausted):
        await by_judge(ScriptedJudge(BudgetExhausted("over")))(PROBLEM, [("paris", "lyon")])


# -- rewards ----------------------------------------------------------------------------------------------------------


async def values(given: Reward, *texts: str, problem: Problem = PROBLEM) -> list[float | None]:
    answers = [Completion(prompt=(), messages=(), text=text, policy="p") for text in texts]
    return [o.value if isinstance(o, Score) else None for o in await score_answers(given, problem, answers)]


async def test_similar_takes_the_best_reference() -> None:
    assert await values(similar(), "Paris", "paris france", "in lyon", "") == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert await values(similar(similarity="bleu1"), "paris is france") == pytest.approx([2 / 3])
    (failed,) = await score_answers(
        similar(), Problem(id="q", messages=()), [Completion(prompt=(), messages=(), text="x", policy="p")]
    )
    assert isinstance(failed, RewardError)
    judged = similar(similarity=by_judge(ScriptedJudge("no", "no")))
    assert await values(judged, "lyon", problem=Problem(id="q", messages=(), answer="paris")) == [None]


def test_bmas_golden() -> None:
    assert bmas_of([[1, 0.2], [0.3, 0.6], [0.1, 0.9]]) == pytest.approx(0.8916667)
    assert bmas_of([]) == bmas_of([[]]) == 0.0


async def test_bmas_of_texts() -> None:
    reward = bmas(embedder="hashing")
    equal, turned, other, empty = await values(reward, "Paris France", "france paris", "a boat", "")
    assert equal == turned == 1.0 and empty == 0.0
    assert other is not None and 0.0 <= other < 0.5
    with pytest.raises(InputError, match="solved_at"):
        bmas(solved_at=2)
