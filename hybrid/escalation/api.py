"""The public verb of the whole story: an async core and a thin sync form.

result = hybrid.improve("problems.jsonl", model="openai/gpt-4.1-mini", train_model="./my-model", budget=Budget(usd=20))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from experience_store import ExperienceStore
from hybrid.escalation.job import Choices, Job, no_training, set_aside
from hybrid.escalation.page import write_page
from hybrid.escalation.prompt_arm import GROUP
from hybrid.escalation.result import Improvement, improvement
from hybrid.escalation.stage import Stage
from hybrid.escalation.story import told
from tfgrpo.budget import Budget, Ledger
from tfgrpo.critic import CriticSpec
from tfgrpo.errors import InputError
from tfgrpo.events import Event, EventLog
from tfgrpo.plan import DEFAULT_CALLS
from tfgrpo.policy import Policy
from tfgrpo.recipe import Recipe
from tfgrpo.record import RunRecord
from tfgrpo.running import interruptible, opened, synchronous
from tfgrpo.task import Task, load_task

KIND = "improve"
FINISHED = "finished before; nothing was asked again"


async def aimprove(
    task: Task | str,
    *,
    model: Policy | str,
    train_model: str | None = None,
    critic: Policy | CriticSpec | str | None = None,
    store: ExperienceStore | str | None = None,
    budget: Budget | None = None,
    gpu_usd_per_hour: float | None = None,
    traffic_calls: float | None = None,
    out: str | Path = "./improved",
    seed: int = 0,
    concurrency: int = 64,
    choices: Choices | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Improvement:
    """From the model as it is to a recommendation: learn experiences, decide whether to train, train, compare.

    The model as it is, with experiences, and the trained model without and with them are measured on the same test
    problems of the task, which nothing is learned from and nothing is decided on. Without weights to train, without
    the packages or the budget for it, the result is the best prompt-only one, and says so.

    Args:
        task: a `Task` with test problems, or its name as `load_task` takes it.
        model: what solves the problems: a name for `connect`, or a `Policy`.
        train_model: local weights to train: "local/smollm2", or a folder of transformers. They may be another model's.
        critic: as `tfgrpo.learn` takes it.
        store: where experiences are kept; None: in `out`.
        budget: of everything together. Dollars pay for calls and for time of this machine, seconds are those of the
            story, calls and tokens limit the prompt arm. The last measurement is kept aside first. None: 600 solver
            calls, and 50 steps of training.
        gpu_usd_per_hour: what this machine costs; None: its time is not counted in dollars, and that is said.
        traffic_calls: calls that are expected while the result is in use; they decide what prompts really cost.
        out: the folder of the story: its record, experiences, weights and the report.
        seed: decides splits, order and samples.
        concurrency: requests in flight at most.
        choices: how training is done, and whether it is forced.
        on_event: called with every event of every phase, for progress.

    Returns:
        The improvement; `print` it. The same call goes on with a story that was stopped, and returns a finished one.

    Raises:
        InputError: something given is wrong; nothing was begun.
        RunStateError: `out` holds another story, or another process is at work there.
        PolicyError: the model could not be asked; the same call goes on where this one stopped.
        BudgetExhausted: not even the model as it is could be measured.
    """
    job = Job(
        task=load_task(task) if isinstance(task, str) else task,
        model=model,
        train_model=train_model,
        critic=critic,
        store=store,
        budget=budget or Budget(calls=DEFAULT_CALLS),
        gpu_usd_per_hour=gpu_usd_per_hour,
        traffic_calls=traffic_calls,
        out=Path(out),
        seed=seed,
        concurrency=concurrency,
        choices=choices or Choices(),
        on_event=on_event,
    )
    aside, barred = await checked(job)
    with RunRecord.open(job.out) as record:
        job.same(record)
        known = record.get_state("improvement")
        if known is not None:
            return Improvement.from_json(known).noted(FINISHED)
        events = EventLog(record, *([on_event] if on_event else []))
        stage = Stage.of(job, aside, barred, record, events)
        events.emit("begun", kind=KIND, task=job.task.name, model=job.model_name, folder=str(job.out), barred=barred)
        async with stage.clock.ticking():
            ending = await interruptible(told(stage), job.out)
            found = improvement(stage, ending)
        write_page(found, job.out)
        record.put_state("improvement", found.as_json())
        events.emit("ended", recommended=found.recommended, why=found.why)
        return found


async def checked(job: Job) -> tuple[Task, str]:
    """The task with the problems of the decision set aside, and why there can be no training.

    Raises:
        InputError: whatever would stop the story later and can be known now; nothing was begun.
    """
    job.check()
    Recipe.of(job.task, GROUP)
    aside, barred = set_aside(job.task, job.seed), no_training(job)
    if barred and job.choices.force:
        raise InputError(f"training was asked for whatever the forecast says, and is not possible: {barred}")
    if not barred:
        Recipe.of(job.task, job.choices.group)
    async with AsyncExitStack() as stack:
        policy = await opened(stack, job.model)
        ledger = Ledger(job.budget)
        ledger.require_price(policy.name, policy.price)
        if isinstance(job.critic, str):
            spec = CriticSpec.parse(job.critic, policy.name)
            reads = policy if spec.model == policy.name else await opened(stack, spec.model)
            ledger.require_price(reads.name, reads.price)
    return aside, barred


improve = synchronous(aimprove, "improve")
"""`aimprove` for programs without an event loop; takes the same arguments."""
