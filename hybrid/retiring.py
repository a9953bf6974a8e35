"""After distillation: which experiences does the model still need in its prompt? `hybrid.retire` measures it, leaves
out what it shows to be needless, and writes the shorter library as a new version. Nothing of the history is lost.

    report = hybrid.retire("house_facts", model="local/trained/step-000100", library="./experience@v7")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import experience_store
from experience_store import Edit, Snapshot
from experience_store.library import save
from hybrid.identity import check_same
from hybrid.library_teacher import Opened, open_library
from hybrid.noninferior import CONFIDENCE, MARGIN, Removal, Tested, least_problems, removable, too_few
from hybrid.retirement import ARMS, Retirement
from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller, Solver
from tfgrpo.dressing import dressed
from tfgrpo.errors import BudgetExhausted, InputError, TransportError
from tfgrpo.evaluation import Evaluation, evaluate_problems
from tfgrpo.events import Event, EventLog
from tfgrpo.late import bound
from tfgrpo.policy import Policy, connect
from tfgrpo.record import FILE_NAME, RunRecord
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.running import interruptible, opened, synchronous
from tfgrpo.stats import Array
from tfgrpo.task import Task, load_task
from tfgrpo.types import Problem, Prompt

PURPOSE = "retire"
WRITER = "hybrid.retire"


async def aretire(
    task: Task | str,
    *,
    model: Policy | str,
    library: str,
    before: Policy | str | None = None,
    margin: float = MARGIN,
    samples: int = 1,
    budget: Budget | None = None,
    out: str | Path = "./retired",
    concurrency: int = 64,
    seed: int = 0,
    on_event: Callable[[Event], None] | None = None,
) -> Retirement:
    """Retire experiences that a distilled model no longer needs: their absence is shown to be non-inferior.

    The task's gate problems decide (`hybrid.noninferior`: all experiences are left out at once, then halves of what
    could not go); its test problems measure, and decide nothing. Right or wrong is what is compared. With the same
    seed a prompt that does not change gets the same answers, so that only what changes is noise.

    Args:
        task: a `Task`, or its name as `load_task` takes it; with gate and test problems.
        model: the distilled model, a name for `connect` such as "local/trained/step-000100", or a `Policy`.
        library: an exported file, or FOLDER[@VERSION] of a store: what the model's teacher read.
        before: the model before it was distilled, to be measured with and without the library; None: it is not.
        margin: the loss of accuracy that does not matter; 0.01 is one point.
        samples: answers to each gate problem; more of them narrow the limits where single answers vary.
        budget: limits of all calls together; None is unlimited: at most 16 sets of gate problems and 5 of test ones.
        out: the run's folder. A shorter file is written into it; a store gets a new version instead.
        concurrency: requests in flight at most.
        seed: of all samples.
        on_event: called with every event, for progress.

    Returns:
        What was retired and why, accuracies and prompt tokens; `print` it. The same call goes on with one that was
        stopped, and returns the same report without another commit when it had ended.

    Raises:
        InputError: something given is wrong, or the budget does not even pay for the test problems; nothing was asked.
        BudgetExhausted: every answer is kept, and the same call with a larger budget goes on.
        RunStateError: `out` holds another run.
        TransportError: not one answer arrived.
    """
    chosen = load_task(task) if isinstance(task, str) else task
    if not chosen.gate or not chosen.test or samples < 1:
        raise InputError(
            f"retiring needs gate problems, which decide, test problems, which measure, and samples of at least 1; "
            f"got {len(chosen.gate)}, {len(chosen.test)} and {samples}"
        )
    needed = least_problems(margin)  # refuses a margin that is none
    _check_budget(budget, chosen, compared=before is not None)
    for name in (model, before):
        await _check_model(name)
    async with AsyncExitStack() as stack:
        book = await asyncio.to_thread(open_library, stack, _began_with(library, Path(out)))
        record = stack.enter_context(RunRecord.open(out))
        config = {
            "task": chosen.fingerprint(),
            "models": [_named(model), None if before is None else _named(before)],
            "library": book.digest,
            "measured": [margin, samples, seed],
        }
        check_same(record, config, Path(out))
        record.put_state("version", book.snapshot.version.number)
        events = EventLog(record, *([on_event] if on_event else []))
        work = _Work(chosen, book.snapshot, record, events, Ledger(budget), concurrency, seed)
        work.begun(_named(model), samples)
        try:
            return await interruptible(_retired(work, book, model, before, margin, samples, needed), Path(out))
        except BudgetExhausted as error:
            kept = f"every finished call is kept in {out}, and the same command with more goes on from there"
            raise BudgetExhausted(f"{error}; {kept}") from None


retire = synchronous(aretire, "retire")
"""`aretire` for programs without an event loop; takes the same arguments."""


async def _retired(
    work: _Work,
    book: Opened,
    model: Policy | str,
    before: Policy | str | None,
    margin: float,
    samples: int,
    needed: int,
) -> Retirement:
    ids = tuple(e.id for e in book.snapshot.served)
    arms: dict[str, Evaluation] = {}
    if before is not None:
        async with work.asking(before) as solver:
            arms["before_with"], arms["before_without"] = await work.tested(solver, ()), await work.tested(solver, ids)
    async with work.asking(model) as solver:
        problems = len(work.task.gate)
        removal = Removal(retired=(), tests=(), why=too_few(problems, needed, margin, CONFIDENCE))
        if problems >= needed:
            measure = partial(work.gate, solver, samples)
            removal = await removable(ids, measure, margin=margin, on_test=work.told)
        arms["with"] = await work.tested(solver, ())
        arms["left"] = await work.tested(solver, removal.retired) if removal.retired else arms["with"]
        arms["without"] = await work.tested(solver, ids)
    report = Retirement.of(
        task=work.task.name,
        models=(_named(model), None if before is None else _named(before)),
        library=f"{book.place} ({book.snapshot.version.name})",
        ids=ids,
        removal=removal,
        arms={name: arms[name] for name in ARMS if name in arms},
        margin=margin,
        seed=work.seed,
    )
    spend = {name: asdict(spent) for name, spent in work.ledger.spend_by_purpose.items()}
    report = replace(report, spend=spend, seconds=work.ledger.elapsed_s)
    report = replace(report, written=await asyncio.to_thread(written, book, report, work.record.path.parent))
    work.record.put_state("retirement", report.as_json())
    work.events.emit("finished", words=report.words())
    return report


@dataclass(frozen=True, slots=True)
class _Work:
    """What asks, measures and tells."""

    task: Task
    snapshot: Snapshot
    record: RunRecord
    events: EventLog
    ledger: Ledger
    concurrency: int
    seed: int

    def begun(self, model: str, samples: int) -> None:
        gate, test, shown = len(self.task.gate), len(self.task.test), len(self.snapshot.served)
        self.events.emit(
            "started",
            kind="retire",
            task=self.task.name,
            model=model,
            folder=str(self.record.path.parent),
            plan=f"{shown} experiences; {gate} gate problems x {samples} decide, {test} test problems measure",
            recorded=sum(spent.calls for spent in self.record.spend().values()),
        )

    def asking(self, model: Policy | str) -> _Asking:
        return _Asking(self, model)

    async def gate(self, solver: Solver, samples: int, out: Sequence[str]) -> Array:
        return (await self._measured(solver, self.task.gate, samples, out)).success

    async def tested(self, solver: Solver, out: Sequence[str]) -> Evaluation:
        return await self._measured(solver, self.task.test, self.task.test_samples, out)

    async def _measured(
        self, solver: Solver, problems: Sequence[Problem], samples: int, out: Sequence[str]
    ) -> Evaluation:
        """Right and wrong answers without some experiences."""
        left = [e.id for e in self.snapshot.served if e.id not in set(out)]

        def apply(problem: Problem) -> Prompt:
            bare = Prompt(messages=problem.messages)
            return dressed(bare, self.snapshot, left) if left else bare

        found = await evaluate_problems(
            problems,
            self.task.reward,
            solver,
            apply=apply,
            samples=samples,
            sampling=self.task.sampling,
            purpose=PURPOSE,
            on_progress=partial(self._progress, f"{len(left)} experiences"),
        )
        if found.missing + found.unscored == found.scores.size:
            why = f": {'; '.join(found.troubles)}" if found.troubles else ""
            raise TransportError(f"not one of {found.scores.size} answers arrived and was scored{why}")
        name = solver.policy.name
        self.events.emit("measured", words=f"{name}, {len(left)} experiences: {found.words()}", n=len(problems))
        return found

    def _progress(self, what: str, done: int, total: int) -> None:
        spend = self.ledger.spend
        self.events.emit(
            "test_progress", version=what, done=done, total=total, calls=spend.calls, usd=round(spend.usd, 6)
        )

    def told(self, test: Tested) -> None:
        self.events.emit("removal_tested", out=list(test.out), words=test.judged.words())


class _Asking:
    """A model that can be asked, closed at the end: two models need not stand in memory together."""

    def __init__(self, work: _Work, model: Policy | str) -> None:
        self.work, self.model, self.stack = work, model, AsyncExitStack()

    async def __aenter__(self) -> Solver:
        work = self.work
        await self.stack.__aenter__()
        policy = await opened(self.stack, self.model)
        caller = partial(
            Caller,
            record=work.record,
            ledger=work.ledger,
            concurrency=work.concurrency,
            emit=work.events.publish,
            seed=work.seed,
        )
        self.stack.enter_context(bound(work.task.models, partial(caller, solver=False), policy))
        self.stack.enter_context(metrics_to(work.events.emit))
        return solver_of(caller(policy), work.task.agent)

    async def __aexit__(self, *error: Any) -> None:
        await self.stack.__aexit__(*error)


# -- the shorter library ----------------------------------------------------------------------------------------------


def written(book: Opened, report: Retirement, folder: Path) -> str:
    """Where the shorter library is: a new version of the store, or a new file in the run's folder; "" for no change.

    A commit that an earlier process made for the same run is found again instead of being made twice.
    """
    if not report.retired:
        return ""
    version = book.snapshot.version
    note = f"retired {len(report.retired)} of {report.entries} experiences after distillation into {report.model}"
    evidence = {"retirement": report.evidence()}
    if book.store is None:
        left = tuple(e for e in book.snapshot.experiences if e.id not in report.retired)
        shorter = replace(
            version,
            number=version.number + 1,
            parent=version.number,
            rows=tuple(e.row for e in left),
            edits=(),
            note=note,
            evidence=evidence,
            writer=WRITER,
        )
        file = folder / "library.json"
        return str(save(replace(book.snapshot, version=shorter, experiences=left), file, embedder=book.embedder))
    kept = json.loads(json.dumps(evidence))
    for made in book.store.log():
        if made.number > version.number and made.writer == WRITER and json.loads(json.dumps(made.evidence)) == kept:
            return f"{book.place}@{made.name}"
    edits = [
        Edit(op="drop", id=name, reason="its absence is non-inferior after distillation") for name in report.retired
    ]
    made = book.store.commit(edits, parent=version.number, note=note, evidence=evidence, writer=WRITER)
    return f"{book.place}@{made.name}"


def _check_budget(budget: Budget | None, task: Task, *, compared: bool) -> None:
    """Refuse what cannot even measure; deciding takes more."""
    arms = 4 if compared else 2
    needed = arms * len(task.test) * task.test_samples
    if budget is not None and budget.calls is not None and budget.calls < needed:
        raise InputError(
            f"measuring {arms} arms on {len(task.test)} test problems x {task.test_samples} takes {needed} calls and "
            f"the budget allows {budget.calls}, with nothing to decide by; raise it, or measure fewer test problems"
        )


async def _check_model(model: Policy | str | None) -> None:
    """Refuse a name that is none before anything is begun; a model is loaded when it is first asked."""
    if isinstance(model, str):
        await connect(model).aclose()


def _began_with(spec: str, out: Path) -> str:
    """The library's version that the run in `out` began with, whatever a store's head is by now."""
    place, _ = experience_store.parse_ref(spec)
    if Path(place).is_file() or not (out / FILE_NAME).exists():
        return spec
    with RunRecord.open(out, read_only=True) as record:
        known = record.get_state("version")
    return spec if known is None else f"{place}@v{known}"


def _named(model: Policy | str) -> str:
    return model if isinstance(model, str) else model.name
