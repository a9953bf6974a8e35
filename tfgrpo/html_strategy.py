"""What a strategy costs and reaches, as a section of an evaluation's page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from tfgrpo.html_curves import WIDE, Measure, curve_over_steps
from tfgrpo.html_parts import Html, clean, section, table, tag
from tfgrpo.measurement import Point

NOTE = (
    "Mean score against mean cost of one problem, at 1, 2, 4, ... answers, with 95 % intervals over problems; the "
    "first point is the plain answer. Points below all answers are told from answers that were paid: where a strategy "
    "asks for the same number whatever they say, as the mean over their orders, which also evens out ties."
)


def cost_curve(points: Sequence[Point]) -> Html | None:
    """The chart of each rule, and all numbers."""
    if not points:
        return None
    charts = [_chart(rule, list(rows)) for rule, rows in groupby(points, key=lambda point: point.rule)]
    head = ("rule", "answers at most", "calls", "tokens", "dollars", "mean score", "95 % interval")
    rows = [
        (
            clean(p.rule, 120),
            p.n,
            f"{p.calls:.2f}",
            f"{p.tokens:,.0f}",
            p.cost_words,
            f"{p.score.mean:.3f}",
            f"{p.score.low:.3f} to {p.score.high:.3f}",
        )
        for p in points
    ]
    return section("Score against cost, per problem", *charts, table(head, rows), note=NOTE)


def _chart(rule: str, points: Sequence[Point]) -> Html:
    """Over dollars of 1,000 problems, or over tokens where they are unknown or nothing."""
    priced = all(point.usd for point in points)
    costs = [1000 * (point.usd or 0.0) if priced else point.tokens for point in points]
    unit = "${:.4g} per 1,000 problems" if priced else "{:,.0f} tokens a problem"
    bars = [
        Measure(step=cost, mean=p.score.mean, low=p.score.low, high=p.score.high, name=f"n={p.n}")
        for cost, p in zip(costs, points, strict=True)
    ]
    values = [point.score.mean for point in points]
    chart = curve_over_steps(
        costs, values, words=lambda v: f"{v:.2f}", frame=WIDE, measured=bars, at=lambda cost: unit.format(cost)
    )
    return tag("div", tag("h3", clean(rule, 120)), chart, class_="card")
