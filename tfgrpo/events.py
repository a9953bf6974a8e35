"""What happened, in order: events are written and never read back by the stages that emit them.

Also the one place that catches every exception: `recorded` turns the failure of something we do not own (a user's
reward, a model's answer, a subscriber) into an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from tfgrpo.errors import AuthError, BudgetExhausted, InputError, Interrupted, MissingExtraError, RunStateError

STOPS_THE_RUN = (AuthError, BudgetExhausted, InputError, Interrupted, MissingExtraError, RunStateError, MemoryError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened; `data` holds JSON values only."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


Subscriber = Callable[[Event], None]


class EventSink(Protocol):
    """Where events are kept: `RunRecord`, usually."""

    def add_event(self, event: Event) -> None: ...


class EventLog:
    """Hands every event to the sink and then to the subscribers.

    A subscriber that raises is dropped and told about in an event: a broken progress bar must not cost a run.

    Example:
        >>> log = EventLog()
        >>> seen = []
        >>> log.subscribe(seen.append)
        >>> log.emit("epoch_started", epoch=1)
        >>> seen[0].name, dict(seen[0].data)
        ('epoch_started', {'epoch': 1})
    """

    def __init__(self, sink: EventSink | None = None, *subscribers: Subscriber) -> None:
        self._sink = sink
        self._subscribers: list[Subscriber] = list(subscribers)

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def emit(self, name: str, **data: Any) -> None:
        """Build an event and publish it."""
        self.publish(Event(name=name, data=data))

    def publish(self, event: Event) -> None:
        """The form that `Caller(emit=log.publish)` and others take."""
        if self._sink is not None:
            self._sink.add_event(event)
        for subscriber in tuple(self._subscribers):
            guard = recorded(None, "")
            with guard:
                subscriber(event)
            if guard.error is not None:
                self._subscribers.remove(subscriber)
                self.emit("subscriber_failed", subscriber=_name(subscriber), error=_words(guard.error))


class recorded:  # noqa: N801 - reads as a verb: `with recorded(log, "reward_failed", problem=id) as outcome:`
    """Turn a failure inside the block into the event `name` with `data` and the error's words; `error` holds it after.

    What must stop the run passes through: a missing key, an exhausted budget, a damaged run folder, an interrupt, and
    everything that is no `Exception` (cancellation, Ctrl-C).

    Example:
        >>> log = EventLog()
        >>> with recorded(log, "reward_failed", problem="p1") as outcome:
        ...     1 / 0
        >>> type(outcome.error).__name__
        'ZeroDivisionError'
    """

    def __init__(self, events: EventLog | None, name: str, **data: Any) -> None:
        self.error: Exception | None = None
        self._events, self._name, self._data = events, name, data

    def __enter__(self) -> recorded:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is None or not isinstance(error, Exception) or isinstance(error, STOPS_THE_RUN):
            return False
        self.error = error
        if self._events is not None:
            self._events.emit(self._name, **self._data, error=_words(error))
        return True

    async def __aenter__(self) -> recorded:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, trace)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _name(subscriber: Subscriber) -> str:
    return getattr(subscriber, "__qualname__", type(subscriber).__name__)
