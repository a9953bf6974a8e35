"""The packaged model, a tenth of a real run: it computes, it changes, it is saved, it goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tinymodel import trainer_state

import hybrid
from hybrid import Settings, TrainReport
from tasks.largest_of_three import task
from tfgrpo.policy.base import Sampling

pytestmark = pytest.mark.slow
SETTINGS = Settings(device="cpu", threads=1, checkpoint_s=0.0)


def train(out: Path, steps: int) -> TrainReport:
    small = task(learn=30, gate=0, test=6)
    return hybrid.train(
        small, model="local/smollm2", steps=steps, group=6, prompts=3, out=out, settings=SETTINGS, loss="dapo"
    )


async def test_a_few_steps_of_smollm2(tmp_path: Path) -> None:
    import asyncio

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tfgrpo.policy.local import LocalPolicy
    from tfgrpo.policy.packaged_models import packaged_model

    report = await asyncio.to_thread(train, tmp_path / "whole", 3)
    learned = [point for point in report.curve if point["updates"]]
    assert learned and all(math.isfinite(p["loss"]) and p["grad_norm"] > 0 for p in learned)
    assert all(0 < p["parity_mean"] < 0.1 for p in learned)
    assert report.before is not None and report.after is not None

    model = AutoModelForCausalLM.from_pretrained(report.checkpoint)
    start = dict(AutoModelForCausalLM.from_pretrained(packaged_model(), dtype=model.dtype).named_parameters())
    kept = trainer_state(report)
    for name, parameter in model.named_parameters():
        master = kept[f"master/{name}"]
        assert torch.equal(parameter, master.to(parameter.dtype))  # what was measured is what was saved
        assert not torch.equal(master, start[name].float())

    policy = LocalPolicy(
        f"local/{report.checkpoint}", device="cpu", threads=1, dtype=str(model.dtype).partition(".")[2]
    )
    told = Sampling(temperature=0, max_tokens=8, extra={"segments": True})
    answer = await policy.complete([{"role": "user", "content": "Which is larger, 3 or 8?"}], told)
    await policy.aclose()
    prompt, written = (list(s.token_ids) for s in answer.segments)
    logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1].float()
    expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(written)[:, None])[:, 0]
    assert list(answer.segments[1].logps) == pytest.approx(expected.tolist(), abs=0.3)
    assert AutoTokenizer.from_pretrained(report.checkpoint).chat_template

    await asyncio.to_thread(train, tmp_path / "parts", 1)
    parts = await asyncio.to_thread(train, tmp_path / "parts", 3)
    for one, other in zip(report.curve, parts.curve, strict=True):
        assert (one["reward"], one.get("loss"), one.get("grad_norm")) == (
            other["reward"],
            other.get("loss"),
            other.get("grad_norm"),
        )
    again = trainer_state(parts)
    assert all(torch.equal(tensor, again[name]) for name, tensor in kept.items())
