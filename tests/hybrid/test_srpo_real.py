"""SRPO on the packaged model: the teacher's numbers are its own, steps change weights, a stopped run goes on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tinymodel import trainer_state

import hybrid
from hybrid import Settings, TrainReport, resolve_recipe
from hybrid.answers import Batch
from hybrid.distill import Distill
from hybrid.losses import resolve_loss
from hybrid.losses.divergences import divergence, with_tail
from hybrid.model import load_trainable
from hybrid.packing import Sample, pack
from hybrid.reprompt import under, with_teachers
from hybrid.trainer import Trainer
from tasks.largest_of_three import task
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.policy.packaged_models import packaged_model
from tfgrpo.types import Completion, Group, Rollout, Score, Segment

pytestmark = pytest.mark.slow
EXACT = Settings(device="cpu", threads=1, dtype="float32", drift=1e9)
HEAT = 0.8


def group(loaded: LoadedModel, right: tuple[str, ...], wrong: tuple[str, ...]) -> Group:
    problem = task(learn=2, gate=0, test=2).learn[0]
    rollouts = []
    for text in (*right, *wrong):
        written = (*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], loaded.tokenizer.eos_token_id)
        segments = (
            Segment(token_ids=loaded.prompt_ids(problem.messages), train=False),
            Segment(token_ids=written, train=True, logps=(-1.0,) * len(written)),
        )
        answer = Completion(prompt=problem.messages, messages=(), text=text, policy="p", segments=segments)
        rollouts.append(Rollout(completion=answer, score=Score(value=float(text in right))))
    return Group(problem=problem, rollouts=tuple(rollouts))


def logps(loaded: LoadedModel, sample: Sample) -> torch.Tensor:
    ids = torch.tensor([[*sample.prompt, *sample.tokens]])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        made = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(sample.prompt) - 1 : -1]
    return (made[torch.tensor(sample.train)] / HEAT).log_softmax(-1)


def test_the_teacher_of_a_real_chat_template() -> None:
    loaded = load_trainable(packaged_model(), EXACT)
    answers = group(loaded, ("The largest number is 76.",), ("14 is the largest.", "I think that it is 59, surely."))
    batch = Batch.of([answers], resolve_advantage("dr_grpo").columns(Table.of([answers])))
    batch = with_teachers(batch, [answers], Distill(teacher="live"), loaded, (0, 0))
    shown = batch.teachers[1]
    assert shown is not None and shown == under(batch.samples[1], shown.prompt)
    text = loaded.tokenizer.decode([*shown.prompt, *shown.tokens])
    assert "A correct answer:\n\nThe largest number is 76.\n\nAnswer the question.<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n14 is the largest.<|im_end|>")

    trainer = Trainer(loaded, resolve_loss("dapo"), EXACT, temperature=HEAT, distill=Distill(teacher="live"))
    assert trainer.teacher is not None
    lessons = trainer.teacher.lessons(batch.teachers, [1, 2])
    (row,) = pack(batch.samples, budget=512)
    scored = trainer.teacher.scored(row, lessons)
    assert scored is not None
    for number in (1, 2):
        teacher = batch.teachers[number]
        assert teacher is not None
        student, told = logps(loaded, batch.samples[number]), logps(loaded, teacher)
        span = lessons.spans[number]
        written = torch.tensor(batch.samples[number].tokens)[:, None]
        torch.testing.assert_close(lessons.lesson.logp[span], told.gather(-1, written)[:, 0], rtol=0, atol=2e-3)
        ids = student.topk(100).indices
        wanted = divergence(with_tail(student.gather(-1, ids)), with_tail(told.gather(-1, ids)), 0.5)
        place = row.samples.index(number)
        torch.testing.assert_close(scored.divergence[place, : len(wanted)].detach(), wanted, rtol=0, atol=2e-3)
    kept = [m.clone() for m in trainer.weights.masters.values()]
    before = trainer.update(batch, max_tokens=16)
    assert before["taught/kl"] > 0 and math.isfinite(before["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(kept, trainer.weights.masters.values(), strict=True))


def test_a_student_comes_nearer_to_its_teacher() -> None:
    """With the first model as a fixed teacher, a few updates on the same answers close the gap."""
    loaded = load_trainable(packaged_model(), EXACT)
    answers = group(loaded, ("The largest number is 76.",), ("14 is the largest.", "I think that it is 59, surely."))
    batch = Batch.of([answers], resolve_advantage("dr_grpo").columns(Table.of([answers])))
    spec = Distill(teacher="trust_region", rate=0.0, rows="all", others="mask", alpha=1.0)
    batch = with_teachers(batch, [answers], spec, loaded, (0, 0))
    settings = Settings(device="cpu", threads=1, dtype="float32", drift=1e9, lr=3e-5)
    trainer = Trainer(loaded, resolve_loss("dapo", correction=None), settings, temperature=HEAT, distill=spec)
    gaps = [trainer.update(batch, max_tokens=16)["taught/kl"] for _ in range(6)]
    assert gaps[-1] < 0.5 * gaps[0], gaps


def train(out: Path, steps: int, name: str = "srpo") -> TrainReport:
    return hybrid.train(
        task(learn=30, gate=0, test=4),
        model="local/smollm2",
        recipe=resolve_recipe(name),
        steps=steps,
        group=6,
        prompts=2,
        out=out,
        settings={"device": "cpu", "threads": 1},
    )


@pytest.mark.parametrize("name", ["grpo", "sdpo"])
def test_the_other_recipes_take_a_step(tmp_path: Path, name: str) -> None:
    (point,) = train(tmp_path, 1, name).curve
    assert (name == "sdpo") == ("taught/kl" in point)
    if point["updates"]:
        assert math.isfinite(point["loss"]) and point["grad_norm"] > 0


def test_a_few_steps_resumed_with_their_average(tmp_path: Path) -> None:
    report = train(tmp_path / "whole", 3)
    taught = [point for point in report.curve if point["route/taught"]]
    assert taught and all(p["taught/kl"] > 0 and math.isfinite(p["loss"]) and p["grad_norm"] > 0 for p in taught)
    assert all(0 < p["parity_mean"] < 0.1 for p in taught)
    assert np.mean([p["taught/teacher_entropy"] for p in taught]) > 0
    train(tmp_path / "parts", 1)
    parts = train(tmp_path / "parts", 3)
    kept, again = (trainer_state(r) for r in (report, parts))
    assert sum(name.startswith("teacher/") for name in kept) == sum(name.startswith("master/") for name in kept)
    assert kept.keys() == again.keys() and all(torch.equal(tensor, again[name]) for name, tensor in kept.items())
