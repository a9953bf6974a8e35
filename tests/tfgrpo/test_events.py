import asyncio

import pytest

from tfgrpo.errors import AuthError, BudgetExhausted
from tfgrpo.events import EventLog, recorded


def test_subscribers_see_events_in_order():
    log, seen = EventLog(), []
    log.subscribe(seen.append)
    log.emit("a", x=1)
    log.emit("b")
    assert [(e.name, dict(e.data)) for e in seen] == [("a", {"x": 1}), ("b", {})]
    assert seen[0].time <= seen[1].time


def test_a_broken_subscriber_is_dropped_and_told_about():
    seen = []

    def broken(event):
        raise ValueError("no terminal")

    log = EventLog(None, broken, seen.append)
    log.emit("a")
    log.emit("b")
    assert [e.name for e in seen] == ["subscriber_failed", "a", "b"]
    assert seen[0].data["error"] == "ValueError: no terminal"
    assert "broken" in seen[0].data["subscriber"]


def test_recorded_turns_a_failure_into_an_event_and_keeps_it():
    seen = []
    log = EventLog(None, seen.append)
    with recorded(log, "reward_failed", problem="p1") as outcome:
        raise KeyError("answer")
    assert isinstance(outcome.error, KeyError)
    assert dict(seen[0].data) == {"problem": "p1", "error": "KeyError: 'answer'"}
    with recorded(log, "reward_failed") as outcome:
        pass
    assert outcome.error is None and len(seen) == 1


@pytest.mark.parametrize("error", [AuthError("k"), BudgetExhausted("b"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_what_stops_the_run_passes_through(error):
    with pytest.raises(type(error)):
        async with recorded(EventLog(), "x"):
            raise error
