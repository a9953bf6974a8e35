"""What going on with prompts, or training, is likely to bring: forecasts as formulas on measured numbers.

Legend: k steps of a pilot, n further steps, H groups of half a learning curve, M further groups. Scores lie in 0..1, a
gain is a difference of mean scores, and every interval is one of 95 %.

Every forecast rests on an assumption that is stated with its formula. A forecast that has no ground is None, and
whoever asked says *unknown*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t: the 97.5 % quantiles of 1 to 20 degrees of freedom."""
NORMAL = 1.96
LEAST_ERROR = 0.005
"""A standard error below half a point comes from a handful of equal values, not from precision."""
REACH = 10
"""A pilot of k steps is extrapolated to 10 k steps in all; beyond that nothing more is promised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A number with its 95 % interval."""

    mean: float
    low: float
    high: float

    def words(self) -> str:
        """Such as "+0.217 (95 % +0.120..+0.310)"."""
        return f"{self.mean:+.3f} (95 % {self.low:+.3f}..{self.high:+.3f})"

    def times(self, factor: float) -> Span:
        """The number scaled by a factor of at least 0."""
        return Span(mean=self.mean * factor, low=self.low * factor, high=self.high * factor)

    def at_most(self, top: float) -> Span:
        """The number where nothing can exceed `top`."""
        return Span(mean=min(self.mean, top), low=min(self.low, top), high=min(self.high, top))


def quantile(freedom: int) -> float:
    """Student's t for an interval of 95 %; above 20 degrees of freedom 1.96 + 2.4 / freedom, good to 0.3 %.

    Example:
        >>> quantile(4), quantile(100)
        (2.776, 1.984)
    """
    return T95[freedom - 1] if freedom <= len(T95) else NORMAL + 2.4 / freedom


def difference(a: Span, b: Span) -> Span:
    """`a - b` for independent numbers, with the interval made of theirs ("square-and-add").

        low = (a - b) - sqrt((a - a.low)^2 + (b.high - b)^2),   high likewise.

    Source: Newcombe 1998; Zou & Donner 2008 (MOVER).

    Example:
        >>> difference(Span(mean=0.5, low=0.44, high=0.56), Span(mean=0.3, low=0.22, high=0.38)).words()
        '+0.200 (95 % +0.100..+0.300)'
    """
    down = math.hypot(a.mean - a.low, b.high - b.mean)
    up = math.hypot(a.high - a.mean, b.mean - b.low)
    middle = a.mean - b.mean
    return Span(mean=middle, low=middle - down, high=middle + up)


def total(a: Span, b: Span) -> Span:
    """`a + b` for independent numbers, as `difference`."""
    return difference(a, Span(mean=-b.mean, low=-b.high, high=-b.low))


def pooled(a: Span, b: Span) -> Span:
    """Two independent measurements of one number, each weighted by the inverse of its variance.

    Example:
        >>> pooled(Span(mean=0.1, low=0.0, high=0.2), Span(mean=0.2, low=0.1, high=0.3)).words()
        '+0.150 (95 % +0.079..+0.221)'
    """
    weights = [1.0 / _error(span) ** 2 for span in (a, b)]
    middle = (a.mean * weights[0] + b.mean * weights[1]) / sum(weights)
    half = NORMAL / math.sqrt(sum(weights))
    return Span(mean=middle, low=middle - half, high=middle + half)


def _error(span: Span) -> float:
    return max(LEAST_ERROR, (span.high - span.low) / (2 * NORMAL))


# -- going on with prompts ---------------------------------------------------------------------------------------------

Point = tuple[float, float]
"""Groups of one step of learning, and their mean reward."""


def halves(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The early and the late half of a learning curve, by groups.

    Example:
        >>> halves([(4, 0.1), (4, 0.2), (8, 0.3)])
        ([(4, 0.1), (4, 0.2)], [(8, 0.3)])
    """
    everything, seen, early = sum(groups for groups, _ in points), 0.0, 0
    for groups, _ in points:
        if seen + groups > everything / 2:
            break
        seen, early = seen + groups, early + 1
    return list(points[:early]), list(points[early:])


def rise(points: Sequence[Point]) -> Span | None:
    """How much higher the late half of a learning curve lies than the early one; None with fewer than 2 points in one.

        m_h = sum(g r) / G_h     s^2 = sum_h sum g (r - m_h)^2 / (points - 2)
        rise = m_late - m_early +- t(points - 2) s sqrt(1 / G_early + 1 / G_late)

    Each step's reward r is a mean over its g groups. Steps are taken for independent.

    Example:
        >>> rise([(4, 0.10), (4, 0.20), (4, 0.15), (4, 0.30), (4, 0.40), (4, 0.35)]).words()
        '+0.200 (95 % +0.087..+0.313)'
    """
    parts = halves(points)
    if min(len(part) for part in parts) < 2:
        return None
    sizes = [sum(groups for groups, _ in part) for part in parts]
    means = [sum(g * r for g, r in part) / size for part, size in zip(parts, sizes, strict=True)]
    around = sum(g * (r - mean) ** 2 for part, mean in zip(parts, means, strict=True) for g, r in part)
    freedom = len(points) - 2
    error = math.sqrt(around / freedom * sum(1.0 / size for size in sizes))
    half = quantile(freedom) * max(LEAST_ERROR, error)
    middle = means[1] - means[0]
    return Span(mean=middle, low=middle - half, high=middle + half)


def going_on(risen: Span, half: float, more: float) -> Span:
    """The gain of M further groups when the last H of them brought `risen`: `risen (1 - 2^(-M / H))`.

    Assumed: each further half brings half as much as the one before, so that all the groups in the world bring no more
    than `risen` once again; and what is worse is not shipped, so that nothing is lost either.

    Example:
        >>> going_on(Span(mean=0.2, low=0.1, high=0.3), 12, 24).words()
        '+0.150 (95 % +0.075..+0.225)'
    """
    kept = Span(mean=max(0.0, risen.mean), low=max(0.0, risen.low), high=max(0.0, risen.high))
    return kept.times(1.0 - 2.0 ** (-more / half)) if half > 0 else kept.times(0.0)


# -- training ----------------------------------------------------------------------------------------------------------


def slope(rewards: Sequence[float]) -> Span | None:
    """Rise per step of a pilot's rewards: least squares with Student's t; None below 3 steps.

    Example:
        >>> slope([0.10, 0.16, 0.13, 0.19]).words()
        '+0.024 (95 % -0.031..+0.079)'
    """
    k = len(rewards)
    if k < 3:
        return None
    middle, mean = (k - 1) / 2, sum(rewards) / k
    spread = sum((i - middle) ** 2 for i in range(k))
    b = sum((i - middle) * (r - mean) for i, r in enumerate(rewards)) / spread
    around = sum((r - mean - b * (i - middle)) ** 2 for i, r in enumerate(rewards))
    half = quantile(k - 2) * max(LEAST_ERROR / k, math.sqrt(around / (k - 2) / spread))
    return Span(mean=b, low=b - half, high=b + half)


def pilot_gain(rewards: Sequence[float], measured: Span | None) -> Span | None:
    """What k steps of a pilot brought, from both witnesses: its k rewards, and the gain measured on other problems.

    The rewards were sampled before each update, so that their slope times k is what k updates brought. The two are
    independent and pooled. None when there is neither.

    Example:
        >>> pilot_gain([0.10, 0.16, 0.13, 0.19], Span(mean=0.08, low=-0.04, high=0.20)).words()
        '+0.084 (95 % -0.022..+0.189)'
    """
    steep = slope(rewards)
    curve = None if steep is None else steep.times(len(rewards))
    if curve is None or measured is None:
        return curve or measured
    return pooled(curve, measured)


def believed(gain: Span) -> float:
    """What is to be expected of a measured gain: less than was measured, the more so the noisier it is.

        g - se^2 / g, at least 0;   se = a quarter of the interval, about

    A gain within one standard error is expected to be nothing. A loss is taken as it is.

    Source: the positive-part estimator of James & Stein (1961), for one number.

    Example:
        >>> round(believed(Span(mean=0.10, low=0.002, high=0.198)), 3), believed(Span(mean=0.1, low=-0.2, high=0.4))
        (0.075, 0.0)
    """
    if gain.mean <= 0:
        return gain.mean
    return max(0.0, gain.low, gain.mean - _error(gain) ** 2 / gain.mean)


def training_gain(gain: Span, *, base: float, steps: int, more: int) -> Span:
    """The gain over the untrained model once n further steps follow a pilot of k steps that brought `gain`.

        f = g / (1 - base)        the share of what was missing that the pilot closed
        forecast = (1 - base) (1 - (1 - f)^r),   r = min(k + n, REACH k) / k

    Assumed: every k steps close the same share of what is missing then. In the middle g is what is `believed` of the
    gain. To be careful the low end takes the low end of the pilot's gain *and* half that pace from the pilot's end on.
    A pilot that lost something goes on along a line.

    Example: 8 steps from 0.14 to 0.24; 24 more of them:
        >>> training_gain(Span(mean=0.10, low=0.03, high=0.17), base=0.14, steps=8, more=24).words()
        '+0.299 (95 % +0.073..+0.504)'
    """
    room, ratio = max(0.0, 1.0 - base), min(steps + more, REACH * steps) / steps
    slow = 1.0 + (ratio - 1.0) / 2

    def grown(part: float, pace: float) -> float:
        if part <= 0 or room == 0:
            return max(-base, min(0.0, part * ratio)) + 0.0  # no -0.0
        return room * (1.0 - math.pow(1.0 - min(part / room, 1.0), pace))

    return Span(mean=grown(believed(gain), ratio), low=grown(gain.low, slow), high=grown(gain.high, ratio))
