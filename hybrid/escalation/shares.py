"""How the budget of a story is divided before it is spent: the last measurement first, then prompts, pilot, training.

measuring   MEASURE of the whole budget decides how many held-out problems there are; what the arms still to be
            measured will cost is kept aside from then on, a quarter more than what was seen
prompts     FIRST_SHARE of what is left then, or all of it where there is no training
pilot       PILOT of the time, and of the dollars that pay for it, and what its two measurements take
more        MORE_SHARE of the rest, where the decision is that learning goes on
training    as many steps as the rest pays for, if the decision is to train
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hybrid.escalation.arms import Arm
from hybrid.escalation.purse import Outlay, part, times_in
from tfgrpo.budget import Budget
from tfgrpo.plan import DEFAULT_CALLS

MEASURE = 0.2
MEASURE_CALLS = 0.3
"""Of a budget of calls, which training does not touch."""
FIRST_SHARE = (0.35, 0.7)
"""Of what training spends too, and of what it does not: the rest of the latter is there for learning to go on."""
MORE_SHARE = (0.5, 1.0)
WITHOUT_TRAINING = (1.0, 1.0)
PILOT = 0.3
"""For its steps, beside its measurements. It is no waste where training goes on: the pilot is its beginning."""
PILOT_MOST = 0.5
"""With its measurements."""
MARGIN = 1.25
START_S = 10.0
"""Loading a model that is measured."""
PACE = 0.85
"""Learning is planned to take so much of its time; its critic and its waves are not in the pace of an answer."""
HARD = 2.0
"""Learning ends, with what it has, when it took so many times its share of the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What the arms of a story cost per answer, by what was seen of them."""

    samples: int  # K of each held-out problem
    calls: int  # of one answer, at most
    local: bool  # the prompt arm runs on this machine
    gpu_usd_per_hour: float | None
    base: Outlay  # one answer of the prompt arm: price of its calls, seconds, tokens
    trained_s: float  # one answer of a trained model

    @staticmethod
    def of(arm: Arm, *, samples: int, calls: int, gpu_usd_per_hour: float | None) -> Scale:
        """By the arm that was measured first."""
        answers = max(1, arm.answers)
        usage = arm.done.usage
        seen = Outlay(
            usd=0.0 if arm.local else (arm.done.cost_usd or 0.0) / answers,
            seconds=arm.pace_s,
            calls=calls,
            tokens=(usage.prompt_tokens + usage.completion_tokens) / answers,
        )
        return Scale(
            samples=samples,
            calls=calls,
            local=arm.local,
            gpu_usd_per_hour=gpu_usd_per_hour,
            base=seen,
            trained_s=arm.pace_s,
        )

    def machine(self, seconds: float) -> Outlay:
        """Time of the machine."""
        return Outlay(usd=seconds * (self.gpu_usd_per_hour or 0.0) / 3600, seconds=seconds)

    def problem(self, *, prompt_arms: int, trained_arms: int) -> Outlay:
        """One held-out problem under so many arms."""
        asked = self.base + Outlay(usd=self.machine(self.base.seconds).usd if self.local else 0.0)
        return asked.times(prompt_arms * self.samples) + self.machine(self.trained_s).times(trained_arms * self.samples)

    def kept_aside(self, problems: int, *, prompt_arms: int, trained_arms: int) -> Outlay:
        """What the arms that are still to be measured will cost."""
        asked = self.problem(prompt_arms=prompt_arms, trained_arms=trained_arms).times(problems * MARGIN)
        return asked + self.machine(START_S * trained_arms)


def held_out_size(budget: Budget, scale: Scale, *, trained_arms: int, there: int, least: int) -> int:
    """Held-out problems that the arms can be measured on: the model as it is, with experiences, and `trained_arms`.

    Example: 300 s, of which a fifth is for measuring; answers take 0.05 s, 4 arms, 4 samples of each problem:
        >>> scale = Scale(samples=4, calls=1, local=True, gpu_usd_per_hour=None, base=Outlay(seconds=0.05),
        ...               trained_s=0.05)
        >>> held_out_size(Budget(seconds=300.0), scale, trained_arms=2, there=100, least=2)
        75
    """
    share = part(budget, MEASURE)
    if budget.calls is not None:
        share = Budget(usd=share.usd, seconds=share.seconds, tokens=share.tokens, calls=first_calls(budget))
    fits = times_in(share, scale.problem(prompt_arms=2, trained_arms=trained_arms))
    return int(max(least, min(there, fits)))


def first_calls(budget: Budget) -> int:
    """Solver calls for measuring, of a budget that limits them.

    Example:
        >>> first_calls(Budget(calls=600))
        180
    """
    assert budget.calls is not None
    return int(budget.calls * MEASURE_CALLS)


def share_of(left: Budget, share: tuple[float, float], *, priced: bool) -> Budget:
    """What a learning run gets of what is left; `priced`: time of the machine costs dollars.

    Example:
        >>> share_of(Budget(usd=10.0, seconds=100.0, calls=600), FIRST_SHARE, priced=False)
        Budget(usd=7.0, tokens=None, calls=420, seconds=35.0)
    """
    timed, other = (part(left, s) for s in share)
    return replace(other, seconds=timed.seconds, usd=timed.usd if priced else other.usd)


def for_prompts(left: Budget, scale: Scale, given: Budget) -> Budget:
    """The budget of a learning run that is `given` so much of what is left, as `tfgrpo.learn` takes it.

    Seconds and, on this machine, dollars become solver calls by the pace that was seen; a hard limit of time stays.

    Example: half of 200 s, at 0.1 s an answer:
        >>> scale = Scale(samples=4, calls=1, local=True, gpu_usd_per_hour=None, base=Outlay(seconds=0.1),
        ...               trained_s=0.1)
        >>> for_prompts(Budget(seconds=200.0), scale, Budget(seconds=100.0))
        Budget(usd=None, tokens=None, calls=850, seconds=200.0)
    """
    limits = [float(given.calls)] if given.calls is not None else []
    times = [given.seconds] if given.seconds is not None else []
    if scale.local and given.usd is not None and scale.gpu_usd_per_hour:
        times.append(given.usd / scale.gpu_usd_per_hour * 3600)
    if times and scale.base.seconds > 0:
        limits.append(PACE * min(times) / scale.base.seconds * scale.calls)
    usd = None if scale.local else given.usd
    if not limits and usd is None and given.tokens is None:
        limits = [float(DEFAULT_CALLS)]
    hard = None if left.seconds is None or given.seconds is None else min(left.seconds, HARD * given.seconds)
    return Budget(
        usd=usd,
        tokens=given.tokens,
        calls=math.floor(min(limits)) if limits else None,
        seconds=None if hard is None else round(hard, 3),
    )
