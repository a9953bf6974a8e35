"""Runs the measures and probes of a task while an evaluation goes on.

Legend: P problems, K samples of one problem. What is not applicable or could not be had is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfgrpo.errors import RewardError
from tfgrpo.measures import Answers, Measure, Probe, Said
from tfgrpo.rewards.base import Reward, outcomes, reward, score_answers, settled
from tfgrpo.stats import Array
from tfgrpo.types import Completion, Problem, Score


@dataclass(kw_only=True, eq=False)
class Beside:
    """What is said beside the scores of one evaluation, while it runs."""

    measures: Mapping[str, Measure]
    probes: Sequence[Probe]
    problems: int
    samples: int
    values: dict[str, Array] = field(default_factory=dict)
    _failures: dict[str, tuple[int, str]] = field(default_factory=dict)  # how often, and with what at first

    def __post_init__(self) -> None:
        self._rewards = {name: m if isinstance(m, Reward) else reward(m) for name, m in self.measures.items()}
        columns = dict.fromkeys(self.measures, self.samples) | {n: 1 for p in self.probes for n in p.says}
        self.values = {name: np.full((self.problems, width), np.nan) for name, width in columns.items()}

    async def of_answers(self, row: int, problem: Problem, known: Mapping[int, Completion]) -> None:
        """What the measures say of the answers of one problem, by sample number."""
        for name, measure in self._rewards.items():
            said = await score_answers(measure, problem, list(known.values()))
            for sample, outcome in zip(known, said, strict=True):
                if isinstance(outcome, Score):
                    self.values[name][row, sample] = outcome.value
                elif isinstance(outcome, RewardError):
                    self._note(name, str(outcome))

    async def of_probe(self, row: int, problem: Problem, probe: Probe, answers: Answers) -> None:
        """What one probe says of the answers that it asked for."""
        (said,) = await outcomes([_read(probe, problem, answers)], problem, probe.name)
        if isinstance(said, RewardError):
            self._note(probe.name, str(said))
            return
        for name in probe.says:
            value = said.get(name)
            self.values[name][row, 0] = np.nan if value is None else float(value)
        if None in answers:
            self._note(probe.name, "no reply from the model")

    def _note(self, name: str, why: str) -> None:
        count, first = self._failures.get(name, (0, why))
        self._failures[name] = (count + 1, first)

    @property
    def faults(self) -> dict[str, str]:
        """By name of a measure or probe: how often it failed, and with what at first."""
        return {name: f"{name} failed {n} x, at first with: {why}" for name, (n, why) in self._failures.items()}


async def _read(probe: Probe, problem: Problem, answers: Answers) -> Said:
    return await settled(probe.read(problem, answers))
