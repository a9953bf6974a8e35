"""Batches of random answers for the trainer's tests, and the plain way to score them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid.answers import Batch
from hybrid.model import load_trainable
from hybrid.packing import Sample
from hybrid.settings import Settings
from tfgrpo.policy.local_loading import LoadedModel

TEMPERATURE = 0.8
MAX_TOKENS = 12
EXACT = Settings(dtype="float32", device="cpu", threads=1, drift=1e9)


def loaded_at(folder: Path, **settings: Any) -> LoadedModel:
    return load_trainable(folder, replace(EXACT, **settings))


def batch_of(seed: int = 0, *, groups: int = 4, uniform: tuple[int, ...] = (), left_out: tuple[int, ...] = ()) -> Batch:
    """Ragged groups of random tokens; those in `uniform` have advantage 0, answers in `left_out` leave the loss."""
    draw = random.Random(seed)
    samples, advantage, problem = [], [], []
    for group in range(groups):
        prompt = tuple(draw.randrange(3, 26) for _ in range(draw.randrange(3, 8)))
        for _ in range(draw.randrange(2, 5)):
            size = draw.randrange(1, 9)
            tokens = tuple(draw.randrange(26) for _ in range(size))
            train = tuple(n != 2 or size < 5 for n in range(size))
            logps = tuple(-draw.random() if t else 0.0 for t in train)
            samples.append(Sample(prompt=prompt, tokens=tokens, train=train, logps=logps, segment=(0,) * size))
            problem.append(group)
            advantage.append(0.0 if group in uniform else draw.choice([-1.0, -0.5, 0.7, 1.5]))
    count = len(samples)
    in_loss = np.array([n not in left_out for n in range(count)])
    values = np.array(advantage)
    return Batch(
        samples=tuple(samples),
        advantage=values,
        weight=np.ones(count),
        success=values > 0,
        in_loss=in_loss,
        group=np.array(problem),
    )


def with_sampler(batch: Batch, loaded: LoadedModel) -> Batch:
    """The batch as if the model itself had sampled it: its log-probs are the sampler's."""
    made = []
    for sample in batch.samples:
        own = plain_logps(loaded, sample).detach().tolist()
        logps = tuple(p if t else 0.0 for p, t in zip(own, sample.train, strict=True))
        made.append(replace(sample, logps=logps))
    return replace(batch, samples=tuple(made))


def plain_logps(loaded: LoadedModel, sample: Sample) -> torch.Tensor:
    """All tokens of one answer, one sequence at a time, whole logits."""
    ids = torch.tensor([[*sample.prompt, *sample.tokens]])
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(sample.prompt) - 1 : -1]
    logps = torch.log_softmax(logits / TEMPERATURE, -1)
    return logps.gather(-1, torch.tensor(sample.tokens)[:, None])[:, 0]
