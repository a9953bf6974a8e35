"""What the decision knows: plain numbers from a learning run and from a pilot of training, and what they are signs of.

Legend: scores lie in 0..1 and are measured on problems that were set aside for the decision, never on test problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.escalation.forecast import Point, Span, difference, halves, rise
from hybrid.report import TrainReport
from tfgrpo.evidence import Verdict, Wealth
from tfgrpo.report import Measured, Report
from tfgrpo.stats import wilson

WORTH = 0.02
"""A gain of less than two points is not worth going on for."""
ALPHA = 0.05
STUCK = 0.25
"""The share of groups without a right answer, in spite of experiences: its interval must lie above this."""
UNTRANSFERRED = 0.1
"""How much better answers with hints are than later ones without: its interval must lie above this to be a sign."""
LEAST_ANSWERS = 4
TAUGHT_NOTHING = "taught nothing new"  # how a run says that it ended because nothing was left to learn


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """A few steps of training with what they cost.

    Example:
        >>> pilot = Pilot(steps=3, rewards=(0.1, 0.2, 0.2), step_s=20.0, base=Span(mean=0.1, low=0.0, high=0.2))
        >>> pilot.gain is None
        True
    """

    steps: int
    rewards: tuple[float, ...]  # mean reward of each step's answers, sampled before its update
    step_s: float
    base: Span  # the untrained model's mean score
    gain: Span | None = None  # of the last step over it, paired; None: not measured
    test_s: float = 0.0  # one measurement
    answer_s: float = 0.0  # one answer in it, written beside others

    @staticmethod
    def of(report: TrainReport) -> Pilot:
        """The pilot that a report of training tells of."""
        rewards = tuple(float(point["reward"]) for point in report.curve)
        spent, before = report.seconds_by, report.before
        known = before if before is not None else Measured(mean=rewards[0] if rewards else 0.0, low=0.0, high=1.0, n=1)
        test_s = spent.get("evaluate", 0.0) / 2
        return Pilot(
            steps=report.steps,
            rewards=rewards,
            step_s=(spent.get("sample", 0.0) + spent.get("update", 0.0)) / max(1, report.steps),
            base=span_of(known),
            gain=None if report.gain is None or not report.steps else span_of(report.gain),
            test_s=test_s,
            answer_s=0.0 if before is None else test_s / max(1, before.n * before.samples),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known when the decision is due. None is *unknown*, never 0."""

    now: Span | None  # mean score of the prompt arm as it would be served
    gain: Span | None = None  # of experiences over the bare prompt, paired; None: not measured, or nothing accepted
    served: int = 0  # experiences that would be served
    curve: tuple[Point, ...] = ()  # groups and mean reward of each step of learning
    stopped: str = ""  # why learning ended before its budget
    verdicts: Mapping[str, int] = field(default_factory=dict)  # of served experiences: helps, harms, undecided
    counts: Mapping[str, int] = field(default_factory=dict)  # as in `tfgrpo.reach`
    group_usd: float | None = None  # one group of learning, with its share of the critic
    group_s: float = 0.0
    group_calls: float = 0.0  # solver calls of one group
    prompt_tokens: float = 0.0  # of a call, roughly
    completion_tokens: float = 0.0
    added_tokens: float | None = None  # by the experiences, to every call
    same_model: bool = True  # the prompt arm and training begin with the same weights
    pilot: Pilot | None = None
    no_pilot: str = "no pilot of training was made"

    @property
    def groups(self) -> float:
        """Groups of the curve."""
        return sum(groups for groups, _ in self.curve)

    @property
    def exhausted(self) -> bool:
        """Whether learning ended because nothing was left to learn."""
        return TAUGHT_NOTHING in self.stopped

    @staticmethod
    def of(
        report: Report,
        *,
        pilot: Pilot | None = None,
        no_pilot: str = "no pilot of training was made",
        added_tokens: float | None = None,
        same_model: bool = True,
    ) -> Evidence:
        """The evidence that a report of `tfgrpo.learn` holds, with a pilot where there is one."""
        solved, asked = report.spend.get("solve", {}), report.spend.get("evaluate", {})
        calls = max(1, solved.get("calls", 0))
        groups = max(1, report.groups)
        work = [report.spend.get(name, {}) for name in ("solve", "critic")]
        unpriced = sum(row.get("unpriced_calls", 0) for row in work)
        served = report.after if report.accepted else report.before
        share = calls / max(1, sum(row.get("calls", 0) for row in report.spend.values()))
        told = asked or solved
        return Evidence(
            now=None if served is None else span_of(served),
            gain=None if report.gain is None else span_of(report.gain),
            served=len(report.learned),
            curve=tuple((float(point["groups"]), float(point["reward"])) for point in report.curve),
            stopped=report.stopped,
            verdicts=_verdicts(report),
            counts=dict(report.counts),
            group_usd=None if unpriced else sum(row.get("usd", 0.0) for row in work) / groups,
            group_s=report.seconds * share / groups,
            group_calls=calls / groups,
            prompt_tokens=told.get("prompt_tokens", 0) / max(1, told.get("calls", 0)),
            completion_tokens=told.get("completion_tokens", 0) / max(1, told.get("calls", 0)),
            added_tokens=added_tokens if report.learned else 0.0,
            same_model=same_model,
            pilot=pilot,
            no_pilot=no_pilot,
        )


def span_of(measured: Measured) -> Span:
    """A measured number as a span."""
    return Span(mean=measured.mean, low=measured.low, high=measured.high)


def _verdicts(report: Report) -> dict[str, int]:
    found = [str(row.get("verdict", "undecided")) for row in report.learned]
    return {name: found.count(name) for name in ("helps", "harms", "undecided")}


# -- signs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """One thing that tells whether prompts have come to their end; `holds` is None where nobody can tell."""

    name: str
    holds: bool | None
    words: str


def rising(curve: tuple[Point, ...]) -> Verdict:
    """The sequential test of a learning curve: does its late half lie above its early one?

    The k-th step of the late half is compared with the k-th of the early one, and a bet is placed on each difference
    (`tfgrpo.evidence.Wealth`); "helps" is a rise that would come by chance with probability 0.05 at most, however
    often one looks.

    Example:
        >>> rising(tuple((4.0, 0.1) for _ in range(8)) + tuple((4.0, 0.9) for _ in range(8)))
        'helps'
    """
    early, late = halves(curve)
    wealth = Wealth()
    for (_, before), (_, after) in zip(early, late, strict=False):
        wealth.bet(max(-1.0, min(1.0, after - before)))
    return wealth.verdict(ALPHA)


def plateau(evidence: Evidence) -> Sign:
    """Learning ended by itself; or the sequential test sees no rise, and the rise that was measured is not worth it."""
    if evidence.exhausted:
        return Sign(name="plateau", holds=True, words=f"learning ended by itself: {evidence.stopped}")
    risen = rise(evidence.curve)
    if risen is None:
        return Sign(name="plateau", holds=None, words="the learning curve has too few steps to tell whether it rises")
    verdict = rising(evidence.curve)
    flat = verdict != "helps" and risen.mean < WORTH
    shown = "the sequential test sees a rise" if verdict == "helps" else "the sequential test sees no sure rise"
    return Sign(
        name="plateau",
        holds=flat,
        words=f"from its first to its second half the learning curve went {risen.words()}; {shown}",
    )


def all_wrong(evidence: Evidence) -> Sign:
    """Groups in which no answer was right although experiences stood in their prompts."""
    told, wrong = evidence.counts.get("told", 0), evidence.counts.get("told_wrong", 0)
    if not told:
        return Sign(name="all_wrong", holds=None, words="no group was sampled with experiences in its prompts")
    share = wilson(wrong, told)
    return Sign(
        name="all_wrong",
        holds=share.low > STUCK,
        words=f"in {wrong} of {told} groups no answer was right although experiences stood in their prompts "
        f"({share.mean:.0%}, 95 % {share.low:.0%}..{share.high:.0%})",
    )


def not_transferred(evidence: Evidence) -> Sign:
    """Problems are solved with hints, and later, without them, they are not."""
    c = evidence.counts
    if min(c.get("hinted", 0), c.get("again", 0)) < LEAST_ANSWERS:
        return Sign(name="not_transferred", holds=None, words="no hints were used that could be compared")
    hinted, again = wilson(c["hinted_right"], c["hinted"]), wilson(c["again_right"], c["again"])
    lost = difference(
        Span(mean=hinted.mean, low=hinted.low, high=hinted.high), Span(mean=again.mean, low=again.low, high=again.high)
    )
    return Sign(
        name="not_transferred",
        holds=lost.low > UNTRANSFERRED,
        words=f"with hints {hinted.mean:.0%} of {c['hinted']} answers were right, later and without them "
        f"{again.mean:.0%} of {c['again']}: {lost.words()}",
    )
