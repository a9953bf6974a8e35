"""The open-ended task: tournaments in groups, grades for single answers, and judging oneself is said."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import experience_store
from tasks.open_ended import task
from tests.scripted import ScriptedPolicy
from tfgrpo import Budget, LateCaller, aevaluate, alearn, connect
from tfgrpo.errors import InputError, MissingExtraError, TransportError
from tfgrpo.record import RunRecord
from tfgrpo.types import Completion


def length_judge(messages: list[dict[str, Any]], sampling: Any) -> str:
    """Likes the longer text; grades a single one by its length."""
    pair = re.findall(r"<(?:first|second)-\w+>\n(.*?)\n</", messages[-1]["content"], re.DOTALL)
    if len(pair) == 2:
        return json.dumps({"reason": "longer", "first": min(10, len(pair[0])), "second": min(10, len(pair[1]))})
    return json.dumps({"reason": "graded", "score": 6})


async def learned(made: Any, model: Any, folder: Path, calls: int = 24, group: int = 3) -> Any:
    with experience_store.open(folder / "store", embedder="hashing") as store:
        return await alearn(
            made, model=model, critic="examples", store=store, budget=Budget(calls=calls), group=group, runs=folder
        )


async def test_groups_meet_in_a_tournament_and_single_answers_are_graded(tmp_path: Path) -> None:
    texts = iter(range(10_000))
    solver = ScriptedPolicy(lambda messages, sampling: "x" * (1 + next(texts) % 3), name="solver")
    judge = ScriptedPolicy(length_judge, name="grader")
    report = await learned(task(learn=3, gate=0, test=2, judge=judge), solver, tmp_path)
    with RunRecord.open(report.folder, read_only=True) as record:
        assert not list(record.events("reward_failed"))
        scores = [[r["score"] for r in e.data["rollouts"]] for e in record.events("group_done")]
    assert scores and any(sorted(row) == [0.0, 0.5, 1.0] for row in scores if len(row) == 3)
    assert not [n for n in report.notices if "judged its own" in n]
    measured = await aevaluate(task(learn=3, gate=0, test=2, judge=judge), model=solver, runs=tmp_path)
    assert "0.6" in str(measured) and not [n for n in measured.notices if "judged its own" in n]


async def test_a_model_that_judges_itself_is_allowed_and_said(tmp_path: Path) -> None:
    def both(messages: list[dict[str, Any]], sampling: Any) -> str:
        return length_judge(messages, sampling) if sampling.schema else "A text."

    solver = ScriptedPolicy(both, name="solver")
    made = task(learn=3, gate=0, test=2)
    assert made.models[0].name == "the solver's own model"
    report = await learned(made, solver, tmp_path)
    measured = await aevaluate(made, model=solver, runs=tmp_path)
    for notices in (report.notices, measured.notices):
        assert any("judged its own answers" in notice for notice in notices)


def test_judges_by_name_and_as_late_callers() -> None:
    late = LateCaller(ScriptedPolicy(length_judge, name="grader"))
    assert task(judge=late).models == (late,) and task(judge=late).grader_only
    assert task(judge="http://127.0.0.1:9/v1#m").models[0].name == "http://127.0.0.1:9/v1#m"
    with pytest.raises(InputError, match="topology"):
        task(topology="swiss")  # type: ignore[arg-type]


class Reader:
    """The packaged model as a judge. It is too small to write JSON, so the length of its words becomes the grade."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.name, self.price = policy, f"{policy.name} as a judge", policy.price

    async def complete(self, messages: Any, sampling: Any) -> Completion:
        reply = await self.policy.complete(messages, dataclasses.replace(sampling, schema=None, max_tokens=8))
        size = len(reply.text) % 11
        names = {"first": size, "second": 10 - size} if "first" in sampling.schema["properties"] else {"score": size}
        return dataclasses.replace(reply, text=json.dumps({"reason": reply.text, **names}))

    async def aclose(self) -> None:
        pass


@pytest.mark.slow
async def test_a_run_with_a_real_model(tmp_path: Path) -> None:
    policy = connect("local/smollm2")
    made = task(learn=2, gate=0, test=1, judge=Reader(policy))
    made = dataclasses.replace(made, sampling=dataclasses.replace(made.sampling, max_tokens=24))
    try:
        report = await learned(made, policy, tmp_path, calls=8, group=2)
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        await policy.aclose()
    with RunRecord.open(report.folder, read_only=True) as record:
        assert list(record.calls("judge")) and not list(record.events("reward_failed"))
    assert report.groups >= 1 and report.rollouts >= 2


@pytest.mark.slow
async def test_a_model_too_small_to_judge_itself_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    policy = connect("local/smollm2")
    made = task(learn=1, gate=0, test=1, judge_tokens=12)
    made = dataclasses.replace(made, sampling=dataclasses.replace(made.sampling, max_tokens=12))
    try:
        with pytest.raises(TransportError, match="not one of the"):
            await learned(made, policy, tmp_path, calls=4, group=2)
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        await policy.aclose()
