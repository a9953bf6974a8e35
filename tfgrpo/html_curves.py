"""Columns over the steps of a run as inline SVG, and amounts as parts of one bar. Colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tfgrpo.html_parts import Html, join, tag

Words: TypeAlias = Callable[[float], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The size of a chart, the room around its curve, and how many levels its axis names."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    levels: int
    dots: int  # points that can still be told apart
    kind: str


WIDE = Frame(width=720, height=240, left=68, right=14, top=12, bottom=30, levels=5, dots=120, kind="chart")
SMALL = Frame(width=320, height=150, left=62, right=10, top=10, bottom=24, levels=4, dots=40, kind="chart small")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A value with its interval at one step, beside the curve."""

    step: float
    mean: float
    low: float
    high: float
    name: str


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to places in a frame; `levels` are named on the axis, the lowest first."""

    frame: Frame
    steps: tuple[float, float]
    levels: tuple[float, ...]

    @staticmethod
    def of(frame: Frame, steps: Iterable[float], values: Iterable[float]) -> _Scale:
        known, numbers = list(steps) or [0.0], [v for v in values if math.isfinite(v)] or [0.0]
        return _Scale(frame, (min(known), max(known)), round_levels(min(numbers), max(numbers), frame.levels))

    def x(self, step: float) -> float:
        first, last = self.steps
        share = (step - first) / (last - first) if last > first else 0.5
        return round(self.frame.left + (self.frame.width - self.frame.left - self.frame.right) * share, 1)

    def y(self, value: float) -> float:
        low, high = self.levels[0], self.levels[-1]
        share = (max(low, min(high, value)) - low) / (high - low)
        return round(self.base - (self.base - self.frame.top) * share, 1)

    @property
    def base(self) -> int:
        return self.frame.height - self.frame.bottom


def round_levels(low: float, high: float, most: int) -> tuple[float, ...]:
    """At most `most` round numbers at even distances, around all values from `low` to `high`.

    Example:
        >>> round_levels(0.03, 0.67, 5), round_levels(0.0, 0.0, 3), round_levels(12.3, 15.4, 3)
        ((0.0, 0.2, 0.4, 0.6, 0.8), (0.0, 0.5, 1.0), (12.0, 14.0, 16.0))
    """
    if high - low < 1e-12 * max(1.0, abs(low)):
        low, high = (0.0, 1.0) if low == 0 else (min(low, 0.0), max(low, 0.0))
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20, 25, 50)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return tuple(float(f"{n * step:.12g}") for n in range(first, last + 1))


def curve_over_steps(
    steps: Sequence[float],
    values: Sequence[float],
    *,
    words: Words,
    frame: Frame = SMALL,
    marks: Sequence[tuple[float, str]] = (),
    measured: Sequence[Measure] = (),
    at: Words = "step {:.0f}".format,
) -> Html:
    """A line with a gap wherever a value is not finite.

    Args:
        steps: [S], rising.
        values: [S].
        words: how a value is written.
        frame: the size.
        marks: steps at which something happened, with its words.
        measured: values with intervals, drawn as bars.
        at: how a step is written.
    """
    spans = [end for m in measured for end in (m.low, m.high)]
    scale = _Scale.of(frame, [*steps, *(m.step for m in measured)], [*values, *spans])
    known = [v for v in values if math.isfinite(v)]
    return tag(
        "svg",
        _levels(scale, words),
        *(_mark(scale, step, said) for step, said in marks),
        *(tag("polyline", points=piece, class_="line") for piece in _pieces(scale, steps, values)),
        *(_dots(scale, steps, values, words, at) if len(known) <= frame.dots else ()),
        *(_bar(scale, m, words) for m in measured),
        _ends(scale, at),
        viewBox=f"0 0 {frame.width} {frame.height}",
        class_=frame.kind,
        role="img",
        aria_label=f"from {words(known[0])} to {words(known[-1])}" if known else "nothing was measured",
    )


def _levels(scale: _Scale, words: Words) -> Html:
    frame, parts = scale.frame, []
    for level in scale.levels:
        y = scale.y(level)
        parts.append(tag("line", x1=frame.left, y1=y, x2=frame.width - frame.right, y2=y, class_="grid"))
        parts.append(tag("text", words(level), x=frame.left - 7, y=y + 4, class_="end"))
    return join(parts)


def _pieces(scale: _Scale, steps: Sequence[float], values: Sequence[float]) -> list[str]:
    """The points of the line, apart where there are gaps."""
    pieces: list[list[str]] = [[]]
    for step, value in zip(steps, values, strict=True):
        if math.isfinite(value):
            pieces[-1].append(f"{scale.x(step)},{scale.y(value)}")
        elif pieces[-1]:
            pieces.append([])
    return [" ".join(piece) for piece in pieces if piece]


def _dots(scale: _Scale, steps: Sequence[float], values: Sequence[float], words: Words, at: Words) -> list[Html]:
    """A point for each value, which tells it when pointed at."""
    return [
        tag(
            "circle",
            tag("title", f"{at(step)}: {words(value)}"),
            cx=scale.x(step),
            cy=scale.y(value),
            r=2.5,
            class_="dot line-dot",
        )
        for step, value in zip(steps, values, strict=True)
        if math.isfinite(value)
    ]


def _mark(scale: _Scale, step: float, said: str) -> Html:
    x = scale.x(step)
    return tag("line", tag("title", said), x1=x, y1=scale.frame.top, x2=x, y2=scale.base, class_="mark")


def _bar(scale: _Scale, measured: Measure, words: Words) -> Html:
    x = scale.x(measured.step)
    told = f"{measured.name}: {words(measured.mean)} ({words(measured.low)} to {words(measured.high)})"
    bar = tag("line", x1=x, y1=scale.y(measured.low), x2=x, y2=scale.y(measured.high), class_="span wide test")
    return join([bar, tag("circle", tag("title", told), cx=x, cy=scale.y(measured.mean), r=5, class_="dot test")])


def _ends(scale: _Scale, at: Words) -> Html:
    """The first and the last step below the axis."""
    first, last = scale.steps
    y = scale.frame.height - 6
    parts = [tag("text", at(first), x=scale.frame.left, y=y)]
    if last > first:
        parts.append(
            tag("text", at(last).removeprefix("step "), x=scale.frame.width - scale.frame.right, y=y, class_="end")
        )
    return join(parts)


def parts_of_whole(amounts: Sequence[tuple[str, float]]) -> Html:
    """Named amounts as one bar, in their proportions; four tints, then they repeat."""
    total, at, cells = sum(amount for _, amount in amounts) or 1.0, 0.0, []
    for n, (name, amount) in enumerate(amounts):
        width = round(WIDE.width * amount / total, 1)
        said = tag("title", f"{name}: {amount / total:.0%}")
        cells.append(tag("rect", said, x=round(at, 1), y=0, width=width, height=24, class_=f"tint{n % 4}"))
        at += width
    return tag(
        "svg",
        *cells,
        viewBox=f"0 0 {WIDE.width} 24",
        class_="chart",
        role="img",
        aria_label=", ".join(f"{name} {amount / total:.0%}" for name, amount in amounts),
    )
