"""More from one question: strategies that ask several times, and return one answer with its bill.

    await vote(5)(problem, sample)      the answer that most of five agree on

`resolve_strategy("vote:5")` gives one by name, `tfgrpo methods --kind strategy` lists them; `tfgrpo evaluate
--strategy` measures one beside the plain answer, `tfgrpo serve --strategy` puts one before a server.
"""

from __future__ import annotations

from tfgrpo.strategies.base import Bill, Chosen, Sample, Strategy, hidden
from tfgrpo.strategies.best import best, oracle
from tfgrpo.strategies.named import STRATEGIES, resolve_strategy
from tfgrpo.strategies.readings import READINGS, Reading, resolve_reading
from tfgrpo.strategies.refine import refine
from tfgrpo.strategies.tournament import tournament
from tfgrpo.strategies.vote import adaptive, vote

__all__ = [
    "READINGS",
    "STRATEGIES",
    "Bill",
    "Chosen",
    "Reading",
    "Sample",
    "Strategy",
    "adaptive",
    "best",
    "hidden",
    "oracle",
    "refine",
    "resolve_reading",
    "resolve_strategy",
    "tournament",
    "vote",
]
