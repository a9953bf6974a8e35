"""One update: the gradient of the loss written out, whatever is skipped, packed or cut; and what stops it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinybatch import EXACT, MAX_TOKENS, TEMPERATURE, batch_of, loaded_at, plain_logps, with_sampler
from tinymodel import save_tiny

from hybrid.answers import Batch
from hybrid.batch import Tokens, Totals
from hybrid.folders import model_folder
from hybrid.losses import Loss, resolve_loss, resolve_regulariser
from hybrid.model import load_trainable
from hybrid.settings import DriftError, Settings
from hybrid.trainer import Trainer
from hybrid.weights import Weights
from tfgrpo.errors import InputError, RunStateError
from tfgrpo.policy.local_loading import LoadedModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def untouched(folder: Path) -> LoadedModel:
    """For tests that change no weight."""
    return loaded_at(folder)


class Kept:
    """Keeps the gradient of an update instead of making a step with it."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.grads = weights, {}
        self.masters, self.parameters = weights.masters, weights.parameters

    def step(self, *, clip: float, lr: float) -> float:
        self.grads = {name: m.grad.clone() for name, m in self.masters.items() if m.grad is not None}
        self.weights.clear()
        return 0.0

    def clear(self) -> None:
        self.weights.clear()

    def ready(self) -> None:
        self.weights.ready()


def plain_gradient(loaded: LoadedModel, batch: Batch, loss: Loss) -> dict[str, torch.Tensor]:
    """The whole batch as one padded tensor through the loss, nothing skipped."""
    chosen = [n for n in range(len(batch.samples)) if batch.in_loss[n]]
    rows = [plain_logps(loaded, batch.samples[n]) for n in chosen]
    masks = [torch.tensor(batch.samples[n].train, dtype=torch.float32) for n in chosen]
    sampler = [torch.tensor(batch.samples[n].logps) for n in chosen]
    logp, mask, seen = (torch.nn.utils.rnn.pad_sequence(c, batch_first=True) for c in (rows, masks, sampler))
    advantage = torch.tensor(batch.advantage[chosen], dtype=torch.float32)
    tokens = Tokens(
        logp=logp,
        old=logp.detach(),
        mask=mask,
        advantage=advantage,
        sampler=seen,
        success=torch.tensor(batch.success[chosen]),
        reference=logp.detach(),
        weight=torch.tensor(batch.weight[chosen], dtype=torch.float32),
    )
    share, _ = loss(tokens, Totals.of(mask=mask, advantage=advantage, success=tokens.success, max_tokens=MAX_TOKENS))
    loaded.model.zero_grad()
    share.backward()
    return {name: p.grad.clone() for name, p in loaded.model.named_parameters()}


def gradient(
    loaded: LoadedModel, batch: Batch, loss: Loss, **settings: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    loaded.model.zero_grad(set_to_none=True)
    trainer = Trainer(loaded, loss, replace(EXACT, **settings), temperature=TEMPERATURE)
    trainer.weights = kept = Kept(trainer.weights)
    metrics = trainer.update(batch, max_tokens=MAX_TOKENS)
    return kept.grads, metrics


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    assert got.keys() == expected.keys()
    largest = max(g.abs().max().item() for g in expected.values())
    for name, grad in expected.items():
        assert (got[name] - grad).abs().max().item() <= tolerance * largest, name


LAYOUTS: list[dict[str, Any]] = [
    {"token_budget": 30},
    {"token_budget": 4000},
    {"shared_prompts": False, "token_budget": 50},
]
NAMES = ["grpo", "dr_grpo", "gspo", "cispo", "reinforce", "nll_on_correct"]


@pytest.mark.parametrize(
    ("name", "layout"), [*zip(NAMES, LAYOUTS * 2, strict=True), *(("dapo", layout) for layout in LAYOUTS)]
)
def test_the_gradient_is_that_of_the_whole_batch(untouched: LoadedModel, name: str, layout: dict[str, Any]) -> None:
    loaded = untouched
    batch = batch_of(uniform=(1,), left_out=(0, 5))
    batch = replace(batch, weight=np.linspace(0.5, 1.5, len(batch.samples)))
    loss = resolve_loss(name)
    expected = plain_gradient(loaded, batch, loss)
    got, metrics = gradient(loaded, batch, loss, **layout)
    assert_same(got, expected)
    uniform = sum(a == 0 and i for a, i in zip(batch.advantage, batch.in_loss, strict=True))
    assert metrics["skipped"] == 2 + (0 if name == "nll_on_correct" else uniform)


def test_a_loss_of_your_own_sees_every_answer_of_the_loss(untouched: LoadedModel) -> None:
    loaded, batch = untouched, batch_of(uniform=(1, 2))

    def own(tokens: Tokens, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        return -(tokens.logp * tokens.mask).sum() / totals.tokens, {}

    got, metrics = gradient(loaded, batch, own)
    assert_same(got, plain_gradient(loaded, batch, own))
    assert metrics["skipped"] == 0


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_recomputed_activations_give_the_same_gradient(folder: Path, kind: str) -> None:
    batch = batch_of()
    plain, _ = gradient(loaded_at(folder), batch, resolve_loss("dapo"), checkpointing="none")
    loaded = loaded_at(folder)
    again, _ = gradient(loaded, batch, resolve_loss("dapo"), checkpointing=kind)
    assert_same(again, plain)
    assert not any(module.training for module in loaded.model.modules())


def test_a_batch_without_differences_costs_nothing_and_changes_nothing(untouched: LoadedModel) -> None:
    loaded = untouched
    trainer = Trainer(loaded, resolve_loss("grpo"), EXACT, temperature=TEMPERATURE)
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    metrics = trainer.update(batch_of(uniform=(0, 1, 2, 3)), max_tokens=MAX_TOKENS)
    assert metrics["answers"] == metrics["updates"] == trainer.updates == 0
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())


def test_metrics_are_means_over_the_tokens_that_were_scored(untouched: LoadedModel) -> None:
    loaded = untouched
    batch = with_sampler(batch_of(uniform=(1,)), loaded)
    _, metrics = gradient(loaded, batch, resolve_loss("dapo"))
    used = [s for s, a in zip(batch.samples, batch.advantage, strict=True) if a]
    logps = [p for s in used for p, t in zip(s.logps, s.train, strict=True) if t]
    assert metrics["surprise"] == pytest.approx(-np.mean(logps), abs=1e-4)
    assert 0 < metrics["entropy"] < np.log(26)
    assert metrics["parity_max"] < 1e-4
    assert metrics["answers"] == len(used)


def test_the_parity_gate_stops_before_anything_changes(folder: Path) -> None:
    loaded = loaded_at(folder)
    batch = with_sampler(batch_of(), loaded)
    trainer = Trainer(loaded, resolve_loss("dapo"), replace(EXACT, drift=1e-3, lr=0.05), temperature=TEMPERATURE)
    trainer.update(batch, max_tokens=MAX_TOKENS)
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    with pytest.raises(DriftError, match=r"after 1 updates .* disagree .* allowed are 0\.001"):
        trainer.update(batch, max_tokens=MAX_TOKENS)  # log-probs of before the first update
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in loaded.model.named_parameters())
    assert trainer.updates == 1
    trainer.update(with_sampler(batch, loaded), max_tokens=MAX_TOKENS)


def test_later_updates_keep_the_log_probs_of_the_first(folder: Path) -> None:
    loaded = loaded_at(folder)
    batch = with_sampler(batch_of(), loaded)
    seen: list[tuple[float, float]] = []

    def own(tokens: Tokens, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        gap = ((tokens.logp - tokens.old) * tokens.mask).abs().max().item()
        seen.append((gap, ((tokens.old - tokens.sampler) * tokens.mask).abs().max().item()))
        return -(tokens.logp * tokens.mask * tokens.advantage[:, None]).sum() / totals.tokens, {}

    trainer = Trainer(loaded, own, replace(EXACT, updates=3, lr=0.01), temperature=TEMPERATURE)
    metrics = trainer.update(batch, max_tokens=MAX_TOKENS)
    assert metrics["updates"] == trainer.updates == 3
    assert len(seen) == 3
    assert seen[0][0] == 0 and seen[1][0] > 1e-3 and seen[2][0] > 1e-3
    assert all(old < 1e-4 for _, old in seen)


@pytest.mark.parametrize(
    ("loss", "updates", "words"),
    [
        (lambda: resolve_loss("llds"), 1, "until the policy has moved"),
    ],
)
def test_losses_that_cannot_work_are_refused(
    untouched: LoadedModel, loss: Callable[[], Loss], updates: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Trainer(untouched, loss(), replace(EXACT, updates=updates), temperature=TEMPERATURE)


def test_a_reference_is_the_model_as_it_was(folder: Path) -> None:
    loaded = loaded_at(folder)
    batch = with_sampler(batch_of(), loaded)
    loss = resolve_loss("dapo", regularisers=[resolve_regulariser("k3", coefficient=0.1)])
    assert "reference" in loss.needs
    trainer = Trainer(loaded, loss, replace(EXACT, lr=0.02, updates=2), temperature=TEMPERATURE)
    (name,) = [r.name for r in loss.regularisers]
    metrics = trainer.update(batch, max_tokens=MAX_TOKENS)
    assert metrics[name] > 1e-4  # of the second update
    assert trainer.reference is not None
    assert all(not p.requires_grad for p in trainer.reference.model.parameters())


def test_losses_and_gradients_that_are_no_numbers_change_nothing(folder: Path) -> None:
    loaded = loaded_at(folder)
    trainer = Trainer(loaded, resolve_loss("dapo"), EXACT, temperature=TEMPERATURE)
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    batch = batch_of()
    endless = replace(batch, advantage=np.full(len(batch.samples), np.inf), in_loss=np.ones(len(batch.samples), bool))
    with pytest.raises(InputError, match="the loss is"):
        trainer.update(endless, max_tokens=MAX_TOKENS)

    def steep(tokens: Tokens, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.sqrt((tokens.logp - tokens.logp.detach()).clamp(min=0)).sum(), {}

    with pytest.raises(RunStateError, match="gradient is not finite"):
        Trainer(loaded, steep, EXACT, temperature=TEMPERATURE).update(batch, max_tokens=MAX_TOKENS)
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())


# -- weights ----------------------------------------------------------------------------------------------------------


def test_small_steps_add_up_behind_a_bfloat16_model(folder: Path) -> None:
    loaded = loaded_at(folder, dtype="bfloat16")
    weights = Weights(loaded.model, lr=1e-6, betas=(0.9, 0.999), decay=0.0)
    name, parameter = next(iter(weights.parameters.items()))
    start, begun = parameter.detach().clone(), weights.masters[name].clone()
    for step in range(60):
        for p in weights.parameters.values():
            (p.float() * 1e-3).sum().backward()
        assert all(p.grad is None for p in weights.parameters.values())  # already added in float32
        weights.step(clip=1e9, lr=1e-4)
        if step == 0:
            moved = (weights.masters[name] - begun).abs()
            assert moved.min() > 5e-5
            same_at_first = (parameter == start).float().mean()
    assert same_at_first > 0.5  # rounded away in the model
    assert (parameter == start).float().mean() < 0.1
    assert torch.equal(parameter, weights.masters[name].bfloat16())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_restored_weights_go_on_bit_for_bit(folder: Path, dtype: str) -> None:
    def pushed(weights: Weights, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for p in weights.parameters.values():
            (p.float() * torch.randn(p.shape, generator=draw)).sum().backward()
        weights.step(clip=1.0, lr=1e-3)

    first = Weights(loaded_at(folder, dtype=dtype).model, lr=1e-3, betas=(0.9, 0.99), decay=0.01)
    for seed in range(3):
        pushed(first, seed)
    kept = {name: tensor.clone() for name, tensor in first.state().items()}
    pushed(first, 3)
    second = Weights(loaded_at(folder, dtype=dtype).model, lr=1e-3, betas=(0.9, 0.99), decay=0.01)
    second.restore(kept)
    pushed(second, 3)
    for name, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[name]), name
    for name, p in first.parameters.items():
        assert torch.equal(p, second.parameters[name])


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    other = Weights(
        load_trainable(save_tiny(tmp_path, hidden_size=64), EXACT).model, lr=1e-3, betas=(0.9, 0.9), decay=0
    )
    mine = Weights(loaded_at(folder).model, lr=1e-3, betas=(0.9, 0.9), decay=0)
    with pytest.raises(RunStateError, match="another model"):
        mine.empty_state({name: tuple(tensor.shape) for name, tensor in other.state().items()})


# -- models -----------------------------------------------------------------------------------------------------------


def test_models_that_cannot_be_trained_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no chat template"):
        load_trainable(save_tiny(tmp_path / "bare", template=None), EXACT)
    other = save_tiny(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(InputError, match="only causal language models"):
        load_trainable(other, EXACT)
    (tmp_path / "other" / "config.json").unlink()
    with pytest.raises(InputError, match="unknown model"):
        model_folder(str(other))


def test_settings_say_what_is_wrong() -> None:
    for wrong, words in (
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"updates": "two"}, "updates must be"),
        ({"checkpointing": "some"}, "checkpointing must be one of selective, full, none"),
        ({"betas": (0.9,)}, "betas"),
        ({"dtype": "float16"}, "dtype"),
        ({"warmup": -1}, "warmup"),
    ):
        with pytest.raises(InputError, match=words):
            Settings(**wrong)  # type: ignore[arg-type]
    assert "device" not in Settings().identity
