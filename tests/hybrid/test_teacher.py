"""Updates with a teacher: the gradient written out, whatever the teacher, packed or cut; and what it is equal to."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinymodel import save_tiny
from torch import Tensor

from hybrid.answers import Batch
from hybrid.batch import Tokens, Totals
from hybrid.distill import Distill
from hybrid.losses import Loss, resolve_loss, resolve_regulariser
from hybrid.losses.divergences import confidence, divergence, renormalised, sampled_token, with_tail
from hybrid.model import load_trainable
from hybrid.packing import Sample
from hybrid.reprompt import under
from hybrid.settings import CHECKPOINTING, Settings
from hybrid.teacher import Shadow, Teacher
from hybrid.trainer import Trainer
from hybrid.weights import Weights
from tfgrpo.errors import RunStateError
from tfgrpo.policy.local_loading import LoadedModel

HEAT = 0.8
MAX_TOKENS = 12
EXACT = Settings(dtype="float32", device="cpu", threads=1, drift=1e9)
LIVE = Distill(teacher="live", k=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return load_trainable(folder, EXACT)


class Kept:
    """Keeps the gradient of each update and makes none but `step`."""

    def __init__(self, weights: Weights, step: Callable[[dict[str, Tensor]], None] = lambda masters: None) -> None:
        self.weights, self.after, self.grads = weights, step, [dict[str, Tensor]()]
        self.masters, self.parameters = weights.masters, weights.parameters

    def step(self, *, clip: float, lr: float) -> float:
        self.grads.append({n: m.grad.clone() for n, m in self.masters.items() if m.grad is not None})
        self.weights.clear()
        with torch.no_grad():
            self.after(self.masters)
        return 0.0

    def clear(self) -> None:
        self.weights.clear()

    def ready(self) -> None:
        self.weights.ready()


def batch_of(seed: int = 0, *, taught: str = "wrong", same: bool = False, logp: float = 0.5) -> Batch:
    """Ragged groups; wrong answers, all or none have a teacher, whose prompt is longer unless it is the `same`."""
    draw = random.Random(seed)
    samples: list[Sample] = []
    teachers: list[Sample | None] = []
    advantage: list[float] = []
    problem: list[int] = []
    for group in range(4):
        prompt = tuple(draw.randrange(3, 26) for _ in range(draw.randrange(3, 8)))
        more = tuple(draw.randrange(3, 26) for _ in range(draw.randrange(2, 6)))
        for _ in range(draw.randrange(2, 5)):
            size = draw.randrange(1, 9)
            train = tuple(n != 2 or size < 5 for n in range(size))
            logps = tuple(-logp * draw.random() if t else 0.0 for t in train)
            tokens = tuple(draw.randrange(26) for _ in range(size))
            samples.append(Sample(prompt=prompt, tokens=tokens, train=train, logps=logps, segment=(0,) * size))
            problem.append(group)
            advantage.append(draw.choice([-1.0, -0.5, 0.7, 1.5]))
            own = tuple(draw.randrange(3, 26) for _ in range(draw.randrange(0, 3)))
            learns = taught == "all" or (taught == "wrong" and advantage[-1] < 0)
            said = prompt if same else (*prompt, *more, *own)
            teachers.append(under(samples[-1], said, len(said) - len(own)) if learns and not same else None)
            if learns and same:
                teachers[-1] = samples[-1]
    values = np.array(advantage)
    count = len(samples)
    in_loss = np.ones(count, bool)
    return Batch(
        samples=tuple(samples),
        advantage=values,
        weight=np.linspace(0.5, 1.5, count),
        success=values > 0,
        in_loss=in_loss,
        group=np.array(problem),
        teachers=tuple(teachers),
    )


def logits(loaded: LoadedModel, sample: Sample) -> Tensor:
    """Tempered log-probs [T, V] at the trained tokens of one answer, alone."""
    ids = torch.tensor([[*sample.prompt, *sample.tokens]])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    made = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(sample.prompt) - 1 : -1]
    return made[torch.tensor(sample.train)] / HEAT


def plain_gradient(
    loaded: LoadedModel, batch: Batch, loss: Loss, spec: Distill, teacher: Callable[[Sample], Tensor]
) -> tuple[dict[str, Tensor], float]:
    """SRPO's formula on padded tensors of whole logits, answer by answer."""
    rows, marks, seen, apart, doubt = [], [], [], [], []
    for sample, shown in zip(batch.samples, batch.teachers, strict=True):
        written = torch.tensor([t for t, on in zip(sample.tokens, sample.train, strict=True) if on])[:, None]
        student = logits(loaded, sample).log_softmax(-1)
        rows.append(student.gather(-1, written)[:, 0])
        marks.append(torch.ones(len(written)))
        seen.append(torch.tensor([p for p, on in zip(sample.logps, sample.train, strict=True) if on]))
        if shown is None:
            apart.append(torch.zeros(len(written)))
            doubt.append(torch.full((len(written),), torch.nan))
            continue
        with torch.no_grad():
            told = teacher(shown).log_softmax(-1)
        doubt.append(-(told.exp() * told).sum(-1))
        if spec.k == 0:
            apart.append(sampled_token(rows[-1], told.gather(-1, written)[:, 0]))
            continue
        if spec.k is not None:
            ids = student.topk(spec.k).indices
            narrow = with_tail if spec.tail else renormalised
            student, told = narrow(student.gather(-1, ids)), narrow(told.gather(-1, ids))
        apart.append(divergence(student, told, spec.alpha))
    columns = (torch.nn.utils.rnn.pad_sequence(c, batch_first=True) for c in (rows, marks, seen, apart, doubt))
    logp, mask, sampler, far, entropy = columns
    on = torch.tensor(batch.taught)
    trust = confidence(entropy, spec.beta)[on]
    trust = trust / trust[mask[on] > 0].mean()
    weight = torch.tensor(batch.weight, dtype=torch.float32)
    tis = torch.exp(logp.detach() - sampler).clamp(max=2.0)
    distilled = (trust * tis[on] * far[on] * mask[on] * weight[on, None]).nan_to_num().sum() / mask.sum()
    advantage = torch.tensor(batch.advantage, dtype=torch.float32)
    off = Tokens(logp=logp, old=logp.detach(), mask=mask, advantage=advantage, sampler=sampler, weight=weight)
    totals = Totals.of(mask=mask, advantage=advantage, max_tokens=MAX_TOKENS)
    share = distilled
    if not on.all():
        share = share + loss(off.rows(~on), totals)[0]
    loaded.model.zero_grad()
    share.backward()
    grads = {n: p.grad.clone() for n, p in loaded.model.named_parameters()}
    loaded.model.zero_grad(set_to_none=True)
    return grads, share.item()


def gradient(
    loaded: LoadedModel, batch: Batch, spec: Distill | None, loss: Loss | None = None, **settings: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    loaded.model.zero_grad(set_to_none=True)
    trainer = trainer_of(loaded, spec, loss, **settings)
    trainer.weights = kept = Kept(trainer.weights)
    metrics = trainer.update(batch, max_tokens=MAX_TOKENS)
    return kept.grads[-1], metrics


def trainer_of(loaded: LoadedModel, spec: Distill | None, loss: Loss | None = None, **settings: Any) -> Trainer:
    chosen = loss or resolve_loss("dapo")
    return Trainer(loaded, chosen, replace(EXACT, **settings), temperature=HEAT, distill=spec)


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 3e-5) -> None:
    assert got.keys() == expected.keys()
    largest = max(g.abs().max().item() for g in expected.values())
    for name, grad in expected.items():
        assert (got[name] - grad).abs().max().item() <= tolerance * largest, name


LAYOUTS: list[dict[str, Any]] = [
    {"token_budget": 30},
    {"token_budget": 4000},
    {"shared_prompts": False, "token_budget": 50},
]
SPECS = [
    LIVE,
    replace(LIVE, alpha=1.0, k=None, beta=0.0),
    replace(LIVE, alpha=0.0, tail=False, beta=2.0),
    replace(LIVE, alpha=1.0, k=0),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"alpha{spec.alpha}-k{spec.k}")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_gradient_is_that_of_the_formula(loaded: LoadedModel, spec: Distill, layout: dict[str, Any]) -> None:
    batch, loss = batch_of(), resolve_loss("dapo")
    expected, value = plain_gradient(loaded, batch, loss, spec, lambda sample: logits(loaded, sample))
    got, metrics = gradient(loaded, batch, spec, **layout)
    assert_same(got, expected)
    assert metrics["loss"] == pytest.approx(value, abs=1e-5)
    assert metrics["taught/weight"] > 0 and abs(metrics["taught/kl"]) > 0.01


@pytest.mark.parametrize(("name", "taught"), [("grpo", "wrong"), ("dr_grpo", "wrong"), ("dapo", "all")])
def test_other_losses_and_batches(loaded: LoadedModel, name: str, taught: str) -> None:
    batch = batch_of(1, taught=taught)
    loss = resolve_loss(name)
    got, metrics = gradient(loaded, batch, LIVE, loss, token_budget=40)
    if name == "dapo":
        assert_same(got, plain_gradient(loaded, batch, loss, LIVE, lambda sample: logits(loaded, sample))[0])
        assert "policy" not in metrics
    assert metrics["taught/loss"] != 0


def test_recomputed_activations_give_the_same_gradient(folder: Path) -> None:
    made = [gradient(load_trainable(folder, EXACT), batch_of(), LIVE, checkpointing=kind)[0] for kind in CHECKPOINTING]
    assert_same(made[0], made[2])
    assert_same(made[1], made[2])


@pytest.mark.parametrize("kind", ["live", "ema", "trust_region"])
@pytest.mark.parametrize("k", [5, None])
def test_a_teacher_that_knows_no_more_changes_nothing(loaded: LoadedModel, kind: Any, k: int | None) -> None:
    spec = Distill(teacher=kind, k=k, rows="all", others="mask")
    got, metrics = gradient(loaded, batch_of(taught="all", same=True), spec)
    assert abs(metrics["loss"]) < 1e-6 and metrics["taught/kl"] < 1e-6
    assert max(g.abs().max().item() for g in got.values()) < 2e-6


def test_without_anybody_taught_it_is_grpo_and_no_teacher_reads(loaded: LoadedModel) -> None:
    batch = batch_of(taught="none")
    read: list[int] = []
    loaded.model.base_model.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    plain, metrics = gradient(loaded, batch, None)
    passes, read[:] = list(read), []
    for spec in (LIVE, Distill(), Distill(teacher="trust_region")):
        got, others = gradient(loaded, batch, spec)
        assert read == passes
        read.clear()
        assert all(torch.equal(got[name], grad) for name, grad in plain.items())
        assert {n: v for n, v in others.items() if n != "update_s"} == {
            n: v for n, v in metrics.items() if n != "update_s"
        }


def test_a_teacher_reads_the_taught_and_nobody_else(loaded: LoadedModel) -> None:
    batch = batch_of()
    read: list[tuple[int, bool]] = []
    loaded.model.base_model.register_forward_pre_hook(
        lambda module, args, given: read.append((given["input_ids"].numel(), torch.is_grad_enabled())), with_kwargs=True
    )
    _, metrics = gradient(loaded, batch, LIVE, token_budget=60)
    shown = [t for t in batch.teachers if t is not None]
    prompts = sum(map(len, {t.prompt for t in shown}))
    told = sum(size for size, grad in read if not grad)
    assert told >= prompts + sum(len(t.tokens) for t in shown)
    assert told < sum(len(t.prompt) + len(t.tokens) for t in shown)  # siblings share what their prompts begin with
    assert sum(size for size, grad in read if grad) == metrics["packed_tokens"]


def test_trust_is_one_on_average_over_all_processes(loaded: LoadedModel) -> None:
    batch = batch_of()
    trainer = trainer_of(loaded, LIVE)
    teacher = trainer.teacher
    assert teacher is not None
    numbers = np.flatnonzero(batch.taught).tolist()
    whole = teacher.lessons(batch.teachers, numbers)
    assert whole.trust.mean().item() == pytest.approx(1.0) and whole.trust.std() > 0.01
    halves = numbers[::2], numbers[1::2]
    sums = []
    for half in halves:
        teacher.lessons(batch.teachers, half, lambda own: sums.append(own) or own)
    together = torch.stack(sums).sum(0)
    for half in halves:
        part = teacher.lessons(batch.teachers, half, lambda own: together)
        for number, span in part.spans.items():
            torch.testing.assert_close(part.trust[span], whole.trust[whole.spans[number]])


# -- kinds of teachers ------------------------------------------------------------------------------------------------


def moved(masters: dict[str, Tensor]) -> None:
    draw = torch.Generator().manual_seed(5)
    for tensor in masters.values():
        tensor.add_(0.05 * torch.randn(tensor.shape, generator=draw))


@pytest.mark.parametrize("kind", ["live", "ema", "trust_region"])
def test_the_second_update_learns_from_the_teacher_of_the_first(folder: Path, kind: Any) -> None:
    spec = Distill(teacher=kind, rate=0.3, k=5, rows="all", others="mask", is_cap=1.0)
    batch = batch_of(taught="all")
    trainer = trainer_of(load_trainable(folder, EXACT), spec, resolve_loss("dapo", correction=None), updates=2)
    trainer.weights = kept = Kept(trainer.weights, moved)
    trainer.update(batch, max_tokens=MAX_TOKENS)
    first, again = load_trainable(folder, EXACT), load_trainable(folder, EXACT)
    with torch.no_grad():
        moved(dict(again.model.named_parameters()))
    assert_same(kept.grads[2], second_gradient(again, batch, spec, first))


def second_gradient(loaded: LoadedModel, batch: Batch, spec: Distill, first: LoadedModel) -> dict[str, Tensor]:
    """All answers are taught by `first`, with which they were also scored at first."""
    terms, trusts, count = [], [], 0
    assert spec.k is not None
    for sample, shown in zip(batch.samples, batch.teachers, strict=True):
        assert shown is not None
        written = torch.tensor([t for t, on in zip(sample.tokens, sample.train, strict=True) if on])[:, None]
        student = logits(loaded, sample).log_softmax(-1)
        with torch.no_grad():
            told = logits(first, shown).log_softmax(-1)
            old = logits(first, sample).log_softmax(-1).gather(-1, written)[:, 0]
        ratio = torch.exp(student.detach().gather(-1, written)[:, 0] - old).clamp(max=spec.is_cap)
        ids = student.topk(spec.k).indices
        apart = divergence(with_tail(student.gather(-1, ids)), with_tail(told.gather(-1, ids)), spec.alpha)
        terms.append(ratio * apart)
        trusts.append(confidence(-(told.exp() * told).sum(-1), spec.beta))
        count += len(written)
    mean = torch.cat(trusts).mean()
    parts = [(t * w / mean).sum() * n for t, w, n in zip(terms, trusts, batch.weight.tolist(), strict=True)]
    (torch.stack(parts).sum() / count).backward()
    return {n: p.grad.clone() for n, p in loaded.model.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shadow_is_worn_and_taken_off_bit_for_bit(folder: Path, dtype: str) -> None:
    model = load_trainable(folder, replace(EXACT, dtype=dtype)).model
    weights = Weights(model, lr=1e-3, betas=(0.9, 0.9), decay=0.0)
    shadow = Shadow(weights)
    start = {n: m.clone() for n, m in weights.masters.items()}
    with torch.no_grad():
        for name, master in weights.masters.items():
            master.add_(0.1)
            if master is not weights.parameters[name]:
                weights.parameters[name].copy_(master)
    own = {n: p.clone() for n, p in weights.parameters.items()}
    with shadow.worn():
        assert all(torch.equal(p, start[n].to(p.dtype)) for n, p in weights.parameters.items())
    assert all(torch.equal(p, own[n]) for n, p in weights.parameters.items())
    with pytest.raises(ZeroDivisionError), shadow.worn():
        raise ZeroDivisionError
    assert all(torch.equal(p, own[n]) for n, p in weights.parameters.items())
    assert all(torch.equal(t, start[n]) for n, t in shadow.tensors.items())
    shadow.follow(0.25)
    for name, tensor in shadow.tensors.items():
        torch.testing.assert_close(tensor, 0.75 * start[name] + 0.25 * weights.masters[name])
        assert tensor.dtype == torch.float32


def test_a_moving_average_learns_from_what_it_has_become(folder: Path) -> None:
    loaded, spec, batch = load_trainable(folder, EXACT), Distill(teacher="ema", rate=0.3, k=5), batch_of()
    trainer = trainer_of(loaded, spec, lr=0.02)
    average = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    for _ in range(3):
        trainer.update(batch, max_tokens=MAX_TOKENS)
        for name, p in loaded.model.named_parameters():
            average[name] = 0.7 * average[name] + 0.3 * p.detach()
    other = load_trainable(folder, EXACT)
    other.model.load_state_dict(average, strict=False)
    other.model.tie_weights()
    expected, _ = plain_gradient(loaded, batch, resolve_loss("dapo"), spec, lambda sample: logits(other, sample))
    trainer.weights = kept = Kept(trainer.weights)
    trainer.update(batch, max_tokens=MAX_TOKENS)
    assert_same(kept.grads[-1], expected)


def test_a_trust_region_mixes_logits_with_those_of_the_first_model(folder: Path) -> None:
    loaded, first, batch = load_trainable(folder, EXACT), load_trainable(folder, EXACT), batch_of()
    spec = Distill(teacher="trust_region", rate=0.3, k=5)
    trainer = trainer_of(loaded, spec, lr=0.02)
    for _ in range(2):
        trainer.update(batch, max_tokens=MAX_TOKENS)

    def told(sample: Sample) -> Tensor:
        return torch.lerp(logits(first, sample), logits(loaded, sample), 0.3)

    expected, _ = plain_gradient(loaded, batch, resolve_loss("dapo"), spec, told)
    trainer.weights = kept = Kept(trainer.weights)
    trainer.update(batch, max_tokens=MAX_TOKENS)
    assert_same(kept.grads[-1], expected)


@pytest.mark.parametrize("kind", ["live", "ema", "trust_region"])
def test_a_restored_trainer_goes_on_bit_for_bit(folder: Path, kind: Any) -> None:
    spec, batch = Distill(teacher=kind, k=5), batch_of()

    def begun() -> Trainer:
        return trainer_of(load_trainable(folder, EXACT), spec, lr=0.01)

    whole = begun()
    whole.update(batch, max_tokens=MAX_TOKENS)
    kept = {n: t.clone() for n, t in whole.state().items()}
    assert any(n.startswith("teacher/") for n in kept) == (kind == "ema")
    second = begun()
    second.restore(kept)
    for trainer in (whole, second):
        trainer.update(batch, max_tokens=MAX_TOKENS)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_checkpoints_without_the_average_are_refused(folder: Path) -> None:
    plain = trainer_of(load_trainable(folder, EXACT), None)
    shapes = {name: tuple(tensor.shape) for name, tensor in plain.state().items()}
    with pytest.raises(RunStateError, match="no teacher like this run's"):
        trainer_of(load_trainable(folder, EXACT), Distill()).empty_state(shapes)


def test_bfloat16(folder: Path) -> None:
    for kind in ("live", "ema", "trust_region"):
        loaded = load_trainable(folder, replace(EXACT, dtype="bfloat16"))
        trainer = trainer_of(loaded, Distill(teacher=kind), dtype="bfloat16", lr=1e-3)
        for _ in range(2):
            metrics = trainer.update(batch_of(), max_tokens=MAX_TOKENS)
        assert np.isfinite(metrics["loss"]) and metrics["taught/divergence"] > 0


# -- what is told -----------------------------------------------------------------------------------------------------


def test_metrics_are_means_over_the_tokens_that_they_are_of(loaded: LoadedModel) -> None:
    batch = batch_of(2)
    _, metrics = gradient(loaded, batch, LIVE, token_budget=40)
    apart, doubt, surprise = [], [], []
    for sample, shown in zip(batch.samples, batch.teachers, strict=True):
        written = torch.tensor([t for t, on in zip(sample.tokens, sample.train, strict=True) if on])[:, None]
        with torch.no_grad():
            student = logits(loaded, sample).log_softmax(-1)
            surprise += (-student.gather(-1, written)[:, 0]).tolist()
            if shown is None:
                continue
            told = logits(loaded, shown).log_softmax(-1)
        ids = student.topk(5).indices
        apart += divergence(with_tail(student.gather(-1, ids)), with_tail(told.gather(-1, ids)), 0.5).tolist()
        doubt += (-(told.exp() * told).sum(-1)).tolist()
    assert metrics["taught/divergence"] == pytest.approx(np.mean(apart), rel=1e-4)
    assert metrics["taught/teacher_entropy"] == pytest.approx(np.mean(doubt), rel=1e-4)
    assert metrics["surprise"] == pytest.approx(np.mean(surprise), rel=1e-4)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)  # of the policy's own tokens
    assert metrics["loss"] == pytest.approx(metrics["policy"] + metrics["taught/loss"])


def test_regularisers_count_only_the_policys_answers(loaded: LoadedModel) -> None:
    batch = batch_of(taught="wrong")
    loss = resolve_loss("dapo", regularisers=[resolve_regulariser("nll_on_correct", coefficient=0.5)])
    rest = [n for n in range(len(batch.samples)) if not batch.taught[n]]
    assert set(np.flatnonzero(batch.success)) == set(rest)
    _, metrics = gradient(loaded, batch, LIVE, loss)
    with torch.no_grad():
        own = [
            -logits(loaded, s).log_softmax(-1)[n, t].item()
            for s in (batch.samples[n] for n in rest)
            for n, t in enumerate(t for t, on in zip(s.tokens, s.train, strict=True) if on)
        ]
        weights = [batch.weight[n] for n in rest for _ in range(batch.samples[n].trained)]
    tokens = sum(s.trained for s in batch.samples)
    got = metrics["nll_on_correct"] * len(own) / tokens
    assert got == pytest.approx(np.dot(own, weights) / len(own), rel=1e-3)


def test_the_teacher_of_a_model_that_is_trained_elsewhere_is_untouched(loaded: LoadedModel) -> None:
    """Reading lessons changes neither weights nor gradients."""
    batch = batch_of()
    for kind in ("live", "ema", "trust_region"):
        trainer = trainer_of(loaded, Distill(teacher=kind))
        assert isinstance(trainer.teacher, Teacher)
        before = {n: p.clone() for n, p in loaded.model.named_parameters()}
        trainer.teacher.lessons(batch.teachers, np.flatnonzero(batch.taught).tolist())
        for name, p in loaded.model.named_parameters():
            assert torch.equal(p, before[name]) and p.grad is None
