"""Which experiences help another model: known effects are found, noise is not, and the mask does what it says."""

import hashlib
import json
import re

import numpy as np
import pytest
from scripted import ScriptedPolicy

import experience_store
from experience_store import Edit
from tfgrpo import Budget, Problem, Sampling, Task
from tfgrpo.errors import AuthError, InputError, TransportError
from tfgrpo.evidence import Wealth, discoveries
from tfgrpo.mask import Mask, Masked
from tfgrpo.rewards.simple import exact
from tfgrpo.transfer import ALPHA, atransfer
from tfgrpo.transferred import Transfer

TRUTH = {"sharp": 0.4, "wrong": -0.4, "idle": 0.0, "plain": 0.0, "vague": 0.0, "long": 0.0}
SUBJECTS = ("circle", "square", "kite", "prism")


def drawn(messages, sampling):
    """ "yes" with probability 0.5 plus the effects of the rules that stand in the prompt."""
    text = json.dumps([dict(m) for m in messages])
    chance = 0.5 + sum(effect for name, effect in TRUTH.items() if f"rule {name}" in text)
    luck = int(hashlib.sha256(f"{sampling.seed}{text}".encode()).hexdigest()[:8], 16) / 2**32
    return "yes" if luck < chance else "no"


def problems(start, stop):
    return tuple(
        Problem(
            id=f"p{n}",
            messages=({"role": "user", "content": f"Question {n}, about a {SUBJECTS[n % 4]}: is it so?"},),
            answer="yes",
        )
        for n in range(start, stop)
    )


def task(**changes):
    fields = {
        "name": "rules", "learn": problems(0, 40), "gate": problems(40, 60), "test": problems(60, 100),
        "reward": exact(), "sampling": Sampling(max_tokens=8),
    }  # fmt: skip
    return Task(**{**fields, **changes})


@pytest.fixture
def book(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text=f"Follow the rule {name}.") for name in TRUTH])
        yield store


def verdicts(found):
    return {e.text.removeprefix("Follow the rule ").rstrip("."): e.verdict for e in found.effects}


async def test_known_effects_are_found_and_noise_is_not(book, tmp_path):
    policy = ScriptedPolicy(drawn, name="other")
    found = await atransfer(book, policy, task=task(), budget=Budget(calls=1600), runs=tmp_path / "runs")
    assert verdicts(found) == {**dict.fromkeys(TRUTH, "undecided"), "sharp": "helps", "wrong": "harms"}
    inside = [e.low <= effect <= e.high for e, effect in zip(found.effects, TRUTH.values(), strict=True)]
    assert sum(inside) >= len(TRUTH) - 1
    assert [row.id for row in found.mask.out] == ["E2"] and found.mask.model == "other"
    assert found.groups == 200 and len(policy.calls) == found.rollouts == 1600
    assert found.words() == "1 of 6 help, 1 harm, 4 undecided"
    assert Transfer.from_json(found.as_json()).as_json() == found.as_json()


async def test_every_experience_stands_in_half_of_a_groups_prompts(book, tmp_path):
    policy = ScriptedPolicy(drawn)
    await atransfer(book, policy, task=task(), budget=Budget(calls=80), runs=tmp_path / "runs")
    prompts = [json.dumps([dict(m) for m in messages]) for messages, _ in policy.calls]
    by_question = {}
    for prompt in prompts:
        by_question.setdefault(re.search(r"Question (\d+)", prompt)[1], []).append(prompt)
    assert len(by_question) == 10 and set(map(len, by_question.values())) == {8}
    for group in by_question.values():
        assert all(sum(f"rule {name}" in prompt for prompt in group) == 4 for name in TRUTH)


async def test_a_subject_is_measured_where_it_occurs_and_shown_elsewhere(book, tmp_path):
    book.commit([Edit(op="add", text="A circle is so."), Edit(op="add", text="A kite is so.")])
    policy = ScriptedPolicy(drawn)
    found = await atransfer(book, policy, task=task(), budget=Budget(calls=160), runs=tmp_path / "runs")
    assert {e.text: e.groups for e in found.effects[-2:]} == {"A circle is so.": 5, "A kite is so.": 5}
    prompts = [json.dumps([dict(m) for m in messages]) for messages, _ in policy.calls]
    squares = [prompt for prompt in prompts if "about a square" in prompt]
    assert squares and all("A circle is so." in prompt for prompt in squares)
    about = [prompt for prompt in prompts if "about a circle" in prompt]
    assert sum("A circle is so." in prompt for prompt in about) == len(about) / 2


async def test_it_ends_when_all_is_known(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text="Follow the rule sharp."), Edit(op="add", text="Follow the rule wrong.")])
        found = await atransfer(store, ScriptedPolicy(drawn), task=task(), runs=tmp_path / "runs")
    assert set(verdicts(found).values()) == {"helps", "harms"}
    assert found.stopped.startswith("every experience") and found.rollouts < 600


async def test_what_the_mask_keeps(book, tmp_path):
    options = {"task": task(), "budget": Budget(calls=1600), "runs": tmp_path / "runs"}
    policy = ScriptedPolicy(drawn, name="other")
    out = {}
    for keep in ("unharmed", "likely", "proven"):
        found = await atransfer(book, policy, keep=keep, **options)
        out[keep] = {row.id for row in found.mask.out}
        assert found.keep == keep
    assert len(policy.calls) == 1600  # asked once: what is kept is decided afterwards
    assert out["unharmed"] == {"E2"} < out["likely"] | {"E2"} <= out["proven"] == {"E2", "E3", "E4", "E5", "E6"}
    assert out["likely"] == {e.id for e in found.effects if e.effect <= 0}


async def test_a_stopped_measurement_goes_on_to_the_same_end(book, tmp_path):
    def down_after(count):
        left = iter(range(count))
        gone = AuthError("the key was taken back")
        return ScriptedPolicy(lambda m, s: drawn(m, s) if next(left, None) is not None else gone)

    options = {"task": task(), "budget": Budget(calls=320), "runs": tmp_path / "runs"}
    for count in (50, 90):
        with pytest.raises(AuthError):
            await atransfer(book, down_after(count), concurrency=5, **options)
    rest = ScriptedPolicy(drawn)
    found = await atransfer(book, rest, **options)
    assert len(rest.calls) == 320 - 140 and found.spend["solve"]["calls"] == 320
    whole = await atransfer(book, ScriptedPolicy(drawn), **{**options, "runs": tmp_path / "whole"})
    assert found.effects == whole.effects and found.mask == whole.mask


async def test_what_cannot_be_measured(book, tmp_path):
    policy = ScriptedPolicy(drawn)
    options = {"task": task(), "runs": tmp_path / "runs"}
    with pytest.raises(InputError, match="needs 8 calls and the budget allows 7"):
        await atransfer(book, policy, budget=Budget(calls=7), **options)
    with pytest.raises(InputError, match="did you mean 'proven'"):
        await atransfer(book, policy, keep="provem", **options)
    with pytest.raises(InputError, match="at least 2 answers"):
        await atransfer(book, policy, group=1, **options)
    with (
        experience_store.open(tmp_path / "empty", embedder="hashing") as nothing,
        pytest.raises(InputError, match="no exp"),
    ):
        await atransfer(nothing, policy, **options)
    assert not policy.calls
    with pytest.raises(TransportError, match="not one of 64 answers"):
        await atransfer(book, ScriptedPolicy(lambda m, s: TransportError("unreachable")), **options)


async def test_a_budget_of_tokens_ends_it_where_it_ends(book, tmp_path):
    policy = ScriptedPolicy(drawn)
    options = {"task": task(), "runs": tmp_path / "runs"}
    found = await atransfer(book, policy, budget=Budget(tokens=6_000), **options)
    assert found.stopped and 64 <= found.rollouts <= len(policy.calls) <= 6_000 // 15
    assert all(e.groups == found.groups for e in found.effects)
    with pytest.raises(InputError, match="before one group of 8"):
        await atransfer(book, policy, budget=Budget(tokens=100), **{**options, "runs": tmp_path / "poor"})


async def test_a_larger_budget_goes_on_from_the_answers_of_a_smaller_one(book, tmp_path):
    options = {"task": task(), "runs": tmp_path / "runs"}
    first, more = ScriptedPolicy(drawn), ScriptedPolicy(drawn)
    less = await atransfer(book, first, budget=Budget(calls=160), **options)
    found = await atransfer(book, more, budget=Budget(calls=320), **options)
    assert (len(first.calls), len(more.calls)) == (160, 160) and found.folder == less.folder
    assert (less.rollouts, found.rollouts, found.spend["solve"]["calls"]) == (160, 320, 320)
    whole = await atransfer(book, more, budget=Budget(calls=320), **{**options, "runs": tmp_path / "whole"})
    assert found.effects == whole.effects


# -- many looked at together ----------------------------------------


def test_golden_discoveries():
    assert discoveries([], 0.05) == []
    assert discoveries([np.log(20.0)], 0.05) == [True] and discoveries([np.log(19.9)], 0.05) == [False]
    # m = 4: 80 / k is needed of the k-th largest: 80, 40, 26.7, 20; the fourth carries the others
    assert discoveries(list(np.log([20.0, 21.0, 22.0, 23.0])), 0.05) == [True] * 4
    assert discoveries(list(np.log([79.0, 39.0, 26.0, 1.0])), 0.05) == [False] * 4
    assert discoveries(list(np.log([39.0, 81.0, 26.0, 1.0])), 0.05) == [False, True, False, False]


def test_of_those_that_are_called_harmful_few_are_not():
    """20 entries of which 5 harm, over 60 groups, looked at after every eighth: stopped at the worst moment."""
    rng, wrong, found = np.random.default_rng(5), [], []
    for _ in range(60):
        effect = np.array([-0.35] * 5 + [0.0] * 15)
        entries, worst = [Wealth() for _ in effect], 0.0
        for group in range(1, 61):
            for entry, d in zip(entries, effect, strict=True):
                entry.bet(float(np.clip(rng.binomial(4, 0.5 + d / 2) / 4 - rng.binomial(4, 0.5 - d / 2) / 4, -1, 1)))
            if group % 8 == 0:
                fallen = discoveries([e.log_wealth[1] for e in entries], ALPHA)
                worst = max(worst, sum(fallen[5:]) / max(1, sum(fallen)))
        wrong.append(worst)
        found.append(sum(fallen[:5]))
    assert np.mean(wrong) <= ALPHA
    assert np.mean(found) > 4


# -- the mask ----------------------------------------


def test_a_mask_leaves_out_what_it_names_and_nothing_that_was_reworded(book, tmp_path):
    snapshot = book.at("v1")
    rows = [Masked(id=e.id, hash=e.hash, why="harms") for e in snapshot.experiences[1:3]]
    mask = Mask(model="other", library="store@v1", out=tuple(rows))
    assert Mask.load(mask.save(tmp_path / "deep" / "mask.json")) == mask
    shorter, said = mask.on(snapshot, model="other")
    assert [e.id for e in shorter.served] == ["E1", "E4", "E5", "E6"] and len(snapshot.served) == 6
    assert len(shorter.version.rows) == 4 and said == ["the mask leaves out E2, E3 of 6 experiences"]
    assert "rule wrong" not in shorter.text() and "rule sharp" in shorter.text()
    book.commit([Edit(op="revise", id="E2", text="Follow the rule right."), Edit(op="drop", id="E3")])
    left, said = mask.on(book.at("head"), model="other")
    assert "E2" in left and said[1:] == ["the mask knows another wording of E2, which stays"]
    with pytest.raises(InputError, match="measured for 'other', and 'mine' answers"):
        mask.on(snapshot, model="mine")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "tfgrpo mask", "schema": 9}', '{"format": "else", "schema": 1}']
)
def test_what_is_no_mask(text, tmp_path):
    (tmp_path / "mask.json").write_text(text)
    with pytest.raises(InputError, match="mask"):
        Mask.load(tmp_path / "mask.json")


def test_a_damaged_mask(tmp_path):
    (tmp_path / "mask.json").write_text('{"format": "tfgrpo mask", "schema": 1, "out": [{"id": "E1"}]}')
    with pytest.raises(InputError, match="damaged"):
        Mask.load(tmp_path / "mask.json")
    with pytest.raises(InputError, match="cannot read"):
        Mask.load(tmp_path / "none.json")
