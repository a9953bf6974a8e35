"""Runs over wordings in which there is nothing to compare: refused before the first group, or told in the report."""

import json
import re
from dataclasses import replace

import flagworld
import pytest
from scripted import ScriptedPolicy

import experience_store
from tfgrpo import Budget, alearn
from tfgrpo.errors import InputError
from tfgrpo.grouping import grouping_spec
from tfgrpo.recipe import Recipe
from tfgrpo.record import RunRecord
from tfgrpo.rewards.consistency import ps_grpo
from tfgrpo.rewards.simple import contains


def over_wordings(**changes):
    return flagworld.flag_task(grouping="paraphrases", reward=ps_grpo(with_=contains()), advantage="ps_grpo", **changes)


async def test_a_paraphraser_that_changes_the_meaning_stops_the_run_before_the_first_group(tmp_path):
    def turned(messages, sampling):
        if sampling.schema is None:
            return "brown"
        question = re.search(r"<question>\n(.*)\n</question>", messages[-1]["content"])[1]
        return json.dumps({"wordings": [question.replace("colour has", "colour has not"), f"7. {question}"]})

    policy = ScriptedPolicy(turned)
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        given = {"model": policy, "critic": "examples", "store": store, "group": 4, "runs": tmp_path}
        with pytest.raises(InputError, match=r"one wording only \(5 problems; wordings refused: 5 .*, 5 .*\)"):
            await alearn(over_wordings(learn=flagworld.problems(0, 5)), budget=Budget(calls=80), **given)
        assert store.head().number == 0
    assert len(policy.calls) == 5
    with RunRecord.open(next(tmp_path.glob("flags-*")), read_only=True) as record:
        told = [e.data["wordings"] for e in record.events("wordings_refused")]
    assert len(told) == 5 and set(told[0].values()) == {"turns a word into its opposite", "changes the numbers"}


async def test_some_problems_with_one_wording_are_told_in_the_report(tmp_path):
    def often(messages, sampling):
        if sampling.schema is None:
            return "brown"
        question = re.search(r"<question>\n(.*)\n</question>", messages[-1]["content"])[1]
        number = int(re.findall(r"\d+", question)[0])
        return json.dumps({"wordings": [f"Tell me. {question}" if number % 2 else f"{question} Not that."]})

    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        given = {"model": ScriptedPolicy(often), "store": store, "group": 4, "runs": tmp_path, "critic": "examples"}
        report = await alearn(over_wordings(learn=flagworld.problems(0, 6)), budget=Budget(calls=80), **given)
    (said,) = [n for n in report.notices if "one wording" in n]
    assert said.startswith("3 of 6 problems have one wording") and "3 turns a word into its opposite" in said
    assert said in str(report)


@pytest.mark.parametrize(
    ("changes", "group", "said"),
    [
        ({"grouping": "repeat"}, 4, "one wording only; give problems `variants`"),
        ({"grouping": grouping_spec("paraphrases", each=1)}, 2, "has one answer to each"),
    ],
)
def test_groups_in_which_nothing_can_be_compared_are_refused_at_once(changes, group, said):
    worded = [replace(p, variants=(f"Tell me. {p.question}",)) for p in flagworld.problems(0, 5)]
    made = replace(over_wordings(learn=tuple(worded)), **changes)
    with pytest.raises(InputError, match=said):
        Recipe.of(made, group).check(made, group)
    fine = over_wordings(learn=tuple(worded))
    Recipe.of(fine, 4).check(fine, 4)
