"""Golden rows of the estimators: numbers that can be checked on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfgrpo.advantage import ADVANTAGES, Table, chain, hard_gate, resolve_advantage, sum_parts
from tfgrpo.errors import InputError

ONE_WIN = [1.0, 0.0, 0.0, 0.0]
MIXED = [ONE_WIN, [1.0, 1.0, 1.0, 0.0]]

GOLDEN: list[tuple[str, dict[str, Any], list[list[float]], list[float]]] = [
    ("grpo", {}, [ONE_WIN], [1.499997] + [-0.499999] * 3),
    ("grpo", {"ddof": 0}, [ONE_WIN], [1.732047] + [-0.577349] * 3),
    ("grpo", {"eps": 1e-4}, [ONE_WIN], [1.499700] + [-0.499900] * 3),
    ("grpo", {}, [[1, 1, 1, 1]], [0] * 4),
    ("grpo", {}, [[1]], [0]),
    (
        "grpo",
        {"scaling": "batch"},
        MIXED,
        [1.403119, -0.467706, -0.467706, -0.467706, 0.467706, 0.467706, 0.467706, -1.403119],
    ),
    ("grpo", {"eps": 0.0}, [[0] * 7 + [1]], [-0.353553] * 7 + [2.474874]),  # one rescued answer of 8
    ("grpo", {"eps": 0.0}, [[1, 1, 0, 1]], [0.5, 0.5, -1.5, 0.5]),  # refinements of a best draft
    (
        "grpo",
        {"eps": 0.0},
        [[1, 2 / 3, 1 / 3, 0]],
        [1.161895, 0.387298, -0.387298, -1.161895],
    ),  # places of a tournament
    ("grpo", {"ddof": 0}, [[1.0, 0.1, 0.0, 1.0]], [0.997239, -0.892267, -1.102212, 0.997239]),  # main agents
    (
        "grpo",
        {"ddof": 0},
        [[0.9, 0.8, 0.2, 0.2, 1.0, 0.5]],  # their sub-agents, pooled
        [0.933254, 0.622169, -1.244338, -1.244338, 1.244338, -0.311085],
    ),
    ("grpo", {"ddof": 0}, [[0.5, 1.0, 1 / 3]], [-0.392231, 1.372808, -0.980577]),  # edges of a graph
    ("grpo", {}, [[0.5, 0.5, 0.8, 0.2]], [0, 0, 1.224740, -1.224740]),  # paraphrases as one set
    ("grpo", {}, [[0.7, 0.6, 0.5]], [0.999990, 0, -0.999990]),
    ("dr_grpo", {}, [ONE_WIN], [0.75, -0.25, -0.25, -0.25]),
    ("rec", {}, [ONE_WIN], [0.75, -0.25, -0.25, -0.25]),
    ("dapo", {}, [[1, 1], ONE_WIN, [0, 0]], [0, 0, 1.499997, -0.499999, -0.499999, -0.499999, 0, 0]),
    ("rloo", {}, [ONE_WIN], [1.0, -1 / 3, -1 / 3, -1 / 3]),
    ("mc_grpo", {}, [[0.2, 0.9, 0.4, 0.0, 0.6]], [-0.995025, 2.487562, 0, -1.990050, 0.995025]),
    ("mc_grpo", {}, [[1, 0, 0, 0, 0]], [2.231079, 0, 0, 0, 0]),
    ("mc_grpo", {}, [[1, 1, 1, 1, 1]], [0] * 5),
    ("ngrpo", {}, [[0] * 8], [-0.333332] * 8),
    ("ngrpo", {}, [ONE_WIN], [1.095443] + [-0.730295] * 3),
    ("ngrpo", {}, [[1, 1, 1, 1]], [0] * 4),
    ("ngrpo", {}, [[0]], [-0.707106]),
    ("g2rpo", {}, [[0.1, 0.7, 0.3, 10]], [-1.150349, 0.318639, -0.318639, 1.150349]),
    ("g2rpo", {}, [ONE_WIN], [1.150349] + [-0.383450] * 3),
    ("g2rpo", {}, [[1, 1, 0, 0]], [0.734494, 0.734494, -0.734494, -0.734494]),
    ("g2rpo", {}, [[1, 1, 1]], [0] * 3),
    ("g2rpo", {}, [[0, 0, 0.3, 1, 10]], [-0.902976, -0.902976, 0, 0.524401, 1.281552]),  # ties share quantiles
    ("a_grae", {}, MIXED, [0.591505] + [-0.394337] * 3 + [0.197168] * 3 + [-1.183010]),
    ("opmd", {}, [ONE_WIN], [0.642626] + [-0.357374] * 3),
    ("asymre", {}, [ONE_WIN], [0.85] + [-0.15] * 3),
    ("asymre", {}, [[0, 0, 0]], [0.1] * 3),
    ("red_weight", {}, [ONE_WIN], [1.587750] + [-0.194700] * 3),
    ("vgpo", {"ddof": 0, "eps": 0.0}, [ONE_WIN], [1.832051] + [-0.577350] * 3),
    ("vgpo", {}, [[1, 1, 1, 1]], [0.1] * 4),
    ("softmax", {}, [[1, 1, 0, 0]], [0.365529, 0.365529, 0.134471, 0.134471]),
    ("maxrl", {}, [ONE_WIN, [0, 0], [1, 1]], [3, -1, -1, -1, 0, 0, 0, 0]),
    ("pass_at_k", {"k": 1}, [ONE_WIN], [1.732051] + [-0.577350] * 3),  # grpo with ddof 0
    ("pass_at_k", {"k": 2}, [ONE_WIN], [1.0] + [-1 / 3] * 3),
    ("pass_at_k", {"k": 4}, [ONE_WIN, [0] * 4], [0] * 8),  # one of any four is right, or none
]

ROUNDED: list[tuple[list[float], list[float]]] = [
    ([0.1343, 0.6448, 0.0, -0.2], [-0.0291, 1.3869, -0.4015, -0.9563]),  # rewards of hints
    ([0.96, 0.97, 0.95, 0.96], [0.0, 1.2246, -1.2246, 0.0]),  # all right, diversity decides
    ([0.96, 0.07, 0.95, 0.06], [0.8757, -0.8562, 0.8562, -0.8757]),
    ([0.5819, 0.1394, 0.6106, 0.6106], [0.4163, -1.4974, 0.5406, 0.5406]),  # information consistency
    ([0.65, 0.675, 0.55, 0.55], [0.6654, 1.0456, -0.8555, -0.8555]),  # the unsafe first is reinforced
    ([0.56, 0.72, 0.64, 0.46], [-0.3147, 1.124, 0.4047, -1.214]),
]


@pytest.mark.parametrize(("name", "options", "rewards", "expected"), GOLDEN)
def test_golden_row(name: str, options: Mapping[str, Any], rewards: list[list[float]], expected: list[float]) -> None:
    values = resolve_advantage(name, **options)(Table.of_rewards(rewards))
    np.testing.assert_allclose(values, expected, atol=6e-7)


@pytest.mark.parametrize(("rewards", "expected"), ROUNDED)
def test_golden_row_of_rewards_that_are_rounded(rewards: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(resolve_advantage("grpo")(Table.of_rewards([rewards])), expected, atol=1.5e-4)


EXTRA: list[tuple[str, dict[str, Any], Sequence[float], dict[str, list[float]], list[float]]] = [
    (
        "seed_grpo",
        {"weigh": "logp"},
        [1, 1, 0, 0],
        {"cluster": [0, 0, 1, 2]},
        [0.486313, 0.486313, -0.486313, -0.486313],
    ),
    (
        "seed_grpo",
        {"weigh": "logp", "form": "linear", "alpha": 1.0},
        [1, 1, 0, 0],
        {"cluster": [0, 0, 1, 2]},
        [0.162534, 0.162534, -0.162534, -0.162534],
    ),
    ("seed_grpo", {}, [1, 0, 0, 0], {"cluster": [0, 1, 2, 3]}, [0.75 * 0.959969, *[-0.25 * 0.959969] * 3]),
    ("seed_grpo", {}, [1, 0, 0, 0], {"cluster": [3, 3, 3, 3]}, [0.75, -0.25, -0.25, -0.25]),
    ("unlikeliness", {}, [1, 1, 0, 1], {"logp": [-0.2, -0.9, -0.5, -1.4]}, [0.268866, 0.537732, -1.478762, 0.672165]),
    ("unlikeliness", {}, [1] * 4, {"logp": [-0.2, -0.9, -0.5, -1.4]}, [-1.161881, 0.387294, -0.387294, 1.161881]),
    (
        "e_grpo",
        {},
        [1, 0, 0, 0],
        {"entities": [0.8, 0.4, 0, 0.6], "truncated": [0, 0, 0, 1]},
        [1.483648, -0.286318, -0.598665, 0],  # the last is compared with, -0.598665, but not learned from
    ),
    (
        "e_grpo",
        {},
        [0] * 4,
        {"entities": [0.8, 0.4, 0, 0.2], "truncated": [0] * 4},
        [1.317455, 0.146384, -1.024687, -0.439152],
    ),
    ("da_grpo", {}, [1, 1, 0, 0], {"fine": [0.9, 0.45, 0.4, 0.1]}, [0.866024, 0, 0, -0.866024]),
    ("prompt_gdro", {}, ONE_WIN, {"bin_weight": [1.067159] * 4}, [1.600736, -0.533579, -0.533579, -0.533579]),
]


@pytest.mark.parametrize(("name", "options", "rewards", "extras", "expected"), EXTRA)
def test_golden_row_with_extra_columns(
    name: str, options: dict[str, Any], rewards: Sequence[float], extras: dict[str, list[float]], expected: list[float]
) -> None:
    extras = {"logp": [-0.5, -0.6, -0.8, -1.2]} | extras
    table = Table.of_columns(reward=rewards, group=[0] * 4, extras=extras)
    np.testing.assert_allclose(resolve_advantage(name, **options)(table), expected, atol=6e-7)


def test_unlikeliness_in_the_papers_form() -> None:
    table = Table.of_columns(reward=[1, 1, 0, 1], group=[0] * 4, extras={"logp": [-0.2, -0.9, -0.5, -1.4]})
    np.testing.assert_allclose(
        resolve_advantage("unlikeliness", form="paper").columns(table).reward, [0.75, 0.875, 0, 0.9375]
    )


TWO_GROUPS = {"first": [1, 0, 1, 0, 1, 1, 0, 0], "second": [0, 1, 1, 0, 1, 1, 1, 1]}
COLLAPSE = {"first": [0, 0, 0, 1], "second": [0, 1, 0, 1]}
HEADS = {
    "polite": [0.9, 0.8, 0.9, 0.3],
    "meaning": [0.8, 0.6, 0.2, 0.9],
    "actionable": [0.7, 0.4, 0.1, 0.9],
    "safe": [0.2, 0.9, 1.0, 0.1],
}
SPEED = {"right": [1, 1, 0, 0], "speed": [2, 4, 3, 3]}


@pytest.mark.parametrize(
    ("options", "parts", "size", "expected"),
    [
        (
            {"whitened": False, "eps": 1e-4},
            TWO_GROUPS,
            4,
            [0, 0, 1.731751, -1.731751, *[0.865875] * 2, *[-0.865875] * 2],
        ),
        ({"eps": 1e-4}, TWO_GROUPS, 4, [0, 0, 1.527391, -1.527391, *[0.763695] * 2, *[-0.763695] * 2]),
        ({"whitened": False, "eps": 1e-4}, COLLAPSE, 2, [-0.707007, 0.707007, -1.414014, 1.414014]),
        ({"eps": 1e-4}, COLLAPSE, 2, [-0.547680, 0.547680, -1.095360, 1.095360]),
        ({"whitened": False, "ddof": 0, "eps": 0.0}, SPEED, 4, [-0.414214, 2.414214, -1, -1]),
    ],
)
def test_gdpo(options: dict[str, Any], parts: dict[str, list[float]], size: int, expected: list[float]) -> None:
    rows = len(expected)
    table = Table.of_columns(reward=[0] * rows, group=np.arange(rows) // size, parts=parts)
    np.testing.assert_allclose(resolve_advantage("gdpo", **options)(table), expected, atol=6e-7)


def test_gdpo_with_weights_makes_nothing_safe_and_a_gate_does() -> None:
    table = Table.of_columns(reward=[0] * 4, group=[0] * 4, parts=HEADS)
    weights = dict.fromkeys(HEADS, 0.25)
    before = resolve_advantage("gdpo", weights=weights, whitened=False, eps=0.0)(table)
    np.testing.assert_allclose(before, [0.2307, 0.1438, -0.2528, -0.1217], atol=6e-5)
    whitened = resolve_advantage("gdpo", weights=weights)(table)
    np.testing.assert_allclose(whitened, [1.0228, 0.6376, -1.1209, -0.5395], atol=6e-5)
    gated = chain(sum_parts(weights), hard_gate("safe"), resolve_advantage("grpo"))
    np.testing.assert_allclose(gated.columns(table).reward, [0, 0.675, 0.55, 0])
    np.testing.assert_allclose(gated(table), [-0.8571, 1.0321, 0.6822, -0.8571], atol=6e-5)


@pytest.mark.parametrize(("fidelity", "expected"), [(0.8, [-1, 0, 1]), (0.2, [1, 0, -1])])
def test_adaptive_weights_can_turn_the_order_round(fidelity: float, expected: list[float]) -> None:
    parts = {"psnr": [20, 25, 30], "quality": [0.9, 0.5, 0.1]}
    extras = {"weight/psnr": [fidelity] * 3, "weight/quality": [1 - fidelity] * 3}
    table = Table.of_columns(reward=[0] * 3, group=[0] * 3, parts=parts, extras=extras)
    np.testing.assert_allclose(resolve_advantage("gdpo_sr")(table), expected, atol=1e-5)


def test_parts_that_cancel_leave_nothing_to_whiten() -> None:
    """Two parts that want the opposite: what rounding leaves of their sum is no advantage."""
    right = np.array([0.0, 0.75, 0.3, 0.9])
    table = Table.of_columns(reward=[0] * 4, group=[0] * 4, parts={"right": right, "brief": 7.3 - right / 3})
    assert resolve_advantage("gdpo", eps=0.0)(table).tolist() == [0.0] * 4


def test_paraphrases_are_normalised_apart() -> None:
    reward = [0.75, 0.375, 0.842, 0.0, 0.592, 0.592]
    table = Table.of_columns(reward=reward, group=[0] * 6, variant=[0, 0, 1, 1, 2, 2])
    values = resolve_advantage("grpo", by="variant", eps=0.0)(table)
    np.testing.assert_allclose(values, [0.707107, -0.707107, 0.707107, -0.707107, 0, 0], atol=6e-7)
    np.testing.assert_array_equal(resolve_advantage("ps_grpo", eps=0.0)(table), values)
    pooled = resolve_advantage("grpo", eps=0.0)(table)
    np.testing.assert_allclose(pooled, [0.7428, -0.4960, 1.0466, -1.7348, 0.2207, 0.2207], atol=4e-4)


def test_a_constant_added_to_a_whole_group_is_cancelled() -> None:
    alone, shifted = [0.4425, 0.0, 1.0, 0.4425], [0.5 * h + 0.25 for h in (0.4425, 0.0, 1.0, 0.4425)]
    grpo = resolve_advantage("grpo", eps=0.0)
    np.testing.assert_allclose(grpo(Table.of_rewards([shifted])), grpo(Table.of_rewards([alone])))


def test_red_drop_balances_and_repeats() -> None:
    table = Table.of_rewards([ONE_WIN, [1, 1, 0]])
    balanced = resolve_advantage("red_drop").columns(table)
    assert balanced.in_loss[0]
    assert balanced.in_loss[1:4].sum() == 1
    assert balanced.in_loss[4:].all()
    np.testing.assert_allclose(sorted(balanced.advantage[:4]), [-0.5, 0, 0, 0.5])
    np.testing.assert_array_equal(resolve_advantage("red_drop")(table), balanced.advantage)
    drawn = {tuple(resolve_advantage("red_drop", seed=s).columns(table).in_loss) for s in range(30)}
    assert len(drawn) == 3


def test_mc_grpo_drops_one_row_from_the_loss_even_of_equals() -> None:
    columns = resolve_advantage("mc_grpo").columns(Table.of_rewards([[0.2, 0.9, 0.4, 0.0, 0.6], [1, 1]]))
    assert columns.in_loss.tolist() == [True, True, False, True, True, False, True]
    assert columns.in_stats.all()


def test_mc_grpo_without_its_guard_refuses_a_majority() -> None:
    with pytest.raises(InputError, match=r"median distance is 0 in 1 groups.*guard=True"):
        resolve_advantage("mc_grpo", guard=False)(Table.of_rewards([[1, 0, 0], [3, 1, 2]]))
    graded = Table.of_rewards([[0.2, 0.9, 0.4, 0, 0.6]])
    guarded = resolve_advantage("mc_grpo")(graded)
    np.testing.assert_array_equal(resolve_advantage("mc_grpo", guard=False)(graded), guarded)


@pytest.mark.parametrize(("size", "by_mean", "by_median"), [(2, 0.249, 0.125), (4, 0.167, 0.109), (8, 0.115, 0.091)])
def test_a_median_turns_fewer_signs_than_a_mean(size: int, by_mean: float, by_median: float) -> None:
    draw, groups = np.random.default_rng(size), 20_000
    for name, rows, expected in (("dr_grpo", size, by_mean), ("mc_grpo", size + 1, by_median)):
        reward = draw.normal(size=groups * rows)  # of mean 0, so that the sign of a reward is the true one
        columns = resolve_advantage(name).columns(
            Table.of_columns(reward=reward, group=np.arange(groups * rows) // rows)
        )
        turned = np.sign(columns.advantage) != np.sign(reward)
        assert turned[columns.in_loss].mean() == pytest.approx(expected, abs=0.006)


def test_every_row_has_a_formula_and_a_source() -> None:
    for name, row in ADVANTAGES.items():
        assert row.formula, name
        assert row.source, name
        assert resolve_advantage(name).steps, name


def test_chosen_by_name_it_says_its_options() -> None:
    assert resolve_advantage("grpo").name == "grpo"
    assert resolve_advantage("mc_grpo", eps=0.1).name == "mc_grpo(eps=0.1)"
    own = resolve_advantage("grpo")
    assert resolve_advantage(own) is own


def test_unknown_names_and_options_list_the_near_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'grpo'"):
        resolve_advantage("gprpo")
    with pytest.raises(InputError, match="unknown option of advantage 'grpo' 'dof'; did you mean 'ddof'"):
        resolve_advantage("grpo", dof=1)
    with pytest.raises(InputError, match="takes no options, got k"):
        resolve_advantage(resolve_advantage("grpo"), k=1)


def test_your_own_step_by_file_and_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def doubled(table):\n    return table.with_advantage(2 * table.reward)\n")
    own = resolve_advantage(f"{tmp_path / 'mine.py'}:doubled")
    assert own(Table.of_rewards([[1.0, None]])).tolist() == [2, 0]
    assert own.name.endswith("mine.py:doubled")
