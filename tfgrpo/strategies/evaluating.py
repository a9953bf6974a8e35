"""A strategy on problems with a reward: the plain answer and the strategy's, from the same calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tfgrpo.errors import RequestError, RewardError, TransportError
from tfgrpo.evaluation import REFUSALS_BELIEVED, TROUBLES, Evaluation
from tfgrpo.grouping.base import with_words
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.rewards.base import Reward, score_answers, scores_alone
from tfgrpo.strategies.allowance import Rounds
from tfgrpo.strategies.base import LOST, Bill, Chosen, Strategy, hidden
from tfgrpo.strategies.curve import Scored
from tfgrpo.types import Completion, Problem, Prompt, Score

if TYPE_CHECKING:
    from tfgrpo.caller import Solver

PURPOSE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Both:
    """The plain answer [P, K] and the strategy's [P, 1] on the same problems, and what each problem was."""

    plain: Evaluation
    chosen: Evaluation
    rows: tuple[Scored, ...]  # of the problems that have an answer
    alike: int = 0  # problems all of whose answers got the same score from what chooses


async def evaluate_strategy(
    problems: Sequence[Problem],
    reward: Reward,
    solver: Solver,
    strategy: Strategy,
    *,
    apply: Callable[[Problem], Prompt],
    sampling: Sampling,
    epoch: int,
    calls: float = math.inf,
    on_progress: Callable[[int, int], None] | None = None,
) -> Both:
    """Runs the strategy on every problem. The plain answers are the ones it asks for whatever they are.

    Args:
        calls: for all problems together, the first ones of each included; an adaptive strategy spreads them.
        on_progress: told of problems done, and of all.

    Raises:
        TransportError: not one problem got an answer.
        BudgetExhausted, AuthError: as they come, when the replies in flight are on record.
        RequestError: the server refuses every request.
    """
    sees = getattr(strategy, "sees", ())
    free = max(0.0, calls - len(problems) * strategy.always)
    rounds = None if math.isinf(calls) else Rounds(seats=len(problems), calls=free)
    at_once = len(problems) if rounds else min(len(problems), 1 + 2 * solver.concurrency // strategy.always)
    run = _Run(solver=solver, sampling=sampling, epoch=epoch, rounds=rounds, slots=asyncio.Semaphore(at_once))
    done = 0

    async def one(seat: int, problem: Problem) -> _Answered:
        nonlocal done
        async with run.seat(seat):
            shown = problem if strategy.oracle else hidden(problem, sees)
            sample = _Sampling(run=run, seat=seat, problem=problem, prompt=apply(problem))
            answered = await _answered(strategy, shown, sample)
            if answered.chosen is not None:
                answered = await _scored(answered, reward, problem)
        done += 1
        if on_progress is not None:
            on_progress(done, len(problems))
        return answered

    results = await asyncio.gather(*(one(n, p) for n, p in enumerate(problems)), return_exceptions=True)
    failed = [r for r in results if isinstance(r, BaseException)]
    if failed:
        raise next((r for r in failed if not isinstance(r, asyncio.CancelledError)), failed[0])
    found = [r for r in results if isinstance(r, _Answered)]
    return _both(problems, found, strategy.always)


@dataclass(kw_only=True, eq=False)
class _Run:
    solver: Solver
    sampling: Sampling
    epoch: int
    rounds: Rounds | None
    slots: asyncio.Semaphore
    answered: int = 0
    refused: int = 0
    stopped: bool = False

    @asynccontextmanager
    async def seat(self, seat: int) -> AsyncIterator[None]:
        """A problem under way; after a failure that stops the run no other one begins."""
        try:
            async with self.slots:
                if self.stopped:
                    raise asyncio.CancelledError
                yield
        except BaseException:
            self.stopped = True
            raise
        finally:
            if self.rounds is not None:
                self.rounds.leave(seat)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sampling:
    """The way to the model for one problem; see `Sample`."""

    run: _Run
    seat: int
    problem: Problem
    prompt: Prompt

    async def __call__(self, number: int, words: str = "") -> Completion:
        run, seed = self.run, self.run.sampling.seed
        sampling = run.sampling if seed is None else replace(run.sampling, seed=seed + number)
        key = CallKey(purpose=PURPOSE, epoch=run.epoch, problem=self.problem.id, sample=number)
        prompt = _with_words(self.prompt, words) if words else self.prompt
        try:
            reply = await run.solver.answer(self.problem, prompt, key, sampling)
        except RequestError as error:
            run.refused += 1
            if not run.answered and run.refused >= REFUSALS_BELIEVED:
                raise RefusedError(error) from error
            raise
        run.answered += 1
        return reply

    async def more(self, urgency: float, calls: int) -> bool:
        return self.run.rounds is None or await self.run.rounds.more(self.seat, urgency, calls)


class RefusedError(Exception):
    """The server refuses everything: no loss of one sample, and the request's own error is its argument."""


def _with_words(prompt: Prompt, words: str) -> Prompt:
    bare = with_words(prompt.bare, words) if prompt.bare else ()
    return replace(prompt, messages=with_words(prompt.messages, words), bare=bare, origin="draft")


@dataclass(frozen=True, kw_only=True)
class _Answered:
    chosen: Chosen | None
    scores: Mapping[int, float] = field(default_factory=dict)
    success: Mapping[int, float] = field(default_factory=dict)
    trouble: str = ""


async def _answered(strategy: Strategy, problem: Problem, sample: _Sampling) -> _Answered:
    try:
        return _Answered(chosen=await strategy(problem, sample))
    except RefusedError as refused:
        raise refused.args[0] from None
    except LOST:
        return _Answered(chosen=None)


async def _scored(answered: _Answered, reward: Reward, problem: Problem) -> _Answered:
    """The score of every answer where each is scored by itself, else of the chosen one and of the first."""
    chosen = answered.chosen
    assert chosen is not None
    alone = scores_alone(reward)
    sets = [sorted(chosen.answers)] if alone else [[n] for n in sorted({chosen.number, min(chosen.answers)})]
    scores, success, trouble = dict.fromkeys(chosen.answers, math.nan), dict.fromkeys(chosen.answers, math.nan), ""
    for numbers in sets:
        outcomes = await score_answers(reward, problem, [chosen.answers[n] for n in numbers])
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, Score):
                scores[number], success[number] = outcome.value, float(outcome.success)
            elif isinstance(outcome, RewardError):
                trouble = trouble or str(outcome)
    return replace(answered, scores=scores, success=success, trouble=trouble)


def _both(problems: Sequence[Problem], found: Sequence[_Answered], always: int) -> Both:
    if all(a.chosen is None for a in found):
        raise TransportError(f"not one of {len(found)} problems got an answer; the same command goes on here")
    ids = tuple(problem.id for problem in problems)
    plain, chosen = (_evaluation(ids, found, numbers) for numbers in (range(always), None))
    rows = tuple(Scored(chosen=a.chosen, scores=a.scores) for a in found if a.chosen is not None)
    return Both(plain=plain, chosen=chosen, rows=rows, alike=sum(_alike(row.chosen) for row in rows))


def _alike(chosen: Chosen) -> bool:
    """Whether what it chooses by was the same for all answers."""
    known = [None if math.isnan(score) else score for score in chosen.scores.values()]
    return len(known) > 1 and len(set(known)) == 1


def _evaluation(ids: tuple[str, ...], found: Sequence[_Answered], numbers: range | None) -> Evaluation:
    """Of the answers with these numbers, or of the chosen ones."""
    width = 1 if numbers is None else len(numbers)
    scores, success = np.full((len(ids), width), np.nan), np.full((len(ids), width), np.nan)
    missing, troubles, bill = 0, dict[str, None](), Bill()
    for row, answered in enumerate(found):
        chosen = answered.chosen
        wanted = list(numbers) if numbers is not None else [-1 if chosen is None else chosen.number]
        for k, number in enumerate(wanted):
            scores[row, k] = answered.scores.get(number, math.nan)
            success[row, k] = answered.success.get(number, math.nan)
            missing += chosen is None or number not in chosen.answers
        if chosen is not None:
            paid = [chosen.answers[n] for n in wanted if n in chosen.answers]
            bill += chosen.bill if numbers is None else Bill.of(paid)
        if answered.trouble and len(troubles) < TROUBLES:
            troubles[answered.trouble] = None
    return Evaluation(
        problems=ids,
        scores=scores,
        success=success,
        missing=missing,
        unscored=int(np.isnan(scores).sum()) - missing,
        usage=bill.usage,
        cost_usd=bill.cost_usd,
        troubles=tuple(troubles),
    )
