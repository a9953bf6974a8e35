"""A task: problems in three disjoint splits, a reward, and how the model is asked."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experience_store.types import Layout
from tfgrpo.agents.base import Agent, Run, as_agent
from tfgrpo.errors import InputError, unknown_name
from tfgrpo.grouping.base import GroupingSpec, spec_name
from tfgrpo.late import LateCaller
from tfgrpo.measures import Measure, Probe, check_names
from tfgrpo.policy.base import Sampling
from tfgrpo.problems import load_problems
from tfgrpo.rewards.base import Reward, score_answers
from tfgrpo.rewards.text import gold_text
from tfgrpo.types import Completion, Problem, Score
from tfgrpo.user_code import load_object

if TYPE_CHECKING:
    from tfgrpo.advantage import Advantage
    from tfgrpo.samplers import SamplerFactory
    from tfgrpo.strategies.readings import Reading

ENTRY_POINTS = "tfgrpo.tasks"
FILE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
DEFAULT_METHODS = {"grouping": "repeat", "advantage": "grpo", "sampler": "least_covered"}
Splits = tuple[tuple[Problem, ...], tuple[Problem, ...], tuple[Problem, ...]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Problems to learn from, to gate with and to measure on, and the reward that scores answers to them.

    `objective` is one sentence for the critic. `critic` says what kind of experience suits the task's usual model:
    "lessons", or "examples" for tiny ones. `setting` names a model and setting whose base score lies in 0.1..0.9;
    a task without one is `grader_only`. `models` are those that the reward asks; a run binds them to its
    record and budget. `agent` is a coroutine that answers a problem through a recorded chat client; None asks the
    model once. `grouping` says which prompts make up a group, by name or as a function of the group size; `advantage`
    how its rewards become values, `sampler` which problem comes next; `tfgrpo methods` lists the names. `measures` say
    more of each test answer than its score does, `probes` ask each test problem in further ways; reports have both.
    `reading` says what two answers must share to be the same in a vote (`tfgrpo.strategies.readings`); "": what the
    reward compares.
    """

    name: str
    learn: tuple[Problem, ...]
    gate: tuple[Problem, ...] = ()
    test: tuple[Problem, ...] = ()
    reward: Reward
    objective: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    layout: Layout | None = None
    critic: str = "lessons"
    grader_only: bool = False
    setting: str = ""
    models: tuple[LateCaller, ...] = ()
    test_samples: int = 1  # samples of each test problem, before and after
    agent: Agent | Run | None = None
    grouping: GroupingSpec = None  # None: the problem as often as the group is large
    advantage: Advantage | str = "grpo"
    sampler: SamplerFactory | str = ""  # "": the sampler that a run has by default
    measures: Mapping[str, Measure] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    reading: Reading | str = ""

    def __post_init__(self) -> None:
        check_names(self.measures, self.probes)
        check_disjoint({"learn": self.learn, "gate": self.gate, "test": self.test})

    @property
    def calls_per_answer(self) -> int:
        """Calls that one answer costs at most."""
        return 1 if self.agent is None else as_agent(self.agent).max_calls

    def answers_per_test(self, samples: int) -> int:
        """Answers that measuring one test problem asks for at most: its samples, and what the probes want to know."""
        return samples + sum(probe.requests(self.test) for probe in self.probes)

    @property
    def methods(self) -> dict[str, str]:
        """The names of its grouping, advantage and sampler."""
        return {
            "grouping": spec_name(self.grouping),
            "advantage": _named(self.advantage),
            "sampler": _named(self.sampler) or DEFAULT_METHODS["sampler"],
        }

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems: learn, gate, test."""
        return (*self.learn, *self.gate, *self.test)

    async def check(self, limit: int | None = None) -> list[str]:
        """Scores the reference answer of each problem; returns a line for every one that does not score 1.0."""
        failures = []
        for problem in self.problems[:limit]:
            if problem.answer is None and "gold" not in problem.meta:
                continue
            answer = gold_completion(problem)
            (outcome,) = await score_answers(self.reward, problem, [answer])
            if not isinstance(outcome, Score) or outcome.value != 1.0:
                failures.append(f"{problem.id}: the reference answer {_shown(answer.text)} got {outcome!r}")
        return failures

    def fingerprint(self) -> str:
        """A hash of everything that decides what is asked and how it is scored; equal for equal tasks."""
        splits = [[_plain(p) for p in split] for split in (self.learn, self.gate, self.test)]
        how: list[object] = [
            self.reward.name,
            dataclasses.asdict(self.sampling),
            self.layout and dataclasses.asdict(self.layout),
        ]
        how += [str(self.test_samples), *(model.name for model in self.models)]
        how += [] if self.agent is None else as_agent(self.agent).fingerprint
        how += [[probe.name, *probe.says, repr(probe.sampling)] for probe in self.probes]
        how += [["measures", *self.measures]] if self.measures else []
        how += [list(item) for item in self.methods.items() if item not in DEFAULT_METHODS.items()]
        text = json.dumps([self.name, self.objective, self.critic, how, splits], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _named(spec: object) -> str:
    """The name of a method that is given by name or as an object of the user's."""
    name = spec if isinstance(spec, str) else getattr(spec, "name", None)
    return name if isinstance(name, str) else spec_name(spec)  # type: ignore[arg-type]


def _plain(problem: Problem) -> list[Any]:
    return [problem.id, list(problem.messages), problem.answer, problem.variants, dict(problem.meta)]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"...{text[-57:]}")


def gold_completion(problem: Problem) -> Completion:
    """The reference answer as if a model had given it: `meta["gold"]` where there is one, else the answer."""
    answer = problem.answer[0] if isinstance(problem.answer, list | tuple) and problem.answer else problem.answer
    plain = json.dumps(answer) if isinstance(answer, Mapping) else gold_text(answer)
    text = str(problem.meta.get("gold", plain))
    return Completion(
        prompt=problem.messages, messages=({"role": "assistant", "content": text},), text=text, policy="reference"
    )


def question_key(problem: Problem) -> str:
    """What makes two problems the same question: all messages, without regard to case and white space."""
    text = json.dumps([dict(m) for m in problem.messages], sort_keys=True, ensure_ascii=False, default=str)
    return " ".join(text.replace("\\n", " ").replace("\\t", " ").split()).casefold()


def check_disjoint(splits: Mapping[str, Sequence[Problem]]) -> None:
    """Refuses splits that share an id or a question.

    Raises:
        InputError: naming the two splits and the first shared problem.
    """
    owner: dict[bytes, str] = {}
    for name, split in splits.items():
        for problem in split:
            question = hashlib.sha256(question_key(problem).encode("utf-8", "surrogatepass")).digest()
            other = next(
                (o for key in (problem.id.encode(), question) if (o := owner.setdefault(key, name)) != name), None
            )
            if other is not None:
                raise InputError(
                    f"problem {problem.id!r} stands in the split {name!r} and, with the same id or the same question, "
                    f"in {other!r}; what is learned from cannot measure the gain, so remove one of them"
                )


def split_problems(problems: Sequence[Problem], *, seed: int = 0, gate: float = 0.2, test: float = 0.3) -> Splits:
    """Deals problems into learn, gate and test by a hash of their ids.

    A problem stays in its split when the file grows, and problems with the same question go together. A split that
    was asked for and came out empty gets the question with the nearest hash.

    Example:
        >>> learn, gate, test = split_problems(problems, gate=0.2, test=0.3)  # doctest: +SKIP
    """
    if gate < 0 or test < 0 or gate + test >= 1:
        raise InputError(f"gate and test must be shares >= 0 that leave something to learn from, got {gate} and {test}")
    sets: dict[str, list[Problem]] = {}
    for problem in problems:
        sets.setdefault(question_key(problem), []).append(problem)
    draws = {key: _draw(min(p.id for p in members), seed) for key, members in sets.items()}
    chosen = {key: 2 if draw < test else 1 if draw < test + gate else 0 for key, draw in draws.items()}
    _fill_empty(chosen, draws, {0: 1.0, 1: test + gate / 2 if gate else 0.0, 2: test / 2 if test else 0.0})
    dealt: list[list[Problem]] = [[], [], []]
    for problem in problems:
        dealt[chosen[question_key(problem)]].append(problem)
    return tuple(dealt[0]), tuple(dealt[1]), tuple(dealt[2])


def _draw(text: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\x1f{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _fill_empty(chosen: dict[str, int], draws: Mapping[str, float], middles: Mapping[int, float]) -> None:
    for split, middle in middles.items():
        counts = [list(chosen.values()).count(s) for s in range(3)]
        if counts[split] or not middle:
            continue
        spare = [key for key, owner in chosen.items() if counts[owner] > 1]
        if not spare:
            raise InputError(
                f"{len(chosen)} different questions are too few for the splits asked for; give more problems"
            )
        chosen[min(spare, key=lambda key: abs(draws[key] - middle))] = split


def load_task(spec: str, **options: Any) -> Task:
    """The task of that name, of "module:function", or of a file of problems (which needs `reward=`).

    Args:
        spec: "gsm8k", "my_module:my_task", "problems.jsonl".
        options: handed to the task's function; for a file: reward, reward_options, val, test, seed, limit, objective.

    Raises:
        InputError: unknown name or option (near ones are listed), or malformed problems.
    """
    if spec.lower().endswith(FILE_ENDINGS):
        return _called(file_task, spec, {"path": spec, **options})
    if ":" in spec:
        return _called(load_object(spec, kind="task"), spec, options)
    entries = task_entries()
    if spec not in entries:
        raise unknown_name("task", spec, entries)
    check_origin(entries[spec])
    return _called(entries[spec].load(), spec, options)


def task_entries() -> dict[str, importlib.metadata.EntryPoint]:
    """The tasks that installed packages offer, by name."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {entry.name: entry for entry in sorted(found, key=lambda e: e.name)}


def check_origin(entry: importlib.metadata.EntryPoint) -> None:
    """A file of the user called tasks.py would hide the package of that name; says so instead of failing oddly."""
    if entry.module.partition(".")[0] != "tasks":
        return
    ours = Path(__file__).resolve().parent.parent / "tasks"
    origin = getattr(importlib.import_module("tasks"), "__file__", None) or "a folder without __init__.py"
    if Path(origin).resolve().parent != ours:
        raise InputError(f"task {entry.name!r} is in the package {ours}, but {origin} hides it; rename that file")


def _called(function: object, spec: str, options: Mapping[str, Any]) -> Task:
    if isinstance(function, Task):
        return function
    if not callable(function):
        raise InputError(f"task {spec!r}: expected a Task or a function that returns one, got {function!r}")
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    _check_options(spec, options, parameters if not takes_any else {**parameters, **options})
    task = function(**options)
    if not isinstance(task, Task):
        raise InputError(f"task {spec!r}: expected its function to return a tfgrpo Task, got {task!r}")
    return task


def _check_options(spec: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise unknown_name(f"option of task {spec!r}", name, known)


def file_task(
    path: str | Path,
    *,
    reward: Reward | str | None = None,
    reward_options: Mapping[str, Any] | None = None,
    val: str | Path | None = None,
    test: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    objective: str = "",
    max_tokens: int | None = None,
) -> Task:
    """A task from files of problems. Splits that have no file of their own are dealt from `path` by id."""
    from tfgrpo.rewards.named import resolve_reward  # noqa: PLC0415

    if reward is None:
        raise InputError(
            f"a file of problems needs a reward: reward='exact', 'math_equal', ... or 'module:function' ({path})"
        )
    options = reward_options or {}
    judged = resolve_reward(reward, **options) if isinstance(reward, str) else reward
    shares = {"gate": 0.0 if val else 0.2, "test": 0.0 if test else 0.3}
    learn, gate, held = split_problems(load_problems(path, limit=limit), seed=seed, **shares)
    return Task(
        name=Path(path).stem,
        learn=learn,
        gate=load_problems(val) if val else gate,
        test=load_problems(test) if test else held,
        reward=judged,
        objective=objective,
        sampling=Sampling() if max_tokens is None else Sampling(max_tokens=max_tokens),
        models=tuple(option for option in options.values() if isinstance(option, LateCaller)),
    )
