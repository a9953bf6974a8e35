"""Length and diversity: golden rows, units that are never guessed, and group terms that differ within the group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Outcome, Reward, reward, score_answers, weighted
from tfgrpo.rewards.diversity import distinct_n, diversity, lexical_diversity, multi_role, novel_n, self_bleu
from tfgrpo.rewards.length import (
    band,
    band_share,
    cosine_length,
    cosine_share,
    length_of,
    overlong_penalty,
    pixelthink,
    pixelthink_share,
    soft_overlong,
    trapezoid,
    trapezoid_share,
    triangular,
    triangular_share,
)
from tfgrpo.types import Completion, Problem, Score, Usage

PROBLEM = Problem(id="p", messages=(), meta={"token_budget": 87, "difficulty": 2})


def answer(text: str = "x", *, tokens: int = 0) -> Completion:
    return Completion(prompt=(), messages=(), text=text, policy="p", usage=Usage(completion_tokens=tokens))


async def scored(given: Reward, *completions: Completion, problem: Problem = PROBLEM) -> tuple[Outcome, ...]:
    return await score_answers(given, problem, completions)


async def values(given: Reward, *completions: Completion, problem: Problem = PROBLEM) -> list[float | None]:
    return [o.value if isinstance(o, Score) else None for o in await scored(given, *completions, problem=problem)]


@reward
def right(problem: Problem, completion: Completion) -> float | None:
    return {"yes": 1.0, "no": 0.0}.get(completion.text.split()[0])


# -- golden -----------------------------------------------------------------------------------------------------------


def test_triangular_and_band() -> None:
    lengths = (0, 64, 128, 192, 256, 300)
    assert [triangular_share(n, 128) for n in lengths] == [0, 0.5, 1, 0.5, 0, 0]
    assert [band_share(n, 128) for n in lengths] == [1, 1, 1, 0.5, 0, 0]
    assert [triangular_share(n, 87) for n in (40, 87, 120, 200)] == pytest.approx([0.4598, 1, 0.6207, 0], abs=5e-5)
    assert 0.6 + 0.3 * triangular_share(120, 87) + 0.1 == pytest.approx(0.8862, abs=5e-5)
    assert 0.3 + 0.6 * triangular_share(64, 128) + 0.1 == pytest.approx(0.7)


def test_trapezoid() -> None:
    assert [trapezoid_share(n, (100, 200, 400, 800)) for n in (100, 150, 300, 600, 900)] == [0, 0.5, 1, 0.5, 0]
    assert [trapezoid_share(n, (0, 0, 10, 10)) for n in (0, 10, 11)] == [1, 1, 0]


def test_cosine_is_clamped() -> None:
    rows = [cosine_share(n, 3584, right=ok) for n, ok in ((500, True), (3000, True), (500, False), (3000, False))]
    assert rows == pytest.approx([0.9764, 0.532, -0.9764, -0.532], abs=5e-5)
    assert cosine_share(2 * 3584, 3584, right=True) == 0.5 and cosine_share(2 * 3584, 3584, right=False) == -0.5


def test_overlong_and_pixelthink() -> None:
    assert [overlong_penalty(n, 20480, 4096) for n in (16000, 17408, 20480, 21000)] == [0, -0.25, -1, -1]
    rows = ((300, 6, 0.4), (300, 4, 0.4), (300, 2, 0.4), (80, 2, 0.1), (700, 2, 0.1))
    assert [pixelthink_share(*row) for row in rows] == pytest.approx([0.932, 1, 0.592, 1, 0])


@given(st.integers(0, 10_000), st.integers(1, 5_000))
def test_bounds(length: int, budget: int) -> None:
    assert 0 <= triangular_share(length, budget) <= band_share(length, budget) <= 1
    assert (
        -1 <= cosine_share(length, budget, right=False) <= -0.5 < 0.5 <= cosine_share(length, budget, right=True) <= 1
    )
    assert -1 <= overlong_penalty(length, budget, budget) <= 0
    assert 0 <= pixelthink_share(length, 6, 0.5) <= 1


# -- rewards on length ------------------------------------------------------------------------------------------------


async def test_lengths_are_tokens_unless_told() -> None:
    counted = answer("one two three", tokens=120)
    assert [length_of(counted), length_of(counted, "words"), length_of(counted, "characters")] == [120, 3, 13]
    assert length_of(answer("")) == 0
    assert await values(triangular(budget=87), counted) == pytest.approx([0.6207], abs=5e-5)
    assert await values(band(budget=3, unit="words"), counted) == [1.0]
    (unknown,) = await scored(triangular(budget=87), answer("text"))
    assert isinstance(unknown, RewardError) and "no token counts" in str(unknown)


async def test_budgets_of_problems() -> None:
    assert await values(band(), answer(tokens=87), answer(tokens=174)) == [1.0, 0.0]
    (outcome,) = await scored(band(), answer(tokens=100))
    assert isinstance(outcome, Score) and outcome.feedback == "100 tokens, the budget is 87." and outcome.success
    (lacking,) = await scored(triangular(), answer(tokens=1), problem=Problem(id="q", messages=()))
    assert isinstance(lacking, RewardError) and "token_budget" in str(lacking)


async def test_right_and_wrong_answers_by_cosine() -> None:
    rewards = cosine_length(right, longest=100)
    long, short = answer("yes", tokens=100), answer("no", tokens=0)
    assert await values(rewards, long, answer("no", tokens=100), answer("maybe", tokens=1)) == [0.5, -0.5, None]
    (unknown,) = await scored(rewards, short)
    assert isinstance(unknown, RewardError)
    assert [o.success for o in await scored(rewards, long, answer("no", tokens=9)) if isinstance(o, Score)] == [
        True,
        False,
    ]


async def test_pixelthink_multiplies() -> None:
    told, text = pixelthink(right), "yes " + "word " * 299
    assert await values(told, answer(text), answer("no")) == pytest.approx([0.592, 0.0])
    assert await values(told, answer(text), problem=Problem(id="q", messages=())) == [1.0]
    hard = Problem(id="q", messages=(), meta={"difficulty": 6})
    assert await values(pixelthink(right, uncertainty=lambda c: 0.4), answer(text), problem=hard) == pytest.approx(
        [0.932]
    )


async def test_shapes_do_not_stand_in_the_way_of_solved() -> None:
    both = weighted({"right": (right, 1.0), "long": (soft_overlong(longest=100, cache=50), 1.0)})
    (late,) = await scored(both, answer("yes", tokens=75))
    assert isinstance(late, Score) and late.value == pytest.approx(0.25) and late.success


@pytest.mark.parametrize(
    "make",
    [
        lambda: triangular(budget=0),
        lambda: band(unit="lines"),  # type: ignore[arg-type]
        lambda: trapezoid(knots=(3, 2, 1, 0)),
        lambda: trapezoid(knots=(1, 2)),
        lambda: soft_overlong(longest=10, cache=20),
        lambda: cosine_length(right, longest=0),
        lambda: diversity(metric="other"),  # type: ignore[arg-type]
        lambda: multi_role(right, delta=1),
    ],
)
def test_what_is_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


# -- diversity --------------------------------------------------------------------------------------------------------


def test_distinct_and_novel_n() -> None:
    assert distinct_n(["a b c", "a b d"]) == 0.75 and distinct_n([]) == distinct_n(["a"]) == 0.0
    assert novel_n(["a b c", "a b d", "x y"]) == [0.5, 0.5, 1.0]
    assert novel_n(["a b a b", "c d"]) == [1.0, 1.0] and novel_n(["a b"]) == [None] and novel_n(["a", ""]) == [0.0, 0.0]


def test_self_bleu() -> None:
    assert self_bleu(["a b c", "a b c", "x y z"]) == [1.0, 1.0, 0.0]
    assert self_bleu(["a b c"]) == [None] and self_bleu([]) == []
    assert self_bleu(["a b", "a b c d"], order=2) == pytest.approx([0.36787944, (2 / 4 * 1 / 3) ** 0.5])
    assert self_bleu(["a", "a"]) == [1.0, 1.0] and self_bleu(["", "a"]) == [0.0, 0.0]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), min_size=2, max_size=5))
def test_diversity_bounds(texts: list[str]) -> None:
    for found in (self_bleu(texts), novel_n(texts)):
        assert all(v is not None and 0 <= v <= 1 + 1e-12 for v in found)
    assert all(0 <= lexical_diversity(text) <= 1 + 1e-12 for text in texts)


async def test_diversity_differs_within_the_group() -> None:
    group = [answer(t) for t in ("a b c d", "a b c d", "w x y z", "")]
    assert await values(diversity(), *group) == pytest.approx([0.0, 0.0, 1.0, 0.0])
    assert await values(diversity(metric="novel"), *group) == [0.0, 0.0, 1.0, 0.0]
    assert await values(diversity(), group[0]) == [None]
    lexical = await values(diversity(metric="lexical"), answer("a b c d"), answer("a a a a"), answer(""))
    assert lexical[0] == 1.0 and lexical[1] is not None and lexical[1] < 0.3 and lexical[2] == 0.0


async def test_multi_role_golden_and_its_guard() -> None:
    @reward
    def div(problem: Problem, completion: Completion) -> float:
        return float(completion.text.split()[1])

    mixed = [answer(t) for t in ("yes .6", "no .7", "yes .5", "no .6")]
    assert await values(multi_role(right, diverse=div), *mixed) == pytest.approx([0.96, 0.07, 0.95, 0.06])
    every = [answer(t) for t in ("yes .6", "yes .7", "yes .5", "yes .6")]
    assert await values(multi_role(right, diverse=div), *every) == [1.0] * 4
    plain = weighted({"right": (right, 0.9), "diverse": (div, 0.1)})
    assert await values(plain, *every) == pytest.approx([0.96, 0.97, 0.95, 0.96])
