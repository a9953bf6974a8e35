"""The decision on numbers: one row per sign and per combination, and what must hold whatever the numbers are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybrid
from hybrid import Decision, Evidence, Pilot, Prices
from hybrid.escalation.decision import CHEAPER, ENDED, FORCED, NEITHER, RISING, SHOWN, UNDECIDED, UNKNOWN, UNPAID
from hybrid.escalation.evidence import all_wrong, not_transferred, plateau, rising
from hybrid.escalation.forecast import (
    REACH,
    Span,
    believed,
    difference,
    going_on,
    halves,
    pilot_gain,
    pooled,
    quantile,
    rise,
    slope,
    total,
    training_gain,
)
from hybrid.report import TrainReport
from tfgrpo.budget import Budget
from tfgrpo.report import Measured, Report


def span(mean: float, half: float = 0.0) -> Span:
    return Span(mean=mean, low=mean - half, high=mean + half)


FLAT = tuple((4.0, 0.30 + 0.01 * (n % 2)) for n in range(12))
STEEP = tuple((4.0, 0.10 + 0.04 * n) for n in range(12))
SHORT = FLAT[:3]
NO_TREND = (0.14,) * 8
TREND = (0.14, 0.16, 0.15, 0.18, 0.19, 0.20, 0.22, 0.23)
GOOD = Pilot(steps=8, rewards=TREND, step_s=20, base=span(0.14, 0.04), gain=span(0.10, 0.06), test_s=10, answer_s=0.05)
WEAK = dataclasses.replace(GOOD, rewards=(0.14, 0.20, 0.10, 0.22, 0.12, 0.16, 0.20, 0.20), gain=span(0.06, 0.09))
NONE = dataclasses.replace(GOOD, rewards=NO_TREND, gain=span(0.0, 0.06))
LOSS = dataclasses.replace(GOOD, rewards=tuple(reversed(TREND)), gain=span(-0.08, 0.05))
TINY = dataclasses.replace(GOOD, steps=2, rewards=TREND[:2], gain=None)
USUAL = Evidence(
    now=span(0.33, 0.06), gain=span(0.19, 0.07), served=1, curve=FLAT, group_usd=0.01, group_s=1.0, group_calls=3.0,
    prompt_tokens=300.0, completion_tokens=50.0, added_tokens=200.0, pilot=GOOD,
)  # fmt: skip
PLENTY = Budget(seconds=3000.0)
PRICES = Prices(prompt_usd_per_mtok=1.0, completion_usd_per_mtok=4.0, gpu_usd_per_hour=1.8, traffic_calls=1000.0)
BUSY = dataclasses.replace(PRICES, traffic_calls=1e7, horizon_days=30.0)
STUCK = {"told": 40, "told_wrong": 30}
HINTS = {"hinted": 40, "hinted_right": 30, "again": 40, "again_right": 4}
DEAR = dataclasses.replace(USUAL, gain=span(0.30, 0.05), now=span(0.44, 0.05), pilot=GOOD)

ROWS: list[tuple[str, dict[str, Any], Budget, Prices, str, str]] = [
    # what is special, changes of USUAL, budget, prices, action, why
    ("a pilot that shows it", {}, PLENTY, PRICES, "train", SHOWN),
    ("no pilot, flat", {"pilot": None}, PLENTY, PRICES, "stop", UNKNOWN),
    ("no pilot, rising", {"pilot": None, "curve": STEEP}, PLENTY, PRICES, "continue", RISING),
    ("no pilot, all wrong", {"pilot": None, "counts": STUCK}, PLENTY, PRICES, "stop", UNKNOWN),
    ("a pilot without trend or measurement", {"pilot": TINY}, PLENTY, PRICES, "stop", UNKNOWN),
    ("a pilot that gained nothing", {"pilot": NONE}, PLENTY, PRICES, "stop", NEITHER),
    ("a pilot that lost", {"pilot": LOSS, "counts": STUCK}, PLENTY, BUSY, "stop", NEITHER),
    ("a weak pilot, prompts rising", {"pilot": WEAK, "curve": STEEP, "gain": None, "now": span(0.14, 0.05)},
     Budget(seconds=150.0), PRICES, "continue", RISING),
    ("a weak pilot, too few steps to see a plateau", {"pilot": WEAK, "curve": SHORT}, PLENTY, PRICES, "stop", NEITHER),
    ("a weak pilot, the curve is flat", {"pilot": WEAK}, PLENTY, PRICES, "train", ENDED),
    ("a weak pilot, learning ended by itself",
     {"pilot": WEAK, "curve": SHORT, "stopped": "two epochs taught nothing new"}, PLENTY, PRICES, "train", ENDED),
    ("a weak pilot, all-wrong groups", {"pilot": WEAK, "curve": SHORT, "counts": STUCK}, PLENTY, PRICES,
     "train", ENDED),
    ("a weak pilot, hints do not transfer", {"pilot": WEAK, "curve": SHORT, "counts": HINTS}, PLENTY, PRICES,
     "train", ENDED),
    ("all-wrong groups, but prompts rise and promise more", {"pilot": WEAK, "curve": STEEP, "counts": STUCK},
     Budget(seconds=300.0), PRICES, "continue", RISING),
    ("shown, but prompts promise more", {"curve": STEEP, "gain": None, "now": span(0.14, 0.05)},
     Budget(seconds=70.0), PRICES, "continue", RISING),
    ("no time for a step", {}, Budget(seconds=25.0), PRICES, "stop", UNPAID),
    ("no money for a step", {}, Budget(usd=0.01), PRICES, "stop", UNPAID),
    ("no money for a step, rising", {"curve": STEEP}, Budget(usd=0.012), PRICES, "stop", UNPAID),
    ("money, time unlimited", {}, Budget(usd=2.0), PRICES, "train", SHOWN),
    ("dollars but no price of the GPU", {}, Budget(usd=0.01), Prices(), "train", SHOWN),
    ("no limit at all", {}, Budget(), Prices(), "train", SHOWN),
    ("prompts far ahead", {"gain": span(0.7, 0.05), "now": span(0.84, 0.05)}, PLENTY, PRICES, "stop", NEITHER),
    ("prompts ahead, little traffic", {"gain": span(0.15, 0.02), "now": span(0.29, 0.05), "curve": SHORT,
     "pilot": dataclasses.replace(GOOD, step_s=300.0)}, Budget(seconds=2500.0), PRICES, "stop", NEITHER),
    ("as good, much traffic", {"gain": span(0.15, 0.02), "now": span(0.29, 0.05), "curve": SHORT,
     "pilot": dataclasses.replace(GOOD, step_s=300.0)}, Budget(seconds=2500.0), BUSY, "train", CHEAPER),
    ("as good, much traffic, price of the GPU unknown", {"gain": span(0.15, 0.02), "now": span(0.29, 0.05),
     "curve": SHORT, "pilot": dataclasses.replace(GOOD, step_s=300.0)}, Budget(seconds=2500.0),
     dataclasses.replace(BUSY, gpu_usd_per_hour=None), "stop", NEITHER),
    ("undecided experiences and no forecast", {"pilot": None, "curve": SHORT, "verdicts": {"undecided": 2}}, PLENTY,
     PRICES, "continue", UNDECIDED),
    ("another model, much weaker", {"same_model": False, "now": span(0.8, 0.05), "pilot": GOOD}, PLENTY, PRICES,
     "stop", NEITHER),
    ("another model, as good as the prompt arm", {"same_model": False, "now": span(0.14, 0.04)}, PLENTY, PRICES,
     "train", SHOWN),
    ("another model that is better and gets no better", {"same_model": False, "now": span(0.05, 0.02), "pilot": NONE},
     PLENTY, PRICES, "stop", NEITHER),
    ("nothing was measured", {"now": None, "gain": None}, PLENTY, PRICES, "stop", UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "budget", "prices", "action", "why"), [row[1:] for row in ROWS],
                         ids=[row[0] for row in ROWS])  # fmt: skip
def test_table(changes: dict[str, Any], budget: Budget, prices: Prices, action: str, why: str) -> None:
    decision = hybrid.decide(dataclasses.replace(USUAL, **changes), budget, prices)
    assert (decision.action, decision.why) == (action, why), str(decision)
    assert Decision.from_json(decision.as_json()) == decision
    assert decision.reasons and str(decision).startswith(f"{action}: {why}")
    forced = hybrid.decide(dataclasses.replace(USUAL, **changes), budget, prices, force=True)
    assert (forced.action, forced.why) == ("train", FORCED)
    assert forced.training.gain == decision.training.gain or decision.why == CHEAPER


def test_costs_break_even_and_traffic_are_arithmetic() -> None:
    decision = hybrid.decide(USUAL, PLENTY, BUSY)
    training = decision.training
    assert training.amount == (REACH - 1) * 8  # 3000 s would pay for 149 steps; a pilot of 8 reaches 80
    assert training.seconds == 72 * 20 + 10
    assert training.usd == pytest.approx(1450 * 1.8 / 3600)
    assert decision.going_on.amount == 96 and decision.going_on.usd == pytest.approx(0.96)
    assert decision.traffic_usd == pytest.approx(200 * 1.0 / 1e6 * 1e7)  # 200 tokens, $1 per million, 10 M calls
    saved = (500 * 1.0 + 50 * 4.0) / 1e6 - 0.05 * 1.8 / 3600
    assert decision.break_even_calls == pytest.approx(training.usd / saved)
    said = "\n".join(decision.reasons)
    for words in ("+0.190", "200 tokens", "$2000 for the 10,000,000", "30 days", "paid back after", "$0.725"):
        assert words in said, said
    traffic = decision.signs[-1]
    assert traffic.name == "traffic" and traffic.holds and "cost $6750 less; 8 steps cost $0.085" in traffic.words
    calm = hybrid.decide(USUAL, PLENTY, dataclasses.replace(BUSY, traffic_calls=100.0)).signs[-1]
    assert calm.holds is False and hybrid.decide(USUAL, PLENTY, Prices()).signs[-1].holds is None
    assert hybrid.decide(USUAL, Budget(seconds=100.0), BUSY).training.amount == 4  # (100 - 10) / 20
    assert hybrid.decide(USUAL, Budget(usd=0.05, seconds=500.0), BUSY).training.amount == 4  # 0.05 $ are 100 s
    assert hybrid.decide(USUAL, Budget(calls=30), BUSY).going_on.amount == 10


def test_what_is_unknown_is_said() -> None:
    decision = hybrid.decide(
        dataclasses.replace(USUAL, pilot=None, no_pilot="no --train-model was given"), PLENTY, PRICES
    )
    assert decision.training.gain is None and decision.training.usd is None
    assert "unknown (no --train-model was given)" in "\n".join(decision.reasons)
    free = hybrid.decide(USUAL, PLENTY, Prices())
    assert free.training.usd is None and free.break_even_calls is None and free.traffic_usd is None
    assert "dollars unknown" in "\n".join(free.reasons)
    assert "unknown without the expected traffic" in "\n".join(free.reasons)


def test_signs_on_counts() -> None:
    assert plateau(USUAL).holds is True
    assert plateau(dataclasses.replace(USUAL, curve=STEEP)).holds is False
    assert plateau(dataclasses.replace(USUAL, curve=SHORT)).holds is None
    assert rising(STEEP * 3) == "undecided"  # starts again three times
    assert rising(tuple((4.0, 0.02 * n) for n in range(50))) == "helps"
    assert rising(tuple((4.0, 1 - 0.02 * n) for n in range(50))) == "harms"
    none = dataclasses.replace(USUAL, counts={})
    assert all_wrong(none).holds is None and not_transferred(none).holds is None
    few = dataclasses.replace(USUAL, counts={"told": 3, "told_wrong": 2, **dict.fromkeys(HINTS, 3)})
    assert all_wrong(few).holds is False and not_transferred(few).holds is None
    both = dataclasses.replace(USUAL, counts={**STUCK, **HINTS})
    assert all_wrong(both).holds and "30 of 40 groups" in all_wrong(both).words
    assert not_transferred(both).holds and "10% of 40" in not_transferred(both).words
    fine = dataclasses.replace(USUAL, counts={**HINTS, "again_right": 28})
    assert not_transferred(fine).holds is False


# -- what must hold whatever the numbers are ---------------------------------------------------------------------------

share = st.floats(0.0, 1.0, allow_nan=False)
gains = st.floats(-0.5, 0.5, allow_nan=False)
halfs = st.floats(0.0, 0.3, allow_nan=False)
spans = st.builds(span, gains, halfs)
levels = st.builds(span, share, halfs)
curves = st.lists(st.tuples(st.sampled_from([2.0, 4.0, 8.0]), share), max_size=12).map(tuple)
trends = st.builds(
    lambda start, step, noise: tuple(min(1.0, max(0.0, start + step * n + e)) for n, e in enumerate(noise)),
    share, st.floats(-0.02, 0.08), st.lists(st.floats(-0.02, 0.02), max_size=12),
)  # fmt: skip


def mostly(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Seldom unknown, so that most examples get as far as the rule's later lines."""
    return st.one_of(values, values, values, values, st.none())


pilots = st.builds(
    Pilot,
    steps=st.integers(1, 12),
    rewards=trends,
    step_s=st.floats(0.1, 100.0),
    base=levels,
    gain=mostly(st.builds(span, st.floats(-0.1, 0.5), st.floats(0.0, 0.1))),
    test_s=st.floats(0.0, 50.0),
    answer_s=st.floats(0.0, 1.0),
)
evidences = st.builds(
    Evidence,
    now=mostly(levels),
    gain=mostly(spans),
    curve=curves,
    stopped=st.sampled_from(["", "two epochs taught nothing new"]),
    verdicts=st.sampled_from([{}, {"undecided": 3}]),
    counts=st.sampled_from([{}, STUCK, HINTS]),
    group_usd=st.none() | st.floats(0.0, 1.0),
    group_s=st.floats(0.0, 10.0),
    prompt_tokens=st.floats(0.0, 2000.0),
    completion_tokens=st.floats(0.0, 500.0),
    added_tokens=mostly(st.floats(0.0, 2000.0)),
    same_model=st.booleans(),
    pilot=mostly(pilots),
)
prices = st.builds(
    Prices,
    prompt_usd_per_mtok=mostly(st.floats(0.0, 10.0)),
    completion_usd_per_mtok=mostly(st.floats(0.0, 40.0)),
    gpu_usd_per_hour=mostly(st.floats(0.0, 10.0)),
    traffic_calls=mostly(st.floats(0.0, 1e8)),
)
money = st.none() | st.floats(0.0, 100.0)
times = st.none() | st.floats(0.0, 10_000.0)


@given(evidences, prices, money, times)
def test_unknown_never_trains_unless_forced(known: Evidence, cost: Prices, usd: float | None, s: float | None) -> None:
    budget = Budget(usd=usd, seconds=s)
    decision = hybrid.decide(known, budget, cost)
    if decision.training.gain is None:
        assert decision.action != "train"
    if decision.action == "train":
        assert decision.training.amount > 0 and known.pilot is not None
    assert hybrid.decide(known, budget, cost, force=True).action == "train"
    assert Decision.from_json(decision.as_json()) == decision


@given(evidences, prices, money, times, st.floats(1.0, 10.0))
def test_more_budget_never_turns_train_into_stop(
    known: Evidence, cost: Prices, usd: float | None, seconds: float | None, factor: float
) -> None:
    small = Budget(usd=usd, seconds=seconds)
    large = Budget(usd=usd and usd * factor, seconds=seconds and seconds * factor)
    if hybrid.decide(known, small, cost).action == "train":
        assert hybrid.decide(known, large, cost).action != "stop"


@given(evidences, prices, money, times, st.floats(1.0, 100.0))
def test_a_higher_price_of_the_gpu_never_makes_training_more_attractive(
    known: Evidence, cost: Prices, usd: float | None, seconds: float | None, factor: float
) -> None:
    budget = Budget(usd=usd, seconds=seconds)
    if cost.gpu_usd_per_hour is None:
        return
    dear = dataclasses.replace(cost, gpu_usd_per_hour=cost.gpu_usd_per_hour * factor)
    if hybrid.decide(known, budget, dear).action == "train":
        assert hybrid.decide(known, budget, cost).action == "train"


@given(evidences, prices, money, times, st.floats(0.0, 0.3))
def test_a_larger_gain_of_the_pilot_never_turns_train_into_something_else(
    known: Evidence, cost: Prices, usd: float | None, seconds: float | None, lift: float
) -> None:
    budget = Budget(usd=usd, seconds=seconds)
    if known.pilot is None or known.pilot.gain is None:
        return
    g = known.pilot.gain
    better = Span(mean=g.mean + lift, low=g.low + lift, high=g.high + lift)
    lifted = dataclasses.replace(known, pilot=dataclasses.replace(known.pilot, gain=better))
    if hybrid.decide(known, budget, cost).action == "train":
        assert hybrid.decide(lifted, budget, cost).action == "train"


@given(spans, share, st.integers(1, 12), st.integers(0, 200), st.integers(0, 50))
def test_a_forecast_is_an_interval_grows_with_steps_and_stays_possible(
    gain: Span, base: float, steps: int, more: int, extra: int
) -> None:
    found = training_gain(gain, base=base, steps=steps, more=more)
    assert found.low <= found.mean + 1e-12 and found.mean <= found.high + 1e-12
    assert -base <= found.low and found.high <= 1.0 - base + 1e-12
    longer = training_gain(gain, base=base, steps=steps, more=more + extra)
    if gain.low > 0:
        assert longer.low >= found.low - 1e-12 and longer.mean >= found.mean - 1e-12
    if more >= (REACH - 1) * steps:
        assert longer == found


# -- golden numbers ----------------------------------------------------------------------------------------------------


def test_the_formulas_on_paper() -> None:
    assert slope([0.1, 0.2]) is None
    steep = slope([0.0, 0.0, 0.3])  # b = 0.15; residuals 0.05, -0.1, 0.05; s / sqrt(Sxx) = sqrt(0.015 / 1 / 2)
    assert steep is not None and steep.mean == pytest.approx(0.15)
    assert steep.high - steep.mean == pytest.approx(12.706 * 0.0866025, rel=1e-5)
    brought = pilot_gain((0.0, 0.0, 0.3), span(0.2, 0.098))  # a curve of +-3.3 says nothing beside +-0.098
    assert brought is not None and brought.mean == pytest.approx(0.2, abs=1e-3)
    assert pilot_gain((), None) is None and pilot_gain((), span(0.1)) == span(0.1)
    assert pooled(span(0.0, 0.196), span(0.3, 0.392)).mean == pytest.approx(0.06)  # weights 4 : 1
    grown = training_gain(span(0.2), base=0.2, steps=5, more=10)  # closes a quarter three times: 1 - 0.75^3
    assert grown.mean == grown.high == pytest.approx(0.8 * (1 - 0.75**3))
    assert grown.low == pytest.approx(0.8 * (1 - 0.75**2))  # half the pace: two times
    assert training_gain(span(-0.1), base=0.5, steps=5, more=10) == span(-0.1 * 3)
    assert training_gain(span(-0.1), base=0.2, steps=5, more=10).mean == -0.2
    assert believed(span(0.1, 0.098)) == pytest.approx(0.1 - 0.05**2 / 0.1)  # a standard error of 0.05
    assert believed(span(0.05, 0.098)) == 0.0 and believed(span(-0.1, 0.3)) == -0.1
    assert going_on(span(0.2), 10, 10).mean == pytest.approx(0.1) and going_on(span(0.2), 0, 10).mean == 0.0
    assert halves([]) == ([], []) and rise([(4, 0.1)] * 3) is None
    assert total(span(0.3, 0.3), span(0.2, 0.4)) == Span(mean=0.5, low=pytest.approx(0.0), high=pytest.approx(1.0))
    assert difference(span(0.3, 0.3), span(0.2, 0.4)).low == pytest.approx(-0.4)
    assert [quantile(n) for n in (1, 20, 30)] == [12.706, 2.086, pytest.approx(2.04)]


# -- from reports ------------------------------------------------------------------------------------------------------


def measured(mean: float, half: float, **more: Any) -> Measured:
    return Measured(mean=mean, low=mean - half, high=mean + half, n=30, samples=4, **more)


def learn_report(**changes: Any) -> Report:
    plain: dict[str, Any] = {
        "run": "r", "folder": "f", "task": "t", "model": "m", "critic": "lessons", "store": "s", "start": 0, "final": 3,
        "accepted": True, "why": "", "before": measured(0.14, 0.05), "after": measured(0.33, 0.05),
        "gain": measured(0.19, 0.07), "groups": 48, "seconds": 60.0,
        "learned": [{"id": "E1", "verdict": "helps"}, {"id": "E2", "verdict": "undecided"}, {"id": "E3"}],
        "curve": [{"step": n, "groups": g, "version": 0, "reward": r} for n, (g, r) in enumerate(FLAT)],
        "counts": {"told": 40, "told_wrong": 30},
        "spend": {"solve": {"calls": 144, "solver_calls": 144, "usd": 0.30, "prompt_tokens": 144 * 300},
                  "critic": {"calls": 36, "usd": 0.18},
                  "evaluate": {"calls": 60, "prompt_tokens": 60 * 350, "completion_tokens": 60 * 40, "usd": 0.1}},
    }  # fmt: skip
    return Report(**{**plain, **changes})


def test_evidence_of_a_report() -> None:
    known = Evidence.of(learn_report(), added_tokens=120.0)
    assert known.now == span(0.33, 0.05) and known.gain is not None and known.served == 3
    assert known.verdicts == {"helps": 1, "harms": 0, "undecided": 2}
    assert known.group_usd == pytest.approx(0.48 / 48) and known.group_calls == 3.0
    assert known.group_s == pytest.approx(60.0 * 144 / 240 / 48)
    assert (known.prompt_tokens, known.completion_tokens, known.added_tokens) == (350.0, 40.0, 120.0)
    refused = Evidence.of(learn_report(accepted=False, after=None, gain=None, learned=[]), added_tokens=120.0)
    assert refused.now == span(0.14, 0.05) and refused.gain is None
    assert (refused.served, refused.added_tokens) == (0, 0.0)
    unmeasured = Evidence.of(learn_report(after=None, gain=None))
    assert unmeasured.now is None and unmeasured.added_tokens is None
    unpriced = learn_report(spend={"solve": {"calls": 3, "unpriced_calls": 3}})
    assert Evidence.of(unpriced).group_usd is None
    assert hybrid.decide(learn_report(), PLENTY, PRICES).action == "stop"  # a report alone has no pilot


def test_a_pilot_of_a_report() -> None:
    report = TrainReport(
        folder="f", checkpoint="c", task="t", model="m", setup="", steps=4, stopped="",
        before=measured(0.14, 0.05), after=measured(0.2, 0.05), gain=measured(0.06, 0.05),
        curve=[{"step": n, "reward": 0.1 + n / 100} for n in range(4)],
        seconds_by={"sample": 40.0, "update": 20.0, "evaluate": 24.0},
    )  # fmt: skip
    pilot = Pilot.of(report)
    assert (pilot.steps, pilot.step_s, pilot.test_s, pilot.answer_s) == (4, 15.0, 12.0, 0.1)
    assert pilot.rewards == pytest.approx((0.1, 0.11, 0.12, 0.13)) and pilot.gain == span(0.06, 0.05)
    bare = Pilot.of(dataclasses.replace(report, before=None, after=None, gain=None))
    assert bare.base.mean == 0.1 and bare.gain is None and bare.answer_s == 0.0
    assert Pilot.of(dataclasses.replace(report, steps=0, curve=[])).gain is None
