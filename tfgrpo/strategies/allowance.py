"""Who is granted further calls when there are not enough for all: the questions that are most open.

Rounds    all questions are there from the start: each round, the most doubtful ones first; the same every time
Pool      questions come as they come: each brings a mean number of calls, and takes what others left
"""

from __future__ import annotations

import asyncio
import math


class Rounds:
    """Calls for a fixed set of questions. A round is over when every open question has asked for more or left.

    Example:
        >>> async def three():
        ...     rounds = Rounds(seats=3, calls=1)
        ...     wants = [rounds.more(seat, doubt, 1) for seat, doubt in enumerate((0.1, 0.5, 0.25))]
        ...     return await asyncio.gather(*wants)
        >>> asyncio.run(three())
        [False, True, False]
    """

    def __init__(self, *, seats: int, calls: float) -> None:
        self.left = calls
        self._open = seats
        self._asked: dict[int, tuple[float, int, asyncio.Future[bool]]] = {}

    async def more(self, seat: int, doubt: float, calls: int) -> bool:
        """Whether this question gets `calls` more; answered when the round is over."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[seat] = (doubt, calls, answer)
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
        asked, self._asked = self._asked, {}
        for _, (_, calls, answer) in sorted(asked.items(), key=lambda item: (-item[1][0], item[0])):
            granted = calls <= self.left
            self.left -= calls if granted else 0
            if not answer.done():  # its question was given up
                answer.set_result(granted)


class Pool:
    """Calls for questions that come one after another: at most `mean` for each so far, all together.

    Example:
        >>> pool = Pool(mean=3)
        >>> pool.enter(first=1)
        >>> [pool.more(1) for _ in range(3)]
        [True, True, False]
    """

    def __init__(self, *, mean: float, kept: float = math.inf) -> None:
        self.left, self._mean, self._kept = 0.0, mean, kept

    def enter(self, first: int) -> None:
        """A question comes, and its first calls are made without asking."""
        self.left = min(self.left + self._mean, self._kept) - first

    def more(self, calls: int) -> bool:
        """Whether there are so many left."""
        granted = calls <= self.left
        self.left -= calls if granted else 0
        return granted
