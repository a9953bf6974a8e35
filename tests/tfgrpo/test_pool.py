import numpy as np
import pytest

from experience_store import Experience
from tfgrpo import Problem
from tfgrpo.pool import MAX_GENERAL_TRIALS, Pool
from tfgrpo.relevance import Relevance

QUESTIONS = ["the flag of Norway", "the flag of Chad", "the coast of Peru", "the coast of Cuba"] * 3


def problem(text="the flag of Norway", id="p1"):
    return Problem(id=id, messages=({"role": "user", "content": text},))


def experience(id, text="Read twice.", kind="lesson", **source):
    return Experience(id=id, text=text, kind=kind, source=source)


@pytest.fixture
def pool():
    return Pool(Relevance(QUESTIONS))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_trial_entry_stands_in_exactly_half_of_the_prompts(pool):
    pool.add(experience("E1"), "trial")
    for size in (2, 4, 5, 8):
        shown = pool.include(problem(), size, rng(size)).shown
        assert sum("E1" in ids for ids in shown) in (size // 2, size - size // 2)


def test_which_half_is_decided_by_the_coin(pool):
    pool.add(experience("E1"), "trial")
    halves = {pool.include(problem(), 4, rng(s)).shown for s in range(40)}
    assert len(halves) == 6  # all ways to choose 2 of 4


def test_an_accepted_entry_stands_in_every_prompt(pool):
    pool.add(experience("E1"), "accepted")
    assert pool.include(problem(), 4, rng()).shown == (("E1",),) * 4


def test_an_entry_about_other_problems_is_shown_only_when_it_is_expected_to_help(pool):
    pool.add(experience("E1", "The coast of Peru is long."), "trial")
    inclusion = pool.include(problem("the flag of Norway"), 4, rng())
    assert inclusion.applying == frozenset()
    assert inclusion.shown == (("E1",),) * 4  # its prior is positive
    for _ in range(9):
        pool.observe([["E1"], []], frozenset({"E1"}), [0.0, 1.0])
    assert pool.include(problem("the flag of Norway"), 4, rng()).shown == ((),) * 4


def test_rivals_never_stand_in_the_same_prompt(pool):
    for n in range(1, 4):
        pool.add(experience(f"E{n}", f"Norway has colour {n}."), "trial")
    for seed in range(30):
        for ids in pool.include(problem(), 4, rng(seed)).shown:
            assert len(ids) <= 1


def test_a_new_wording_is_a_rival_of_the_old_one(pool):
    old = pool.add(experience("E1"), "accepted")
    new = pool.add(experience("E2", "Read it twice."), "trial", replaces="E1")
    assert pool.slots([old, new]) == ((old, new),)


def test_with_one_place_all_entries_are_rivals():
    pool = Pool(Relevance(QUESTIONS), one_at_a_time=True)
    for n in range(5):
        pool.add(experience(f"E{n}", kind="example"), "trial")
    for seed in range(20):
        assert all(len(ids) <= 1 for ids in pool.include(problem(), 6, rng(seed)).shown)


def test_an_example_is_never_shown_on_the_problem_it_solves():
    for one_at_a_time in (True, False):
        pool = Pool(Relevance(QUESTIONS), one_at_a_time=one_at_a_time)
        pool.add(experience("E1", kind="example", problem="p1"), "accepted")
        assert pool.include(problem(id="p1"), 4, rng()).shown == ((),) * 4
        assert pool.include(problem(id="p2"), 4, rng()).shown == (("E1",),) * 4


def test_the_better_rival_is_found_and_drawn_more_often():
    pool = Pool(Relevance(QUESTIONS), one_at_a_time=True)
    for n in range(4):
        pool.add(experience(f"E{n}", kind="example"), "trial")
    coin, counts = rng(7), dict.fromkeys(pool.entries, 0)
    for seed in range(120):
        inclusion = pool.include(problem(), 8, rng(seed))
        rewards = [float(coin.random() < (0.6 if "E2" in ids else 0.2)) for ids in inclusion.shown]
        pool.observe(inclusion.shown, inclusion.applying, rewards)
        for ids in inclusion.shown:
            for i in ids:
                counts[i] += 1
    assert pool.best_of_slots(pool.live)[0].id == "E2"
    assert counts["E2"] > 2 * max(count for i, count in counts.items() if i != "E2")


def test_too_many_general_trials_take_turns(pool):
    for n in range(3 * MAX_GENERAL_TRIALS):
        pool.add(experience(f"E{n}", f"Advice number {n}."), "trial")
    shown = pool.include(problem(), 4, rng()).shown
    assert len({i for ids in shown for i in ids}) == MAX_GENERAL_TRIALS


def test_observing_updates_model_wealth_and_counts(pool):
    entry = pool.add(experience("E1"), "trial")
    pool.observe([["E1"], ["E1"], [], []], frozenset({"E1"}), [1.0, 1.0, 0.0, 0.0])
    assert (entry.shown, entry.wealth.groups, entry.wealth.total) == (2, 1, 1.0)
    assert pool.effect(entry) > 0


def test_a_group_of_one_is_no_evidence(pool):
    entry = pool.add(experience("E1"), "trial")
    pool.observe([["E1"]], frozenset({"E1"}), [1.0])
    assert entry.wealth.groups == 0
    assert pool.effect(entry) == pytest.approx(0.0)
