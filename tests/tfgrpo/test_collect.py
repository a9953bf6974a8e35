"""One group in stages: who is asked what under which number, what stays, and that a second process sees the same."""

import asyncio
import contextlib
import json
import re

import pytest
from flagworld import luck
from scripted import ScriptedPolicy

from tfgrpo.budget import Budget, Ledger
from tfgrpo.caller import Caller
from tfgrpo.collect import Collector
from tfgrpo.errors import InputError, TransportError
from tfgrpo.events import EventLog
from tfgrpo.grouping import Stage, anchors, best_draft, hints, hints_replace_one, repeat
from tfgrpo.policy.base import Sampling
from tfgrpo.record import RunRecord
from tfgrpo.rewards.base import group_reward, reward
from tfgrpo.types import Problem

PROBLEM = Problem(
    id="p", messages=({"role": "user", "content": "Which?"},), answer="blue", meta={"hints": ["warm", "hot", "burning"]}
)


@reward
def says_blue(problem, completion):
    return "blue" in completion.text


def level_of(messages):
    found = re.search(r"Hint: .*?(\w+)$", messages[-1]["content"])
    return ["warm", "hot", "burning"].index(found[1]) + 1 if found else 0


class World:
    """A collector over a scripted model. `answer(level, nth)`, or `(level, seed)`, says what is answered; `asked` keeps
    the levels."""

    def __init__(self, answer, *, reward=says_blue, record=None, by_seed=False):
        self.asked, self.told = [], []

        def reply(messages, sampling):
            level = level_of(messages)
            self.asked.append(level)
            return answer(level, sampling.seed if by_seed else self.asked.count(level))

        self.policy = ScriptedPolicy(reply)
        self.ledger = Ledger(Budget(calls=100))
        caller = Caller(self.policy, record=record, ledger=self.ledger, seed=0)
        self.collector = Collector(
            caller=caller, reward=reward, sampling=Sampling(), events=EventLog(None, self.told.append), record=record
        )

    async def group(self, grouping, problem=PROBLEM, **options):
        return await self.collector.group(problem, grouping(problem, 3), 3, 0, grouping=grouping, **options)


async def test_a_group_that_somebody_solved_is_not_asked_again():
    world = World(lambda level, nth: "blue" if nth == 2 else "red")
    group = await world.group(hints(3))
    assert world.asked == [0, 0, 0]
    assert (len(group.rollouts), group.earlier, group.asked, group.missing) == (3, (), 3, 0)


async def test_the_ladder_ends_at_the_first_success():
    world = World(lambda level, nth: "blue" if level == 2 and nth == 1 else "red")
    group = await world.group(hints(3))
    assert world.asked == [0] * 3 + [1] * 3 + [2] * 3
    assert [r.completion.origin for r in group.rollouts] == ["hint/2"] * 3
    assert [r.stage for r in group.earlier] == [0] * 3 + [1] * 3
    assert len(group.unaided) == 3 and group.asked == 9 and group.mixed
    done = next(e for e in world.told if e.name == "group_done")
    assert [row["sample"] for row in done.data["rollouts"]] == [6, 7, 8]


async def test_one_hinted_success_takes_a_failed_place():
    world = World(lambda level, nth: "blue" if level == 3 else "red")
    group = await world.group(hints_replace_one(4))
    assert world.asked == [0] * 4 + [1, 2, 3]
    assert [r.score.value for r in group.rollouts] == [0.0, 0.0, 0.0, 1.0]
    assert sorted(r.completion.origin for r in group.earlier) == ["", "hint/1", "hint/2"]
    assert len(group.unaided) == 4  # the replaced failure is still evidence


async def test_refinements_are_compared_and_drafts_are_kept_beside_them():
    world = World(lambda level, nth: "blue" if nth in (2, 5) else "red")
    group = await world.group(best_draft(6))
    assert len(world.asked) == 6
    assert [r.completion.origin for r in group.rollouts] == ["draft"] * 3
    assert "<draft>\nblue\n</draft>" in group.rollouts[0].completion.prompt[-1]["content"]
    assert [r.score.value for r in group.unaided] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("solution", "joined"), [("It is blue.", 1), ("It is green.", 0)])
async def test_an_anchor_is_verified_and_costs_no_call(solution, joined):
    world = World(lambda level, nth: "red")
    problem = Problem(id="a", messages=PROBLEM.messages, meta={"solution": solution})
    group = await world.group(anchors(3), problem)
    assert len(world.asked) == 3 == group.asked and group.missing == 0
    assert [r.completion.policy for r in group.rollouts[3:]] == ["reference"] * joined
    assert sum(e.name == "anchor_refused" for e in world.told) == 1 - joined


async def test_without_a_scored_answer_nothing_more_is_asked():
    world = World(lambda level, nth: TransportError("down"))
    group = await world.group(hints(3))
    assert world.asked == [0] * 3 and group.missing == 3 and group.rollouts == ()


async def test_a_lost_stage_ends_the_group_and_is_counted():
    world = World(lambda level, nth: TransportError("down") if level else "red")
    group = await world.group(hints(3))
    assert world.asked == [0] * 3 + [1] * 3
    assert (group.rollouts, len(group.earlier), group.missing, group.asked) == ((), 3, 3, 6)


async def test_a_grouping_that_asks_for_more_than_it_said_is_stopped():
    class Greedy:
        max_calls = 4

        def __call__(self, problem, number):
            return repeat(3)(problem, number)

        def then(self, problem, number, stage, rollouts):
            return Stage(prompts=repeat(3)(problem, number))

    world = World(lambda level, nth: "red")
    with pytest.raises(InputError, match="max_calls=4"):
        await world.group(Greedy())
    assert len(world.asked) == 3


async def test_later_prompts_are_filled():
    world = World(lambda level, nth: "red")
    seen = []

    def fill(stage, prompts):
        seen.append((stage, len(prompts)))
        return tuple(prompts)

    await world.group(hints(2), fill=fill)
    assert seen == [(1, 2), (2, 2), (3, 2)]


async def test_a_reward_of_the_whole_group_sees_the_group_that_is_compared():
    sizes = []

    @group_reward
    def share_of_blue(problem, completions):
        sizes.append(len(completions))
        blue = sum("blue" in c.text for c in completions)
        return [blue / len(completions) if "red" in c.text else 1.0 for c in completions]

    world = World(lambda level, nth: "blue" if level == 1 else "red", reward=share_of_blue)
    group = await world.group(hints_replace_one(3))
    assert sizes == [3, 4, 3]
    assert [r.score.value for r in group.rollouts] == pytest.approx([1 / 3, 1 / 3, 1.0])


def shape(group):
    rows = [(r.completion.text, r.completion.origin, r.stage, r.score.value) for r in (*group.rollouts, *group.earlier)]
    return json.dumps([rows, group.missing, group.asked])


class Killed(BaseException):
    """As if the process had ended."""


def by_chance(level, seed):
    """A pure function of the call: one in four is lost, and the third level always finds it."""
    if luck(seed) < 0.25:
        return TransportError("lost")
    return "blue" if level == 3 else f"red {seed}"


@pytest.mark.parametrize("stop", range(1, 12))
async def test_a_group_that_was_cut_short_goes_on_to_the_same_end(tmp_path, stop):
    with RunRecord.open(tmp_path / "whole") as record:
        whole = World(by_chance, record=record, by_seed=True)
        expected = shape(await whole.group(hints(3)))
        replies = len(list(record.calls()))

    def cut(level, seed):
        return Killed() if len(first.asked) > stop else by_chance(level, seed)

    with RunRecord.open(tmp_path / "cut") as record:
        first = World(cut, record=record, by_seed=True)
        with contextlib.suppress(Killed):
            await first.group(hints(3))
        await asyncio.sleep(0)
        known = len(list(record.calls()))
    with RunRecord.open(tmp_path / "cut") as record:
        second = World(by_chance, record=record, by_seed=True)
        assert shape(await second.group(hints(3))) == expected
        assert len(list(record.calls())) == replies
        assert len({call.key.sample for call in record.calls()}) == replies
    assert len(second.asked) <= len(whole.asked) - known


async def test_a_score_that_was_lost_stays_lost_for_the_next_process(tmp_path):
    down = [True]

    @reward
    def sometimes(problem, completion):
        if "blue" in completion.text and down[0]:
            raise TransportError("the judge is down")
        return "blue" in completion.text

    def answer(level, nth):
        return "blue" if nth == 1 else "red"

    with RunRecord.open(tmp_path) as record:
        first = await World(answer, reward=sometimes, record=record).group(hints(2, levels=1))
    down[0] = False
    with RunRecord.open(tmp_path) as record:
        world = World(answer, reward=sometimes, record=record)
        second = await world.group(hints(2, levels=1))
    assert shape(first) == shape(second)
    assert world.asked == []
    assert first.missing == 2
