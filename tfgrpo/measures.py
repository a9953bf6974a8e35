"""What an evaluation says beside the score: of each answer, or of a problem that is asked in several ways.

A *measure* looks at the answers that are sampled for the score: whether one refuses, how polite it is. It is a reward
or a function of problem and answer; None means *not applicable*, so that one measure may count harmful prompts and
another one benign ones. A *probe* asks each problem more, such as every wording of it, and says several things of
those answers together. Neither changes a score; both are reported before and after, with intervals.
Light to import; `tfgrpo.beside` runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import AnswerFunction, Outcome, Reward, score_answers, scores_alone
from tfgrpo.types import Completion, Message, Problem, Score

Measure: TypeAlias = Reward | AnswerFunction
Asked: TypeAlias = Sequence[Sequence[Message]]
Answers: TypeAlias = Sequence[Completion | None]
"""One for each request of a probe, in its order; None where no reply could be had."""
Said: TypeAlias = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Asks a problem in further ways, and reads the answers together.

    Every request is one more call for every test problem, before and after, which the budget of a run counts.
    Experiences are put into each request as into the problem itself.

    Example:
        >>> def wordings(problem):
        ...     return [({"role": "user", "content": text},) for text in (problem.question, *problem.variants)]
        >>> def same(problem, answers):
        ...     said = {a.text for a in answers if a is not None}
        ...     return {"one_answer": float(len(said) == 1) if said else None}
        >>> Probe(name="wordings", says=("one_answer",), ask=wordings, read=same).requests([])
        0
    """

    name: str
    says: tuple[str, ...]  # the names of what `read` gives
    ask: Callable[[Problem], Asked]
    read: Callable[[Problem, Answers], Said | Awaitable[Said]]
    sampling: Sampling | None = None  # None: the task's, greedily

    def requests(self, problems: Sequence[Problem]) -> int:
        """The most that it asks of one of these problems."""
        return max((len(self.ask(problem)) for problem in problems), default=0)

    def sampled(self, usual: Sampling) -> Sampling:
        """How its requests are sampled."""
        return self.sampling or replace(usual, temperature=0.0, seed=None)


def part(scorer: Reward, name: str) -> Reward:
    """One named part of another reward's score as a measure; not applicable where that part is missing.

    Example:
        >>> from tfgrpo.rewards.base import reward
        >>> part(reward(lambda problem, completion: {"polite": 1.0, "safe": 0.5}), "safe").name
        'safe'
    """
    return _Part(scorer=scorer, name=name)


@dataclass(frozen=True, kw_only=True)
class _Part:
    scorer: Reward
    name: str

    @property
    def alone(self) -> bool:
        return scores_alone(self.scorer)

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        scored = await score_answers(self.scorer, problem, completions)
        return [self._of(s) if isinstance(s, Score) else s for s in scored]

    def _of(self, score: Score) -> Score | None:
        return Score(value=score.parts[self.name]) if self.name in score.parts else None


def check_names(measures: Mapping[str, Measure], probes: Sequence[Probe]) -> None:
    """Refuses two that say the same name, and a probe that says nothing."""
    names = [*measures, *(name for probe in probes for name in probe.says)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two measures of a task have the name {', '.join(twice)}; reports need one name for each")
    silent = [probe.name for probe in probes if not probe.says]
    if silent:
        raise InputError(f"the probe {silent[0]!r} names nothing that it says: Probe(says=('consistency',), ...)")
