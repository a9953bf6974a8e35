"""Continue, stop or train? A pure rule on measured numbers, with its reasons in words.

    decision = hybrid.decide(report, tfgrpo.Budget(usd=20), hybrid.Prices(gpu_usd_per_hour=2.5))

The rule, the first that applies:

1. *Forced*: train.
2. *Shown*: the pilot's gain lies above 0, and what training is forecast to reach lies above the prompt arm, both with
   the whole interval; nothing more is expected of going on with prompts: train.
3. *Prompts have come to their end* (a sign holds) and training is expected to bring at least WORTH more: train.
4. *Traffic*: training is expected to be as good, and saves more than it costs at the expected number of calls: train.
5. *Still rising*: going on is expected to bring at least WORTH, or its forecast is unknown and experiences are still
   undecided: continue.
6. Else stop.

Training that is unknown (no pilot), or that the budget does not pay for, is left out of 2 to 4.

    advantage of training = forecast gain over the untrained model - gain of experiences          (the same model)
                          = score of the untrained model - score now + forecast gain             (another model)
    advantage of going on = late half - early half of the curve, times 1 - 2^(-M / H)

Held by tests: a larger budget never turns *train* into *stop*; a higher price of GPU time never turns anything into
*train*; neither does a smaller gain of the pilot. `hybrid.escalation.forecast` has the formulas and what they assume.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hybrid.escalation.evidence import WORTH, Evidence, Pilot, Sign, all_wrong, not_transferred, plateau
from hybrid.escalation.forecast import REACH, Span, difference, going_on, halves, pilot_gain, rise, total, training_gain
from tfgrpo.budget import Budget
from tfgrpo.report import Report

Action = Literal["continue", "stop", "train"]

NOTHING = Span(mean=0.0, low=0.0, high=0.0)
AS_GOOD = 0.05
"""How much worse "as good" may be at the low end of its interval, where training pays by saving prompts."""
MOST_GROUPS = 2
"""Going on is forecast for at most so many times the groups that were seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What things cost; None is unknown.

    `traffic_calls` are the calls that production is expected to make while the result is in use; `horizon_days` says
    how long that is, for the words alone.

    Example:
        >>> Prices(prompt_usd_per_mtok=0.4, completion_usd_per_mtok=1.6).call_usd(1000, 100)
        0.00056
    """

    prompt_usd_per_mtok: float | None = None  # of the prompt arm
    completion_usd_per_mtok: float | None = None
    gpu_usd_per_hour: float | None = None
    traffic_calls: float | None = None
    horizon_days: float | None = None

    def call_usd(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """One call of the prompt arm."""
        if self.prompt_usd_per_mtok is None or self.completion_usd_per_mtok is None:
            return None
        return (prompt_tokens * self.prompt_usd_per_mtok + completion_tokens * self.completion_usd_per_mtok) / 1e6

    def machine_usd(self, seconds: float) -> float | None:
        """Time on the machine that trains."""
        return None if self.gpu_usd_per_hour is None else seconds * self.gpu_usd_per_hour / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One way to go: `amount` groups or steps that the budget pays for, what they are forecast to bring, and cost.

    `gain` is over what the prompt arm reaches now; None is unknown, and `why` says why.
    """

    amount: int
    gain: Span | None
    why: str = ""
    usd: float | None = None
    seconds: float = 0.0
    own_gain: Span | None = None  # of training over the untrained model

    def words(self) -> str:
        """Such as "+0.210 (95 % +0.040..+0.350) for 610 s, $0.42"."""
        gain = f"unknown ({self.why})" if self.gain is None else self.gain.words()
        dollars = "dollars unknown" if self.usd is None else f"${self.usd:.4g}"
        return f"{gain} for {self.seconds:.0f} s, {dollars}" if self.amount else gain


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do, what each way is forecast to bring and to cost, and why. `print` it."""

    action: Action
    why: str
    reasons: tuple[str, ...]
    going_on: Option
    training: Option
    signs: tuple[Sign, ...] = ()
    traffic_usd: float | None = None  # what experiences add to the bill of the expected calls
    break_even_calls: float | None = None  # from which on training that is as good has paid; None: never, or unknown
    forced: bool = False

    def as_json(self) -> dict[str, Any]:
        """JSON values only; `Decision.from_json` is its inverse."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Decision:
        """A decision from `as_json`."""
        options = {name: _option(data[name]) for name in ("going_on", "training")}
        signs = tuple(Sign(**sign) for sign in data["signs"])
        return Decision(**{**data, **options, "signs": signs, "reasons": tuple(data["reasons"])})

    def __str__(self) -> str:
        return "\n".join([f"{self.action}: {self.why}", *(f"  - {reason}" for reason in self.reasons)])


def _option(data: Mapping[str, Any]) -> Option:
    spans = {name: None if data[name] is None else Span(**data[name]) for name in ("gain", "own_gain")}
    return Option(**{**data, **spans})


def decide(report: Report | Evidence, budget: Budget, prices: Prices, *, force: bool = False) -> Decision:
    """Whether to continue with prompts, to stop, or to train. Pure: it asks nothing and reads nothing.

    Args:
        report: of `tfgrpo.learn`, or an `Evidence` with a pilot of training in it. Its measurements must not be those
            of the problems on which the result will be measured in the end.
        budget: what is left, less what the last measurement takes. Dollars and seconds limit both ways, calls only
            prompts; None is no limit.
        prices: of both arms, and the expected traffic.
        force: train whatever the forecast says.

    Example: the prompt arm gained 0.19 and no longer rises; 8 steps of training gained 0.10, and 800 s are left:
        >>> pilot = Pilot(steps=8, rewards=(.14, .15, .16, .18, .19, .20, .22, .23), step_s=20.0,
        ...               base=Span(mean=.14, low=.10, high=.18), gain=Span(mean=.10, low=.04, high=.16))
        >>> known = Evidence(now=Span(mean=.33, low=.27, high=.39), gain=Span(mean=.19, low=.12, high=.26),
        ...                  stopped="two epochs taught nothing new", pilot=pilot)
        >>> decision = decide(known, Budget(seconds=800), Prices(gpu_usd_per_hour=1.8))
        >>> decision.action, decision.training.amount, round(decision.training.usd, 2)
        ('train', 40, 0.4)
        >>> decide(known, Budget(seconds=10), Prices()).action
        'stop'
    """
    evidence = report if isinstance(report, Evidence) else Evidence.of(report)
    flat = plateau(evidence)
    ends = (flat, all_wrong(evidence), not_transferred(evidence))
    more = _going_on(evidence, budget)
    training = _training(evidence, _affordable(evidence.pilot, budget, prices), prices)
    least = _training(evidence, evidence.pilot.steps if evidence.pilot else 0, prices)
    saving = _saving(evidence, prices)
    pays = _pays(least, training, saving, prices)
    rising = not flat.holds and more.amount > 0
    ended = any(sign.holds for sign in ends)
    signs = (*ends, _traffic(evidence, least, prices, saving))
    action, why = _rule(evidence, more, training, rising=rising, ended=ended, pays=pays, force=force)
    if why == CHEAPER:
        training = least
    return Decision(
        action=action,
        why=why,
        reasons=tuple(_reasons(evidence, more, training, signs, prices, saving)),
        going_on=more,
        training=training,
        signs=signs,
        traffic_usd=_traffic_usd(evidence, prices),
        break_even_calls=_break_even(training, saving),
        forced=force,
    )


# -- the rule ----------------------------------------------------------------------------------------------------------

FORCED = "training was asked for, whatever the forecast says"
SHOWN = "the pilot shows a gain, and training is forecast to reach more than the prompts"
ENDED = "prompts have come to their end, and training is expected to bring more"
CHEAPER = "training is expected to be as good as the prompts, and cheaper at the expected traffic"
RISING = "going on with prompts is still expected to bring something"
UNDECIDED = "what going on with prompts would bring is unknown, and experiences are still undecided"
NEITHER = f"neither way is forecast to bring {WORTH:g} more than what is there"
UNKNOWN = "going on with prompts is not forecast to bring anything, and what training would bring is unknown"
UNPAID = "going on with prompts is not forecast to bring anything, and the budget does not pay for training"


def _rule(
    evidence: Evidence,
    more: Option,
    training: Option,
    *,
    rising: bool,
    ended: bool,
    pays: bool,
    force: bool,
) -> tuple[Action, str]:
    expected = more.gain.mean if more.gain is not None and rising and more.gain.mean >= WORTH else 0.0
    if force:
        return "train", FORCED
    if training.gain is not None and training.own_gain is not None and training.amount > 0:
        shown = training.own_gain.low > 0 and training.gain.low > 0
        if shown and training.gain.mean >= expected:
            return "train", SHOWN
        worth = min(training.own_gain.mean, training.gain.mean) >= WORTH
        if ended and worth and training.gain.mean > expected:
            return "train", ENDED
    if pays:
        return "train", CHEAPER
    if expected > 0:
        return "continue", RISING
    if more.gain is None and rising and evidence.verdicts.get("undecided", 0):
        return "continue", UNDECIDED
    return "stop", UNKNOWN if training.gain is None else NEITHER if training.amount else UNPAID


def _pays(least: Option, training: Option, saving: float | None, prices: Prices) -> bool:
    """Whether as many steps as the pilot's pay for themselves by calls that cost less, and lose nothing."""
    if least.gain is None or least.own_gain is None or least.usd is None or training.amount < least.amount:
        return False
    as_good = least.own_gain.mean > 0 and least.gain.mean >= 0 and least.gain.low >= -AS_GOOD
    return as_good and saving is not None and saving * (prices.traffic_calls or 0.0) > least.usd


# -- the two ways ------------------------------------------------------------------------------------------------------


def _going_on(evidence: Evidence, budget: Budget) -> Option:
    """More groups of learning, as many as the budget pays for."""
    limits = [MOST_GROUPS * evidence.groups]
    limits += [budget.seconds / evidence.group_s] if budget.seconds is not None and evidence.group_s else []
    limits += [budget.usd / evidence.group_usd] if budget.usd is not None and evidence.group_usd else []
    limits += [budget.calls / evidence.group_calls] if budget.calls is not None and evidence.group_calls else []
    groups = max(0, math.floor(min(limits)))
    if evidence.exhausted:
        return Option(amount=0, gain=NOTHING, usd=0.0)
    usd = None if evidence.group_usd is None else groups * evidence.group_usd
    way = Option(amount=groups, gain=None, usd=usd, seconds=groups * evidence.group_s)
    risen = rise(evidence.curve)
    if risen is None:
        return replace(way, why="the learning curve has too few steps")
    half = sum(size for size, _ in halves(evidence.curve)[1])
    room = 1.0 - evidence.now.mean if evidence.now else 1.0
    return replace(way, gain=going_on(risen, half, groups).at_most(room))


def _affordable(pilot: Pilot | None, budget: Budget, prices: Prices) -> int:
    """Further steps that the budget pays for with the measurement after them, and that a forecast reaches."""
    if pilot is None or pilot.steps < 1:
        return 0
    limits = [budget.seconds] if budget.seconds is not None else []
    if budget.usd is not None and prices.gpu_usd_per_hour:
        limits.append(budget.usd / prices.gpu_usd_per_hour * 3600)
    reach = (REACH - 1) * pilot.steps
    if not limits or pilot.step_s <= 0:
        return reach
    return max(0, math.floor(min(reach, (min(limits) - pilot.test_s) / pilot.step_s + 1e-9)))


def _training(evidence: Evidence, steps: int, prices: Prices) -> Option:
    """So many further steps of training."""
    pilot = evidence.pilot
    if pilot is None or pilot.steps < 1:
        return Option(amount=0, gain=None, why=evidence.no_pilot if pilot is None else "the pilot made no step")
    seconds = steps * pilot.step_s + pilot.test_s if steps else 0.0
    way = Option(amount=steps, gain=None, usd=prices.machine_usd(seconds), seconds=seconds)
    brought = pilot_gain(pilot.rewards, pilot.gain)
    if brought is None:
        return replace(way, why=f"a pilot of {pilot.steps} steps shows no trend")
    if evidence.now is None:
        return replace(way, why="the prompt arm was not measured")
    own = training_gain(brought, base=pilot.base.mean, steps=pilot.steps, more=steps)
    if evidence.same_model:
        gain = difference(own, evidence.gain or NOTHING)
    else:
        gain = total(difference(pilot.base, evidence.now), own)
    return replace(way, gain=gain, own_gain=own)


def _saving(evidence: Evidence, prices: Prices) -> float | None:
    """Dollars that each call of the trained model costs less than one of the prompt arm; None: unknown."""
    added = evidence.added_tokens
    asked = None if added is None else prices.call_usd(evidence.prompt_tokens + added, evidence.completion_tokens)
    own = None if evidence.pilot is None else prices.machine_usd(evidence.pilot.answer_s)
    return None if asked is None or own is None else asked - own


def _break_even(training: Option, saving: float | None) -> float | None:
    """Calls after which training has paid for itself; None where it is not expected to be as good, or does not save."""
    if training.usd is None or training.gain is None or training.gain.mean < 0 or saving is None or saving <= 0:
        return None
    return training.usd / saving


def _traffic_usd(evidence: Evidence, prices: Prices) -> float | None:
    """What the experiences in the prompts add to the bill of the expected calls."""
    if evidence.added_tokens is None or prices.traffic_calls is None:
        return None
    each = prices.call_usd(evidence.added_tokens, 0.0)
    return None if each is None else each * prices.traffic_calls


def _traffic(evidence: Evidence, least: Option, prices: Prices, saving: float | None) -> Sign:
    """Whether the calls that are expected save more than as many steps as the pilot's cost."""
    if least.usd is None or saving is None or prices.traffic_calls is None:
        unknown = "the price of both arms, the expected traffic, or a pilot is missing"
        return Sign(name="traffic", holds=None, words=f"what the traffic costs is unknown: {unknown}")
    saved = saving * prices.traffic_calls
    words = (
        f"{prices.traffic_calls:,.0f} calls of a trained model cost ${abs(saved):.4g} {'less' if saved > 0 else 'more'}"
    )
    return Sign(name="traffic", holds=saved > least.usd, words=f"{words}; {least.amount} steps cost ${least.usd:.4g}")


# -- in words ----------------------------------------------------------------------------------------------------------


def _reasons(
    evidence: Evidence,
    more: Option,
    training: Option,
    signs: Sequence[Sign],
    prices: Prices,
    saving: float | None,
) -> list[str]:
    said = [_now(evidence), *(sign.words for sign in signs if sign.holds is not None)]
    said.append(f"going on with prompts, {more.amount} more groups: {more.words()}")
    said.append(f"training, {training.amount} more steps: {training.words()}")
    if training.own_gain is not None and evidence.pilot is not None:
        said.append(
            f"a pilot of {evidence.pilot.steps} steps took {evidence.pilot.step_s:.3g} s a step; over the untrained "
            f"model ({evidence.pilot.base.mean:.3f}) training is forecast to gain {training.own_gain.words()}"
        )
    return [*said, *_about_traffic(evidence, training, prices, saving)]


def _now(evidence: Evidence) -> str:
    if evidence.now is None:
        return "the prompt arm was not measured on problems set aside for the decision"
    score = f"{evidence.now.mean:.3f} (95 % {evidence.now.low:.3f}..{evidence.now.high:.3f})"
    if evidence.gain is None:
        served = (
            "what is served was not compared with the bare prompt" if evidence.served else "no experience is served"
        )
        return f"{served}; it scores {score} on problems set aside for the decision"
    return f"experiences brought {evidence.gain.words()}, to {score}, on problems set aside for the decision"


def _about_traffic(evidence: Evidence, training: Option, prices: Prices, saving: float | None) -> list[str]:
    added, dollars = evidence.added_tokens, _traffic_usd(evidence, prices)
    said = []
    if added and dollars is not None:
        days = "" if prices.horizon_days is None else f" in {prices.horizon_days:g} days"
        said.append(
            f"experiences add about {added:.0f} tokens to a call: ${dollars:.4g} for the {prices.traffic_calls:,.0f} "
            f"expected calls{days}"
        )
    elif added:
        unknown = "the expected traffic" if prices.traffic_calls is None else "the price of the prompts"
        said.append(f"experiences add about {added:.0f} tokens to a call; what that costs is unknown without {unknown}")
    calls = _break_even(training, saving)
    if calls is not None:
        said.append(f"a trained model saves ${saving:.3g} a call: paid back after {calls:,.0f} calls")
    return said
