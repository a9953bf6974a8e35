"""What the pages of all kinds of runs share: the frame, the headline, intervals, tiles, failures and configuration.

A page is one static file: no script, no network, nothing in it that model output could break.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgrpo.errors import RunStateError
from tfgrpo.events import Event
from tfgrpo.html_charts import before_after
from tfgrpo.html_parts import Html, clean, folded, section, table, tag
from tfgrpo.html_style import STYLE
from tfgrpo.report import Change, Measured

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: object, *parts: object) -> Html:
    """The whole file, from the parts of its body."""
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", clean(title, 200)),
        Html(f"<style>{STYLE}</style>"),
    )
    return Html("<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("main", *parts)), lang="en"))


def written(content: str, out: Path) -> Path:
    """Put a page or another text in its place, whole or not at all; the place.

    Raises:
        RunStateError: it could not be written.
    """
    fresh = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(out)
    except OSError as error:
        raise RunStateError(f"the report could not be written to {out}: {error}; give another file") from error
    return out


def compared(gain: Measured, where: str) -> tuple[str, str]:
    """A paired difference in plain words, and its colour."""
    if gain.low > 0:
        return f"Better {where}: {gain.mean:+.3f}", "good"
    if gain.high < 0:
        return f"Worse {where}: {gain.mean:+.3f}", "bad"
    return f"Inside the noise {where}: {gain.mean:+.3f}", ""


def beside(changes: Sequence[Change], names: tuple[str, str] = ("before", "after")) -> Html | None:
    """What else was measured of the same problems."""
    if not changes:
        return None
    rows = [
        (clean(c.name, 200), *("–" if m is None else m.words() for m in (c.before, c.after)), c.gain_words or "–")
        for c in changes
    ]
    return table(("beside the score", *names, "change"), rows, numbers_from=9)


def intervals(before: Measured | None, after: Measured | None, names: tuple[str, str] = ("before", "after")) -> Html:
    sides = (("before", names[0], before), ("after", names[1], after))
    measured = [(label, name, m) for label, name, m in sides if m is not None]
    top = max([1.0, *(m.high for _, _, m in measured if math.isfinite(m.high))])
    chart = before_after([(label, m.mean, m.low, m.high) for label, _, m in measured], top=top)
    sampled = any(m.pass_at_k is not None for _, _, m in measured)
    head = ("", "mean score", "95 % interval", "n", *(["pass@k"] if sampled else []))
    numbers = table(head, [_numbers(name, m, sampled=sampled) for _, name, m in measured])
    return tag("div", chart, numbers, class_="measured") if measured else Html()


def _numbers(name: str, m: Measured, *, sampled: bool) -> list[object]:
    chance = "–" if m.pass_at_k is None else f"{m.pass_at_k:.3f} (k={m.samples})"
    return [name, f"{m.mean:.3f}", f"{m.low:.3f} to {m.high:.3f}", m.n, *([chance] if sampled else [])]


def tiles(shown: Sequence[tuple[str, str]]) -> Html:
    """Numbers with what they are."""
    return tag(
        "div", *(tag("div", tag("b", big), tag("span", small), class_="tile") for big, small in shown), class_="tiles"
    )


def short(count: int) -> str:
    return (
        f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f} k" if count < 10_000_000 else f"{count / 1e6:,.1f} M"
    )


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def happened(counts: Mapping[str, int], failures: Sequence[Event], routine: frozenset[str]) -> Html:
    """How often what was out of the ordinary happened, and the last of it."""
    unusual = [(name, f"{count:,}") for name, count in sorted(counts.items()) if name not in routine]
    if not unusual:
        return section("Failures and other events", tag("p", "Nothing out of the ordinary happened.", class_="quiet"))
    last = folded(
        f"The last {len(failures)}",
        table(("event", "what"), [(e.name, clean(_data(e.data), 600)) for e in failures], numbers_from=9),
    )
    return section("Failures and other events", table(("event", "times"), unusual), last)


def _data(data: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in data.items() if value not in ("", None))


def facts(config: Mapping[str, Any], title: str = "Configuration") -> Html:
    """Names and values, nested ones under their path."""
    rows = [(key, clean(value, 500)) for key, value in _flat(config).items()]
    return section(title, table((), rows, numbers_from=9))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return flat
