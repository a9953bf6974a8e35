"""Votes: what most answers say is right more often than what one says, if errors differ and the truth does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfgrpo.errors import BudgetExhausted, InputError
from tfgrpo.late import LateCaller
from tfgrpo.strategies.base import Chosen, Drawn, Fixed, Sample, check_count, draw, drawn_or_raise
from tfgrpo.strategies.formulas import Count, beta_confidence, cannot_be_overtaken, majority, urgency
from tfgrpo.strategies.readings import Reading, reading_name, resolve_reading
from tfgrpo.types import Completion, Problem

Stop = Literal["beta", "sure"]


def vote(n: int = 5, *, reading: Reading | str = "auto") -> Vote:
    """Self-consistency: `n` answers at once, and the first of those that say what most say.

    An answer that cannot be read votes for nobody. Of equally many votes the reading that came first wins, so that two
    answers are no better than one.

    Args:
        n: answers.
        reading: what two answers must share to be the same; see `tfgrpo.strategies.readings`. In an evaluation of a
            task, the reading of its reward.

    Source: arXiv 2203.11171.

    Example:
        >>> import asyncio
        >>> from tfgrpo.strategies.scripted import Said
        >>> asyncio.run(vote(3)(Problem(id="p", messages=()), Said("7", "5", "5."))).why
        '2 of 3 agree'
    """
    check_count("vote", n, 1)
    resolve_reading(reading)
    return Vote(n=n, reading=reading)


def adaptive(
    n: int = 10,
    *,
    stop: Stop = "beta",
    confidence: float = 0.95,
    step: int = 1,
    mean: float | None = None,
    reading: Reading | str = "auto",
) -> Adaptive:
    """A vote that ends when it is decided: easy questions take few answers, and only hard ones up to `n`.

    Stops at `P(p > 1/2) >= confidence` for `p ~ Beta(v1 + 1, v2 + 1)` of the two most frequent readings, or, with
    `stop="sure"`, when no further answer could change the winner (then it returns exactly what `vote(n)` returns).

    Args:
        n: answers at most.
        stop: "beta" or "sure".
        confidence: of the leader, for "beta"; 0.95 in the source, which then takes at least 4 answers.
        step: answers asked for at once; more is faster and stops later.
        mean: calls per question over all questions; the most urgent ones get what the others leave. In an evaluation
            a budget of calls is such a mean.
        reading: as for `vote`.

    Source: arXiv 2305.11860 (paper and code, for "beta"; the source takes one answer at a time, up to 40). `mean` is
    ours.

    Example:
        >>> import asyncio
        >>> from tfgrpo.strategies.scripted import Said
        >>> chosen = asyncio.run(adaptive(10)(Problem(id="p", messages=()), Said("5", "5", "5", "5", "7", "7")))
        >>> chosen.why, chosen.bill.calls
        ('4 of 4 agree, which is enough', 4)
    """
    check_count("adaptive", n, 2)
    resolve_reading(reading)
    if stop not in ("beta", "sure") or not 0.5 < confidence < 1 or not 1 <= step <= n:
        raise InputError(
            f"adaptive needs stop 'beta' or 'sure', confidence between 0.5 and 1 and 1 <= step <= {n}; got {stop!r}, "
            f"{confidence!r} and {step!r}"
        )
    if mean is not None and not step <= mean <= n:
        raise InputError(f"adaptive: a mean of calls lies between {step} and {n}, got {mean!r}")
    return Adaptive(n=n, stop=stop, confidence=confidence, step=step, mean=mean, reading=reading)


@dataclass(frozen=True, kw_only=True)
class Vote(Fixed):
    """See `vote`."""

    reading: Reading | str = "auto"
    models: tuple[LateCaller, ...] = field(default=(), init=False)

    @property
    def name(self) -> str:
        return f"vote(n={self.n}, reading={reading_name(self.reading)})"

    def pick(self, readings: Sequence[str | None], scores: Sequence[float]) -> int:
        """The winner of the vote."""
        return majority(readings).place

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        return counted(problem, await drawn_or_raise(sample, self.n), self.reading)


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """See `adaptive`."""

    n: int
    stop: Stop
    confidence: float
    step: int
    mean: float | None
    reading: Reading | str = "auto"
    models: tuple[LateCaller, ...] = field(default=(), init=False)
    oracle: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        rule = f"confidence={self.confidence:g}" if self.stop == "beta" else "stop=sure"
        step = f", step={self.step}" if self.step > 1 else ""
        mean = "" if self.mean is None else f", mean={self.mean:g}"
        return f"adaptive(n={self.n}, {rule}{step}{mean}, reading={reading_name(self.reading)})"

    @property
    def always(self) -> int:
        """The first answers, before anything is known."""
        return self.step

    @property
    def max_calls(self) -> int:
        return self.n

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        read, drawn, asked, ended = resolve_reading(self.reading), Drawn({}, []), 0, ""
        while asked < self.n and not ended:
            numbers = range(asked, min(asked + self.step, self.n))
            asked = numbers.stop
            try:
                new = await draw(sample, numbers)
            except BudgetExhausted:
                if not drawn.answers:
                    raise
                ended = ", and the budget is over"
                break
            drawn = Drawn({**drawn.answers, **new.answers}, [*drawn.lost, *new.lost])
            count = majority([read(problem, answer) for answer in drawn.answers.values()])
            if self._enough(count, self.n - asked):
                ended = ", which is enough"
            elif asked < self.n and not await sample.more(urgency(count, asked), min(self.step, self.n - asked)):
                ended = ", and other questions need the calls more"
        if not drawn.answers:
            raise drawn.lost[0]
        return counted(problem, drawn, self.reading, ended if asked < self.n or "budget" in ended else "")

    def _enough(self, count: Count, left: int) -> bool:
        if self.stop == "sure":
            return cannot_be_overtaken(count.first, count.second, left)
        return beta_confidence(count.first, count.second) >= self.confidence


def counted(problem: Problem, drawn: Drawn, reading: Reading | str, ended: str = "") -> Chosen:
    """The winner of the vote of these answers."""
    read = resolve_reading(reading)
    numbers = sorted(drawn.answers)
    readings = read_all(problem, drawn.answers, read)
    said = [readings[number] for number in numbers]
    count = majority(said)
    path = tuple(numbers[majority(said[: size + 1]).place] for size in range(len(said)))
    silent = "no answer could be read, so it is the first one"
    return Chosen(
        number=numbers[count.place],
        answers=drawn.answers,
        why=f"{count.first} of {len(numbers)} agree{ended}" if count.first else silent,
        path=path,
        readings=readings,
        failed=len(drawn.lost),
    )


def read_all(problem: Problem, answers: dict[int, Completion], read: Reading) -> dict[int, str | None]:
    """What each answer says."""
    return {number: read(problem, answer) for number, answer in answers.items()}
