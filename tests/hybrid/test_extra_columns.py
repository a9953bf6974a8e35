"""Columns of a loss that take another look at the model: log-probs at another temperature, the influence of tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tinybatch import EXACT, MAX_TOKENS, TEMPERATURE, batch_of, loaded_at, with_sampler
from tinymodel import save_tiny
from tinytraining import FAST, train

from hybrid.batch import Tokens, Totals
from hybrid.influence import influences
from hybrid.losses import compose, credit
from hybrid.losses.parts import Credit
from hybrid.model import Scorer
from hybrid.packing import Sample, pack
from hybrid.trainer import Trainer
from tfgrpo.policy.local_loading import LoadedModel


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded_at(save_tiny(tmp_path_factory.mktemp("tiny")))


def hidden_and_logits(loaded: LoadedModel, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[*sample.prompt, *sample.tokens]])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        out = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    at = slice(len(sample.prompt) - 1, -1)
    return out.hidden_states[-1][0, at], out.logits[0, at] / TEMPERATURE


@pytest.mark.parametrize("budget", [14, 400])
def test_influence_is_that_of_the_whole_group(loaded: LoadedModel, budget: int) -> None:
    batch = batch_of(5, groups=3)
    asked = {1, 4}
    found = influences(
        Scorer(loaded.model, TEMPERATURE), batch.samples, batch.group, batch.success, chosen=asked, budget=budget
    )
    assert found.keys() == asked
    for number in asked:
        members = np.flatnonzero(batch.group == batch.group[number]).tolist()
        parts = [hidden_and_logits(loaded, batch.samples[n]) for n in members]
        trains = [torch.tensor(batch.samples[n].train) for n in members]
        written = torch.cat([torch.tensor(batch.samples[n].tokens)[t] for n, t in zip(members, trains, strict=True)])
        words, column = torch.unique(written, return_inverse=True)
        pi = torch.cat([torch.softmax(z, -1)[t][:, words] for (_, z), t in zip(parts, trains, strict=True)])
        h = torch.cat([hidden[t] for (hidden, _), t in zip(parts, trains, strict=True)])
        right = torch.cat(
            [t.new_full((int(t.sum()),), bool(batch.success[n])) for n, t in zip(members, trains, strict=True)]
        )
        sizes = [int(t.sum()) for t in trains]
        expected = credit.token_influence(pi, column, h, right).split(sizes)[members.index(number)]
        if batch.success[members].all() or not batch.success[members].any():
            expected = torch.zeros_like(expected)
        assert torch.allclose(found[number], expected, atol=1e-3 * max(1.0, float(expected.abs().max())))


def test_tempered_log_probs_are_those_of_the_old_policy_at_that_temperature(loaded: LoadedModel) -> None:
    seen: list[Tokens] = []

    def look(tokens: Tokens, totals: Totals) -> torch.Tensor:
        seen.append(tokens)
        return tokens.advantage

    part = Credit(name="look", run=look, needs=frozenset({"tempered", "old"}), heat=lambda entropy: 1.2)
    loss = compose(lambda tokens: -tokens.advantage * tokens.logp, credits=[part])
    batch = with_sampler(batch_of(2), loaded)
    trainer = Trainer(loaded, loss, dataclasses.replace(EXACT, lr=1e-9, token_budget=40), temperature=TEMPERATURE)
    trainer.update(batch, max_tokens=MAX_TOKENS)
    rows = pack(batch.samples, budget=40, chosen=np.flatnonzero(batch.in_loss).tolist())
    assert len(rows) == len(seen) > 1
    for row, tokens in zip(rows, sorted(seen, key=lambda t: -len(t.logp)), strict=False):
        assert tokens.tempered is not None and len(row.samples) >= 1
    compared = 0
    for tokens in seen:
        for logp, tempered, mask in zip(tokens.old, tokens.tempered, tokens.mask, strict=True):  # type: ignore[arg-type]
            told = logp[mask > 0].tolist()
            for sample in batch.samples:
                _, logits = hidden_and_logits(loaded, sample)
                target = torch.tensor(sample.tokens)[:, None]
                keep = torch.tensor(sample.train)
                own = torch.log_softmax(logits, -1).gather(-1, target)[:, 0][keep]
                if len(own) == len(told) and np.allclose(own.tolist(), told, atol=1e-4):
                    warm = torch.log_softmax(logits / 1.2, -1).gather(-1, target)[:, 0][keep]
                    assert torch.allclose(tempered[mask > 0], warm, atol=1e-4)
                    compared += 1
                    break
    assert compared == sum(len(tokens.logp) for tokens in seen)


@pytest.mark.parametrize("loss", ["dcpo", "thr"])
def test_whole_runs(loss: str, tmp_path: Path) -> None:
    report = train(save_tiny(tmp_path / "model"), tmp_path / "run", steps=3, loss=loss, settings=FAST)
    assert report.methods["loss"] == loss
    assert sum(point["updates"] > 0 for point in report.curve) >= 2
    assert all(np.isfinite(point.get("loss", 0.0)) for point in report.curve)
