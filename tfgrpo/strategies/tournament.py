"""A knock-out tournament between the different answers to one question, seeded by how many say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tfgrpo.late import LateCaller
from tfgrpo.rewards.base import score_answers
from tfgrpo.rewards.judge import Asks
from tfgrpo.rewards.tournament import RUBRIC, bracket
from tfgrpo.rewards.tournament import tournament as matches
from tfgrpo.strategies.base import Chosen, Fixed, Meter, Sample, check_count, drawn_or_raise
from tfgrpo.strategies.readings import Reading, reading_name, resolve_reading
from tfgrpo.strategies.vote import read_all
from tfgrpo.types import Completion, Problem, Score


def tournament(
    n: int = 4, *, caller: Asks | None = None, rubric: str = RUBRIC, reading: Reading | str = "auto"
) -> Tournament:
    """The answer that wins a single elimination among `n`, judged in both orders.

    One answer stands for all that say the same; the more say it, the better its seed, so that the two most frequent
    ones can meet only in the final. D different answers are D - 1 matches of 2 calls: none when all agree. A tie, and a
    match whose verdict cannot be had, goes to the better seed.

    Args:
        n: answers.
        caller: the judge's model; None asks the solver's own, which likes its own style.
        rubric: what the judge goes by.
        reading: what two answers must share to be the same.

    Source: matches in both orders arXiv 2601.06487 (paper and code); seeds by votes are ours.

    Example:
        >>> import asyncio
        >>> from tfgrpo.strategies.scripted import Said
        >>> class Judge:  # in a run: LateCaller(connect("openai/gpt-4.1-mini"))
        ...     async def complete(self, messages, key, sampling):
        ...         shown = messages[1]["content"]
        ...         text = '{"reason": "", "first": 9, "second": 2}' if shown.find("7") < shown.find("5") else (
        ...             '{"reason": "", "first": 2, "second": 9}')
        ...         return Completion(prompt=(), messages=(), text=text, policy="any")
        >>> chosen = asyncio.run(tournament(3, caller=Judge())(Problem(id="q", messages=()), Said("5", "5", "7")))
        >>> chosen.completion.text, chosen.why, chosen.judge.calls
        ('7', 'won 1 match of 1 among 2 different answers', 2)
    """
    check_count("tournament", n, 2)
    resolve_reading(reading)
    return Tournament(n=n, caller=LateCaller() if caller is None else caller, rubric=rubric, reading=reading)


@dataclass(frozen=True, kw_only=True)
class Tournament(Fixed):
    """See `tournament`."""

    caller: Asks
    rubric: str
    reading: Reading | str = "auto"

    @property
    def name(self) -> str:
        return f"tournament(n={self.n}, judge={getattr(self.caller, 'name', 'given')}, {self._read})"

    @property
    def _read(self) -> str:
        return f"reading={reading_name(self.reading)}"

    @property
    def models(self) -> tuple[LateCaller, ...]:
        return (self.caller,) if isinstance(self.caller, LateCaller) else ()

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        drawn = await drawn_or_raise(sample, self.n)
        readings = read_all(problem, drawn.answers, resolve_reading(self.reading))
        seeds = seeded([(number, readings[number]) for number in sorted(drawn.answers)])
        meter = Meter(self.caller)
        winner, won, played = await self._knock_out(problem, [drawn.answers[number] for number in seeds], meter)
        lone = "1 match" if won == 1 else f"{won} matches"
        words = f"won {lone} of {played} among {len(seeds)} different answers" if played else "all agree"
        return Chosen(
            number=seeds[winner],
            answers=drawn.answers,
            why=words,
            readings=readings,
            failed=len(drawn.lost),
            judge=meter.bill,
        )

    async def _knock_out(self, problem: Problem, entrants: Sequence[Completion], meter: Meter) -> tuple[int, int, int]:
        """The seed that wins, how many matches it won, and how many were played."""
        size = 1 << (len(entrants) - 1).bit_length()
        slots = [seed if seed < len(entrants) else None for seed in bracket(size)]
        won, played = dict.fromkeys(range(len(entrants)), 0), 0
        while len(slots) > 1:
            pairs = list(zip(slots[::2], slots[1::2], strict=True))
            results = await asyncio.gather(*(self._match(problem, entrants, pair, meter) for pair in pairs))
            for (a, b), result in zip(pairs, results, strict=True):
                if a is not None and b is not None:
                    played += 1
                    won[result] += 1
            slots = list(results)
        assert slots[0] is not None  # a bracket has at least one entrant
        return slots[0], won[slots[0]], played

    async def _match(
        self, problem: Problem, entrants: Sequence[Completion], pair: tuple[int | None, int | None], meter: Meter
    ) -> int:
        a, b = pair
        if a is None or b is None:
            found = b if a is None else a
            assert found is not None  # byes go to the best seeds, so that two of them never meet
            return found
        reward = matches(meter, rubric=self.rubric, topology="round_robin")
        first, second = await score_answers(reward, problem, [entrants[a], entrants[b]])
        if not isinstance(first, Score) or not isinstance(second, Score) or first.value == second.value:
            return min(a, b)
        return a if first.value > second.value else b


def seeded(readings: Sequence[tuple[int, str | None]]) -> list[int]:
    """One number for each different reading, the most frequent first; what cannot be read stands for itself.

    Example:
        >>> seeded([(0, "7"), (1, "5"), (2, None), (3, "5")])
        [1, 0, 2]
    """
    sets: dict[object, list[int]] = {}
    for number, reading in readings:
        sets.setdefault(number if reading is None else reading, []).append(number)
    return [numbers[0] for numbers in sorted(sets.values(), key=lambda numbers: -len(numbers))]
