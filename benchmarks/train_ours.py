"""Our side of train_vs_trl.py and train_cost.py: a process that makes one step of training when it is told to.

Of several (torchrun) rank 0 is told, and what it measures is its own share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401 - before the floor is measured
from train_meter import BETAS, CLIP, LR, Line, Meter, fingerprint, optimizer_tensors, question, side_options, worth

from hybrid.answers import Batch
from hybrid.losses import resolve_loss
from hybrid.model import load_trainable
from hybrid.packing import Sample
from hybrid.parallel import Ranks
from hybrid.rollouts import LiveRollouts, Worker
from hybrid.settings import Settings
from hybrid.trainer import Trainer
from hybrid.writing import Writer
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.policy.base import Sampling
from tfgrpo.types import Completion, Group, Problem, Rollout, Score


class Side:
    """The parts of a training run without its record, and an empty set of stop tokens: all answers are full length."""

    def __init__(self, options: argparse.Namespace, meter: Meter) -> None:
        self.options, self.meter = options, meter
        settings = Settings(
            lr=LR,
            betas=BETAS,
            clip=CLIP,
            dtype=options.dtype,
            device=options.device,
            threads=options.threads,
            drift=1e9,  # told, not obeyed: the first batch is another engine's
            **json.loads(options.settings),
        )
        self.worker = Worker()
        self.ranks = Ranks.join(hang_s=600)
        self.loaded = load_trainable(Path(options.model), settings)
        self.loaded.stop_ids.clear()
        self.trainer = Trainer(
            self.loaded, resolve_loss("dapo", correction=None), settings, temperature=1.0, ranks=self.ranks
        )
        self.trainer.weights.optimizer.register_step_post_hook(self._count)
        self.ranks.jobs["update"] = self.trainer.update
        self.rollouts = LiveRollouts(Writer(self.loaded, self.ranks, self.trainer.whole), self.worker)
        self.advantage = resolve_advantage("grpo")
        self.gradient: list[float] = []
        self.steps = 0

    def _count(self, optimizer: Any, *_: Any) -> None:
        self.meter.count([*self.loaded.model.parameters(), *optimizer_tensors(optimizer)])
        masters = self.trainer.weights.masters
        layers = self.loaded.model.config.num_hidden_layers
        self.gradient = [] if self.steps else fingerprint(layers, lambda name: masters[name].grad)

    async def step(self, first: int) -> dict[str, float]:
        """Sample, score, update, on questions `first` and the following."""
        o = self.options
        self.meter.switch("rollout")
        problems = [Problem(id=str(n), messages=tuple(question(n, o.words))) for n in range(first, first + o.prompts)]
        groups = await asyncio.gather(*(self._group(p) for p in problems))
        self.meter.switch("update")
        batch = Batch.of(groups, self.advantage.columns(Table.of(groups)))
        return await self._update(batch)

    async def _group(self, problem: Problem) -> Group:
        o = self.options
        told = {"segments": True, "tempered": True}
        asked = [Sampling(seed=n, max_tokens=o.tokens, temperature=1.0, extra=told) for n in range(o.group)]
        answers = await asyncio.gather(*(self.rollouts.complete(problem.messages, s) for s in asked))
        return Group(problem=problem, rollouts=tuple(_scored(answer) for answer in answers))

    async def replay(self, answers: list[dict[str, Any]]) -> dict[str, float]:
        """An update on answers and advantages of the other side."""
        self.meter.switch("update")
        samples = tuple(
            Sample(
                prompt=tuple(a["prompt"]),
                tokens=tuple(a["tokens"]),
                train=(True,) * len(a["tokens"]),
                logps=(0.0,) * len(a["tokens"]),
                segment=(0,) * len(a["tokens"]),
            )
            for a in answers
        )
        count = len(samples)
        values = np.array([a["advantage"] for a in answers])
        whole = np.ones(count, dtype=bool)
        return await self._update(
            Batch(
                samples=samples,
                advantage=values,
                weight=np.ones(count),
                success=whole,
                in_loss=whole,
                group=np.array([a.get("group", 0) for a in answers]),
            )
        )

    async def _update(self, batch: Batch) -> dict[str, float]:
        metrics = await self.worker(lambda: self.ranks.lead("update", batch=batch, max_tokens=self.options.tokens))
        self.steps += 1
        await self.rollouts.renew(self.steps)
        self.meter.switch(None)
        return metrics


def _scored(answer: Completion) -> Rollout:
    return Rollout(completion=answer, score=Score(value=worth(answer.segments[1].token_ids)))


async def serve(options: argparse.Namespace) -> None:
    line, meter = Line(), Meter(options.device)
    side = Side(options, meter)
    if not side.ranks.leading:
        await side.worker(side.ranks.follow)
        side.ranks.close()
        return
    prompt = side.loaded.prompt_ids(question(0, options.words))
    config = side.loaded.model.config
    heads = config.num_attention_heads
    shape = {
        "layers": config.num_hidden_layers,
        "heads": heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
    }
    line.say(
        prompt_tokens=len(prompt),
        parameters=sum(p.numel() for p in side.loaded.model.parameters()),
        setup=side.loaded.words,
        shape=shape,
        torch=torch.__version__,
    )
    asked = 0
    while (job := line.heard()) is not None:
        if "answers" in job:
            metrics = await side.replay(job["answers"])
        else:
            metrics = await side.step(asked)
            asked += options.prompts
        line.say(metrics=metrics, gradient=side.gradient, **meter.taken())
    await side.rollouts.aclose()
    await side.worker(side.ranks.stop)
    await side.worker.aclose()
    side.ranks.close()


if __name__ == "__main__":
    asyncio.run(serve(side_options(__doc__)))
