"""Measuring a model on problems, and one measurement against another.

Legend: P problems, K samples of one problem. A sample without a score is NaN and counted: *missing* when the model
could not be asked, *unscored* when the reward failed or did not apply.
What is said beside the score comes from `tfgrpo.measures`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfgrpo import stats
from tfgrpo.beside import Beside
from tfgrpo.errors import InputError, RequestError, RewardError, TransportError
from tfgrpo.measures import Measure, Probe
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.rewards.base import Outcome, Reward, score_answers
from tfgrpo.stats import Array, Estimate
from tfgrpo.types import Completion, Group, Problem, Prompt, Rollout, Score, Usage

if TYPE_CHECKING:
    from tfgrpo.caller import Solver

T = TypeVar("T")

MISSING_SHOWN = 0.02
"""From this share of missing samples on, a result is shown with its bounds."""
TROUBLES = 3
REFUSALS_BELIEVED = 8
"""After so many refused requests and no accepted one, the server refuses all of them: the error is raised."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Scores of P problems x K samples. `scores` holds values, `success` the verdicts as 0 and 1; NaN is missing.

    `beside` has what measures said of each sample [P, K] and probes of each problem [P, 1]; NaN is not applicable.
    """

    problems: tuple[str, ...]
    scores: Array
    success: Array
    missing: int = 0
    unscored: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0  # None: some calls have no known price
    unpriced: int = 0
    troubles: tuple[str, ...] = ()  # the first few different reasons why answers were not scored
    seed: int = 0
    beside: Mapping[str, Array] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)  # of measures and probes: how often they failed, and why

    @property
    def samples(self) -> int:
        return int(self.scores.shape[1])

    @property
    def mean_at_k(self) -> float:
        """Mean score over problems of the mean over samples."""
        return stats.mean_at_k(self.scores)

    @property
    def accuracy(self) -> float:
        """As `mean_at_k`, of the verdicts right or wrong."""
        return stats.mean_at_k(self.success)

    def pass_at_k(self, k: int | None = None) -> float:
        """Chance that one of `k` samples (default: all) is right; unbiased."""
        return stats.pass_at_k(self.success, k or self.samples)

    @property
    def interval(self) -> Estimate:
        """`mean_at_k` with its 95 % interval over problems."""
        return stats.mean_interval(self.scores, seed=self.seed)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Worst and best `mean_at_k` over what is missing; None when that is at most 2 %."""
        if stats.missing_share(self.scores) <= MISSING_SHOWN:
            return None
        worst, best = stats.score_range(self.scores)
        return stats.mean_bounds(self.scores, worst=worst, best=best)

    def words(self) -> str:
        """Such as "0.412 (95 % 0.301..0.520, n=60), Pass@4 0.733"."""
        said = [self.interval.words()]
        if self.samples > 1:
            said.append(f"Pass@{self.samples} {self.pass_at_k():.3f}")
        if self.missing or self.unscored:
            said.append(f"{self.missing} samples missing, {self.unscored} not scored")
        if self.bounds:
            said.append(f"between {self.bounds[0]:.3f} and {self.bounds[1]:.3f} whatever they would have been")
        return ", ".join(said)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed between two evaluations of the same problems.

    `gain` is paired by problem. `better` and `worse` count problems whose share of right answers rose or fell.
    `p_value` is the exact McNemar test for one yes/no sample per problem, else a paired sign-flip test.
    """

    gain: Estimate
    p_value: float
    better: int
    worse: int
    before: float
    after: float
    bounds: tuple[float, float] | None = None

    @property
    def inside_noise(self) -> bool:
        """Whether no effect at all would explain this: the interval holds 0, or p >= 0.05."""
        return self.gain.n == 0 or self.gain.holds_zero or self.p_value >= 0.05

    def words(self) -> str:
        """Such as "+0.217 (95 % +0.120..+0.310, n=60)"; a gain inside the noise is called that."""
        if self.gain.n == 0:
            return "nothing could be compared: no problem has samples on both sides"
        said = self.gain.words(signed=True)
        if self.inside_noise:
            said += ", inside the noise"
        if self.bounds:
            said += f"; between {self.bounds[0]:+.3f} and {self.bounds[1]:+.3f} whatever the missing samples were"
        return said


def compare(before: Evaluation, after: Evaluation, *, seed: int = 0) -> Comparison:
    """The paired gain from `before` to `after`, problem by problem.

    Raises:
        InputError: the two did not measure the same problems.
    """
    if set(before.problems) != set(after.problems) or len(before.problems) != len(after.problems):
        common = len(set(before.problems) & set(after.problems))
        raise InputError(
            f"only evaluations of the same problems can be compared: {len(before.problems)} before, "
            f"{len(after.problems)} after, {common} in common"
        )
    place = {problem: row for row, problem in enumerate(after.problems)}
    order = [place[problem] for problem in before.problems]
    old, new = before.scores, after.scores[order]
    flips = stats.row_means(after.success[order]) - stats.row_means(before.success)
    better, worse = int((flips > 0).sum()), int((flips < 0).sum())
    gain = stats.paired_difference(old, new, seed=seed)
    return Comparison(
        gain=gain,
        p_value=_p_value(old, new, seed),
        better=better,
        worse=worse,
        before=before.mean_at_k,
        after=after.mean_at_k,
        bounds=_gain_bounds(old, new),
    )


def _p_value(old: Array, new: Array, seed: int) -> float:
    differences = stats.row_means(new) - stats.row_means(old)
    if old.shape[1] == new.shape[1] == 1 and stats.is_binary(old) and stats.is_binary(new):
        return stats.mcnemar_exact(int((differences < 0).sum()), int((differences > 0).sum()))
    return stats.sign_flip_p(differences, seed=seed)


def _gain_bounds(old: Array, new: Array) -> tuple[float, float] | None:
    if max(stats.missing_share(old), stats.missing_share(new)) <= MISSING_SHOWN:
        return None
    worst, best = stats.score_range(old, new)
    return stats.gain_bounds(old, new, worst=worst, best=best)


def bare(problem: Problem) -> Prompt:
    """The problem as it is: what a model without experiences is asked."""
    return Prompt(messages=problem.messages)


async def evaluate_problems(
    problems: Sequence[Problem],
    reward: Reward,
    caller: Solver,
    *,
    apply: Callable[[Problem], Prompt] = bare,
    samples: int = 1,
    sampling: Sampling | None = None,
    epoch: int = 0,
    purpose: str = "evaluate",
    on_progress: Callable[[int, int], None] | None = None,
    on_group: Callable[[Group], None] | None = None,
    measures: Mapping[str, Measure] | None = None,
    probes: Sequence[Probe] = (),
) -> Evaluation:
    """Asks every problem `samples` times and scores the answers, as many at once as the caller allows.

    Answers are not kept; `on_group` sees each problem's rollouts once. Replies that are on record under the same
    purpose, epoch, problem and sample number are not asked for again: a fresh evaluation takes a fresh `epoch`.
    `measures` say more of the same answers, `probes` ask each problem more.

    Raises:
        BudgetExhausted, AuthError: as they come; what was answered is on record.
        RequestError: the server refuses every request.
    """
    if samples < 1 or not problems:
        raise InputError(f"an evaluation needs problems and samples >= 1, got {len(problems)} and {samples}")
    run = _Run(
        problems=problems,
        reward=reward,
        caller=caller,
        apply=apply,
        samples=samples,
        sampling=sampling or Sampling(),
        epoch=epoch,
        purpose=purpose,
        on_progress=on_progress,
        on_group=on_group,
        beside=Beside(measures=measures or {}, probes=probes, problems=len(problems), samples=samples),
    )
    at_once = min(len(problems), 1 + 2 * caller.concurrency // samples)
    await _together([run.work() for _ in range(at_once)])
    return run.evaluation()


async def _together(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs all jobs to their end and then raises the first error: replies in flight are paid for and are recorded."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    failed = next((r for r in results if isinstance(r, BaseException)), None)
    if failed is not None:
        raise failed
    return [r for r in results if not isinstance(r, BaseException)]


@dataclass(kw_only=True, eq=False)
class _Run:
    """The running totals of one evaluation; workers take the next problem from one queue, so few tasks exist."""

    problems: Sequence[Problem]
    reward: Reward
    caller: Solver
    apply: Callable[[Problem], Prompt]
    samples: int
    sampling: Sampling
    epoch: int
    purpose: str
    on_progress: Callable[[int, int], None] | None
    on_group: Callable[[Group], None] | None
    beside: Beside
    missing: int = 0
    unscored: int = 0
    unpriced: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    troubles: dict[str, None] = field(default_factory=dict)
    done: int = 0
    answered: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.queue: Iterator[tuple[int, Problem]] = iter(enumerate(self.problems))
        self.scores = np.full((len(self.problems), self.samples), np.nan)
        self.success = self.scores.copy()

    async def work(self) -> None:
        while (item := next(self.queue, None)) is not None:
            try:
                await self._measure(*item)
            except BaseException:
                self.queue = iter(())  # the other workers finish what they have begun
                raise

    async def _measure(self, row: int, problem: Problem) -> None:
        prompt = self.apply(problem)
        replies = await _together([self._sample(problem, prompt, k) for k in range(self.samples)])
        known = {k: reply for k, reply in enumerate(replies) if reply is not None}
        self.missing += self.samples - len(known)
        outcomes = await score_answers(self.reward, problem, list(known.values()))
        self._enter(row, dict(zip(known, outcomes, strict=True)))
        await self.beside.of_answers(row, problem, known)
        await self._probe(row, problem)
        self._tell(row, problem, prompt, known, outcomes)

    async def _sample(self, problem: Problem, prompt: Prompt, sample: int) -> Completion | None:
        key = CallKey(purpose=self.purpose, epoch=self.epoch, problem=problem.id, sample=sample)
        seed = self.sampling.seed
        sampling = self.sampling if seed is None else replace(self.sampling, seed=seed + sample)
        return await self._ask(problem, prompt, key, sampling)

    async def _probe(self, row: int, problem: Problem) -> None:
        """What probes ask of one problem; their calls are numbered on behind its samples."""
        number = self.samples
        for probe in self.beside.probes:
            asked, jobs = probe.ask(problem), []
            for k, messages in enumerate(asked):
                worded = replace(problem, messages=tuple(messages))
                key = CallKey(purpose=self.purpose, epoch=self.epoch, problem=problem.id, sample=number + k)
                jobs.append(self._ask(worded, self.apply(worded), key, probe.sampled(self.sampling)))
            number += len(asked)
            await self.beside.of_probe(row, problem, probe, await _together(jobs))

    async def _ask(self, problem: Problem, prompt: Prompt, key: CallKey, sampling: Sampling) -> Completion | None:
        try:
            reply = await self.caller.answer(problem, prompt, key, sampling)
        except TransportError:
            return None
        except RequestError:
            self.refused += 1
            if not self.answered and self.refused >= min(REFUSALS_BELIEVED, self.scores.size):
                raise
            return None
        self.answered += 1
        self.usage += reply.usage
        self.cost_usd += reply.cost_usd or 0.0
        self.unpriced += reply.cost_usd is None
        return reply

    def _enter(self, row: int, outcomes: Mapping[int, Outcome | RewardError]) -> None:
        for k, outcome in outcomes.items():
            if isinstance(outcome, Score):
                self.scores[row, k] = outcome.value
                self.success[row, k] = float(outcome.success)
            else:
                self.unscored += 1
                if isinstance(outcome, RewardError) and len(self.troubles) < TROUBLES:
                    self.troubles[str(outcome)] = None

    def _tell(
        self,
        row: int,
        problem: Problem,
        prompt: Prompt,
        known: dict[int, Completion],
        outcomes: Sequence[Outcome | RewardError],
    ) -> None:
        self.done += self.samples
        if self.on_progress is not None:
            self.on_progress(self.done, self.scores.size)
        if self.on_group is None:
            return
        rollouts = tuple(
            Rollout(completion=c, score=o, experiences=prompt.experiences)
            for c, o in zip(known.values(), outcomes, strict=True)
            if isinstance(o, Score)
        )
        lost = self.samples - len(rollouts)
        self.on_group(Group(problem=problem, rollouts=rollouts, index=row, missing=lost))

    def evaluation(self) -> Evaluation:
        return Evaluation(
            problems=tuple(p.id for p in self.problems),
            scores=self.scores,
            success=self.success,
            missing=self.missing,
            unscored=self.unscored,
            usage=self.usage,
            cost_usd=None if self.unpriced else self.cost_usd,
            unpriced=self.unpriced,
            troubles=tuple(self.troubles),
            beside=self.beside.values,
            faults=self.beside.faults,
        )
