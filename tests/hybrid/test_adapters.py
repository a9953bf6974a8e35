"""Low-rank adapters: they begin as nothing, only they are trained, and what is saved is what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tinymodel import save_tiny, trainer_state
from tinytraining import FAST, assert_same_end, train

from hybrid import Settings
from hybrid.adapters import lora_layers
from hybrid.export import plain_weights
from hybrid.model import load_trainable
from tfgrpo.errors import InputError

LORA = dataclasses.replace(FAST, lora=4, lr=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 20)[None]).logits
        return found


def test_they_begin_as_nothing_and_alike_in_every_process(folder: Path) -> None:
    plain, one, two = (load_trainable(folder, s) for s in (FAST, LORA, LORA))
    mask = torch.ones(17, 17, dtype=torch.bool).tril()[None, None]
    asked = {"input_ids": torch.arange(3, 20)[None], "attention_mask": mask}
    assert torch.equal(plain.model(**asked).logits, one.model(**asked).logits)
    trained = {name: p for name, p in one.model.named_parameters() if p.requires_grad}
    others = dict(two.model.named_parameters())
    assert trained and all("lora_" in name and torch.equal(p, others[name]) for name, p in trained.items())
    assert not any("lm_head" in name for name in lora_layers(one.model))
    restored = plain_weights(one.model, torch.float32)
    assert restored.keys() == plain.model.state_dict().keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in plain.model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # asked for by peft
def test_what_is_saved_answers_like_what_was_trained(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    report = train(folder, tmp_path, steps=3, settings=LORA)
    assert max(point.get("parity_max", 0.0) for point in report.curve) < 1e-3
    kept = trainer_state(report)
    assert all("lora_" in name for name in kept)
    merged = AutoModelForCausalLM.from_pretrained(report.checkpoint)
    base = AutoModelForCausalLM.from_pretrained(folder)
    start = logits(base)
    assert (logits(merged) - start).abs().max() > 0.05
    changed = [n for n, p in merged.named_parameters() if not torch.equal(p, dict(base.named_parameters()).get(n, p))]
    assert not any("norm" in name or "embed" in name for name in changed)
    beside = PeftModel.from_pretrained(base, f"{report.checkpoint}/adapter")
    assert torch.allclose(logits(beside), logits(merged), atol=2e-4)


def test_a_stopped_run_goes_on_to_the_same_end(folder: Path, tmp_path: Path) -> None:
    whole = train(folder, tmp_path / "whole", steps=4, settings=LORA)
    train(folder, tmp_path / "parts", steps=2, settings=LORA)
    assert_same_end(train(folder, tmp_path / "parts", steps=4, settings=LORA), whole)


def test_adapters_learn(folder: Path, tmp_path: Path) -> None:
    report = train(folder, tmp_path, steps=25, group=8, prompts=4, settings=dataclasses.replace(LORA, lora=8, lr=0.05))
    assert report.gain is not None and report.gain.low > 0.05, str(report)


def test_sizes_that_are_none_are_refused() -> None:
    for wrong, words in (
        ({"lora": 0}, "lora must be"),
        ({"lora": 2.5}, "whole"),
        ({"lora_alpha": 8.0}, "give their rank"),
    ):
        with pytest.raises(InputError, match=words):
            Settings(**wrong)  # type: ignore[arg-type]
