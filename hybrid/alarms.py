"""What goes wrong in training, seen from its curve: pure functions of the points so far, each with words for a person.

A point is a row of the report's curve. A function says "" while all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TypeAlias

Curve: TypeAlias = Sequence[Mapping[str, float]]
WINDOW = 3  # points of a mean at the start and at the end


def collapsed_entropy(curve: Curve, *, share: float = 0.1, solved: float = 0.9) -> str:
    """Entropy per token below `share` of what it was at first: samples of a group no longer differ, so nothing more is
    learned from them. Where `solved` of the answers are right, that is as it should be.

    Example:
        >>> curve = [{"entropy": e, "reward": 0.1} for e in (2.0, 1.8, 1.9, 0.1, 0.1, 0.1)]
        >>> collapsed_entropy(curve)
        'entropy fell from 1.90 to 0.10 nats per token (reward 0.10 to 0.10): answers of a group hardly differ any more'
    """
    begun, now = _ends(curve, "entropy")
    done = _ends(curve, "success")[1]
    if not begun or now is None or now >= share * begun or (done is not None and done >= solved):
        return ""
    rewards = _told(_ends(curve, "reward"))
    return (
        f"entropy fell from {begun:.2f} to {now:.2f} nats per token{rewards}: answers of a group hardly differ any more"
    )


def collapsed_length(curve: Curve, *, share: float = 0.2) -> str:
    """Answers shorter than `share` of what they were at first while rewards did not rise: the model gave up saying.

    Example:
        >>> collapsed_length([{"length": n, "reward": 0.2} for n in (50.0, 50.0, 50.0, 2.0, 2.0, 2.0)])
        'answers shrank from 50 to 2 tokens (reward 0.20 to 0.20)'
    """
    (begun, now), (low, high) = _ends(curve, "length"), _ends(curve, "reward")
    if not begun or now is None or now >= share * begun or (low is not None and high is not None and high > low):
        return ""
    return f"answers shrank from {begun:.0f} to {now:.0f} tokens{_told((low, high))}"


def endless_answers(curve: Curve, *, rise: float = 0.4) -> str:
    """Answers are cut off more often than at first, by `rise`: the model no longer ends what it says.

    Example:
        >>> endless_answers([{"truncated": t} for t in (0.0, 0.1, 0.0, 0.9, 0.8, 1.0)])
        'answers that are cut off rose from 3% to 90%'
    """
    begun, now = _ends(curve, "truncated")
    if begun is None or now is None or now - begun < rise:
        return ""
    return f"answers that are cut off rose from {begun:.0%} to {now:.0%}{_told(_ends(curve, 'reward'))}"


COLLAPSE: tuple[Callable[[Curve], str], ...] = (collapsed_entropy, collapsed_length, endless_answers)


def raised(curve: Curve, alarms: Sequence[Callable[[Curve], str]] = COLLAPSE) -> list[str]:
    """The words of the alarms that the last point has raised, each once: not those that rang before it.

    Example:
        >>> curve = [{"truncated": t} for t in (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)]
        >>> [len(raised(curve[:n])) for n in range(1, 7)]
        [0, 0, 0, 0, 1, 0]
    """
    return [words for alarm in alarms if (words := alarm(curve)) and not alarm(curve[:-1])]


def _ends(curve: Curve, name: str) -> tuple[float | None, float | None]:
    """Means of the first and the last points that have a number of that name; None while there are too few."""
    values = [point[name] for point in curve if point.get(name) is not None]
    if len(values) <= WINDOW:
        return None, None
    return fmean(values[:WINDOW]), fmean(values[-WINDOW:])


def _told(rewards: tuple[float | None, float | None]) -> str:
    begun, now = rewards
    return "" if begun is None or now is None else f" (reward {begun:.2f} to {now:.2f})"
