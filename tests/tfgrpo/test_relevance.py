from tfgrpo.relevance import Relevance, applies, words

PROBLEMS = ["area of a circle", "area of a square", "arc of a circle", "side of a kite"] * 3


def test_words_are_lower_case_and_keep_numbers_and_hyphens():
    assert words("The 3-sided Shape, in 2 parts!") == {"the", "3-sided", "shape", "in", "2", "parts"}


def test_keys_are_words_of_some_problems_but_not_of_many():
    relevance = Relevance(PROBLEMS)
    assert set(relevance.keys("The area of a square is its side squared.")) == {"square", "side"}


def test_a_word_of_one_problem_only_is_its_name_and_no_key():
    relevance = Relevance([*PROBLEMS, "problem X17 about a cone"])
    assert relevance.keys("In X17 the cone is tall.") == {}


def test_general_advice_applies_everywhere():
    keys = Relevance(PROBLEMS).keys("Think before you answer.")
    assert keys == {}
    assert applies(keys, words("anything"))


def test_half_of_the_weight_is_needed():
    keys = {"square": 1.0, "kite": 1.0, "rhombus": 1.0}
    assert applies(keys, words("a square and a kite"))
    assert not applies(keys, words("a square"))
