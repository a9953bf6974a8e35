import pytest

from experience_store import Edit, Experience
from experience_store.embed import HashingEmbedder
from tfgrpo.consolidate import Consolidator, normal_form, other_statement
from tfgrpo.events import EventLog


@pytest.fixture
def seen():
    return []


@pytest.fixture
def consolidator(seen):
    return Consolidator(HashingEmbedder(), EventLog(None, seen.append))


LIVE = (Experience(id="E1", text="Use metres for all distances."), Experience(id="E2", text="Answer in one word."))


def refused(seen):
    return [event.data["why"] for event in seen if event.name == "edit_refused"]


def test_an_edit_of_an_unknown_id_fails_alone(consolidator, seen):
    edits = (Edit(op="revise", id="E9", text="x"), Edit(op="add", text="Check the sign."), Edit(op="drop", id="E8"))
    kept = consolidator.check(edits, LIVE, trial=True)
    assert [e.text for e in kept] == ["Check the sign."]
    assert refused(seen) == ["there is no entry 'E9'", "there is no entry 'E8'"]


@pytest.mark.parametrize("text", ["", "   ", "use METRES for all  distances", "y" * 2000])
def test_empty_equal_and_endless_texts_are_refused(consolidator, seen, text):
    assert consolidator.check([Edit(op="add", text=text)], LIVE, trial=True) == ()
    assert len(refused(seen)) == 1


def test_two_equal_proposals_become_one(consolidator):
    twice = [Edit(op="add", text="Check the sign."), Edit(op="add", text="check the sign")]
    assert len(consolidator.check(twice, LIVE, trial=True)) == 1


def test_a_paraphrase_is_refused_and_another_fact_in_the_same_words_is_not(consolidator, seen):
    same = Edit(op="add", text="Use metres for all of the distances.")
    other = Edit(op="add", text="Use miles for all distances.")
    kept = consolidator.check([same, other], LIVE, trial=True)
    assert kept == (Edit(op="add", text=other.text, trial=True),)
    assert "the same as an entry already there (E1)" in refused(seen)[0]


def test_what_harmed_is_not_proposed_again(consolidator, seen):
    consolidator.bury(Experience(id="E5", text="Guess the first option."))
    assert consolidator.check([Edit(op="add", text="guess the first option")], LIVE, trial=True) == ()
    assert "harmed" in refused(seen)[0]


def test_a_revision_on_trial_is_a_rival_that_replaces(consolidator):
    (edit,) = consolidator.check(
        [Edit(op="revise", id="E2", text="Reply with a single lower-case word.")], LIVE, trial=True
    )
    assert (edit.op, edit.id, edit.trial, edit.source["replaces"]) == ("add", "", True, "E2")


def test_an_id_that_a_critic_makes_up_for_a_new_entry_is_ignored(consolidator):
    (edit,) = consolidator.check([Edit(op="add", id="1", text="Check the sign.")], LIVE, trial=True)
    assert edit.id == ""


def test_without_a_gate_edits_stay_what_they_are(consolidator):
    edits = (Edit(op="revise", id="E2", text="Reply with a single lower-case word."), Edit(op="drop", id="E1"))
    assert consolidator.check(edits, LIVE, trial=False) == edits


@pytest.mark.parametrize(
    ("a", "b", "other"),
    [
        ("Round the result up.", "Round the result down.", True),
        ("Convert units first.", "Do not convert units first.", True),
        ("If x is even, answer 3.", "If x is even, answer 4.", True),
        ("Convert units first.", "Convert all units first.", False),
        ("Convert units first.", "Completely unrelated advice about planning.", False),
    ],
)
def test_another_statement(a, b, other):
    assert other_statement(a, b) is other


def test_normal_form_ignores_case_space_and_the_full_stop():
    assert normal_form(" Check  THE sign. ") == normal_form("check the sign")
