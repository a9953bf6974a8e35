"""Every grouping by its own rules: prompts, stages, ladders, leaks, golden numbers."""

import random
from functools import partial

import pytest

from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.errors import InputError
from tfgrpo.grouping import (
    GROUPINGS,
    Staged,
    anchors,
    best_draft,
    best_of,
    context_reset,
    drop_thought,
    grouping_of,
    grouping_spec,
    hint_ladder,
    hints,
    hints_replace_one,
    leaks,
    most_calls,
    optional_thinking,
    paraphrase_set,
    repeat,
    resolve_grouping,
    role_probabilities,
    roles,
    spec_name,
    thought_and_answer,
    token_budget,
)
from tfgrpo.types import Completion, Problem, Prompt, Rollout, Score

SOLUTION = "Add 30 and 4. That makes 34. Then take away 7. 34 - 7 = 27."
ASKED = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "30 + 4 - 7?"})
PROBLEM = Problem(
    id="p", messages=ASKED, answer="27", variants=("What is 30 + 4 - 7?", "30 + 4 - 7 = ?"), meta={"solution": SOLUTION}
)


def rollout(value, prompt=None, text="x", stage=0):
    completion = Completion(prompt=ASKED, messages=(), text=text, policy="m").answering(
        prompt or Prompt(messages=ASKED)
    )
    return Rollout(completion=completion, score=Score(value=value), stage=stage)


def words(prompt):
    return "\n".join(m["content"] for m in prompt.messages)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPINGS)
def test_every_preset_makes_prompts_and_keeps_its_promise(name):
    grouping = resolve_grouping(name, n=4)
    prompts = grouping(PROBLEM, 0)
    assert 1 <= len(prompts) <= most_calls(grouping, [PROBLEM])
    assert prompts == resolve_grouping(name, n=4)(PROBLEM, 0)
    assert all("27" not in words(p) for p in prompts)


@pytest.mark.parametrize(
    ("spec", "options", "near"),
    [("hint", {}, "did you mean 'hints'"), ("hints", {"level": 2}, "did you mean 'levels'"), ("nope", {}, "roles")],
)
def test_unknown_names_list_the_near_ones(spec, options, near):
    with pytest.raises(InputError, match=near):
        resolve_grouping(spec, n=4, **options)


def test_a_grouping_of_ones_own():
    assert len(grouping_of("tfgrpo.grouping:repeat", 3)(PROBLEM, 0)) == 3
    assert len(grouping_of(lambda n: repeat(2 * n), 3)(PROBLEM, 0)) == 6
    assert grouping_of(None, 2)(PROBLEM, 0) == repeat(2)(PROBLEM, 0)
    with pytest.raises(InputError, match="must return"):
        grouping_of(lambda n: n, 3)
    with pytest.raises(InputError, match="takes no options"):
        grouping_spec("mine:grouping", levels=3)


def test_what_identifies_a_grouping_names_its_options():
    assert spec_name(grouping_spec("hints", levels=2)) == "hints(levels=2)"
    assert spec_name(grouping_spec("hints")) == "hints"
    assert spec_name(partial(hints, levels=2)) == "tfgrpo.grouping.hints.hints(levels=2)"
    assert grouping_of(grouping_spec("hints", levels=2), 4).max_calls == 12


@pytest.mark.parametrize(
    "make",
    [
        partial(hints, 0),
        partial(hints, 4, levels=0),
        partial(hints_replace_one, 1),
        partial(best_draft, 2),
        partial(best_draft, 4, drafts=3),
        partial(anchors, 4, pass_rate=1.0),
        partial(roles, 4, per_group=0),
        partial(paraphrase_set, 1),
        partial(token_budget, 4, decay=0.0),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_a_grouping_that_asks_nothing_is_refused():
    with pytest.raises(InputError, match="no answer"):
        most_calls(lambda problem, number: (), [PROBLEM])


# -- wordings ---------------------------------------------------------------------------------------------------------


def test_paraphrase_sets_spread_the_group_over_the_wordings():
    assert [p.variant for p in paraphrase_set(6)(PROBLEM, 0)] == [0, 0, 1, 1, 2, 2]
    assert [p.variant for p in paraphrase_set(4)(PROBLEM, 0)] == [0, 0, 1, 1]  # two wordings are enough
    assert [p.variant for p in paraphrase_set(3)(PROBLEM, 0)] == [0, 0, 1]
    assert paraphrase_set(24, each=4).wordings == 6  # the source's n and g


def test_without_wordings_the_problem_is_repeated():
    bare = Problem(id="b", messages=ASKED)
    assert paraphrase_set(4)(bare, 0) == repeat(4)(bare, 0)


def test_a_context_reset_keeps_system_messages_and_drops_earlier_turns():
    turns = (ASKED[0], {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, ASKED[1])
    problem = Problem(id="t", messages=turns, variants=PROBLEM.variants)
    first, *_, last = context_reset(4)(problem, 0)
    assert first.messages == ASKED
    assert [m["content"] for m in last.messages] == ["Be brief.", "What is 30 + 4 - 7?"]
    assert len(paraphrase_set(4)(problem, 0)[0].messages) == 4


# -- hints ------------------------------------------------------------------------------------------------------------


def test_a_ladder_cut_from_a_solution_never_shows_the_step_that_tells_the_answer():
    ladder = hint_ladder(PROBLEM, 3)
    assert ladder == (
        (1, "Add 30 and 4."),
        (2, "Add 30 and 4. That makes 34."),
        (3, "Add 30 and 4. That makes 34. Then take away 7."),
    )
    early = Problem(
        id="e", messages=ASKED, answer="27", meta={"solution": "The answer is 27. Check it. It holds. Done."}
    )
    assert hint_ladder(early) == ()


def test_a_written_hint_that_tells_the_answer_is_refused_below_the_highest_level():
    told = ["It is 27, you see.", "Add first.", "The result: 27."]
    assert hint_ladder(Problem(id="w", messages=ASKED, answer="27", meta={"hints": told})) == (
        (2, "Add first."),
        (3, "The result: 27."),
    )


def test_tiers_are_cumulative_within_themselves():
    meta = {"hints": {"knowledge": ["K1.", "K2."], "planning": ["P1."]}}
    ladder = hint_ladder(Problem(id="t", messages=ASKED, meta=meta), 12, cumulative=True)
    assert [text for _, text in ladder] == ["K1.", "K1. K2.", "P1."]


@pytest.mark.parametrize("given", ["one hint", [1, 2], {"knowledge": "K"}])
def test_malformed_hints_are_refused(given):
    with pytest.raises(InputError, match=r"meta\['hints'\]"):
        hint_ladder(Problem(id="m", messages=ASKED, meta={"hints": given}))


@pytest.mark.parametrize(
    ("text", "answer", "leak"),
    [
        (r"so \boxed{5}", "5", True),
        ("the answer is 5.", "5", True),
        ("x = 5", "5", True),
        ("x = 5.5", "5", False),
        ("add 5 to it", "5", False),
        ("see 1234", "123", False),
        ("it was PARIS!", "Paris", True),
        ("", "Paris", False),
        ("anything", "", False),
    ],
)
def test_leaks(text, answer, leak):
    assert leaks(text, answer) is leak


def test_the_shared_ladder_is_climbed_by_the_whole_group_and_only_when_all_failed():
    grouping = hints(3)
    assert isinstance(grouping, Staged) and grouping.max_calls == 12
    assert grouping.then(PROBLEM, 0, 0, [rollout(0.0), rollout(1.0)]) is None
    for stage in range(3):
        step = grouping.then(PROBLEM, 0, stage, [rollout(0.0)] * 3)
        assert {p.origin for p in step.prompts} == {f"hint/{stage + 1}"} and len(step.prompts) == 3
        assert len({p.messages for p in map(_hashable, step.prompts)}) == 1
        assert step.keep == ()
    assert grouping.then(PROBLEM, 0, 3, [rollout(0.0)] * 3) is None


def _hashable(prompt):
    return Prompt(messages=tuple(tuple(sorted(m.items())) for m in prompt.messages))


def test_one_hinted_answer_replaces_a_failed_one():
    grouping = hints_replace_one(8)
    group = [rollout(0.0) for _ in range(8)]
    first = grouping.then(PROBLEM, 5, 0, group)
    assert len(first.prompts) == 1 and first.keep == tuple(range(8))
    second = grouping.then(PROBLEM, 5, 1, [*group, rollout(0.0, first.prompts[0])])
    assert second.prompts[0].origin == "hint/2" and second.keep == tuple(range(8))
    done = grouping.then(PROBLEM, 5, 2, [*group, rollout(1.0, second.prompts[0])])
    assert done.prompts == () and len(done.keep) == 8 and done.keep[-1] == 8
    values = resolve_advantage("grpo")(Table.of_rewards([[0.0] * 7 + [1.0]]))
    assert values.round(4).tolist() == [-0.3536] * 7 + [2.4749]


def test_when_no_level_works_the_group_stays_as_it_was():
    grouping = hints_replace_one(2, levels=1)
    hinted = rollout(0.0, grouping.then(PROBLEM, 0, 0, [rollout(0.0)] * 2).prompts[0])
    done = grouping.then(PROBLEM, 0, 1, [rollout(0.0), rollout(0.0), hinted])
    assert done.prompts == () and done.keep == (0, 1)
    assert hints_replace_one(2, warmup=3).then(PROBLEM, 2, 0, [rollout(0.0)] * 2) is None


def test_hints_need_something_to_hint_with():
    bare = Problem(id="b", messages=ASKED, answer="27")
    for grouping in (hints(3), hints_replace_one(3)):
        grouping.check([bare, PROBLEM])
        with pytest.raises(InputError, match="solution"):
            grouping.check([bare])
    assert hints(3).then(bare, 0, 0, [rollout(0.0)] * 3) is None


# -- drafts, anchors, roles, length, thought --------------------------------------------------------------------------


def test_the_first_of_the_best_drafts_is_refined():
    grouping = best_draft(8)
    assert len(grouping(PROBLEM, 0)) == 4 and grouping.max_calls == 8
    drafts = [rollout(0.0, text="a"), rollout(0.5, text="b"), rollout(0.5, text="c"), rollout(0.0, text="d")]
    step = grouping.then(PROBLEM, 0, 0, drafts)
    assert len(step.prompts) == 4 and step.keep == () and {p.origin for p in step.prompts} == {"draft"}
    assert "<draft>\nb\n</draft>" in words(step.prompts[0])
    assert grouping.then(PROBLEM, 0, 1, drafts) is None
    assert grouping.then(PROBLEM, 0, 0, [rollout(1.0)] * 4) is None
    assert best_draft(8, skip_above=1.0).then(PROBLEM, 0, 0, [rollout(1.0)] * 4) is not None


def test_bootstrapping_of_drafts_and_the_advantages_of_refinements():
    assert [round(best_of(v, 4), 4) for v in (0.1, 0.25, 0.5)] == [0.3439, 0.6836, 0.9375]
    values = resolve_advantage("grpo")(Table.of_rewards([[1.0, 1.0, 0.0, 1.0]]))
    assert values.round(4).tolist() == [0.5, 0.5, -1.5, 0.5]


def test_an_anchor_joins_a_group_without_success():
    step = anchors(3).then(PROBLEM, 0, 0, [rollout(0.0)] * 3)
    assert step.prompts == () and step.keep == (0, 1, 2)
    (anchor,) = step.given
    assert (anchor.text, anchor.origin, anchor.policy) == (SOLUTION, "anchor", "reference")
    assert anchors(3).then(PROBLEM, 0, 0, [rollout(0.0), rollout(1.0)]) is None
    assert anchors(2, pass_rate=0.5).then(PROBLEM, 0, 0, [rollout(0.0), rollout(1.0)]) is not None
    with pytest.raises(InputError, match="reference"):
        anchors(3).check([Problem(id="n", messages=ASKED, answer=3)])


def test_roles_stand_in_the_system_message_and_change_with_the_group():
    grouping = roles(6)
    prompts = grouping(PROBLEM, 0)
    assert sorted(p.variant for p in prompts) == [1, 1, 2, 2, 3, 3]
    assert prompts[0].messages[0]["content"].startswith("Be brief.\n\nYou are")
    assert len({p.origin for p in prompts}) == 3
    assert len({tuple(p.origin for p in grouping(PROBLEM, n)) for n in range(20)}) > 5
    with pytest.raises(InputError, match="alpha"):
        roles(2, alpha=-1.0)
    mine = roles(2, pool=["a judge", "a child"])
    assert {p.origin for p in mine(PROBLEM, 0)} == {"role/a judge", "role/a child"}


def test_relevant_and_unlike_roles_are_drawn_more_often():
    p = role_probabilities([0.0, 0.0, 0.0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 1.0)
    assert p == pytest.approx([0.274069, 0.274069, 0.451863], abs=1e-6)
    assert role_probabilities([0.0, 0.0], [[1, 0], [0, 1]], 5.0) == [0.5, 0.5]

    class Near:
        name, duplicate_threshold = "near", 0.9

        def embed(self, texts):
            return [[1.0, 0.0] if t in ("30 + 4 - 7?", "x") else [0.0, 1.0] for t in texts]

    grouping = roles(1 + 1, pool={"x": "x", "y": "y", "z": "z"}, per_group=1, alpha=0.0, embedder=Near())
    drawn = [grouping.chosen(PROBLEM, n)[0] for n in range(2000)]
    assert drawn.count("x") / 2000 == pytest.approx(2.71828 / 4.71828, abs=0.04)


def test_the_stated_budget_shrinks_with_the_groups():
    assert [token_budget(4, every=100).tokens(t) for t in (0, 100, 200, 300, 400)] == [256, 179, 125, 87, 61]
    (prompt, *_) = token_budget(4)(PROBLEM, 150)
    assert prompt.origin == "budget/179" and "at most 179 tokens" in words(prompt)


def test_thoughts_may_be_empty():
    assert thought_and_answer("<think>\n\n</think>\n27") == ("", "27")
    assert thought_and_answer("<think>34</think> 27") == ("34", "27")
    assert thought_and_answer("27") is None and thought_and_answer("<think>34</think>") is None
    assert "<think>" in words(optional_thinking(2)(PROBLEM, 0)[0])
    draw = random.Random(0)
    dropped = [drop_thought("<think>34</think>27", draw) for _ in range(4000)]
    assert dropped.count("<think>\n\n</think>27") / 4000 == pytest.approx(0.5, abs=0.03)
    assert all(thought_and_answer(text) is not None for text in set(dropped))
    with pytest.raises(InputError):
        drop_thought("27", draw, p=2.0)
