"""Losses by name, your own ones, and the examples of the documentation."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenbatch import count, golden, gradient

import hybrid.losses
from hybrid.batch import Tokens, Totals
from hybrid.losses import CORRECTIONS, LOSSES, REGULARISERS, Composed, Loss, compose, resolve_loss, resolve_regulariser
from tfgrpo.errors import InputError

TABLES: list[dict[str, Any]] = [LOSSES, REGULARISERS, CORRECTIONS]
MODULES = ["hybrid.batch", *(f"hybrid.losses.{m.name}" for m in pkgutil.iter_modules(hybrid.losses.__path__))]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_every_row_says_everything() -> None:
    for table in TABLES:
        for name, row in table.items():
            assert row.formula and row.source, name
            if row.confidence == "reconstruction":
                assert "reconstruction" in (row.make.__doc__ or ""), name


def test_names_say_what_was_asked_for() -> None:
    assert resolve_loss("gspo").name == "gspo"  # type: ignore[attr-defined]
    assert resolve_loss("dapo", high=0.3).name == "dapo(high=0.3)"  # type: ignore[attr-defined]
    loss = resolve_loss("grpo", regularisers=[resolve_regulariser("k2"), resolve_regulariser("likelihood")])
    assert isinstance(loss, Composed) and loss.needs == {"old", "reference"}
    _, metrics = loss(golden(), count(golden()))
    assert list(metrics)[:3] == ["policy", "kl_k2", "likelihood"]


def test_plain_words_as_on_the_command_line() -> None:
    plain = resolve_loss(
        "grpo",
        aggregate="token_mean",
        correction={"dropped": {"low": 0.1, "high": 3.0}},
        regularisers={"k3": 0.01, "entropy_band": {"low": 0.2, "high": 1.0}},
    )
    assert isinstance(plain, Composed) and plain.correction is not None
    assert plain.correction.name == "dropped(token, 0.1..3)"
    assert [(r.name, r.coefficient) for r in plain.regularisers] == [("kl_k3", 0.01), ("entropy_band", 0.01)]
    assert resolve_loss("grpo", correction={"truncated": 3.0}).correction.name == "truncated(token, cap=3)"  # type: ignore[attr-defined]
    assert resolve_loss("grpo", correction=None).correction is None  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="one correction, got dropped, truncated"):
        resolve_loss("grpo", correction={"dropped": {}, "truncated": {}})
    with pytest.raises(InputError, match="did you mean"):
        resolve_loss("grpo", regularisers={"kl3": 0.1})


def mine(tokens: Tokens) -> Any:
    return -tokens.advantage * tokens.logp


def whole(tokens: Tokens, totals: Totals) -> Any:
    return (tokens.clean().logp * 0).sum(), {"seen": totals.tokens}


def test_your_own_token_losses() -> None:
    ours = resolve_loss(mine)
    assert isinstance(ours, Composed) and ours.name == "mine"
    assert gradient(ours, golden())[0] == gradient(resolve_loss("reinforce"), golden())[0]
    by_answer = resolve_loss(mine, aggregate="seq_mean_token_mean", regularisers=[resolve_regulariser("k3")])
    expected = resolve_loss("reinforce", aggregate="seq_mean_token_mean", regularisers=[resolve_regulariser("k3")])
    assert gradient(by_answer, golden())[0] == gradient(expected, golden())[0]
    assert resolve_loss(compose(mine, aggregate="constant"), aggregate="token_mean").aggregate.name == "token_mean"  # type: ignore[attr-defined]


def test_your_own_whole_loss() -> None:
    ours: Loss = resolve_loss(whole)
    assert ours is whole
    assert ours(golden(), count(golden()))[1] == {"seen": 5.0}
    with pytest.raises(InputError, match="give none"):
        resolve_loss(whole, aggregate="token_mean")


def test_your_own_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "losses.py"
    file.write_text("def fresh(tokens):\n    return -tokens.advantage * tokens.logp\n\nnumber = 3\n")
    ours = resolve_loss(f"{file}:fresh")
    assert gradient(ours, golden())[0] == gradient(resolve_loss("reinforce"), golden())[0]
    with pytest.raises(InputError, match="did you mean 'fresh'"):
        resolve_loss(f"{file}:frsh")
    with pytest.raises(InputError, match="is no function"):
        resolve_loss(f"{file}:number")


def test_losses_of_your_own_that_cannot_be() -> None:
    with pytest.raises(InputError, match="not 3 arguments"):
        resolve_loss(lambda a, b, c: a)  # type: ignore[misc, arg-type]
    with pytest.raises(InputError, match="takes no options, got high"):
        resolve_loss(mine, high=0.2)
    with pytest.raises(InputError, match=r"must return token losses \(2, 3\), got the shape \(\)"):
        resolve_loss(lambda tokens: tokens.logp.sum())(golden(), count(golden()))
    with pytest.raises(InputError, match="got float"):
        resolve_loss(lambda tokens: 1.0)(golden(), count(golden()))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_learns_which_word_is_right(name: str) -> None:
    """Real updates of a softmax policy: samples of old log-probs, four updates each, words scored 1 or 0."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.zeros(2, 5, requires_grad=True)  # words 0 of the first place and 3 of the second are right
    right = torch.tensor([0, 3])
    loss = resolve_loss(name)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    before = after = 0.0
    for _ in range(20):
        policy = logits.detach().softmax(-1)
        before, after = (before or policy[[0, 1], right].mean().item()), policy[[0, 1], right].mean().item()
        words = torch.multinomial(policy.repeat(16, 1), 1, generator=draw).view(16, 2)
        old = policy.log().gather(1, words.T).T
        tempered = (policy.log() / 1.2).log_softmax(-1).gather(1, words.T).T
        score = (words == right).float().mean(1)
        for _ in range(4):
            now = logits.log_softmax(-1)
            tokens = Tokens(
                logp=now.gather(1, words.T).T,
                old=old,
                reference=torch.full((16, 2), 0.2).log(),
                mask=torch.ones(16, 2),
                advantage=score - score.mean(),
                success=score == 1,
                tempered=tempered,
                influence=(score - score.mean())[:, None] * (words == right),
            )
            value, _ = loss(tokens, count(tokens, entropy=-old.mean().item()))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    assert before == pytest.approx(0.2) and after > 0.3, after
