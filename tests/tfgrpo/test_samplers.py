"""Samplers: golden numbers of their formulas, and the same walk after a kill for every one of them."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.curriculum import Curriculum
from tfgrpo.errors import InputError
from tfgrpo.samplers import SAMPLERS, SCHEDULES, resolve_sampler
from tfgrpo.samplers.epochs import EasyToHard
from tfgrpo.samplers.formulas import (
    allocate,
    arm_losses,
    bins_of,
    gdro_probabilities,
    gdro_scores,
    gdro_weights,
    length_budget,
    next_price,
    shares_of,
    square_root_law,
    vps,
)
from tfgrpo.samplers.gdro import PromptGdro, RolloutGdro
from tfgrpo.samplers.vas import VarianceAware, unlike
from tfgrpo.types import Completion, Group, Problem, Rollout, Score

PROBLEMS = tuple(Problem(id=f"p{n}", messages=({"role": "user", "content": str(n)},)) for n in range(12))


def nothing(problem):
    return 0.0


def group(problem, rewards, *, texts=None, missing=0):
    texts = texts or [f"answer {n} of {problem.id}" for n in range(len(rewards))]
    rollouts = tuple(
        Rollout(completion=Completion(prompt=(), messages=(), text=text, policy="model"), score=Score(value=reward))
        for text, reward in zip(texts, rewards, strict=True)
    )
    return Group(problem=problem, rollouts=rollouts, missing=missing)


def solve(problem, size, draw):
    """Rewards of a world in which each problem has its own pass rate."""
    return [float(draw.random() < int(problem.id[1:]) / 12) for _ in range(size)]


def walk(curriculum, steps, draw, usual=4):
    """What is asked, with how many rollouts, when every step of three groups is learned from one step later."""
    asked, under_way = [], []
    for _ in range(steps):
        planned = [(p := curriculum.next(nothing), curriculum.size(p, usual)) for _ in range(3)]
        asked += [(p.id, n) for p, n in planned]
        under_way.append([group(p, solve(p, n, draw)) for p, n in planned])
        if len(under_way) > 1:
            curriculum.observe(under_way.pop(0))
    return asked


# -- golden numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (vps([0, 0.25, 0.1875, 0], [0.1, 0.6, 0.4, 0.9]), [0.02, 0.32, 0.23, 0.18]),
        (shares_of([0.02, 0.32, 0.23, 0.18]), [0.026667, 0.426667, 0.306667, 0.24]),
        (gdro_scores([0, 0, 0], [0.2, 1, 0.5]), [0.02, 0.1, 0.05]),
        (gdro_weights([0.02, 0.1, 0.05], eta=0.65), [1.013085, 1.067159, 1.033034]),
        (gdro_probabilities([0.02, 0.1, 0.05], eta=0.65, gamma=0.1), [0.3262, 0.341832, 0.331967]),
        (square_root_law([0.1, 0.3, 0.6], [0.5, 0.3, 0.2], 4), [1.538462, 4.615385, 9.230769]),
        (arm_losses([-0.7, -0.4], [4, 6], 0.05), [0.9, 0.7]),
        ([next_price(0.05, 5, 4), next_price(0.05, 1, 4)], [0.1, 0]),
        ([length_budget(t) for t in (0, 149, 150, 300, 450)], [256, 256, 179, 125, 87]),
        ([length_budget(t, every=100) for t in (0, 100, 200, 300, 400)], [256, 179, 125, 87, 61]),
        ([length_budget(9, start=3, every=1), length_budget(2, start=1000, every=1)], [1, 490]),
    ],
    ids=lambda value: "",
)
def test_golden_numbers(got, wanted):
    assert got == pytest.approx(wanted, abs=1e-6)


def test_the_joint_choice_of_arms():
    log_p = np.log([[0.2, 0.5, 0.3], [0.2, 0.3, 0.5]])
    chosen = allocate(log_p, [2, 4, 6], [0.5, 0.5], 4)
    assert [(2, 4, 6)[arm] for arm in chosen] == [4, 4]
    assert sum(log_p[b][arm] for b, arm in enumerate(chosen)) == pytest.approx(-1.897120, abs=1e-6)


# -- identities -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(0, 2**31), st.sampled_from([0.0, 1.0]))
def test_no_affordable_choice_of_arms_is_better(bins, seed, slack):
    rng, arms = np.random.default_rng(seed), [2, 3, 5, 8]
    log_p, shares = np.log(rng.dirichlet(np.ones(len(arms)), size=bins)), rng.integers(0, 40, size=bins)
    shares[0] += 1
    units = np.rint(shares / shares.sum() * 1000)
    chosen = allocate(log_p, arms, shares, 4, slack=slack)

    def cost(choice):
        return sum(u * arms[a] for u, a in zip(units, choice, strict=True))

    def worth(choice):
        return sum(log_p[b][a] for b, a in enumerate(choice))

    off = {choice: abs(cost(choice) - 4 * units.sum()) for choice in itertools.product(range(len(arms)), repeat=bins)}
    limit = max(slack * units.sum(), min(off.values()))
    assert off[tuple(chosen)] <= limit + 1e-6
    rivals = [c for c in off if (cost(c) == cost(chosen) if not slack else off[c] <= limit)]
    assert worth(chosen) == pytest.approx(max(worth(c) for c in rivals))


@given(st.lists(st.floats(0, 5), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 2))
def test_probabilities_of_bins_add_up_and_rise_with_the_loss(scores, gamma, eta):
    q = gdro_probabilities(scores, gamma=gamma, eta=eta)
    assert q.sum() == pytest.approx(1)
    assert np.all(np.diff(q[np.argsort(scores, kind="stable")]) >= -1e-12)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.floats(2, 16))
def test_the_square_root_law_keeps_the_mean(deviation, mean):
    shares = np.arange(1, len(deviation) + 1)
    assert square_root_law(deviation, shares, mean) @ shares_of(shares) == pytest.approx(mean)


@pytest.mark.parametrize("normalize", [False, True])
def test_equal_bins_weigh_the_same(normalize):
    weights = gdro_weights([0.3, 0.3, 0.3], normalize=normalize)
    assert weights == pytest.approx([weights[0]] * 3)
    assert not normalize or weights == pytest.approx([1, 1, 1])


def test_weights_are_capped():
    assert gdro_weights([100.0], eta=1, cap=10).tolist() == [10.0]


def test_a_bin_that_was_not_seen_keeps_its_loss():
    assert gdro_scores([0.5, 0.5], [np.nan, 1.0], ema=0.5).tolist() == [0.5, 0.75]
    assert gdro_scores([0.5, 0.5], [0.2, 1.0], ema=0.5, shares=[0.5, 0.0]).tolist() == [0.45, 0.5]


@pytest.mark.parametrize(
    ("rate", "before", "bin_"),
    [
        (0.42, 0, 0),
        (0.46, 0, 1),
        (0.38, 1, 1),
        (0.34, 1, 0),
        (0.42, -1, 1),
        (0.9, 0, 2),
        (np.nan, -1, 1),
        (np.nan, 0, 0),
    ],
)
def test_a_bin_is_left_only_beyond_the_margin(rate, before, bin_):
    assert bins_of([rate], [0.4, 0.75], before=[before], margin=0.05).tolist() == [bin_]


def test_answers_that_are_alike_are_the_least_diverse():
    """The trap of the released code: raw self-BLEU is high for answers that are alike."""
    alike, near, apart = ["it is 12"] * 3, ["it is 12", "it is 13", "it is 14"], ["it is 12", "a dozen of", "six twice"]
    assert unlike(alike) == 0.0 < unlike(near) < unlike(apart)
    assert unlike(["one"]) == unlike([]) == 0.0


# -- every sampler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_and_groups_give_the_same_walk(name):
    def run(seed):
        return walk(Curriculum(PROBLEMS, seed, sampler=name), 20, np.random.default_rng(0))

    assert run(1) == run(1) != run(2)
    assert {problem for problem, _ in run(1)} == {p.id for p in PROBLEMS}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_state_goes_through_json_and_the_walk_goes_on(name, steps):
    first = Curriculum(PROBLEMS, 3, sampler=name)
    walk(first, steps, np.random.default_rng(0))
    first.revisit(PROBLEMS[5])
    second = Curriculum(PROBLEMS, 99, sampler=name)
    second.restore(json.loads(json.dumps(first.state())))
    assert walk(first, 12, np.random.default_rng(1)) == walk(second, 12, np.random.default_rng(1))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_state_of_other_problems_is_refused(name):
    state = Curriculum(PROBLEMS, 0, sampler=name).state()
    with pytest.raises(InputError, match="12 problems and there are 3"):
        Curriculum(PROBLEMS[:3], 0, sampler=name).restore(state)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("usual", [1, 2, 3, 8])
def test_the_mean_number_of_rollouts_is_kept_after_every_group(name, usual):
    sizes = [n for _, n in walk(Curriculum(PROBLEMS, 0, sampler=name), 60, np.random.default_rng(0), usual)]
    assert all(total <= usual * (n + 1) for n, total in enumerate(itertools.accumulate(sizes)))
    assert min(sizes) >= min(2, usual)
    assert sum(sizes) >= 0.8 * usual * len(sizes)


@pytest.mark.parametrize("name", SAMPLERS)
def test_groups_that_teach_nothing_do_no_harm(name):
    sampler = resolve_sampler(name)(PROBLEMS, 0)
    stranger = Problem(id="stranger", messages=({"role": "user", "content": "?"},))
    sampler.size(PROBLEMS[0], 4)
    sampler.observe([group(PROBLEMS[0], [], missing=4), group(stranger, [1.0, 0.0])])
    sampler.observe([])
    assert sampler.next(nothing) in PROBLEMS


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_problem_is_enough_and_none_is_refused(name):
    assert walk(Curriculum(PROBLEMS[:1], 0, sampler=name), 5, np.random.default_rng(0))
    with pytest.raises(InputError, match="no problems to choose from"):
        Curriculum((), 0, sampler=name)


# -- what each does ---------------------------------------------------------------------------------------------------


def test_the_default_is_what_it_was():
    curriculum = Curriculum(tuple(Problem(id=str(n), messages=PROBLEMS[0].messages) for n in range(30)), 7)
    order = [int(curriculum.next(lambda p: int(p.id) % 3).id) for _ in range(15)]
    assert order == [27, 0, 6, 15, 24, 25, 9, 22, 19, 10, 28, 1, 3, 7, 18]


def test_easy_problems_come_first_once_it_is_known_which_are_easy():
    sampler = EasyToHard(PROBLEMS, 0, window=12)
    epoch = [sampler.next(nothing) for _ in PROBLEMS]
    sampler.observe([group(p, [float(n < int(p.id[1:])) for n in range(12)]) for p in epoch])
    again = [sampler.next(nothing).id for _ in PROBLEMS]
    assert again[0] != "p0" and again[-1] == "p0"
    given_rates = EasyToHard(PROBLEMS, 0, rates={p.id: int(p.id[1:]) / 12 for p in PROBLEMS})
    assert [given_rates.next(nothing).id for _ in PROBLEMS] == [f"p{n}" for n in reversed(range(12))]


def test_variance_draws_half_of_the_problems():
    sampler = VarianceAware(PROBLEMS, 0, diversity_weight=0.0)
    sampler.observe([group(p, [1.0, 0.0] if p.id == "p4" else [0.0, 0.0]) for p in PROBLEMS])
    drawn = [sampler.next(nothing).id for _ in range(400)]
    assert sampler.scores().tolist() == [0.8 * 0.25 * (p.id == "p4") for p in PROBLEMS]
    assert set(drawn[1::2]) == {"p4"} and len(set(drawn[::2])) == len(PROBLEMS)


def test_a_problem_that_was_never_asked_is_as_promising_as_can_be():
    sampler = VarianceAware(PROBLEMS, 0)
    sampler.observe([group(PROBLEMS[0], [1.0, 0.0], texts=["a b c", "a b c"])])
    assert sampler.scores()[:2] == pytest.approx([0.2, 0.4])


def test_without_any_variance_the_draws_are_uniform():
    sampler = VarianceAware(PROBLEMS, 0, diversity_weight=0.0, share=1.0)
    sampler.observe([group(p, [0.0, 0.0]) for p in PROBLEMS])
    assert len({sampler.next(nothing).id for _ in range(200)}) == len(PROBLEMS)


def test_the_bins_that_are_solved_least_are_asked_more_than_their_share():
    sampler = PromptGdro(PROBLEMS, 0, eta=5.0, ema=1.0)
    rates = {p.id: 0.0 if n < 4 else 1.0 for n, p in enumerate(PROBLEMS)}
    sampler.observe([group(p, [rates[p.id]] * 4) for p in PROBLEMS])
    sampler.observe([group(p, [rates[p.id]] * 4) for p in PROBLEMS])
    drawn = [sampler.next(nothing).id for _ in range(200)]
    assert sum(rates[i] == 0.0 for i in drawn) > 190
    assert sampler.bins.sizes.tolist() == [4, 0, 8]
    assert np.argmax(sampler.weights()) == 0
    assert sampler.weight(PROBLEMS[0]) == pytest.approx(10.0)  # exp(5 x 1), capped
    assert sampler.weight(PROBLEMS[11]) == 1.0


def test_only_a_sampler_that_weighs_has_weights_other_than_one():
    for name in SAMPLERS:
        curriculum = Curriculum(PROBLEMS, 0, sampler=name)
        curriculum.observe([group(PROBLEMS[0], [0.0, 0.0])])
        assert (curriculum.weight(PROBLEMS[1]) == 1.0) == (name != "prompt_gdro")


@pytest.mark.parametrize("rule", ["exp3", "square_root"])
def test_rollouts_go_where_rewards_differ(rule):
    sampler = RolloutGdro(PROBLEMS, 0, rule=rule, eta=1.0)
    rates = {p.id: (0.0, 0.5, 1.0)[n % 3] for n, p in enumerate(PROBLEMS)}
    draw, sizes = np.random.default_rng(0), {0.0: [], 0.5: [], 1.0: []}
    for step in range(200):
        planned = [(p, sampler.size(p, 4)) for p in PROBLEMS]
        sampler.observe([group(p, [float(draw.random() < rates[p.id]) for _ in range(n)]) for p, n in planned])
        for problem, n in planned if step > 50 else []:
            sizes[rates[problem.id]].append(n)
    means = {rate: np.mean(n) for rate, n in sizes.items()}
    assert means[0.5] > max(means[0.0], means[1.0])
    assert np.mean(list(means.values())) == pytest.approx(4, abs=0.5)


# -- by name ----------------------------------------------------------------------------------------------------------


def test_samplers_by_name():
    assert resolve_sampler("vas", share=0.7).name == "vas(share=0.7)"
    mine = resolve_sampler(lambda problems, seed: EasyToHard(problems, seed))
    assert Curriculum(PROBLEMS, 0, sampler=mine).next(nothing) in PROBLEMS
    assert resolve_sampler("tfgrpo.samplers.epochs:uniform")(PROBLEMS, 0).next(nothing) in PROBLEMS
    assert SCHEDULES["length_budget"].make(150) == 179


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("vsa", {}, "did you mean 'vas'"),
        ("vas", {"shares": 1}, "did you mean 'share'"),
        ("uniform", {"window": 3}, "unknown option of sampler 'uniform'"),
        ("nowhere:nothing", {}, "nowhere"),
        (7, {}, "a sampler is a name or a function"),
        ("tfgrpo.samplers.epochs:uniform", {"a": 1}, "takes no options here"),
    ],
)
def test_bad_names_are_refused(spec, options, said):
    with pytest.raises(InputError, match=said):
        resolve_sampler(spec, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("least_covered", {"lookahead": 0}),
        ("easy_to_hard", {"window": 0}),
        ("easy_to_hard", {"rates": {"p1": 1.5}}),
        ("vas", {"share": 1.5}),
        ("vas", {"diversity_weight": -1}),
        ("vas", {"diversity": "bleu"}),
        ("prompt_gdro", {"edges": (0.7, 0.4)}),
        ("prompt_gdro", {"edges": (0, 1)}),
        ("prompt_gdro", {"margin": 0.5}),
        ("prompt_gdro", {"ema": 0}),
        ("rollout_gdro", {"rule": "exp4"}),
        ("rollout_gdro", {"gamma": 2}),
    ],
)
def test_bad_options_are_refused(name, options):
    with pytest.raises(InputError, match=r"got|did you mean"):
        resolve_sampler(name, **options)(PROBLEMS, 0)


@pytest.mark.parametrize("bad", [[-1.0, 2.0], [np.nan, 1.0]])
def test_bad_weights_are_refused(bad):
    with pytest.raises(InputError, match="weights are numbers of at least 0"):
        shares_of(bad)


def test_bad_arms_and_schedules_are_refused():
    with pytest.raises(InputError, match="a score for each of the arms"):
        allocate(np.zeros((2, 3)), [2, 4], [1, 1], 4)
    with pytest.raises(InputError, match="0 < decay <= 1"):
        length_budget(1, decay=1.5)
