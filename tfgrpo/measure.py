"""The public verb `evaluate`: a model on a task, with a version of a store, another one, or none, side by side."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from experience_store import ExperienceStore, Snapshot
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller, Solver
from tfgrpo.changes import changes, faults
from tfgrpo.errors import InputError, RewardError, TransportError
from tfgrpo.evaluation import Comparison, Evaluation, compare, evaluate_problems
from tfgrpo.events import Event, EventLog
from tfgrpo.late import bound, notices
from tfgrpo.measurement import Measurement
from tfgrpo.policy import Policy
from tfgrpo.practice import measured
from tfgrpo.record import RunRecord
from tfgrpo.report import Measured
from tfgrpo.rewards.base import Outcome, Reward, score_answers, scores_alone
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.running import interruptible, opened, synchronous
from tfgrpo.runs import DEFAULT_FOLDER, fresh_folder, run_name
from tfgrpo.sides import Side, sides_of
from tfgrpo.strategies.base import Strategy
from tfgrpo.strategies.evaluating import evaluate_strategy
from tfgrpo.strategies.measuring import PLAIN, calls_for, least_calls, notes, points, prepared
from tfgrpo.task import Task, load_task
from tfgrpo.types import Completion, Problem

Split = Literal["learn", "gate", "test"]
SPLITS: tuple[Split, ...] = ("learn", "gate", "test")
_Measured: TypeAlias = tuple[Sequence[Evaluation], Sequence[str], Mapping[str, Any]]
"""One or two evaluations, what they are of, and what else the measurement says."""
FIRST_EPOCH = 2  # a learning run measures under 0 and 1; every fresh measurement has two numbers of its own


async def aevaluate(
    task: Task | str,
    *,
    model: Policy | str,
    store: ExperienceStore | Snapshot | str | None = None,
    against: Snapshot | str | None = None,
    samples: int = 1,
    split: Split = "test",
    budget: Budget | None = None,
    concurrency: int = 64,
    seed: int = 0,
    reuse: bool = False,
    strategy: Strategy | str | None = None,
    runs: str | Path = DEFAULT_FOLDER,
    on_event: Callable[[Event], None] | None = None,
) -> Measurement:
    """Measure a model on one split of a task, and, with `against`, the paired difference to another version.

    Both sides are asked at the same time, each problem `samples` times.

    Args:
        task: a `Task`, or its name as `load_task` takes it.
        model: a name for `connect`, or a `Policy`.
        store: "./experience", "./experience@v7", an exported file, an open store or a snapshot; None: the bare prompt.
        against: what to compare with: "none" for the bare prompt, a version or tag of the same store, or another store.
        samples: samples K of each problem, for Mean@K and Pass@K.
        split: "test", or "gate" or "learn".
        budget: limits; None is unlimited, as the number of calls is known before the start.
        concurrency: requests in flight at most.
        seed: for the intervals and, where the server honours it, sampling.
        reuse: answer from the last finished measurement of the same configuration instead of drawing fresh samples.
        strategy: such as "vote:5" (`tfgrpo methods --kind strategy`). Its answers are compared with the plain answer of
            the same store, which is the first of, or the mean over, the answers that it draws anyway; `samples`,
            measures and probes of the task do not apply. An adaptive one shares out a budget of calls.
        runs: where run folders are kept.
        on_event: called with every event, for progress.

    Returns:
        The measurement; `print` it.

    Raises:
        InputError: something given is wrong; nothing was spent.
        BudgetExhausted, PolicyError: the same call goes on where this one stopped.
    """
    chosen = load_task(task) if isinstance(task, str) else task
    problems = problems_of(chosen, split, samples)
    async with AsyncExitStack() as stack:
        policy = await opened(stack, model)
        sides = await asyncio.to_thread(sides_of, stack, store, against)
        plan = None if strategy is None else await prepared(strategy, chosen, problems, sides)
        plain_calls = len(sides) * (len(problems) * samples + probed(chosen, problems))
        check_calls(budget, plain_calls if plan is None else len(problems) * least_calls(plan))
        config = {
            "task": chosen.fingerprint(),
            "model": policy.name,
            "sides": [side.identity for side in sides],
            "measured": [split, len(problems), samples if plan is None else 1, seed],
            **({} if plan is None else {"strategy": plan.name}),
        }
        models = chosen.models if plan is None else (*chosen.models, *plan.models)
        folder, attempt = fresh_folder(
            Path(runs), run_name(f"evaluate {chosen.name}", config), "measurement", reuse=reuse
        )
        record = stack.enter_context(RunRecord.open(folder))
        known = record.get_state("measurement")
        if known is not None:
            return Measurement.from_json(known).noted("these samples were drawn before; nothing was asked again")
        events = EventLog(record, *([on_event] if on_event else []))
        slots, ledger = asyncio.Semaphore(concurrency), Ledger(budget)
        caller = partial(
            Caller, record=record, ledger=ledger, concurrency=concurrency, slots=slots, emit=events.publish, seed=seed
        )
        stack.enter_context(bound(models, partial(caller, solver=False), policy))
        stack.enter_context(metrics_to(events.emit))
        solver = solver_of(caller(policy), chosen.agent)
        work = _Work(chosen, problems, samples, solver, events, FIRST_EPOCH + 2 * attempt)
        events.emit("started", task=chosen.name, model=policy.name, folder=str(folder), plan=work.words(sides))
        measuring = work.measure(sides) if plan is None else work.both(sides[0], plan, budget)
        evaluations, names, more = await interruptible(measuring, folder)
        result = _result(work, names, evaluations, split=split, seed=seed, folder=folder, config=config)
        result = dataclasses.replace(result, **more)
        for notice in notices(models):
            result = result.noted(notice)
        record.put_state("measurement", result.as_json())
        events.emit("finished", words=result.words())
        return result


evaluate = synchronous(aevaluate, "evaluate")
"""`aevaluate` for programs without an event loop; takes the same arguments."""


@dataclass(frozen=True, slots=True)
class _Work:
    task: Task
    problems: Sequence[Problem]
    samples: int
    caller: Solver
    events: EventLog
    epoch: int

    def words(self, sides: Sequence[Side]) -> str:
        return f"{len(self.problems)} problems x {self.samples} samples, {' and '.join(side.label for side in sides)}"

    async def both(self, side: Side, strategy: Strategy, budget: Budget | None) -> _Measured:
        """The plain answer and the strategy's, from the same calls."""
        reward = Told(self.task.reward, self.events)
        both = await evaluate_strategy(
            self.problems,
            reward,
            self.caller,
            strategy,
            apply=side.apply,
            sampling=self.task.sampling,
            epoch=self.epoch,
            calls=calls_for(strategy, budget, len(self.problems)),
            on_progress=self._progress(f"{side.label}, {strategy.name}"),
        )
        check_scored(both.chosen, reward)
        names = (f"{side.label}, {PLAIN}", f"{side.label}, {strategy.name}")
        more = {"curve": points(strategy, both, seed=0), "notices": notes(strategy, both)}
        return [both.plain, both.chosen], names, more

    async def measure(self, sides: Sequence[Side]) -> _Measured:
        """All sides at once, each under an epoch of its own."""
        jobs = [self._one(side, self.epoch + n) for n, side in enumerate(sides)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        failed = next((r for r in results if isinstance(r, BaseException)), None)
        if failed is not None:
            raise failed
        return [r for r in results if isinstance(r, Evaluation)], [side.label for side in sides], {}

    def _progress(self, label: str) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            spend = self.caller.ledger.spend
            self.events.emit(
                "test_progress", version=label, done=done, total=total, calls=spend.calls, usd=round(spend.usd, 6)
            )

        return progress

    async def _one(self, side: Side, epoch: int) -> Evaluation:
        reward = Told(self.task.reward, self.events)
        done = await evaluate_problems(
            self.problems,
            reward,
            self.caller,
            apply=side.apply,
            samples=self.samples,
            sampling=self.task.sampling,
            epoch=epoch,
            on_progress=self._progress(side.label),
            measures=self.task.measures,
            probes=self.task.probes,
        )
        if done.missing == done.scores.size:
            raise TransportError(f"not one of the {done.missing} samples got a reply; the same command goes on here")
        check_scored(done, reward)
        return done


def check_scored(done: Evaluation, reward: Told) -> None:
    """Refuse an evaluation of which nothing could be scored."""
    if reward.error is not None and done.missing + done.unscored == done.scores.size:
        raise RewardError(f"not one answer could be scored; the first failure: {reward.error}")


class Told:
    """A reward whose failures are told in events."""

    def __init__(self, reward: Reward, events: EventLog) -> None:
        self.name, self._reward, self._events = reward.name, reward, events
        self.alone = scores_alone(reward)
        self.error: RewardError | None = None

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        outcomes = await score_answers(self._reward, problem, completions)
        for outcome in outcomes:
            if isinstance(outcome, RewardError):
                self.error = self.error or outcome
                self._events.emit("reward_failed", problem=problem.id, error=str(outcome))
        return outcomes


def problems_of(task: Task, split: str, samples: int) -> tuple[Problem, ...]:
    """The problems of a split that is there, to be asked `samples` times."""
    sizes: dict[str, int] = {name: len(getattr(task, name)) for name in SPLITS}
    if not sizes.get(split):
        held = ", ".join(f"{name} ({size})" for name, size in sizes.items())
        raise InputError(f"task {task.name!r} has no problems in a split {split!r}; its splits: {held}")
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    problems: tuple[Problem, ...] = getattr(task, split)
    return problems


def probed(task: Task, problems: Sequence[Problem]) -> int:
    """The calls of the task's probes, for one side."""
    return sum(len(probe.ask(problem)) for probe in task.probes for problem in problems)


def check_calls(budget: Budget | None, needed: int) -> None:
    """Refuse a budget that cannot pay for the calls that are needed, before the first of them."""
    if budget is not None and budget.calls is not None and budget.calls < needed:
        raise InputError(
            f"the measurement needs {needed} calls and the budget allows {budget.calls}; raise it, or measure fewer "
            f"samples or problems"
        )


def _result(
    work: _Work,
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    *,
    split: str,
    seed: int,
    folder: Path,
    config: dict[str, Any],
) -> Measurement:
    ledger = work.caller.ledger
    comparison = compare(evaluations[0], evaluations[1], seed=seed) if len(evaluations) == 2 else None
    after = measured(evaluations[-1])
    assert after is not None  # measured(None) is the only None
    return Measurement(
        folder=str(folder),
        task=work.task.name,
        model=work.caller.policy.name,
        split=split,
        store=names[-1],
        against=names[0] if comparison else "",
        before=measured(evaluations[0]) if comparison else None,
        after=after,
        gain=_gain(comparison, evaluations[-1].samples),
        gain_words=comparison.words() if comparison else "",
        p_value=comparison.p_value if comparison and comparison.gain.n else None,
        better=comparison.better if comparison else 0,
        worse=comparison.worse if comparison else 0,
        beside=changes(evaluations[0] if comparison else None, evaluations[-1], seed=seed),
        spend={name: dataclasses.asdict(s) for name, s in ledger.spend_by_purpose.items()},
        seconds=ledger.elapsed_s,
        notices=faults(*evaluations),
        config=config,
    )


def _gain(comparison: Comparison | None, samples: int) -> Measured | None:
    if comparison is None or not comparison.gain.n:
        return None
    g = comparison.gain
    return Measured(mean=g.mean, low=g.low, high=g.high, n=g.n, samples=samples)
