"""Charts as inline SVG: intervals on a line, and reward over the run. Colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfgrpo.html_parts import Html, join, tag

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 14, 64
LABEL_ROOM = 46  # between the names of two versions


def interval_bar(mean: float, low: float, high: float, *, verdict: str, scale: float) -> Html:
    """One effect with its interval on an axis from -scale to scale, zero in the middle; coloured by its verdict."""

    def x(value: float) -> float:
        return round(60 + 58 * max(-1.0, min(1.0, value / scale)), 1)

    kind = {"helps": "good", "harms": "bad"}.get(verdict, "open")
    return tag(
        "svg",
        tag("line", x1=2, y1=10, x2=118, y2=10, class_="grid"),
        tag("line", x1=60, y1=2, x2=60, y2=18, class_="axis"),
        tag("line", x1=x(low), y1=10, x2=x(high), y2=10, class_=f"span {kind}"),
        tag("circle", cx=x(mean), cy=10, r=4, class_=f"dot {kind}"),
        viewBox="0 0 120 20",
        class_="effect",
        role="img",
        aria_label=f"{mean:+.2f}, {low:+.2f} to {high:+.2f}",
    )


def before_after(rows: Sequence[tuple[str, float, float, float]], *, top: float) -> Html:
    """Named means with intervals on one axis from 0 to `top`."""
    height = 30 + 44 * len(rows)
    left, right = max([84, *(20 + 7 * len(name) for name, *_ in rows)]), 20

    def x(value: float) -> float:
        return round(left + (WIDTH - left - right) * max(0.0, min(1.0, value / top)), 1)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = x(tick * top)
        parts.append(tag("line", x1=at, y1=6, x2=at, y2=height - 24, class_="grid"))
        parts.append(tag("text", f"{tick * top:.2g}", x=at, y=height - 6, class_="middle"))
    for n, (name, mean, low, high) in enumerate(rows):
        y = 28 + 44 * n
        kind = "after" if n else "open"
        parts.append(tag("text", name, x=left - 12, y=y + 5, class_="end"))
        parts.append(tag("line", x1=x(low), y1=y, x2=x(high), y2=y, class_=f"span wide {kind}"))
        parts.append(tag("circle", cx=x(mean), cy=y, r=8, class_=f"dot {kind}"))
    words = "; ".join(f"{name} {mean:.3f}, {low:.3f} to {high:.3f}" for name, mean, low, high in rows)
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", class_="chart", role="img", aria_label=words)


def learning_curve(points: Sequence[Mapping[str, Any]]) -> Html:
    """Mean reward of each step with its 95 % interval over the groups so far; new store versions as marks below.

    Points of training have no version.
    """
    ends, total = [], 0
    for point in points:
        total += int(point["groups"])
        ends.append(total)
    top = max([1.0, *(float(p["reward"]) for p in points)])
    floor = min([0.0, *(float(p["reward"]) for p in points)])

    def x(groups: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * groups / max(1, total), 1)

    def y(value: float) -> float:
        share = (max(floor, min(top, value)) - floor) / ((top - floor) or 1.0)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    centres = [x(end - int(p["groups"]) / 2) for end, p in zip(ends, points, strict=True)]
    return tag(
        "svg",
        _levels(floor, top, y),
        _band(centres, points, y),
        tag("polyline", points=_line(centres, points, y), class_="line"),
        *(_dot(at, y(float(p["reward"])), end, p) for at, end, p in zip(centres, ends, points, strict=True)),
        _versions(centres, points),
        tag("text", "0", x=LEFT, y=HEIGHT - 6),
        tag("text", f"{total} groups", x=WIDTH - RIGHT, y=HEIGHT - 6, class_="end"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label="mean reward per step",
    )


def _levels(floor: float, top: float, y: Any) -> Html:
    parts = []
    for n in range(5):
        value = floor + (top - floor) * n / 4
        parts.append(tag("line", x1=LEFT, y1=y(value), x2=WIDTH - RIGHT, y2=y(value), class_="grid"))
        parts.append(tag("text", f"{value:.2f}", x=LEFT - 8, y=y(value) + 4, class_="end"))
    return join(parts)


def _line(centres: Sequence[float], points: Sequence[Mapping[str, Any]], y: Any) -> str:
    return " ".join(f"{at},{y(float(p['reward']))}" for at, p in zip(centres, points, strict=True))


def _band(centres: Sequence[float], points: Sequence[Mapping[str, Any]], y: Any) -> Html | None:
    known = [(at, p) for at, p in zip(centres, points, strict=True) if p.get("low") is not None]
    if len(known) < 2:
        return None
    upper = [f"{at},{y(float(p['high']))}" for at, p in known]
    lower = [f"{at},{y(float(p['low']))}" for at, p in reversed(known)]
    return tag("polygon", points=" ".join([*upper, *lower]), class_="band")


def _dot(x: float, y: float, groups: int, point: Mapping[str, Any]) -> Html:
    span = "" if point.get("low") is None else f" (95 % {point['low']:.3f} to {point['high']:.3f})"
    under = f", sampled under v{point['version']:.0f}" if "version" in point else ""
    words = f"up to group {groups}: {point['reward']:.3f}{span}{under}"
    return tag("circle", tag("title", words), cx=x, cy=y, r=3, class_="dot line-dot")


def _versions(centres: Sequence[float], points: Sequence[Mapping[str, Any]]) -> Html:
    """A mark where the store version that was sampled under changed; names where there is room."""
    parts, named, base = [], -math.inf, HEIGHT - BOTTOM
    for n, point in enumerate(points):
        if "version" not in point or (n and point["version"] == points[n - 1]["version"]):
            continue
        at = centres[n]
        parts.append(tag("line", x1=at, y1=base, x2=at, y2=base + 7, class_="axis"))
        if at - named >= LABEL_ROOM:
            parts.append(tag("text", f"v{point['version']:.0f}", x=at, y=base + 26, class_="middle"))
            named = at
    return join(parts)
