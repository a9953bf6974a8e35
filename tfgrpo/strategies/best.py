"""Best of n: the answer that a judge, or a reward that needs no reference answer, likes best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tfgrpo.errors import InputError, RewardError
from tfgrpo.late import LateCaller
from tfgrpo.rewards.base import Reward, score_answers, scores_alone
from tfgrpo.rewards.judge import RUBRIC, Asks, judge
from tfgrpo.strategies.base import Bill, Chosen, Drawn, Fixed, Meter, Sample, check_count, drawn_or_raise
from tfgrpo.strategies.formulas import best_place
from tfgrpo.types import Completion, Problem, Score


def best(
    n: int = 4,
    *,
    by: Reward | str = "judge",
    by_options: Mapping[str, Any] | None = None,
    caller: Asks | None = None,
    rubric: str = RUBRIC,
    sees: Sequence[str] = (),
) -> Best:
    """The answer with the highest score of `n`; the first of equals.

    What scores sees the question and the answers, never the reference answer: a judge, a schema, a check of your own.
    A reward that needs a reference answer is refused when it asks for one; `oracle` is the bound that it would give.

    Args:
        n: answers.
        by: "judge"; a reward, by name or as an object; in an evaluation also "task", the task's own reward.
        by_options: of a reward that is given by name.
        caller: the judge's model; None asks the solver's own, which likes its own style.
        rubric: what the judge goes by.
        sees: entries of a problem's `meta` that the reward may read, such as ("schema",); never its answer.

    Source: arXiv 2112.09332 (best of n by a reward model).

    Example:
        >>> import asyncio
        >>> from tfgrpo.rewards.base import reward
        >>> from tfgrpo.strategies.scripted import Said
        >>> brief = reward(lambda problem, completion: 1 / len(completion.text))
        >>> chosen = asyncio.run(best(3, by=brief)(Problem(id="p", messages=()), Said("five", "5", "so 5")))
        >>> chosen.completion.text, chosen.why
        ('5', '1 of 3, scored 0.25 to 1')
    """
    check_count("best", n, 2)
    if by in ("judge", "task") and by_options:
        raise InputError(f"best: by_options are for a reward that is given by name, got {', '.join(by_options)}")
    if by == "judge":
        return Best(n=n, by=None, caller=LateCaller() if caller is None else caller, rubric=rubric, sees=tuple(sees))
    return Best(n=n, by="task" if by == "task" else _reward(by, by_options), sees=tuple(sees))


def _reward(by: Reward | str, options: Mapping[str, Any] | None) -> Reward:
    from tfgrpo.rewards.named import resolve_reward  # noqa: PLC0415 - all rewards; only a name needs them

    return resolve_reward(by, **(options or {})) if isinstance(by, str) else by


@dataclass(frozen=True, kw_only=True)
class Best(Fixed):
    """See `best`. `by` is None for the judge, and "task" until an evaluation puts the task's reward there."""

    by: Reward | Literal["task"] | None
    caller: Asks | None = None
    rubric: str = RUBRIC
    sees: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.by, Reward) and not scores_alone(self.by):
            raise InputError(
                f"best: {self.by.name!r} compares answers with each other; best needs what scores each by itself. For "
                "matches between answers there is the strategy tournament"
            )

    @property
    def name(self) -> str:
        judged = self.by.name if isinstance(self.by, Reward) else self.by or f"judge {_name(self.caller)}"
        return f"best(n={self.n}, by={judged})"

    @property
    def models(self) -> tuple[LateCaller, ...]:
        return (self.caller,) if isinstance(self.caller, LateCaller) else ()

    def pick(self, readings: Sequence[str | None], scores: Sequence[float]) -> int:
        """The best of them."""
        return best_place(scores)

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        meter = None if self.caller is None else Meter(self.caller)
        reward = self._reward if meter is None else judge(meter, rubric=self.rubric, show_reference=False)
        drawn = await drawn_or_raise(sample, self.n)
        scores = await _scores(reward, problem, drawn.answers)
        return ranked(drawn, scores, judge=Bill() if meter is None else meter.bill)

    @property
    def _reward(self) -> Reward:
        if not isinstance(self.by, Reward):
            raise InputError("best: by='task' is for an evaluation, which knows the task; give a reward instead")
        return self.by

    async def check(self, problem: Problem) -> None:
        """Refuses a reward that cannot score an answer to such a problem without its reference answer.

        Raises:
            InputError: with what the reward said.
        """
        if self.caller is not None:
            return
        said = {"role": "assistant", "content": "42"}
        answer = Completion(prompt=problem.messages, messages=(said,), text="42", policy="")
        (outcome,) = await score_answers(self._reward, problem, [answer])
        if isinstance(outcome, RewardError):
            raise InputError(
                f"best cannot choose by {self._reward.name!r}: {outcome}. What chooses sees no reference answer, since "
                "an application has none (sees= lets it read entries of meta): choose by a judge, or measure the bound "
                "with the strategy oracle"
            )


def oracle(n: int = 4, *, reward: Reward | None = None) -> Oracle:
    """Not a strategy but its upper bound: picks by the task's own reward, which knows the reference answer (pass@n).

    For evaluations only; it shows how much there is to gain from choosing better among `n` answers.

    Args:
        n: answers.
        reward: the task's, which an evaluation gives.

    Source: arXiv 2107.03374 (pass@k).

    Example:
        >>> oracle(8).name
        'oracle(n=8)'
    """
    check_count("oracle", n, 2)
    return Oracle(n=n, reward=reward)


@dataclass(frozen=True, kw_only=True)
class Oracle(Fixed):
    """See `oracle`."""

    reward: Reward | None
    models: tuple[LateCaller, ...] = field(default=(), init=False)
    oracle: bool = field(default=True, init=False)

    @property
    def name(self) -> str:
        return f"oracle(n={self.n})"

    def pick(self, readings: Sequence[str | None], scores: Sequence[float]) -> int:
        """The best of them."""
        return best_place(scores)

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        if self.reward is None:
            raise InputError("oracle looks at the reference answer, which only an evaluation of a task has")
        drawn = await drawn_or_raise(sample, self.n)
        return ranked(drawn, await _scores(self.reward, problem, drawn.answers))


def _name(caller: Asks | None) -> str:
    return str(getattr(caller, "name", "given"))


def ranked(drawn: Drawn, scores: Mapping[int, float], *, judge: Bill | None = None) -> Chosen:
    """The answer with the highest score."""
    numbers = sorted(drawn.answers)
    values = [scores[number] for number in numbers]
    known = [value for value in values if not math.isnan(value)]
    span = f"scored {min(known):.3g} to {max(known):.3g}" if known else "not scored"
    if len(numbers) > 1 and (not known or min(known) == max(known)):
        span += ", so it is the first"
    return Chosen(
        number=numbers[best_place(values)],
        answers=drawn.answers,
        why=f"1 of {len(numbers)}, {span}",
        path=tuple(numbers[best_place(values[: size + 1])] for size in range(len(values))),
        scores=scores,
        failed=len(drawn.lost),
        judge=judge or Bill(),
    )


async def _scores(reward: Reward, problem: Problem, answers: dict[int, Completion]) -> dict[int, float]:
    """Values by number, NaN where an answer could not be scored; for a lone answer nothing is asked."""
    numbers = sorted(answers)
    if len(numbers) == 1:
        return {numbers[0]: math.nan}
    outcomes = await score_answers(reward, problem, [answers[number] for number in numbers])
    return {n: o.value if isinstance(o, Score) else math.nan for n, o in zip(numbers, outcomes, strict=True)}
