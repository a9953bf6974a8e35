"""Arms set side by side: every line of the recommendation's rule, and how the budget is divided, on numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.escalation.arms import ORDER, Arm, paired, recommend
from hybrid.escalation.purse import Clock, Outlay, Purse, less, part, times_in
from hybrid.escalation.shares import (
    FIRST_SHARE,
    MARGIN,
    MEASURE,
    START_S,
    WITHOUT_TRAINING,
    Scale,
    first_calls,
    for_prompts,
    held_out_size,
    share_of,
)
from tfgrpo.budget import Budget
from tfgrpo.evaluation import Evaluation
from tfgrpo.record import RunRecord
from tfgrpo.types import Usage

N = 40


def arm(name: str, share: float, *, seed: int = 0, local: bool = True, usd: float | None = 0.0, pace_s: float = 0.05,
        count: int = N) -> Arm:  # fmt: skip
    """An arm that is right in `share` of its samples; equal seeds make equal noise."""
    drawn = np.random.default_rng(seed).random((N, 4))
    scores = (drawn < share).astype(float)[:count]
    done = Evaluation(
        problems=tuple(f"p{n}" for n in range(count)),
        scores=scores,
        success=scores,
        usage=Usage(prompt_tokens=100 * scores.size, completion_tokens=10 * scores.size),
        cost_usd=None if usd is None else usd * scores.size,
    )
    return Arm(name=name, model=f"m/{name}", done=done, seconds=pace_s * scores.size, local=local)


BASE = arm("base", 0.2)
ROWS: list[tuple[str, list[Arm], float | None, str, str]] = [
    ("nothing else", [], 1.0, "base", "nothing that it could be compared with"),
    ("no difference", [arm("library", 0.2, seed=1)], 1.0, "base", "nothing is shown to be better"),
    ("a library that helps", [arm("library", 0.5)], 1.0, "library", "over the model as it is"),
    ("training helps more", [arm("library", 0.4), arm("trained", 0.8)], 1.0, "trained", "over the model as it is"),
    ("both, and together best", [arm("library", 0.4), arm("trained", 0.6), arm("trained_library", 0.9)], 1.0,
     "trained_library", "over the model as it is"),
    ("both as good: the one that changes least", [arm("library", 0.6), arm("trained", 0.61, seed=2)], 1.0, "library",
     "the cheaper one is taken"),
    ("both as good: the cheaper", [arm("library", 0.6, pace_s=0.2), arm("trained", 0.61, seed=2)], 1.0, "trained",
     "over the model as it is"),
    ("both as good: prices unknown", [arm("library", 0.6, pace_s=0.2), arm("trained", 0.61, seed=2)], None, "library",
     "the cheaper one is taken"),
    ("training did harm", [arm("trained", 0.02)], 1.0, "base", "nothing is shown to be better"),
    ("cheaper and equal", [arm("trained", 0.21, pace_s=0.01)], 1.0, "trained", "cheaper and about as good"),
    ("cheaper, and nobody knows", [arm("trained", 0.2, seed=3, pace_s=0.01)], 1.0, "base", "nothing is shown"),
    ("cheaper and worse", [arm("trained", 0.02, pace_s=0.01)], 1.0, "base", "nothing is shown to be better"),
    ("cheaper by a few per cent is not cheaper", [arm("trained", 0.21, pace_s=0.048)], 1.0, "base", "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("others", "price", "name", "why"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_recommendation(others: list[Arm], price: float | None, name: str, why: str) -> None:
    found = recommend([BASE, *others], gpu_usd_per_hour=price)
    assert found.name == name, found.why
    assert why in found.why


def test_a_provider_and_a_machine_are_compared_by_dollars_of_an_answer() -> None:
    asked = arm("base", 0.5, local=False, usd=0.001)
    own = arm("trained", 0.51, pace_s=0.05)
    assert asked.call_usd(None) == pytest.approx(0.001) and own.call_usd(None) is None
    assert own.call_usd(3.6) == pytest.approx(0.05 * 3.6 / 3600)
    assert recommend([asked, own], gpu_usd_per_hour=3.6).name == "trained"
    assert recommend([asked, own], gpu_usd_per_hour=360.0).name == "base"
    assert recommend([asked, own]).name == "base"
    assert arm("base", 0.5, local=False, usd=None).call_usd(1.0) is None


def test_several_comparisons_need_more_certainty() -> None:
    """One arm with p of about 0.03 is enough alone, and is not beside two others."""
    scores = np.zeros((N, 4))
    better = scores.copy()
    better[:6, 0] = 1.0
    names = BASE.done.problems
    base = Arm(name="base", model="m", seconds=1.0, local=True,
               done=Evaluation(problems=names, scores=scores, success=scores))  # fmt: skip
    library = Arm(name="library", model="m", seconds=1.0, local=True,
                  done=Evaluation(problems=names, scores=better, success=better))  # fmt: skip
    found = paired(base, library)
    assert 0.025 < found.p_value < 0.05 and found.gain.low > 0
    assert recommend([base, library]).name == "library"
    rest = [Arm(name=n, model="m", seconds=1.0, local=True, done=base.done) for n in ("trained", "trained_library")]
    assert recommend([base, library, *rest]).name == "base"


def test_arms_of_different_length_meet_where_both_were_measured() -> None:
    short = arm("trained", 0.8, count=12)
    found = paired(BASE, short)
    assert found.gain.n == 12
    assert found.before == pytest.approx(BASE.done.scores[:12].mean())


def test_arms_go_into_the_record_and_back() -> None:
    a = arm("library", 0.5)
    a.done.scores[3, 1] = math.nan
    again = Arm.from_json(json.loads(json.dumps(a.as_json())))
    np.testing.assert_array_equal(again.done.scores, a.done.scores)
    np.testing.assert_array_equal(again.done.success, a.done.success)
    assert again.done.problems == a.done.problems and again.done.usage == a.done.usage
    assert (again.name, again.seconds, again.local, again.done.cost_usd) == ("library", a.seconds, True, 0.0)
    assert again.pace_s == pytest.approx(0.05) and again.prompt_tokens == 100


# -- the purse ---------------------------------------------------------------------------------------------------------


def test_money_that_is_spent_is_gone_whoever_spent_it(tmp_path: Any) -> None:
    with RunRecord.open(tmp_path) as record:
        clock = Clock(record)
        total = Budget(usd=10.0, calls=100, tokens=10_000, seconds=1000.0)
        purse = Purse(total=total, gpu_usd_per_hour=3600.0, record=record, clock=clock, free=frozenset({"weights"}))
        purse.pay("prompts", {"solve": {"usd": 1.0, "calls": 20, "solver_calls": 20, "prompt_tokens": 100},
                              "critic": {"usd": 2.0, "calls": 5, "completion_tokens": 50}})  # fmt: skip
        left = purse.left()
        assert left.usd == pytest.approx(7.0) and (left.calls, left.tokens) == (80, 9850)
        purse.pay("prompts", {"solve": {"usd": 1.0}})  # the same label again replaces
        assert purse.left().usd == pytest.approx(9.0)
        record.put_state("clock", {"pilot": 2.0, "other": 1.0})
        again = Purse(total=total, gpu_usd_per_hour=3600.0, record=record, clock=Clock(record))
        again.on_machine("pilot")
        again.on_machine("pilot")
        assert again.machine_s == pytest.approx(2.0, abs=0.1) and again.machine_usd == pytest.approx(2.0, abs=0.1)
        assert again.left().usd == pytest.approx(7.0, abs=0.1)
        assert again.left().seconds == pytest.approx(997.0, abs=0.5)
        assert again.machine_seconds(Budget(usd=5.0, seconds=60.0)) == 5.0
        assert again.limits(machine=True).seconds == pytest.approx(7.0, abs=0.1)  # what the dollars pay for
        assert Purse(total=total, gpu_usd_per_hour=None, record=record, clock=clock).machine_seconds(
            Budget(usd=5.0)) is None  # fmt: skip


def test_the_clock_goes_on_where_it_was(tmp_path: Any) -> None:
    with RunRecord.open(tmp_path) as record:
        record.put_state("clock", {"baseline": 5.0})
        clock = Clock(record)
        clock.enter("prompts")
        assert clock.seconds("baseline") == 5.0 and 0 <= clock.seconds("prompts") < 1
        assert set(record.get_state("clock")) == {"baseline", "other", "prompts"}


amounts = st.floats(0.0, 1e4)
budgets = st.builds(
    Budget,
    usd=st.none() | amounts,
    seconds=st.none() | amounts,
    calls=st.none() | st.integers(0, 10**5),
    tokens=st.none() | st.integers(0, 10**7),
)
outlays = st.builds(Outlay, usd=amounts, seconds=amounts, calls=amounts, tokens=amounts)


@given(budgets, outlays)
def test_what_is_taken_never_leaves_less_than_nothing(budget: Budget, outlay: Outlay) -> None:
    after = less(budget, outlay)
    for name in ("usd", "seconds", "calls", "tokens"):
        before, now = getattr(budget, name), getattr(after, name)
        assert (now is None) == (before is None)
        assert now is None or 0 <= now <= before
    fits = times_in(budget, outlay)
    assert fits == math.inf or all(
        v is None or fits * getattr(outlay, k) <= v * (1 + 1e-9) + 1e-9
        for k, v in (("usd", budget.usd), ("seconds", budget.seconds), ("calls", budget.calls))
    )
    assert part(budget, 1.0) == budget


SCALE = Scale(samples=2, calls=1, local=False, gpu_usd_per_hour=3.6, base=Outlay(usd=0.01, seconds=0.5, tokens=100,
              calls=1), trained_s=0.1)  # fmt: skip


def test_the_last_measurement_is_kept_aside_first() -> None:
    each = SCALE.problem(prompt_arms=2, trained_arms=2)
    assert each.usd == pytest.approx(2 * 2 * 0.01 + 2 * 2 * 0.1 * 3.6 / 3600)
    assert each.seconds == pytest.approx(2 * 2 * 0.5 + 2 * 2 * 0.1) and each.calls == 4
    aside = SCALE.kept_aside(10, prompt_arms=1, trained_arms=2)
    assert aside.seconds == pytest.approx(10 * MARGIN * (2 * 0.5 + 4 * 0.1) + 2 * START_S)
    size = {"trained_arms": 2, "there": 1000, "least": 3}
    assert held_out_size(Budget(usd=10.0), SCALE, **size) == int(MEASURE * 10.0 / each.usd)
    assert held_out_size(Budget(calls=400), SCALE, **size) == first_calls(Budget(calls=400)) // 4 == 30
    assert held_out_size(Budget(), SCALE, **size) == 1000
    assert held_out_size(Budget(usd=0.01), SCALE, **size) == 3
    local = Scale(samples=2, calls=1, local=True, gpu_usd_per_hour=3.6, base=Outlay(seconds=0.5), trained_s=0.5)
    assert local.problem(prompt_arms=1, trained_arms=0).usd == pytest.approx(2 * 0.5 * 3.6 / 3600)


def test_prompts_get_their_share() -> None:
    left = Budget(usd=10.0, seconds=100.0, calls=1000)
    priced = share_of(left, FIRST_SHARE, priced=True)
    assert (priced.usd, priced.seconds, priced.calls) == (3.5, 35.0, 700)
    assert share_of(left, FIRST_SHARE, priced=False).usd == 7.0
    assert share_of(left, WITHOUT_TRAINING, priced=True) == left
    plan = for_prompts(left, SCALE, priced)
    assert plan.usd == priced.usd and plan.calls == int(0.85 * 35 / 0.5) and plan.seconds == 70.0
    local = Scale(samples=2, calls=1, local=True, gpu_usd_per_hour=3.6, base=Outlay(seconds=0.01), trained_s=0.01)
    by_money = for_prompts(Budget(usd=1.0), local, Budget(usd=0.01))  # 0.01 $ are 10 s, 850 answers
    assert (by_money.usd, by_money.calls, by_money.seconds) == (None, 850, None)
    assert for_prompts(Budget(), local, Budget()) == Budget(calls=600)
    assert for_prompts(Budget(usd=1.0), SCALE, Budget(usd=0.4)) == Budget(usd=0.4)


def test_every_arm_has_its_place_in_the_order() -> None:
    assert ORDER[0] == "base" and len(set(ORDER)) == 5
