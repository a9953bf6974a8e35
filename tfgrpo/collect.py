"""One group: ask, score, count what was lost, and ask again where the grouping wants to. Both arms share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tfgrpo.caller import Solver
from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.events import EventLog
from tfgrpo.grouping.base import Grouping, Stage, Staged
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.rewards.base import Reward, score_answers, scores_alone
from tfgrpo.running import together
from tfgrpo.types import Completion, Group, Problem, Prompt, Rollout, Score

Fill: TypeAlias = Callable[[int, Sequence[Prompt]], tuple[Prompt, ...]]
"""`(stage, prompts) -> prompts`: the drawn experiences put into the prompts of a later stage."""

GIVEN = -1
"""The sample number of an answer that nobody was asked for."""


def as_asked(stage: int, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The filling of an arm without experiences."""
    return tuple(prompts)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A reply on its way to a rollout. `sample` is unique in its group, over all stages."""

    sample: int
    stage: int
    completion: Completion
    experiences: tuple[str, ...] = ()
    score: Score | None = None

    def rollout(self) -> Rollout:
        assert self.score is not None
        return Rollout(
            completion=self.completion,
            score=self.score,
            experiences=self.experiences,
            stage=self.stage,
            sample=self.sample,
        )


@dataclass(slots=True)
class _Course:
    """How far a group has come."""

    problem: Problem
    index: int
    stage: int = 0
    asked: int = 0
    members: list[_Answer] = field(default_factory=list)
    left: list[_Answer] = field(default_factory=list)  # scored, and compared no longer
    lost: set[int] = field(default_factory=set)  # samples without a reply
    unscored: set[tuple[int, int]] = field(default_factory=set)  # (stage, sample)


@dataclass(frozen=True, kw_only=True, slots=True)
class Collector:
    """What is needed to turn a problem and its prompts into a group.

    A rollout that got no reply, or whose answer the reward could not score, is missing: it leaves the group and is
    counted. Which ones were missing is recorded, so that a run that is started again sees the same groups.
    """

    caller: Solver
    reward: Reward
    sampling: Sampling
    events: EventLog
    record: RunRecord | None = None

    async def group(
        self,
        problem: Problem,
        prompts: Sequence[Prompt],
        index: int,
        version: int,
        *,
        grouping: Grouping | None = None,
        fill: Fill = as_asked,
    ) -> Group:
        """Sample and score one group, with all stages that a staged `grouping` wants.

        The samples of later stages are numbered on, so that every reply of the group has a place of its own on record.

        Raises:
            InputError: the grouping asks for more answers than its `max_calls`.
        """
        staged = grouping if isinstance(grouping, Staged) else None
        course = _Course(problem=problem, index=index, **self._remembered(index))
        stage: Stage | None = Stage(prompts=tuple(prompts))
        while stage is not None:
            asked, scored = await self._run(course, stage, staged is not None)
            stage = None
            if staged is not None and asked and scored:
                stage = staged.then(problem, index, course.stage, [a.rollout() for a in course.members])
            if stage is not None:
                course.stage += 1
                filled = fill(course.stage, stage.prompts) if stage.prompts else ()
                stage = replace(stage, prompts=filled)
                _check_room(staged, course.asked + len(filled))
        return self._group(course, version)

    async def _run(self, course: _Course, stage: Stage, staged: bool) -> tuple[int, int]:
        """One stage: how many answers were asked for, and how many of them were scored."""
        kept = [course.members[k] for k in stage.keep]
        course.left += [a for k, a in enumerate(course.members) if k not in set(stage.keep)]
        fresh = [*await self._ask(course, stage.prompts), *_given(stage, course.stage)]
        again = () if scores_alone(self.reward) else kept
        scored = await self._score(course, [*again, *fresh])
        course.members = [*([] if again else kept), *scored]
        self._remember(course, staged)
        return len(stage.prompts), sum(a.stage == course.stage and a.sample != GIVEN for a in scored)

    async def _ask(self, course: _Course, prompts: Sequence[Prompt]) -> list[_Answer]:
        first = course.asked
        course.asked += len(prompts)
        wanted = [(first + k, p) for k, p in enumerate(prompts) if first + k not in course.lost]
        replies = await together(self._reply(course.problem, p, course.index, n) for n, p in wanted)
        answered = [(n, p, r) for (n, p), r in zip(wanted, replies, strict=True) if r is not None]
        course.lost |= {n for n, _ in wanted} - {n for n, _, _ in answered}
        return [_Answer(n, course.stage, reply, prompt.experiences) for n, prompt, reply in answered]

    async def _score(self, course: _Course, answers: Sequence[_Answer]) -> list[_Answer]:
        """The answers that the reward could score; the others are told and missing."""
        outcomes = await score_answers(self.reward, course.problem, [a.completion for a in answers])
        scored = []
        for answer, outcome in zip(answers, outcomes, strict=True):
            place = (course.stage, answer.sample)
            told = {"group": course.index, "problem": course.problem.id, "sample": answer.sample}
            if answer.sample == GIVEN and not (isinstance(outcome, Score) and outcome.success):
                self.events.emit("anchor_refused", group=course.index, problem=course.problem.id, outcome=str(outcome))
            elif isinstance(outcome, Score) and place not in course.unscored:
                scored.append(replace(answer, score=outcome))
            else:
                course.unscored.add(place)
                if isinstance(outcome, Exception):
                    self.events.emit("reward_failed", **told, error=str(outcome))
        return scored

    async def _reply(self, problem: Problem, prompt: Prompt, index: int, sample: int) -> Completion | None:
        key = CallKey(purpose="solve", epoch=index, problem=problem.id, sample=sample)
        try:
            return await self.caller.answer(problem, prompt, key, self.sampling)
        except TransportError:
            return None  # told by the caller
        except RequestError as error:
            self.events.emit("request_refused", group=index, problem=problem.id, sample=sample, error=str(error))
            return None

    def _group(self, course: _Course, version: int) -> Group:
        scored = [_told(a) for a in course.members if a.sample != GIVEN]
        self.events.emit("group_done", group=course.index, problem=course.problem.id, version=version, rollouts=scored)
        answered = sum(a.sample != GIVEN for a in (*course.members, *course.left))
        return Group(
            problem=course.problem,
            rollouts=tuple(a.rollout() for a in course.members),
            index=course.index,
            version=version,
            missing=course.asked - answered,
            earlier=tuple(a.rollout() for a in course.left),
            asked=course.asked,
        )

    # -- what a run that goes on must see again -----------------------------------------------------------------------

    def _remembered(self, index: int) -> dict[str, Any]:
        known = (self.record.get_state(f"group/{index}") if self.record else None) or {}
        unscored = {(stage, sample) for stage, sample in known.get("unscored", ())}
        return {"lost": set(known.get("missing", ())), "unscored": unscored}

    def _remember(self, course: _Course, staged: bool) -> None:
        """Lost replies, and for a staged group lost scores too: what is asked next depends on them."""
        unscored = sorted(course.unscored) if staged else []
        if self.record is not None and (course.lost or unscored):
            state = {"missing": sorted(course.lost), **({"unscored": unscored} if unscored else {})}
            self.record.put_state(f"group/{course.index}", state)


def _given(stage: Stage, number: int) -> list[_Answer]:
    return [_Answer(GIVEN, number, completion) for completion in stage.given]


def _told(answer: _Answer) -> dict[str, Any]:
    """A rollout as its event tells it."""
    assert answer.score is not None
    origin = {"origin": answer.completion.origin} if answer.completion.origin else {}
    return {"sample": answer.sample, "score": answer.score.value, "experiences": answer.experiences, **origin}


def _check_room(grouping: Staged | None, asked: int) -> None:
    if grouping is not None and asked > grouping.max_calls:
        raise InputError(
            f"the grouping {grouping!r} asks one group for {asked} answers and said max_calls={grouping.max_calls}, by "
            f"which the budget was divided; correct one of them"
        )
