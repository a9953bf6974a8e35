"""Events that tell of something gone wrong, in words for whoever watches a run: each kind a few times, then counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tfgrpo.events import Event

REPEATS = 3  # a trouble is told so many times, then only counted
WORDS = {
    "call_failed": "no reply for problem {problem}: {error}",
    "request_refused": "the server refuses problem {problem}: {error}",
    "reward_failed": "{error}",
    "parameter_refused": "{model} refuses {parameter}; sent instead: {instead}",
    "rate_limited": "{model} asks to slow down; {in_flight_limit} requests in flight from now on",
    "usage_missing": "{note}",
    "subscriber_failed": "{subscriber} failed: {error}",
    "test_skipped": "the test could not be finished: {why}",
    "preparation_failed": "problem {problem} stays as it is, its wordings or hints could not be made: {error}",
    "anchor_refused": "the reference solution of problem {problem} is not solved in the reward's eyes: {outcome}",
    "teaching_failed": "{error}",
    "critic_failed": "the critic's reply was of no use: {error}",
}


class Troubles(Counter[str]):
    """How often each kind of trouble came.

    Example:
        >>> troubles = Troubles()
        >>> troubles.told(Event(name="reward_failed", data={"error": "no score"})), troubles["reward_failed"]
        (['note: no score'], 1)
    """

    def told(self, event: Event) -> list[str]:
        """The line that is worth showing for an event, if any."""
        if event.name not in WORDS:
            return []
        self[event.name] += 1
        if self[event.name] > REPEATS:
            return []
        more = " (more of these are only counted)" if self[event.name] == REPEATS else ""
        return [f"note: {WORDS[event.name].format_map(_Lenient(event.data))[:500]}{more}"]


class _Lenient(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
