"""Each strategy on scripted answers: what it returns, what it costs, and what it survives."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import ScriptedJudge

from tfgrpo import Problem, Sampling, Task, reward
from tfgrpo.errors import BudgetExhausted, InputError, RequestError, TransportError
from tfgrpo.rewards.simple import contains, numeric, regex
from tfgrpo.strategies import STRATEGIES, adaptive, best, oracle, refine, resolve_strategy, tournament, vote
from tfgrpo.strategies.allowance import Pool, Rounds
from tfgrpo.strategies.named import fitted
from tfgrpo.strategies.scripted import Said

PROBLEM = Problem(id="p", messages=({"role": "user", "content": "How many?"},), answer="5", meta={"gold": "5"})
LOST, REFUSED = TransportError("no reply"), RequestError("too long")
TEXTS = st.lists(st.sampled_from(["5", "7", "9", "", LOST]), min_size=8, max_size=8)


def run(strategy, *texts, problem=PROBLEM, grants=None):
    sample = Said(*texts, grants=grants)
    return asyncio.run(strategy(problem, sample)), sample


def judging(better):
    """Likes the answer for which `better` gives more, whichever comes first."""

    def answer(messages):
        first, second = (part.split("\n")[1] for part in messages[1]["content"].split("\n\n")[1:3])
        return f'{{"reason": "so", "first": {better(first)}, "second": {better(second)}}}'

    return ScriptedJudge(answer=answer)


# -- votes ------------------------------------------------------------------------------------------------------------


def test_a_vote_returns_a_completion_of_the_winner_and_pays_for_all():
    chosen, sample = run(vote(5), "7", "5", "9", "5.", "7 or 9")
    assert chosen.completion.text == "5" and chosen.number == 1
    assert chosen.bill.calls == 5 and chosen.bill.cost_usd == pytest.approx(0.05)
    assert chosen.bill.usage.prompt_tokens == 50
    assert sorted(number for number, _ in sample.asked) == [0, 1, 2, 3, 4]
    assert chosen.path == (0, 0, 0, 1, 1)


def test_one_vote_is_the_plain_answer_and_two_are_no_better():
    assert run(vote(1), "7")[0].completion.text == "7"
    assert run(vote(2), "7", "5")[0].completion.text == "7"


def test_a_failed_sample_is_its_own_loss():
    chosen, _ = run(vote(4), LOST, "5", REFUSED, "5")
    assert (chosen.number, chosen.failed, chosen.bill.calls) == (1, 2, 2)


@pytest.mark.parametrize(
    "strategy", [vote(3), adaptive(3), best(3, by=contains()), tournament(3, caller=ScriptedJudge("x"))]
)
def test_all_failed_is_an_error(strategy):
    with pytest.raises(TransportError, match="no reply"):
        run(strategy, LOST, LOST, LOST)


def test_what_stops_a_run_stops_after_all_replies_are_there():
    with pytest.raises(BudgetExhausted):
        run(vote(3), "5", BudgetExhausted("over"), "5")


def test_no_readable_answer_leaves_the_first():
    chosen, _ = run(vote(3, reading="number"), "none", "no", "nil")
    assert chosen.number == 0 and "no answer could be read" in chosen.why


# -- adaptive votes ---------------------------------------------------------------------------------------------------


@given(TEXTS.filter(lambda texts: any(text is not LOST for text in texts)))
def test_sure_is_the_same_as_a_whole_vote_and_never_dearer(texts):
    whole, early = run(vote(8), *texts)[0], run(adaptive(8, stop="sure"), *texts)[0]
    assert early.completion.text == whole.completion.text
    assert early.bill.calls <= whole.bill.calls


@given(TEXTS.filter(lambda texts: any(text is not LOST for text in texts)), st.integers(1, 8))
def test_a_cut_path_is_what_fewer_answers_would_have_chosen(texts, cap):
    cap = max(2, cap)
    whole = run(adaptive(8), *texts)[0]
    if all(text is LOST for text in texts[:cap]):
        return
    cut = run(adaptive(cap), *texts)[0]
    assert cut.number == whole.path[min(len(cut.answers), len(whole.path)) - 1]


def test_easy_questions_take_few_answers():
    assert run(adaptive(10), *["5"] * 10)[0].bill.calls == 4
    assert run(adaptive(10), *map(str, range(10)))[0].bill.calls == 10
    assert run(adaptive(10, confidence=0.8), *["5"] * 10)[0].bill.calls == 2


def test_steps_ask_several_at_once():
    chosen, sample = run(adaptive(10, step=3), *["5"] * 10)
    assert chosen.bill.calls == 6 and [number for number, _ in sample.asked] == list(range(6))


def test_refused_calls_end_it_with_what_there_is():
    chosen, _ = run(adaptive(10), "5", "7", "7", grants=2)
    assert (chosen.completion.text, chosen.bill.calls) == ("7", 3)
    assert "other questions" in chosen.why


def test_a_budget_that_ends_leaves_what_was_paid():
    chosen, _ = run(adaptive(10), "7", "5", "5", BudgetExhausted("over"))
    assert chosen.completion.text == "5" and "budget is over" in chosen.why
    with pytest.raises(BudgetExhausted):
        run(adaptive(10), BudgetExhausted("over"))


# -- best of n --------------------------------------------------------------------------------------------------------


def grade(messages):
    text = messages[1]["content"].split("Answer to grade:\n")[1].split("\n")[1]
    return f'{{"reason": "length", "score": {len(text)}}}'


def test_the_judge_chooses_and_is_on_the_bill():
    chosen, _ = run(best(3, caller=ScriptedJudge(answer=grade)), "5", "five", "so")
    assert chosen.completion.text == "five" and chosen.scores == {0: 0.1, 1: 0.4, 2: 0.2}
    assert chosen.judge.calls == 3 and chosen.bill.calls == 6
    assert chosen.bill.cost_usd is None  # the scripted judge has no price


def test_the_judge_never_sees_the_reference():
    judge = ScriptedJudge(answer=grade)
    problem = Problem(id="p", messages=PROBLEM.messages, answer="the secret 51")
    run(best(2, caller=judge), "5", "7", problem=problem)
    assert judge.asked and not any("secret 51" in str(messages) for messages, _, _ in judge.asked)


@pytest.mark.parametrize("reply", ["no json", TransportError("down"), RequestError("what?")])
def test_a_judge_that_fails_leaves_the_first_answer(reply):
    chosen, _ = run(best(2, caller=ScriptedJudge(reply)), "5", "7")
    assert chosen.completion.text == "5" and "not scored, so it is the first" in chosen.why


def test_a_lone_answer_is_not_judged():
    judge = ScriptedJudge(answer=grade)
    assert run(best(2, caller=judge), LOST, "7")[0].completion.text == "7"
    assert not judge.asked


async def test_a_reward_that_needs_the_reference_is_refused_before_anything_is_asked():
    hidden = Problem(id="p", messages=PROBLEM.messages)
    with pytest.raises(InputError, match=r"sees no reference answer.*oracle"):
        await best(3, by="exact").check(hidden)
    await best(3, by=regex(pattern=r"^\d+$")).check(hidden)
    await best(3, caller=ScriptedJudge(TransportError("not asked"))).check(hidden)


def test_rewards_of_groups_cannot_choose():
    from tfgrpo.rewards.base import group_reward

    with pytest.raises(InputError, match="compares answers with each other"):
        best(3, by=group_reward(lambda problem, completions: [0.0] * len(completions)))


def test_oracle_looks_and_says_so():
    chosen, _ = run(oracle(3, reward=contains()), "7", "5", "5")
    assert chosen.completion.text == "5" and oracle(3).oracle and not vote(3).oracle
    with pytest.raises(InputError, match="reference answer"):
        run(oracle(3), "7", "5", "5")


# -- tournaments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "winner", "calls"),
    [(["5"] * 4, "5", 0), (["7", "5", "5", "7"], "7", 2), (["1", "2", "9", "4"], "9", 6), (["3", "8", "1"], "8", 4)],
)
def test_the_best_of_the_different_answers_wins_in_few_matches(texts, winner, calls):
    judge = judging(int)
    chosen, _ = run(tournament(len(texts), caller=judge), *texts)
    assert chosen.completion.text == winner and chosen.judge.calls == calls == len(judge.asked)


@given(st.permutations(["1", "2", "3", "4", "5", "6"]))
def test_a_consistent_judge_always_finds_the_best(texts):
    chosen, _ = run(tournament(6, caller=judging(int)), *texts)
    assert chosen.completion.text == "6" and chosen.judge.calls == 2 * 5


@pytest.mark.parametrize("reply", ["no json", TransportError("down"), '{"reason": "", "first": 9, "second": 1}'])
def test_a_judge_that_cannot_decide_leaves_it_to_the_votes(reply):
    """Also one that always likes the first: both orders together are a tie."""
    chosen, _ = run(tournament(4, caller=ScriptedJudge(reply)), "7", "5", "5", "9")
    assert chosen.completion.text == "5"


def test_unreadable_answers_stand_for_themselves():
    chosen, _ = run(tournament(3, caller=judging(len), reading="number"), "none", "nothing", "1")
    assert chosen.completion.text == "nothing"


# -- refining ---------------------------------------------------------------------------------------------------------


def test_a_revision_reads_the_draft_and_ends_when_nothing_changes():
    chosen, sample = run(refine(4), "7", "5", "5")
    assert chosen.completion.text == "5" and chosen.bill.calls == 3
    assert "<draft>\n7\n</draft>" in sample.asked[1][1] and "<draft>\n5\n</draft>" in sample.asked[2][1]
    assert chosen.path == (0, 1, 2)


def test_a_critique_is_paid_for_and_is_no_answer():
    strategy = refine(2, critique=True)
    chosen, sample = run(strategy, "7", "It is too large.", "5")
    assert chosen.completion.text == "5" and strategy.max_calls == 3 == chosen.bill.calls
    assert "Do not answer" in sample.asked[1][1] and "It is too large." in sample.asked[2][1]
    assert chosen.path == (0, 0, 2)


@pytest.mark.parametrize("failure", [LOST, REFUSED, BudgetExhausted("over")])
@pytest.mark.parametrize("critique", [False, True])
def test_a_lost_revision_leaves_the_answer_before(failure, critique):
    chosen, _ = run(refine(3, critique=critique), "7", failure)
    assert chosen.completion.text == "7" and chosen.bill.calls == 1


def test_a_lost_draft_is_an_error():
    with pytest.raises(TransportError):
        run(refine(2), LOST)


# -- shared calls -----------------------------------------------------------------------------------------------------


async def test_rounds_go_to_the_urgent_and_are_the_same_every_time():
    async def play(order):
        rounds, granted = Rounds(seats=8, calls=5), []

        async def seat(n):
            await asyncio.sleep(0.001 * order[n])
            while await rounds.more(n, 1 / (1 + n), 1):
                granted.append(n)
                if granted.count(n) == 2:
                    break
            rounds.leave(n)

        await asyncio.gather(*map(seat, range(8)))
        return sorted(granted)

    assert await play(range(8)) == await play([7, 3, 5, 0, 1, 2, 6, 4]) == [0, 0, 1, 1, 2]


async def test_rounds_never_grant_more_than_there_is():
    rounds = Rounds(seats=3, calls=3)
    asked = [asyncio.ensure_future(rounds.more(n, 0.5, 2)) for n in range(3)]
    assert await asked[0] is True
    rounds.leave(0)
    assert [await a for a in asked[1:]] == [False, False] and rounds.left == 1


async def test_a_question_that_is_given_up_holds_nobody():
    rounds = Rounds(seats=2, calls=1)
    waiting = asyncio.ensure_future(rounds.more(0, 0.5, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    other = asyncio.ensure_future(rounds.more(1, 0.1, 1))
    await asyncio.sleep(0)
    rounds.leave(0)
    assert await asyncio.wait_for(other, 1) in (True, False)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.floats(1, 5))
def test_a_pool_keeps_to_its_mean(wants, mean):
    pool, used = Pool(mean=mean), 0
    for seen, want in enumerate(wants, start=1):
        pool.enter(1)
        used += 1 + sum(pool.more(1) for _ in range(want))
        assert used <= mean * seen + 1e-6


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_name_makes_a_strategy(name):
    made = resolve_strategy(f"{name}:6")
    assert made.name.startswith(f"{name}(n=6") and made.max_calls >= 6 >= made.always >= 1


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("vot:5", {}, "did you mean 'vote'"),
        ("vote:five", {}, "a number of answers, such as vote:5"),
        ("vote:0", {}, "at least 1"),
        ("best:1", {}, "at least 2"),
        ("vote:5", {"confidence": 0.9}, "unknown option of strategy 'vote' 'confidence'"),
        ("adaptive:5", {"confidence": 1.5}, "confidence between"),
        ("adaptive:5", {"mean": 9}, "between 1 and 5"),
        ("best:3", {"by": "exct"}, "did you mean 'exact'"),
        ("best:3", {"by_options": {"pattern": "x"}}, "reward that is given by name"),
    ],
)
def test_wrong_names_and_options_are_told(spec, options, words):
    with pytest.raises(InputError, match=words):
        resolve_strategy(spec, **options)


def test_a_strategy_fits_itself_to_a_task():
    task = Task(name="t", learn=(), reward=numeric())
    assert fitted(vote(3), task).reading == "number" and fitted(vote(3, reading="text"), task).reading == "text"
    assert fitted(best(3, by="task"), task).by is task.reward and fitted(oracle(3), task).reward is task.reward
    own = Task(name="t", learn=(), reward=numeric(), reading="numbers", sampling=Sampling())
    assert fitted(tournament(3), own).reading == "numbers" == fitted(refine(3), own).reading
    mine = reward(lambda problem, completion: 1.0)
    assert fitted(best(3, by=mine), task).by is mine


def test_missing_scores_are_nan_and_lose():
    only = reward(lambda problem, completion: None if completion.text == "5" else 0.5, name="half")
    chosen, _ = run(best(2, by=only), "5", "7")
    assert chosen.completion.text == "7" and math.isnan(chosen.scores[0])
