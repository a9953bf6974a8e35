"""Tournaments: golden ranks, byes, ties, costs, both orders, and judges that fail."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judges import ScriptedJudge
from tfgrpo.errors import BudgetExhausted, InputError, TransportError
from tfgrpo.rewards.base import reward, score_answers
from tfgrpo.rewards.tournament import Match, Topology, bracket, comparisons, tournament, tournament_values, transcript
from tfgrpo.types import Completion, Message, Problem, Score

PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Write a greeting."},))


class Referee:
    """Compares by strength; keeps what it was asked; fails for the pairs in `broken`."""

    def __init__(self, strengths: Sequence[float], broken: Sequence[tuple[int, int]] = ()) -> None:
        self.strengths = strengths
        self.broken = {frozenset(pair) for pair in broken}
        self.asked: list[tuple[int, int]] = []

    async def __call__(self, i: int, j: int) -> Match | None:
        await asyncio.sleep(0)
        self.asked.append((i, j))
        return None if {i, j} in self.broken else (20 * self.strengths[i], 20 * self.strengths[j])

    def values(self, topology: Topology = "auto", margin: float = 0.0) -> list[float | None]:
        return asyncio.run(tournament_values(len(self.strengths), self, topology=topology, margin=margin))


def test_golden_ranks() -> None:
    assert Referee([0.9, 0.2, 0.6, 0.4]).values("seeded") == pytest.approx([1, 0, 2 / 3, 1 / 3])
    assert Referee([0.9, 0.2, 0.6, 0.4]).values() == pytest.approx([1, 0, 2 / 3, 1 / 3])
    eight = [0.5, 0.8, 0.1, 0.4, 0.7, 0.2, 0.6, 0.3]
    found = Referee(eight).values()
    assert (
        found[1] == 1.0
        and found[4] == pytest.approx(0.857, abs=1e-3)
        and sorted(v or 0 for v in found) == (pytest.approx([k / 7 for k in range(8)]))
    )


def test_brackets() -> None:
    assert bracket(1) == [0] and bracket(4) == [0, 3, 1, 2] and bracket(8) == [0, 7, 3, 4, 1, 6, 2, 5]


def test_byes_go_to_the_best_seeds() -> None:
    """Of five, seeds 1 to 3 rest in the first round and 4 meets 5; the released code lets seed 3 rest alone."""
    referee = Referee([0.9, 0.8, 0.7, 0.6, 0.5])
    assert referee.values() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert referee.asked[:4] == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert referee.asked[4:] == [(3, 4), (1, 2)]  # all others of the bracket were played for the seeds


@pytest.mark.parametrize(
    ("n", "topology", "matches"),
    [
        (0, "auto", 0),
        (1, "auto", 0),
        (2, "auto", 1),
        (4, "auto", 6),
        (5, "auto", 8),
        (16, "seeded", 30),
        (16, "round_robin", 120),
        (16, "anchor", 15),
    ],
)
def test_costs(n: int, topology: Topology, matches: int) -> None:
    assert comparisons(n, topology) == matches
    referee = Referee([k / 20 for k in range(n)])
    referee.values(topology)
    assert len(referee.asked) <= matches and len({frozenset(pair) for pair in referee.asked}) == len(referee.asked)


@pytest.mark.parametrize("topology", ["auto", "round_robin", "seeded", "anchor"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 16])
def test_all_ties_are_one_half(n: int, topology: Topology) -> None:
    assert Referee([0.5] * n).values(topology) == [0.5] * n


def test_near_ties_share_their_rank() -> None:
    close = [0.9, 0.89, 0.5, 0.2, 0.1]
    assert Referee(close).values("seeded", margin=0.5) == pytest.approx([0.875, 0.875, 0.5, 0.25, 0.0])
    assert Referee(close).values("round_robin", margin=0.5) == pytest.approx([0.875, 0.875, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("topology", ["auto", "round_robin", "seeded", "anchor"])
def test_one_or_none(topology: Topology) -> None:
    assert Referee([]).values(topology) == [] and Referee([1.0]).values(topology) == [None]


# -- failures ---------------------------------------------------------------------------------------------------------


def test_an_undecided_match_of_a_round_robin_leaves_both_open() -> None:
    assert Referee([0.9, 0.6, 0.3], broken=[(0, 2)]).values() == [None, 0.5, None]


def test_an_answer_that_could_not_be_seeded_is_left_out() -> None:
    referee = Referee([0.9, 0.8, 0.7, 0.6, 0.5], broken=[(0, 2)])
    assert referee.values() == pytest.approx([1, 2 / 3, None, 1 / 3, 0])


def test_an_undecided_match_of_the_bracket_takes_both_out_and_others_go_on() -> None:
    referee = Referee([0.9, 0.8, 0.7, 0.6, 0.5], broken=[(1, 2)])
    assert referee.values() == pytest.approx([1, None, None, 0.5, 0])


@pytest.mark.parametrize("topology", ["seeded", "anchor", "round_robin"])
def test_nothing_decided_is_nothing_told(topology: Topology) -> None:
    every = [(i, j) for i in range(6) for j in range(i)]
    assert Referee([0.1 * k for k in range(6)], broken=every).values(topology) == [None] * 6


@given(st.integers(2, 20), st.integers(0, 10_000), st.sampled_from(["seeded", "round_robin", "anchor"]))
def test_a_sure_judge_finds_the_best_and_failures_never_make_numbers_wrong(n: int, seed: int, kind: Topology) -> None:
    draw = random.Random(seed)
    strengths = draw.sample(range(100), n)
    found = Referee(strengths).values(kind)
    assert found[strengths.index(max(strengths))] == 1.0 and None not in found
    assert sum(v or 0 for v in found) == pytest.approx(n / 2)
    broken = [(i, j) for i in range(n) for j in range(i) if draw.random() < 0.2]
    partly = [
        (s, v) for s, v in zip(strengths, Referee(strengths, broken=broken).values(kind), strict=True) if v is not None
    ]
    assert all(0 <= v <= 1 for _, v in partly)
    if kind != "seeded" or not broken:
        assert [v for _, v in sorted(partly)] == sorted(v for _, v in partly)
    elif partly:
        assert max(partly)[1] == max(v for _, v in partly) == 1.0


# -- the reward -------------------------------------------------------------------------------------------------------


def answer(text: str) -> Completion:
    return Completion(prompt=(), messages=({"role": "assistant", "content": text},), text=text, policy="p")


def shown(messages: Sequence[Message], name: str) -> str:
    found = re.search(rf"<{name}-\w+>\n(.*?)\n</{name}-\w+>", str(messages[1]["content"]), re.DOTALL)
    assert found
    return found[1]


def by_number(messages: Sequence[Message], *, liking_first: float = 0.0) -> str:
    first, second = (float(shown(messages, name)) for name in ("first", "second"))
    return json.dumps({"reason": f"{first} against {second}", "first": first + liking_first, "second": second})


async def test_a_judge_that_likes_the_first_answer_is_balanced_by_the_other_order() -> None:
    model = ScriptedJudge(answer=lambda messages: by_number(messages, liking_first=3))
    outcomes = await score_answers(tournament(model), PROBLEM, [answer(t) for t in ("2", "5", "3")])
    assert [o.value for o in outcomes if isinstance(o, Score)] == [0.0, 1.0, 0.5]
    assert len(model.asked) == 6 and all("against" in o.feedback for o in outcomes if isinstance(o, Score))
    assert {key.purpose for _, key, _ in model.asked} == {"judge"}


async def test_one_order_that_fails_leaves_the_match_open() -> None:
    def once(messages: Sequence[Message]) -> str | Exception:
        first, second = shown(messages, "first"), shown(messages, "second")
        return TransportError("gone") if (first, second) == ("2", "5") else by_number(messages)

    outcomes = await score_answers(
        tournament(ScriptedJudge(answer=once)), PROBLEM, [answer(t) for t in ("2", "5", "3")]
    )
    assert outcomes[:2] == (None, None) and isinstance(outcomes[2], Score) and outcomes[2].value == 0.5


async def test_unreadable_verdicts_are_missing_and_the_budget_stops() -> None:
    pair = [answer("2"), answer("5")]
    assert await score_answers(tournament(ScriptedJudge("draw", '{"first": 11, "second": 0}')), PROBLEM, pair) == (
        None,
        None,
    )
    with pytest.raises(BudgetExhausted):
        await score_answers(tournament(ScriptedJudge(BudgetExhausted("over"))), PROBLEM, pair)


async def test_a_single_answer_is_scored_alone() -> None:
    @reward
    def half(problem: Problem, completion: Completion) -> float:
        return 0.5

    model = ScriptedJudge("never asked")
    assert await score_answers(tournament(model), PROBLEM, [answer("2")]) == (None,)
    (alone,) = await score_answers(tournament(model, alone=half), PROBLEM, [answer("2")])
    assert isinstance(alone, Score) and alone.value == 0.5 and not model.asked


def test_the_judge_sees_what_an_agent_did() -> None:
    call = {"id": "1", "function": {"name": "add", "arguments": "{}"}}
    messages: tuple[Message, ...] = (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    )
    told = transcript(Completion(prompt=(), messages=messages, text="It is 5.", policy="p"))
    assert '"name": "add"' in told and "tool: 5" in told and told.endswith("assistant: It is 5.")
    assert transcript(answer("plain")) == "plain"


@pytest.mark.parametrize("options", [{"topology": "swiss"}, {"margin": -1}, {"top": 0}])
def test_what_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        tournament(ScriptedJudge(""), **options)  # type: ignore[arg-type]
