import json
from dataclasses import replace

import numpy as np
import pytest
from scripted import ScriptedPolicy

from experience_store import Experience
from tfgrpo import Budget, Completion, Group, Problem, Rollout, Score
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.critic import CriticSpec, MalformedReply, Reading
from tfgrpo.critic.base import parse
from tfgrpo.critic.examples import ExampleCritic
from tfgrpo.critic.lessons import LessonCritic, ProposedEdits
from tfgrpo.critic.paper import PaperCritic
from tfgrpo.critic.transcript import cut, steps, transcript
from tfgrpo.errors import InputError

PROBLEM = Problem(id="p1", messages=({"role": "user", "content": "2 + 2 * 3?"},), answer="8")
ADD = json.dumps({"edits": [{"op": "add", "text": "Multiply before you add.", "reason": "order"}]})


def rollout(text, value, feedback=""):
    completion = Completion(
        prompt=PROBLEM.messages, messages=({"role": "assistant", "content": text},), text=text, policy="scripted"
    )
    return Rollout(completion=completion, score=Score(value=value, feedback=feedback), experiences=("E2@1",))


def reading(*rollouts, known=()):
    values = np.array([r.score.value for r in rollouts])
    return Reading(group=Group(problem=PROBLEM, rollouts=rollouts, index=3), values=values, known=known)


def caller(*answers):
    queue = list(answers)
    policy = ScriptedPolicy(lambda messages, sampling: queue.pop(0))
    return policy, Caller(policy, record=None, ledger=Ledger(Budget()), solver=False)


async def test_one_call_gives_edits_with_their_source():
    policy, ask = caller(ADD)
    (edit,) = await LessonCritic(ask).read(reading(rollout("12", 0.0), rollout("8", 1.0)))
    assert (edit.op, edit.text, edit.reason) == ("add", "Multiply before you add.", "order")
    assert edit.source == {"group": 3, "problem": "p1", "critic": "scripted"}
    assert len(policy.calls) == 1


async def test_the_critic_sees_problem_reference_scores_feedback_and_notes_with_ids():
    policy, ask = caller(ADD)
    known = (Experience(id="E2", text="Show no steps."),)
    await LessonCritic(ask).read(reading(rollout("12", 0.0, "order of operations"), rollout("8", 1.0), known=known))
    seen = policy.calls[0][0][-1]["content"]
    for part in ("2 + 2 * 3?", "Correct answer: 8", "(reward: 0)", "(reward: 1)", "order of operations",
                 "[E2] Show no steps.", "at least one attempt's prompt: E2"):  # fmt: skip
        assert part in seen


async def test_a_malformed_reply_is_repaired_once_with_the_error():
    policy, ask = caller("no json here", ADD)
    assert len(await LessonCritic(ask).read(reading(rollout("8", 1.0)))) == 1
    assert "could not be read" in policy.calls[1][0][-1]["content"]


async def test_twice_malformed_is_an_error_of_this_group():
    _, ask = caller("no json", '{"edits": 3}')
    with pytest.raises(MalformedReply, match="malformed twice"):
        await LessonCritic(ask).read(reading(rollout("8", 1.0)))


@pytest.mark.parametrize(
    "text", [ADD, f"Sure!\n```json\n{ADD}\n```", ADD[len('{"edits": ') : -1], f"[] and then {ADD}", f"{{}} {ADD}"]
)
def test_json_is_found_in_what_models_write(text):
    edits = parse(text, ProposedEdits).edits
    assert edits == [] or edits[0].text == "Multiply before you add."


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, '{"edits": [{"op": "merge"}]}', "null"])
def test_what_is_no_reply_is_refused(text):
    with pytest.raises(ValueError):
        parse(text, ProposedEdits)


def test_the_schema_asks_for_every_field():
    schema = ProposedEdits.model_json_schema(mode="serialization")
    assert schema["$defs"]["ProposedEdit"]["required"] == ["reason", "op", "id", "text"]
    assert schema["$defs"]["ProposedEdit"]["additionalProperties"] is False


def test_equal_attempts_are_shown_once_best_and_worst_first():
    rollouts = [rollout("12", 0.0), rollout("8", 1.0), rollout("12", 0.0), rollout("10", 0.5)]
    text = transcript(Group(problem=PROBLEM, rollouts=tuple(rollouts)), np.array([-0.5, 0.6, -0.5, 0.1]))
    assert text.index("reward: 1") < text.index("reward: 0, given 2 times") < text.index("reward: 0.5")


def test_a_transcript_keeps_its_budget():
    rollouts = tuple(rollout("x" * 50_000 + str(n), float(n)) for n in range(6))
    text = transcript(Group(problem=PROBLEM, rollouts=rollouts), np.arange(6.0), max_tokens=2000)
    assert len(text) < 4 * 2000 * 1.2
    assert cut("abcdef" * 100, 50).startswith("abc")


async def test_examples_are_the_shortest_winners_of_mixed_groups():
    critic = ExampleCritic()
    (edit,) = await critic.read(reading(rollout("It is 8, of course.", 1.0), rollout("8", 1.0), rollout("12", 0.0)))
    assert (edit.kind, edit.question, edit.text) == ("example", "2 + 2 * 3?", "8")
    assert await critic.read(reading(rollout("8", 1.0), rollout("8", 1.0))) == ()
    assert await critic.read(reading(rollout("", 1.0), rollout("12", 0.0))) == ()
    cut_off = rollout("8, and then", 1.0)
    cut_off = replace(cut_off, completion=replace(cut_off.completion, finish_reason="length"))
    assert await critic.read(reading(cut_off, rollout("12", 0.0))) == ()


async def test_references_stand_in_for_winners_that_there_are_none_of():
    critic = ExampleCritic(references=True)
    (edit,) = await critic.read(reading(rollout("12", 0.0), rollout("10", 0.0)))
    assert (edit.text, edit.source["policy"]) == ("8", "reference")
    (edit,) = await critic.read(reading(rollout("12", 0.0), rollout("It is 8", 1.0)))
    assert (edit.text, edit.source["policy"]) == ("It is 8", "scripted")
    assert await critic.read(reading(rollout("8", 1.0), rollout("8", 1.0))) == ()


async def test_examples_end_when_there_are_enough():
    critic = ExampleCritic(max_examples=2)
    edits = await critic.read(reading(rollout("8", 1.0), rollout("12", 0.0)))
    known = (Experience(id="E1", text="x", kind="example"),)
    assert len(await critic.merge(0, edits * 3, known)) == 1


async def test_the_paper_preset_asks_for_summaries_a_comparison_and_a_consolidation():
    one = json.dumps({"operations": [{"operation": "add", "content": "Multiply first."}]})
    two = json.dumps({"operations": [{"operation": "modify", "id": "[E2]", "content": "Multiply, then add."},
                                     {"operation": "delete", "id": "E7"}]})  # fmt: skip
    policy, ask = caller("1. added", "1. multiplied", one, two)
    critic = PaperCritic(ask)
    edits = await critic.read(reading(rollout("12", 0.0), rollout("8", 1.0)))
    assert [e.op for e in edits] == ["add"]
    assert "Summary 2 (right)" in policy.calls[2][0][-1]["content"]
    merged = await critic.merge(0, edits, (Experience(id="E2", text="Show no steps."),))
    assert [(e.op, e.id, e.text) for e in merged] == [("revise", "E2", "Multiply, then add."), ("drop", "E7", "")]


async def test_the_paper_preset_makes_no_call_without_winners_and_losers():
    policy, ask = caller()
    critic = PaperCritic(ask)
    assert await critic.read(reading(rollout("12", 0.0), rollout("10", 0.0))) == ()
    assert await critic.merge(0, (), ()) == ()
    assert policy.calls == []


@pytest.mark.parametrize(
    ("text", "spec"),
    [("lessons", "lessons:s/m"), ("paper:openai/x", "paper:openai/x"), ("openai/x", "lessons:openai/x"),
     ("http://h:1/v1#m", "lessons:http://h:1/v1#m"), ("examples", "examples")],
)  # fmt: skip
def test_what_a_user_writes_for_a_critic(text, spec):
    assert str(CriticSpec.parse(text, "s/m")) == spec


def test_an_unknown_critic_is_refused_with_the_near_ones():
    with pytest.raises(InputError, match="did you mean 'lessons'"):
        CriticSpec.parse("lesson", "s/m")


def test_a_trajectory_is_shown_with_tool_calls_results_and_the_end():
    call = {"id": "1", "function": {"name": "python", "arguments": json.dumps({"code": "x = 6\nx * 7"})}}
    both = {"id": "2", "function": {"name": "look", "arguments": '{"a": 1, "b": "c"}'}}
    produced = (
        {"role": "assistant", "content": "I compute.", "tool_calls": [call, both]},
        {"role": "tool", "tool_call_id": "1", "content": "4" + "0" * 5000 + "2"},
        {"role": "assistant", "content": "It is this."},
    )
    completion = replace(rollout("", 0.0).completion, messages=produced, text="42", finish_reason="length")
    shown = steps(replace(rollout("", 0.0), completion=completion))
    assert shown.startswith('[assistant] I compute.\n[calls python] x = 6\nx * 7\n[calls look] {"a": 1, "b": "c"}\n')
    assert "[tool result] 40" in shown and "02\n[assistant] It is this." in shown and "[... cut ...]" in shown
    assert shown.endswith("[final answer] 42\n[a limit of turns, tokens or time was reached]") and len(shown) < 2000
    cut_off = replace(
        completion, messages=({"role": "assistant", "content": None, "tool_calls": [{"function": None}]},)
    )
    assert "[calls None]" in steps(replace(rollout("", 0.0), completion=cut_off))
