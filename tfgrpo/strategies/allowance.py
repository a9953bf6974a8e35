"""Who is granted further calls when there are not enough for all: the questions that are most open.

Rounds    all questions are there from the start: the most urgent quarter gets its calls, then all are looked at again;
          the same every time
Pool      questions come as they come: each brings a mean number of calls, and takes what others left
"""

from __future__ import annotations

import asyncio
import math
import threading

SHARE = 4  # a round is for one question in so many


class Rounds:
    """Calls for a fixed set of questions.

    A round begins when every open question waits: the most urgent quarter is granted its calls, the others wait on.
    When the calls are used up, all who wait are refused.

    Example:
        >>> async def three():
        ...     rounds = Rounds(seats=3, calls=1)
        ...     wants = [rounds.more(seat, urgency, 1) for seat, urgency in enumerate((0.1, 0.5, 0.25))]
        ...     asked = [asyncio.ensure_future(want) for want in wants]
        ...     print(await asked[1])
        ...     rounds.leave(1)
        ...     return await asyncio.gather(asked[0], asked[2])
        >>> asyncio.run(three())
        True
        [False, False]
    """

    def __init__(self, *, seats: int, calls: float) -> None:
        self.left = calls
        self._open = seats
        self._asked: dict[int, tuple[float, int, asyncio.Future[bool]]] = {}

    async def more(self, seat: int, urgency: float, calls: int) -> bool:
        """Whether this question gets `calls` more; answered in a round in which it is urgent enough."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[seat] = (urgency, calls, answer)
        self._settle()
        return await answer

    def leave(self, seat: int) -> None:
        """The question is done: nobody waits for it any longer."""
        self._asked.pop(seat, None)
        self._open -= 1
        self._settle()

    def _settle(self) -> None:
        if not self._asked or len(self._asked) < self._open:
            return
        order = sorted(self._asked, key=lambda seat: (-self._asked[seat][0], seat))
        affordable = [seat for seat in order if self._asked[seat][1] <= self.left]
        for seat in affordable[: -(-len(order) // SHARE)] or order:
            _, calls, answer = self._asked.pop(seat)
            granted = calls <= self.left
            self.left -= calls if granted else 0
            if not answer.done():  # its question was given up
                answer.set_result(granted)


class Pool:
    """Calls for questions that come one after another, from any thread: at most `mean` for each so far, all together.

    Example:
        >>> pool = Pool(mean=3)
        >>> pool.enter(first=1)
        >>> [pool.more(1) for _ in range(3)]
        [True, True, False]
    """

    def __init__(self, *, mean: float, kept: float = math.inf) -> None:
        self.left, self._mean, self._kept = 0.0, mean, kept
        self._lock = threading.Lock()

    def enter(self, first: int) -> None:
        """A question comes, and its first calls are made without asking."""
        with self._lock:
            self.left = min(self.left + self._mean, self._kept) - first

    def more(self, calls: int) -> bool:
        """Whether there are so many left."""
        with self._lock:
            granted = calls <= self.left
            self.left -= calls if granted else 0
            return granted
