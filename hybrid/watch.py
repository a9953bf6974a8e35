"""Alarms of training: pure functions of the curve that say when a run looks wrong. They never stop it.

Legend: S steps of the curve, W of a window. Rules compare the first W steps with the last W, which do not overlap, and
ask two things of a change: that it is large, and that it is sure, which means further from 0 than `sure` standard
errors of the two windows (Welch). So noise seldom fires, and a run shorter than two windows has few alarms.

False alarms: on random curves whose noise hangs together from step to step, 11 of 2,000 healthy runs of 100 steps had
any alarm, and 11 of 400 runs of 500 steps, as each step is one more look (`tests/hybrid/test_watch.py` holds 1 % for
100 steps). Simulated curves are not your task: each row of ALARMS says when its pattern is harmless.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid.quantities import KL, PART

Curve: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Columns [S] by name; NaN where a step did not measure it."""

WINDOW = 10  # steps
SURE = 6.0  # standard errors; many, as steps hang together and every step is a look
SOLVED = 0.8  # success from which on there is little left to learn
FALSE_ALARMS = 0.01  # share of healthy runs of 100 steps that see any alarm


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """What looks wrong, in words, with the numbers that it was seen by."""

    name: str
    words: str
    step: int
    numbers: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What its event holds."""
        return {"alarm": self.name, "words": self.words, "step": self.step, "numbers": dict(self.numbers)}

    def notice(self) -> str:
        """One line, as a report has it.

        Example:
            >>> Alarm(name="all_cut", words="97% of the last answers were cut off", step=12).notice()
            'alarm all_cut after step 12: 97% of the last answers were cut off'
        """
        return f"alarm {self.name} after step {self.step}: {self.words}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How a column moved from the first window to the last; `sure` is in standard errors of the difference."""

    start: float
    recent: float
    sure: float

    @property
    def gain(self) -> float:
        return self.recent - self.start

    @property
    def ratio(self) -> float:
        """Recent by start; infinite where it began at 0."""
        return self.recent / self.start if self.start else math.copysign(math.inf, self.recent)


def change(curve: Curve, name: str, *, window: int = WINDOW) -> Change | None:
    """From the first to the last window, None where they overlap or fewer than half of their steps were measured.

    Example:
        >>> found = change({"reward": np.array([0.0, 0.2, 0.0, 0.2, 0.5, 0.7, 0.5, 0.7])}, "reward", window=4)
        >>> round(found.gain, 6), round(found.sure, 2)
        (0.5, 6.12)
    """
    column = curve.get(name)
    if column is None or len(column) < 2 * window:
        return None
    start, recent = (part[np.isfinite(part)] for part in (column[:window], column[-window:]))
    if min(len(start), len(recent)) < max(2, window / 2):
        return None
    (before, doubt), (after, doubt_after) = _mean(start), _mean(recent)
    error = math.sqrt(doubt + doubt_after)
    gain, small = after - before, 1e-9 * max(1.0, abs(before))
    sure = gain / error if error > small else math.copysign(math.inf, gain) if abs(gain) > small else 0.0
    return Change(start=before, recent=after, sure=sure)


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean, and the variance of the mean."""
    mean = float(values.sum()) / len(values)
    apart = values - mean
    return mean, float(apart @ apart) / (len(values) - 1) / len(values)


# -- the rules ---------------------------------------------------------------------------------------------------------


def one_part(curve: Curve, *, window: int = WINDOW, sure: float = SURE, least: float = 0.25) -> Alarm | None:
    """One part of the reward carries the gain while others fall.

    The reward rose; of its parts exactly one rose, by `least` of its size or more; and of the others at least half fell
    as clearly. Parts are compared with themselves only, so that their scales and weights do not matter.
    """
    reward = change(curve, "reward", window=window)
    found = {n.removeprefix(PART): change(curve, n, window=window) for n in curve if n.startswith(PART)}
    parts = {name: moved for name, moved in found.items() if moved is not None}
    if reward is None or reward.sure < sure or len(parts) < 2:
        return None
    clear = {n: m for n, m in parts.items() if abs(m.sure) >= sure and abs(m.gain) >= least * _size(m)}
    rose = [name for name, moved in clear.items() if moved.gain > 0]
    fell = [name for name, moved in clear.items() if moved.gain < 0]
    if len(rose) != 1 or not fell or 2 * len(fell) < len(parts) - 1:
        return None
    top, losers = rose[0], ", ".join(f"{n} {parts[n].start:.3g} -> {parts[n].recent:.3g}" for n in sorted(fell))
    return _alarm(
        "one_part",
        curve,
        f"the part {top!r} alone carries the gain ({parts[top].start:.3g} -> {parts[top].recent:.3g}) while others "
        f"fall: {losers}. Read answers with a high {top!r}; give the others more weight, or make them a condition",
        {"reward": reward.gain, **{f"{PART}{name}": moved.gain for name, moved in parts.items()}},
    )


def variance_collapse(
    curve: Curve,
    *,
    window: int = WINDOW,
    sure: float = SURE,
    share: float = 0.9,
    rise: float = 0.2,
    left: float = 0.2,
) -> Alarm | None:
    """The answers of a group have become alike in the reward's eyes.

    The share of groups without any variance rose by `rise` to `share` or more, or the spread within groups fell to
    `left` of what it was.
    """
    flat, spread = (change(curve, name, window=window) for name in ("zero_variance", "reward_std"))
    alike = flat is not None and flat.recent >= share and flat.gain >= rise and flat.sure >= sure
    narrow = spread is not None and spread.start > 0 and spread.recent <= left * spread.start and spread.sure <= -sure
    if not alike and not narrow:
        return None
    seen = {n: m for n, m in (("zero_variance", flat), ("reward_std", spread)) if m is not None}
    told = ", ".join(f"{name} {moved.start:.2g} -> {moved.recent:.2g}" for name, moved in seen.items())
    success = _recent(curve, "success", window)
    solved = success >= SOLVED
    advice = (
        "nearly all answers count as right: harder problems, or an end, unless the reward can be fooled"
        if solved
        else "few groups teach anything: a higher temperature, larger groups, or problems of another difficulty"
    )
    numbers = {f"{name}_start": moved.start for name, moved in seen.items()}
    numbers |= {f"{name}_recent": moved.recent for name, moved in seen.items()}
    return _alarm("variance_collapse", curve, f"rewards within groups have become alike ({told}); {advice}", numbers)


def length_drift(
    curve: Curve, *, window: int = WINDOW, sure: float = SURE, factor: float = 1.5, tied: float = 0.5
) -> Alarm | None:
    """Answers become much longer or shorter, and the reward does not pay for it, or pays for length itself.

    The length changed by `factor` or more, and the reward did not rise (by half as many standard errors as a change
    needs), or answers became longer and within groups length and reward correlate by `tied` or more. Shorter answers
    with a rising reward are no alarm.
    """
    length, reward = (change(curve, name, window=window) for name in ("length", "reward"))
    if length is None or reward is None or length.start <= 0 or length.recent <= 0:
        return None
    if abs(length.sure) < sure or abs(math.log(length.ratio)) < math.log(factor):
        return None
    pays = _recent(curve, "length_reward", window)
    rose, longer = reward.sure >= sure / 2, length.gain > 0
    if rose and not (longer and pays >= tied):
        return None
    why = f"the reward rises with length (correlation within groups {pays:+.2f})" if rose else "the reward did not rise"
    advice = "does the reward count length?" if rose else "look at the last answers; limit max_tokens, or reward length"
    numbers = {"length_start": length.start, "length_recent": length.recent, "reward": reward.gain}
    numbers |= {"length_reward": pays} if math.isfinite(pays) else {}
    words = f"answers went from {length.start:.0f} to {length.recent:.0f} tokens, and {why}: {advice}"
    return _alarm("length_drift", curve, words, numbers)


def entropy_collapse(curve: Curve, *, window: int = WINDOW, sure: float = SURE, left: float = 0.2) -> Alarm | None:
    """The model hardly explores any more: the entropy fell to `left` of what it was, and not because all is solved."""
    entropy = change(curve, "entropy", window=window)
    if entropy is None or entropy.start <= 0 or entropy.recent > left * entropy.start or entropy.sure > -sure:
        return None
    if _recent(curve, "success", window) >= SOLVED:
        return None
    words = (
        f"the entropy fell from {entropy.start:.2f} to {entropy.recent:.3f} nats before the task is solved: answers "
        f"repeat themselves. Lower the learning rate, or take a higher clip above or an entropy bonus"
    )
    return _alarm("entropy_collapse", curve, words, {"start": entropy.start, "recent": entropy.recent})


def kl_blowup(curve: Curve, *, window: int = WINDOW, limit: float = 0.5) -> Alarm | None:
    """The model has gone far from the one it began as: the KL of the last steps has a median of `limit` nats or more.

    Per token, over a window or the half of one that there is. Only where the loss measures it, which a KL regulariser
    does. The median, because one odd token can raise one step.
    """
    for name in sorted(n for n in curve if n.startswith(KL)):
        recent = curve[name][-window:]
        recent = recent[np.isfinite(recent)]
        if len(recent) >= max(2, window / 2) and float(np.median(recent)) >= limit:
            now = float(np.median(recent))
            words = (
                f"the KL to the start ({name}) is {now:.2f} nats per token: what the model could do before may be "
                f"lost. Lower the learning rate, raise the KL coefficient, or measure other tasks"
            )
            return _alarm("kl_blowup", curve, words, {name: now})
    return None


def parity_drift(
    curve: Curve, *, window: int = WINDOW, sure: float = SURE, factor: float = 3.0, least: float = 1e-4
) -> Alarm | None:
    """Sampler and trainer come apart: the parity grew `factor` times, and to `least` nats or more.

    Measured on logarithms, as rounding grows by factors. The gate of the trainer stops the run later.
    """
    parity = curve.get("parity_mean")
    if parity is None:
        return None
    logs = np.log(np.where(parity > 0, parity, np.nan))
    grown = change({"log": logs}, "log", window=window)
    if grown is None or grown.sure < sure or grown.gain < math.log(factor) or math.exp(grown.recent) < least:
        return None
    start, recent = math.exp(grown.start), math.exp(grown.recent)
    words = (
        f"sampler and trainer drift apart: {start:.1e} -> {recent:.1e} nats per token. Are the sampler's weights "
        f"renewed after each update? A correction (truncated, dropped) bounds what it does to the gradient"
    )
    return _alarm("parity_drift", curve, words, {"start": start, "recent": recent})


def all_cut(curve: Curve, *, window: int = WINDOW, share: float = 0.95) -> Alarm | None:
    """Nearly every answer of a window was cut off at the limit of tokens, and few of them count as right."""
    if len(next(iter(curve.values()), ())) < window:
        return None
    cut, success = _recent(curve, "truncated", window), _recent(curve, "success", window)
    if not cut >= share or success >= 0.5:
        return None
    words = (
        f"{cut:.0%} of the last answers were cut off, and {success:.0%} count as right: the model never comes to its "
        f"end. Raise max_tokens, or ask for shorter answers"
    )
    return _alarm("all_cut", curve, words, {"truncated": cut, "success": success})


class Rule(Protocol):
    """A pure function of a curve; more keywords with defaults are its limits."""

    def __call__(self, curve: Curve, /, *, window: int) -> Alarm | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A rule, and when its pattern is nothing to worry about."""

    rule: Rule
    harmless: str


ALARMS: dict[str, Watched] = {
    "one_part": Watched(rule=one_part, harmless="parts that were meant to be traded, such as brevity for detail"),
    "variance_collapse": Watched(rule=variance_collapse, harmless="a task that is solved, as the test says too"),
    "length_drift": Watched(
        rule=length_drift, harmless="answers that must be long, such as reasoning that is right more often"
    ),
    "entropy_collapse": Watched(rule=entropy_collapse, harmless="answers with one right form that is not yet right"),
    "kl_blowup": Watched(rule=kl_blowup, harmless="a model whose other abilities do not matter"),
    "parity_drift": Watched(rule=parity_drift, harmless="a sampler of coarser arithmetic on sharper distributions"),
    "all_cut": Watched(rule=all_cut, harmless="answers that are meant to be cut, such as one line of code"),
}
"""By name. Other limits: `{**ALARMS, "length_drift": Watched(rule=partial(length_drift, factor=3), harmless="")}`."""


# -- over a run --------------------------------------------------------------------------------------------------------


class Watch:
    """The alarms of a run, each told once. Memory does not grow: rules read the first and the last steps only.

    Example:
        >>> watch = Watch(window=2)
        >>> steps = [{"step": float(n), "truncated": 1.0, "success": 0.0} for n in range(1, 5)]
        >>> [[alarm.name for alarm in watch.see(step)] for step in steps]
        [[], ['all_cut'], [], []]
    """

    def __init__(self, rules: Mapping[str, Watched] = ALARMS, *, window: int = WINDOW) -> None:
        self._rules, self._window = dict(rules), window
        self._first: list[Mapping[str, float]] = []
        self._last: deque[Mapping[str, float]] = deque(maxlen=window)

    def see(self, point: Mapping[str, float]) -> list[Alarm]:
        """Take in one step of the curve; the alarms that it raises for the first time."""
        if len(self._first) < self._window:
            self._first.append(point)
        else:
            self._last.append(point)
        curve = columns([*self._first, *self._last])
        raised = [(name, watched.rule(curve, window=self._window)) for name, watched in self._rules.items()]
        found = [(name, alarm) for name, alarm in raised if alarm is not None]
        for name, _ in found:
            del self._rules[name]
        return [alarm for _, alarm in found]


def alarms_of(points: Iterable[Mapping[str, float]], rules: Mapping[str, Watched] = ALARMS) -> list[Alarm]:
    """Every alarm of a curve, at the step that raised it first: what was told while the run went on."""
    watch = Watch(rules)
    return [alarm for point in points for alarm in watch.see(point)]


def columns(points: Sequence[Mapping[str, float]]) -> Curve:
    """Steps as columns [S], NaN where a step lacks one.

    Example:
        >>> columns([{"step": 1.0}, {"step": 2.0, "loss": 0.5}])["loss"].tolist()
        [nan, 0.5]
    """
    names = dict.fromkeys(name for point in points for name in point)
    return {n: np.array([_number(p.get(n)) for p in points], dtype=np.float64) for n in names}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _recent(curve: Curve, name: str, window: int) -> float:
    """The mean of the last window, NaN where nothing was measured."""
    column = curve.get(name, np.empty(0))[-window:]
    known = column[np.isfinite(column)]
    return float(known.mean()) if len(known) else math.nan


def _size(moved: Change) -> float:
    return max(abs(moved.start), abs(moved.recent))


def _alarm(name: str, curve: Curve, words: str, numbers: Mapping[str, float]) -> Alarm:
    steps = curve.get("step")
    step = int(steps[-1]) if steps is not None and len(steps) else len(next(iter(curve.values())))
    return Alarm(name=name, words=words, step=step, numbers=numbers)
