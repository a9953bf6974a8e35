"""The public verb `compare`: two versions, models or finished runs on the same problems, paired, with what flipped."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tfgrpo import stats
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller, Solver
from tfgrpo.changes import changes, faults
from tfgrpo.contenders import Contender, Given, contenders, told_apart
from tfgrpo.contrast import TEXT_KEPT, Answer, Contrast, Flip, Standing
from tfgrpo.errors import InputError, TransportError
from tfgrpo.evaluation import Comparison, Evaluation, bare, evaluate_problems
from tfgrpo.evaluation import compare as paired
from tfgrpo.events import Event, EventLog
from tfgrpo.late import bound
from tfgrpo.measure import FIRST_EPOCH, Split, Told, check_calls, check_scored, probed, problems_of
from tfgrpo.policy import Policy
from tfgrpo.practice import measured
from tfgrpo.record import RunRecord
from tfgrpo.recorded import Replay
from tfgrpo.report import Measured
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.running import interruptible, synchronous, together
from tfgrpo.runs import DEFAULT_FOLDER, fresh_folder, run_name
from tfgrpo.task import Task, load_task
from tfgrpo.types import Group, Problem


async def acompare(
    a: Given,
    b: Given,
    *,
    task: Task | str,
    model: Policy | str | None = None,
    samples: int = 1,
    split: Split = "test",
    budget: Budget | None = None,
    concurrency: int = 64,
    seed: int = 0,
    reuse: bool = False,
    runs: str | Path = DEFAULT_FOLDER,
    on_event: Callable[[Event], None] | None = None,
) -> Contrast:
    """Compare two versions, models or runs on the same problems: the paired difference, and which answers flipped.

    A side whose answers a finished run kept is not asked again: they are scored again by the task's reward, and the
    other side answers the problems that they are about.

    Args:
        a: "none", "./experience@v3", "openai/NAME", "openai/NAME+./experience@v3", or the folder of a run of learn,
            evaluate, train or improve ("runs/NAME", "runs/NAME:before"). Also a policy, an open store, a snapshot, or
            a model with one of these: (model, store).
        b: what it is compared with, likewise; the difference is B less A.
        task: a `Task`, or its name as `load_task` takes it.
        model: answers for the sides that name no model.
        samples: of each problem, for the sides that are asked.
        split: "test", or "gate" or "learn".
        budget: limits; None is unlimited, as the number of calls is known before the start.
        concurrency: requests in flight at most.
        seed: for the intervals and, where the server honours it, sampling.
        reuse: answer from the last finished comparison of the same configuration instead of drawing fresh samples.
        runs: where run folders are kept.
        on_event: called with every event, for progress.

    Returns:
        The contrast; `print` it.

    Raises:
        InputError: something given is wrong, such as a run of other problems; nothing was spent.
        BudgetExhausted, PolicyError: the same call goes on where this one stopped.
    """
    chosen = load_task(task) if isinstance(task, str) else task
    problems = problems_of(chosen, split, samples)
    async with AsyncExitStack() as stack:
        pair = told_apart(await contenders(stack, (a, b), model, runs))
        asked, notices = _common(problems, pair, chosen.fingerprint())
        _check(chosen, pair)
        sides = {side.identity: side for side in pair}
        live = [side for side in sides.values() if side.asked]
        ledger = Ledger(budget)
        for policy in (side.asked[0] for side in live if side.asked):
            ledger.require_price(policy.name, policy.price)
        check_calls(budget, len(live) * (len(asked) * samples + probed(chosen, asked)))
        config = {
            "task": chosen.fingerprint(),
            "sides": [side.identity for side in pair],
            "measured": [split, [p.id for p in asked], samples if live else 0, seed],
        }
        folder, attempt = fresh_folder(
            Path(runs), run_name(f"compare {chosen.name}", config), "contrast", reuse=reuse or not live
        )
        record = stack.enter_context(RunRecord.open(folder))
        if (known := record.get_state("contrast")) is not None:
            return Contrast.from_json(known).noted("compared before; nothing was asked again")
        events = EventLog(record, *([on_event] if on_event else []))
        slots = asyncio.Semaphore(concurrency)
        caller = partial(
            Caller, record=record, ledger=ledger, concurrency=concurrency, slots=slots, emit=events.publish, seed=seed
        )
        own = live[0].asked[0] if live and live[0].asked else None
        stack.enter_context(bound(chosen.models, partial(caller, solver=False), own))
        stack.enter_context(metrics_to(events.emit))
        work = _Work(chosen, asked, samples, caller, ledger, events, FIRST_EPOCH + 2 * attempt)
        labels = " and ".join(side.label for side in pair)
        models = " and ".join(dict.fromkeys(side.model for side in pair))
        events.emit("started", kind="compare", task=chosen.name, model=models, folder=str(folder), plan=labels)
        heard = await interruptible(work.heard(sides), folder)
        result = work.contrast(pair, heard, split=split, seed=seed, folder=folder)
        result = dataclasses.replace(
            result, notices=[*notices, *result.notices], config={**config, "sides": [side.label for side in pair]}
        )
        record.put_state("contrast", result.as_json())
        events.emit("finished", words=result.words())
        return result


compare = synchronous(acompare, "compare")
"""`acompare` for programs without an event loop; takes the same arguments."""


def _common(
    problems: Sequence[Problem], pair: Sequence[Contender], fingerprint: str
) -> tuple[tuple[Problem, ...], list[str]]:
    """The problems on which both sides can be paired, and what is to be said of it."""
    shared, notices = tuple(problems), list[str]()
    for side in pair:
        if side.recorded is None:
            continue
        held = {p.id for p in side.recorded.shared(problems)}
        shared = tuple(p for p in shared if p.id in held)
        if len(held) < len(problems):
            few = f"{len(held)} of the {len(problems)} problems"
            notices.append(f"{side.label} answered {few}; only those are compared")
        if side.recorded.task not in ("", fingerprint):
            notices.append(f"{side.label} was asked under other settings of the task, such as sampling or samples")
    if not shared:
        raise InputError("the two runs answered no problem in common; nothing was asked")
    if len({side.identity for side in pair}) == 1:
        notices.append("both sides are the same, and the same answers stand for both")
    return shared, notices


def _check(task: Task, pair: Sequence[Contender]) -> None:
    """Refuse what could not be compared fairly, before anything is asked."""
    runs = [side for side in pair if side.recorded]
    if task.agent is not None and runs:
        raise InputError(
            f"{runs[0].label} keeps the calls of an agent, not whole answers by problem; name its model and version"
        )
    if any(m.policy is None for m in task.models) and (runs or len({side.model for side in pair}) > 1):
        raise InputError("each model would judge its own answers; give one judge for both: --judge openai/NAME")


@dataclass(kw_only=True, slots=True)
class _Heard:
    """What one side said: its evaluation, and its scored answers by problem."""

    done: Evaluation
    answers: dict[str, list[Answer]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Work:
    task: Task
    problems: Sequence[Problem]
    samples: int
    caller: Callable[..., Caller]
    ledger: Ledger
    events: EventLog
    epoch: int

    async def heard(self, sides: dict[str, Contender]) -> dict[str, _Heard]:
        """All sides at once, each under an epoch of its own, whichever of them is called A."""
        order = sorted(sides)
        found = await together([self._one(sides[name], self.epoch + n) for n, name in enumerate(order)])
        return dict(zip(order, found, strict=True))

    async def _one(self, side: Contender, epoch: int) -> _Heard:
        solver: Solver
        if side.asked is not None:
            solver, apply, samples = solver_of(self.caller(side.asked[0]), self.task.agent), side.asked[1].apply, 0
        else:
            assert side.recorded is not None  # one or the other
            solver, apply, samples = Replay(side.recorded), bare, side.recorded.stage.samples
        reward, answers = Told(self.task.reward, self.events), dict[str, list[Answer]]()
        done = await evaluate_problems(
            self.problems,
            reward,
            solver,
            apply=apply,
            samples=samples or self.samples,
            sampling=self.task.sampling,
            epoch=epoch,
            on_progress=partial(self._progress, side.label),
            on_group=partial(_keep, answers),
            measures=self.task.measures,
            probes=self.task.probes,
        )
        if done.missing == done.scores.size:
            raise TransportError(f"not one of the {done.missing} samples got a reply; the same command goes on here")
        check_scored(done, reward)
        return _Heard(done=done, answers=answers)

    def _progress(self, label: str, done: int, total: int) -> None:
        spend = self.ledger.spend
        self.events.emit(
            "test_progress", version=label, done=done, total=total, calls=spend.calls, usd=round(spend.usd, 6)
        )

    def contrast(
        self, pair: Sequence[Contender], heard: dict[str, _Heard], *, split: str, seed: int, folder: Path
    ) -> Contrast:
        a, b = (heard[side.identity] for side in pair)
        found = paired(a.done, b.done, seed=seed)
        g = found.gain
        samples = b.done.samples
        return Contrast(
            folder=str(folder),
            task=self.task.name,
            split=split,
            a=_standing(pair[0], a.done),
            b=_standing(pair[1], b.done),
            verdict=verdict(found, same=pair[0].identity == pair[1].identity),
            difference=Measured(mean=g.mean, low=g.low, high=g.high, n=g.n, samples=samples) if g.n else None,
            difference_words=found.words(),
            p_value=found.p_value if g.n else None,
            better=found.better,
            worse=found.worse,
            flips=flips(self.problems, a, b),
            beside=changes(a.done, b.done, seed=seed),
            spend={name: dataclasses.asdict(s) for name, s in self.ledger.spend_by_purpose.items()},
            seconds=self.ledger.elapsed_s,
            notices=faults(a.done, b.done),
        )


def _keep(answers: dict[str, list[Answer]], group: Group) -> None:
    answers[group.problem.id] = [Answer(text=_cut(r.completion.text), score=r.score.value) for r in group.rollouts]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_KEPT else f"{text[: TEXT_KEPT // 2]} ... {text[-TEXT_KEPT // 2 :]}"


def _standing(side: Contender, done: Evaluation) -> Standing:
    score = measured(done)
    assert score is not None  # measured(None) is the only None
    return Standing(
        label=side.label,
        model=side.model,
        score=score,
        cost_usd=done.cost_usd,
        tokens=done.usage.total_tokens,
        recorded=side.recorded is not None,
    )


def flips(problems: Sequence[Problem], a: _Heard, b: _Heard) -> list[Flip]:
    """Problems of which one side got a larger share right, the largest differences first, else in their order."""
    rises = stats.row_means(b.done.success) - stats.row_means(a.done.success)
    rows = [row for row in np.argsort(-np.abs(rises), kind="stable") if np.isfinite(rises[row]) and rises[row] != 0]
    return [
        Flip(
            problem=problems[row].id,
            question=_cut(problems[row].question),
            better="b" if rises[row] > 0 else "a",
            a=a.answers.get(problems[row].id, []),
            b=b.answers.get(problems[row].id, []),
        )
        for row in rows
    ]


def verdict(found: Comparison, *, same: bool = False) -> str:
    """What may be said of a difference B less A, and no more.

    Example:
        >>> gain = stats.Estimate(mean=0.03, low=-0.02, high=0.08, n=60)
        >>> verdict(Comparison(gain=gain, p_value=0.3, better=4, worse=2, before=0.5, after=0.53))
        'no difference is shown: B is between 0.020 worse and 0.080 better than A'
    """
    g = found.gain
    if same:
        return "both sides are the same"
    if g.n == 0:
        return "nothing could be compared: no problem has samples on both sides"
    if found.inside_noise:
        span = "" if g.n == 1 or not g.holds_zero else f": B is between {_by(g.low)} and {_by(g.high)} than A"
        return f"no difference is shown{span}"
    said = f"B is {_by(g.mean)} than A, on {g.n} problems"
    if found.bounds is not None and found.bounds[0] <= 0 <= found.bounds[1]:
        return f"no difference is shown: {said}, which the missing samples alone could explain"
    return said


def _by(difference: float) -> str:
    return f"{abs(difference):.3f} {'better' if difference > 0 else 'worse'}"
