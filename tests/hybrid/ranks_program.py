"""What each process of tests/hybrid/test_parallel.py runs under torchrun; rank 0 prints one line of JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def gradients(folder: str, parallel: str) -> dict[str, Any]:
    """Loss, metrics and gradients of one batch, whole, for each way to learn from it."""
    import torch

    from hybrid.distill import Distill
    from hybrid.parallel import Ranks

    ranks = Ranks.join(hang_s=60)
    teachers = {
        "live": Distill(teacher="live", k=5),
        "ema": Distill(teacher="ema", k=None),
        "trust_region": Distill(teacher="trust_region", rate=0.3, k=5, tail=False),
        "written token": Distill(teacher="live", k=0, alpha=1.0),
    }
    ways = {**dict.fromkeys(("dapo", "grpo_kl", "thr")), **teachers}
    found = {way: _of_batch(Path(folder), parallel, ranks, way, distill) for way, distill in ways.items()}
    if ranks.leading:
        torch.save({way: tensors for way, (_, tensors) in found.items()}, os.environ["TENSORS"])
    ranks.close()
    return {way: metrics for way, (metrics, _) in found.items()}


def _of_batch(folder: Path, parallel: str, ranks: Any, way: str, distill: Any) -> tuple[dict[str, float], Any]:
    import numpy as np
    import torch
    from tinybatch import EXACT, MAX_TOKENS, TEMPERATURE, batch_of, loaded_at, with_sampler

    from hybrid.losses import resolve_loss
    from hybrid.reprompt import under
    from hybrid.sharding import whole
    from hybrid.trainer import Trainer

    loaded = loaded_at(folder)
    batch = with_sampler(batch_of(3, groups=5, uniform=(1,)), loaded)
    if distill is not None:  # a teacher reads one token more for each answer that was wrong
        longer = [(*sample.prompt, 7) for sample in batch.samples]
        pairs = zip(batch.samples, longer, batch.success, strict=True)
        taught = tuple(None if right else under(sample, prompt) for sample, prompt, right in pairs)
        batch = dataclasses.replace(batch, teachers=taught, in_loss=np.ones(len(taught), dtype=bool))
    settings = dataclasses.replace(EXACT, parallel=parallel, token_budget=46)
    loss = resolve_loss("dapo" if distill else way)
    trainer = Trainer(loaded, loss, settings, temperature=TEMPERATURE, ranks=ranks, distill=distill)
    if trainer.teacher is not None and trainer.teacher.shadow is not None:
        with torch.no_grad():
            for tensor in trainer.teacher.shadow.tensors.values():
                tensor.mul_(1.1)  # as if it were another model
    taken: dict[str, torch.Tensor] = {}
    clear = trainer.weights.clear

    def keep_first() -> None:
        taken.update({n: whole(m.grad).clone() for n, m in trainer.weights.masters.items() if m.grad is not None})
        clear()

    trainer.weights.clear = keep_first  # type: ignore[method-assign]
    metrics = trainer.update(batch, max_tokens=MAX_TOKENS)
    weights = {name: whole(p.detach()).clone() for name, p in trainer.weights.parameters.items()}
    return metrics, {"grads": taken, "weights": weights}


def train(folder: str, out: str, parallel: str, steps: str, more: str = "{}") -> dict[str, Any]:
    """A whole run; the report."""
    import tinytraining

    from hybrid.recipes import resolve_recipe

    given = json.loads(more)
    recipe = {"recipe": resolve_recipe("srpo", **given.pop("srpo"))} if "srpo" in given else {}
    settings = dataclasses.replace(tinytraining.FAST, parallel=parallel, hang_s=60.0, **given)
    report = tinytraining.train(Path(folder), Path(out), steps=int(steps), settings=settings, **recipe)
    return report.as_json()


def lose_a_wave(folder: str) -> dict[str, Any]:
    """The model fails once, on the last rank; what rank 0 is told, and the answers to the same wave afterwards."""
    from contextlib import nullcontext

    from tinybatch import loaded_at

    from hybrid.parallel import Ranks
    from hybrid.writing import DECODERS, Ask, Writer
    from tfgrpo.errors import TransportError
    from tfgrpo.policy.base import Sampling
    from tfgrpo.policy.local_engine import Engine

    ranks = Ranks.join(hang_s=60)
    failures = [RuntimeError("a fault of one moment")] if ranks.rank == ranks.size - 1 else []

    class Failing(Engine):
        def step(self) -> None:
            if failures:
                raise failures.pop()
            super().step()

    DECODERS["failing"] = Failing
    Writer(loaded_at(Path(folder)), ranks, nullcontext, decoder="failing")
    if not ranks.leading:
        ranks.follow()
        ranks.close()
        return {}
    wave = [Ask(prompt=(5 + n, 6, 7), sampling=Sampling(max_tokens=4, seed=n)) for n in range(4)]
    try:
        ranks.lead("write answers", wave=wave)
        said = ""
    except TransportError as error:
        said = str(error)
    answers = ranks.lead("write answers", wave=wave)
    ranks.stop()
    ranks.close()
    return {"said": said, "lengths": [len(tokens) for tokens, _ in answers]}


def hang(phase: str) -> dict[str, Any]:
    """Rank 1 never comes back from a job."""
    from hybrid.parallel import Ranks

    ranks = Ranks.join(hang_s=4)
    ranks.jobs[phase] = lambda: time.sleep(600) if ranks.rank else ranks.gather("done")
    if ranks.leading:
        ranks.lead(phase)
    else:
        ranks.follow()
    return {}


def freeze() -> dict[str, Any]:
    """Rank 1 is stopped by a signal while rank 0 waits for it."""
    import signal

    from hybrid.parallel import Ranks

    ranks = Ranks.join(hang_s=6)
    ranks.jobs["update"] = lambda: os.kill(os.getpid(), signal.SIGSTOP) if ranks.rank else time.sleep(600)
    if ranks.leading:
        ranks.lead("update")
    else:
        ranks.follow()
    return {}


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    found = globals()[what](*given)
    if os.environ.get("RANK", "0") == "0":
        print("FOUND " + json.dumps(found), flush=True)
