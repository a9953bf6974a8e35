"""Who is taught: the routing table, its choices, and that equal arguments give equal routes."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybrid.distill
import hybrid.routing
from hybrid.distill import Distill
from hybrid.routing import NOBODY, routes
from tfgrpo.errors import InputError

SDPO = Distill(rows="all", others="mask")


def words(success: list[int], **options: object) -> str:
    """G, S or - for each rollout of one group."""
    given = {"said": [0] * len(success), **options}
    made = routes(success, [0] * len(success), **given)
    assert not (made.taught & made.policy).any()
    return "".join("S" if t else "G" if p else "-" for t, p in zip(made.taught, made.policy, strict=True))


def test_examples() -> None:
    assert doctest.testmod(hybrid.routing).failed == doctest.testmod(hybrid.distill).failed == 0


@pytest.mark.parametrize(
    ("success", "srpo", "sdpo"),
    [
        ([1, 0, 0, 0], "GSSS", "-SSS"),  # the only right one has no sibling of its own
        ([0, 0, 0, 0], "GGGG", "----"),
        ([1, 1, 1, 1], "GGGG", "SSSS"),
        ([1, 0], "GS", "-S"),
        ([1, 1, 0], "GGS", "SSS"),
        ([1], "G", "-"),
        ([0], "G", "-"),
    ],
)
def test_the_table(success: list[int], srpo: str, sdpo: str) -> None:
    assert words(success) == srpo and words(success, spec=SDPO) == sdpo


def test_feedback_teaches_where_no_sibling_does() -> None:
    assert words([0, 0, 0], said=[1, 0, 1]) == "SGS"
    assert words([0, 0], said=[1, 0], spec=replace(Distill(), feedback="never")) == "GG"
    assert words([1, 0, 0], said=[1, 0, 1], spec=replace(Distill(), siblings=False)) == "GGS"
    assert words([1, 0, 0], said=[1, 0, 1], spec=replace(SDPO, siblings=False)) == "S-S"
    shown = [
        routes([1, 0, 0], [0, 0, 0], said=[1, 0, 1], spec=replace(Distill(), feedback=f)).feedback.tolist()
        for f in ("without_solution", "always", "never")
    ]
    assert shown == [[False] * 3, [False, False, True], [False] * 3]


def test_itself_as_sibling_only_when_asked_for() -> None:
    assert words([1, 0], spec=replace(SDPO, exclude_self=False)) == "SS"
    made = routes([1, 0], [0, 0], said=[0, 0], spec=replace(SDPO, exclude_self=False))
    assert made.sibling.tolist() == [0, 0]


def test_rollouts_out_of_the_loss_are_shown_but_not_taught() -> None:
    assert words([1, 0, 0], in_loss=[0, 1, 0]) == "-S-"
    assert routes([1, 0, 0], [0] * 3, said=[0] * 3, in_loss=[0, 1, 0]).sibling.tolist() == [NOBODY, 0, NOBODY]


def test_counts() -> None:
    made = routes([1, 0, 0, 0, 0], [0, 0, 1, 1, 2], said=[0, 1, 1, 0, 0])
    assert made.counts() == {
        "route/taught": 2.0,
        "route/policy": 3.0,
        "route/by_sibling": 1.0,
        "route/by_feedback": 1.0,
        "route/alone": 2.0,
    }


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.booleans(), st.booleans()), max_size=30),
    st.integers(0, 5),
    st.sampled_from([Distill(), SDPO, replace(SDPO, exclude_self=False), replace(Distill(), feedback="always")]),
)
def test_whatever_the_batch(rows: list[tuple[bool, int, bool, bool]], seed: int, spec: Distill) -> None:
    success, group, said, in_loss = (np.array([r[n] for r in rows], dtype=kind) for n, kind in enumerate("?i??"))
    made = routes(success, group, said=said, in_loss=in_loss, spec=spec, seed=(seed, 1))
    again = routes(success, group, said=said, in_loss=in_loss, spec=spec, seed=(seed, 1))
    assert made.sibling.tolist() == again.sibling.tolist()
    assert not (made.taught & made.policy).any() and not ((made.taught | made.policy) & ~in_loss).any()
    if spec.others == "policy":
        assert (made.taught | made.policy | ~in_loss).all()
    for row, sibling in enumerate(made.sibling):
        if sibling != NOBODY:
            assert success[sibling] and group[sibling] == group[row]
            assert sibling != row or not spec.exclude_self
    for label in set(group.tolist()):
        shown = {s for s, ok in zip(made.sibling[group == label], success[group == label], strict=True) if not ok}
        assert len(shown - {NOBODY}) <= 1  # one prompt for all that were wrong


def test_the_seed_decides_among_siblings() -> None:
    shown = {routes([1] * 6 + [0], [0] * 7, said=[0] * 7, seed=(0, step)).sibling[-1] for step in range(30)}
    assert len(shown) > 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rows": "right"}, "unknown rows of distillation 'right'"),
        ({"teacher": "emma"}, "did you mean 'ema'"),
        ({"rate": 1.5}, "rate of distillation must be a number from 0 to 1"),
        ({"alpha": -1.0}, "alpha"),
        ({"k": -1}, "k of distillation"),
        ({"k": 0}, "give alpha=1"),
        ({"is_cap": 0.5}, "is_cap"),
        ({"beta": 100.0}, "beta"),
        ({"tail": 1}, "true or false"),
        ({"solution_words": "look"}, "words with {solution} in them"),
        ({"siblings": False, "feedback": "never"}, "knows no more than the student"),
    ],
)
def test_what_cannot_be_distilled_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Distill(**wrong)  # type: ignore[arg-type]
