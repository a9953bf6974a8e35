"""What teachers read: the question, what is shown, the student's own tokens; and what becomes of it where room ends."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tinymodel import save_tiny

import hybrid.reprompt
from hybrid.answers import Batch
from hybrid.distill import Distill
from hybrid.model import load_trainable
from hybrid.reprompt import LEAST_SHOWN, Writer, asked_again, trouble, with_teachers
from hybrid.settings import Settings
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.types import Completion, Group, Problem, Rollout, Score, Segment

PLAIN = Distill(
    solution_words=" then {solution}", feedback_words=" which {feedback}", closing_words=" answer", max_prompt=90
)
ASKED = ({"role": "system", "content": "the number"}, {"role": "user", "content": "which is the largest"})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_trainable(save_tiny(tmp_path_factory.mktemp("tiny")), Settings(dtype="float32", device="cpu"))


def rollout(loaded: LoadedModel, text: str, right: bool, said: str = "", asked: Any = ASKED) -> Rollout:
    """As a sampler brings it: its tokens, an end of turn behind them."""
    tokens = (*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], 2)
    segments = (
        Segment(token_ids=loaded.prompt_ids(asked), train=False),
        Segment(token_ids=tokens, train=True, logps=(-1.0,) * len(tokens)),
    )
    completion = Completion(prompt=asked, messages=(), text=text, policy="p", segments=segments)
    return Rollout(completion=completion, score=Score(value=float(right), feedback=said))


def group(*rollouts: Rollout) -> Group:
    return Group(problem=Problem(id="p", messages=ASKED), rollouts=rollouts)


def taught(loaded: LoadedModel, groups: list[Group], spec: Distill = PLAIN, seed: int = 0) -> Batch:
    table = resolve_advantage("dr_grpo").columns(Table.of(groups))
    return with_teachers(Batch.of(groups, table), groups, spec, loaded, (seed, 0))


def read(loaded: LoadedModel, batch: Batch, number: int) -> str:
    teacher = batch.teachers[number]
    assert teacher is not None
    return str(loaded.tokenizer.decode([*teacher.prompt, *teacher.tokens]))


def test_examples() -> None:
    assert doctest.testmod(hybrid.reprompt).failed == 0


def test_the_teacher_reads_a_siblings_answer_before_the_students_own(loaded: LoadedModel) -> None:
    batch = taught(loaded, [group(rollout(loaded, "ten", True), rollout(loaded, "two three", False))])
    assert batch.teachers[0] is None and batch.taught.tolist() == [False, True]
    assert read(loaded, batch, 1) == (
        "<s> system the number </s> <s> user which is the largest then ten answer </s> <s> assistant two three </s>"
    )
    student, teacher = batch.samples[1], batch.teachers[1]
    assert teacher is not None and teacher.tokens == student.tokens and teacher.logps == student.logps
    assert batch.in_loss.tolist() == [True, True]
    counts = {name: count for name, count in batch.counts.items() if count}
    assert counts == {"route/taught": 1.0, "route/policy": 1.0, "route/by_sibling": 1.0}


def test_feedback_stands_in_for_a_sibling(loaded: LoadedModel) -> None:
    wrong = [rollout(loaded, "one", False, "ten"), rollout(loaded, "two", False, "nine"), rollout(loaded, "six", False)]
    batch = taught(loaded, [group(*wrong)])
    assert "largest which ten answer </s> <s> assistant one" in read(loaded, batch, 0)
    assert batch.teachers[2] is None and batch.counts["route/alone"] == 1.0
    first, second = batch.teachers[:2]
    assert first is not None and second is not None
    assert first.prompt == second.prompt  # what both prompts begin with
    assert first.train[: first.train.index(True)] and len(first.tokens) > len(batch.samples[0].tokens)
    assert first.trained == batch.samples[0].trained
    both = taught(loaded, [group(rollout(loaded, "ten", True), *wrong)], replace(PLAIN, feedback="always"))
    assert "then ten which nine answer" in read(loaded, both, 2)
    assert batch.counts["route/by_feedback"] == 2.0


def test_masked_answers_leave_the_loss(loaded: LoadedModel) -> None:
    groups = [
        group(rollout(loaded, "ten", True), rollout(loaded, "two", False)),
        group(rollout(loaded, "one", False), rollout(loaded, "two", False)),
    ]
    batch = taught(loaded, groups, replace(PLAIN, rows="all", others="mask"))
    assert batch.taught.tolist() == [False, True, False, False] == batch.in_loss.tolist()
    assert taught(loaded, groups).in_loss.all()
    assert trouble(batch.counts, PLAIN) == ""
    nothing = taught(loaded, groups[1:], replace(PLAIN, rows="all", others="mask"))
    assert not nothing.in_loss.any() and not nothing.taught.any()
    assert "none of 2 answers" in trouble(nothing.counts, replace(PLAIN, others="mask"))
    assert "they are left out" in trouble(nothing.counts, replace(PLAIN, others="mask"))


def test_thinking_and_ends_of_turns_are_not_shown(loaded: LoadedModel) -> None:
    right = rollout(loaded, "<think> one two </think> ten </s> <s> user", True)
    batch = taught(loaded, [group(right, rollout(loaded, "two", False))])
    assert "largest then ten user answer </s>" in read(loaded, batch, 1)
    shown = taught(loaded, [group(right, rollout(loaded, "two", False))], replace(PLAIN, strip_thinking=False))
    assert "one two <unk> ten user answer" in read(loaded, shown, 1)


def test_what_is_shown_is_cut_until_it_fits_and_the_answer_never(loaded: LoadedModel) -> None:
    long = " ".join(["one", *["two"] * 80, "ten"])  # more than the context of 96 tokens
    groups = [group(rollout(loaded, long, True), rollout(loaded, "three four five", False))]
    batch = taught(loaded, groups)
    teacher = batch.teachers[1]
    assert teacher is not None and batch.counts["route/cut"] == 1.0
    assert teacher.tokens == batch.samples[1].tokens
    assert len(teacher.prompt) + len(teacher.tokens) <= loaded.context
    words = read(loaded, batch, 1)
    assert "then one two" in words and "two ten answer" in words and "<unk>" in words  # " ... " is no word here
    small = taught(loaded, groups, replace(PLAIN, max_prompt=30))
    assert small.teachers[1] is not None and len(small.teachers[1].prompt) <= 30
    assert len(small.teachers[1].prompt) > 24


@pytest.mark.parametrize("room", range(16, 60))
def test_whatever_the_room(loaded: LoadedModel, room: int) -> None:
    shown = {"solution": "one " * 12 + "ten", "feedback": "three " * 9 + "six"}
    writer = Writer(loaded, PLAIN)
    whole, prompt = (writer.prompt(ASKED, **shown, room=r) for r in (90, room))
    assert whole is not None and len(whole) == 40
    least = 40 - 23 + LEAST_SHOWN
    if room < least:
        assert prompt is None
    elif room > least + 4:  # in between it depends on the words around the cut
        assert (prompt is not None and room - 5 < len(prompt) <= room) or prompt == whole
        assert writer.cut == (room < 40)


def test_no_room_at_all_is_counted_and_told(loaded: LoadedModel) -> None:
    asked = ({"role": "user", "content": "which " * 70},)
    right, wrong = (rollout(loaded, text, text == "ten", asked=asked) for text in ("ten", "two " * 20))
    groups = [group(right, wrong), group(rollout(loaded, "ten", True), rollout(loaded, "six", False))]
    for spec, loss in ((PLAIN, True), (replace(PLAIN, rows="all", others="mask"), False)):
        batch = taught(loaded, groups, spec)
        assert batch.teachers[1] is None and batch.teachers[3] is not None
        assert batch.in_loss[1] == loss
        assert batch.counts["route/too_long"] == 1.0 and batch.counts["route/taught"] == 1.0
        assert batch.counts["route/policy"] == (3.0 if loss else 0.0)
        assert "do not fit into the model's context" in trouble(batch.counts, spec)


def test_right_answers_are_drawn_by_seed_and_shared(loaded: LoadedModel) -> None:
    answers = [rollout(loaded, word, True) for word in ("seven", "eight", "nine", "ten")]
    wrong = [rollout(loaded, word, False) for word in ("one", "two")]
    shown = set()
    for seed in range(24):
        batch = taught(loaded, [group(*answers, *wrong)], seed=seed)
        again = taught(loaded, [group(*answers, *wrong)], seed=seed)
        assert batch.teachers == again.teachers
        first, second = batch.teachers[4:]
        assert first is not None and second is not None and first.prompt == second.prompt
        shown.add(first.prompt)
    assert len(shown) == 4


def test_questions_without_a_user_and_with_parts() -> None:
    spec = Distill(closing_words="!")
    only = asked_again([{"role": "system", "content": "be kind"}], spec, "", "no")
    assert only[0]["content"].startswith("be kind") and only[0]["content"].endswith("no!")
    parts = [{"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]}, {"role": "assistant", "content": "so"}]
    asked = asked_again(parts, spec, "5", "")
    assert asked[0]["content"] == "2 + 3?\n\nA correct answer:\n\n5!" and asked[1] == parts[1]


def test_samples_of_several_turns_keep_their_marks(loaded: LoadedModel) -> None:
    turn = rollout(loaded, "two", False)
    own = turn.completion.segments
    more = (*own, Segment(token_ids=(7, 8), train=False), Segment(token_ids=(9, 2), train=True, logps=(-1.0, -2.0)))
    turns = replace(turn, completion=replace(turn.completion, segments=more))
    batch = taught(loaded, [group(rollout(loaded, "ten", True), turns)])
    teacher = batch.teachers[1]
    assert teacher is not None and teacher.train == batch.samples[1].train == (True, True, False, False, True, True)
    assert np.isclose(sum(teacher.logps), sum(batch.samples[1].logps))
