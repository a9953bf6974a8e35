"""Agreement with the losses of TRL and verl on random answers: values and gradients.

They pin other versions than we do, so they run in an environment of their own (`make oracles`; TFGRPO_ORACLES_PYTHON
names another interpreter) and are skipped where they are not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenbatch import count, drawn, gradient

from hybrid.batch import Tokens
from hybrid.divergence import Lesson, Measure, Voice, taught_scores
from hybrid.head import Head, token_scores
from hybrid.losses import Loss, resolve_aggregate, resolve_loss, resolve_regulariser
from hybrid.losses.divergences import sampled_token

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
LIMIT = 9
COLUMNS = ("logp", "old", "sampler", "reference", "mask", "advantage")


def interpreter(package: str) -> str:
    """The first interpreter that has the package."""
    own = [os.environ.get("TFGRPO_ORACLES_PYTHON", ""), str(ROOT / ".venv-oracles/bin/python"), sys.executable]
    for python in own:
        probe = [python, "-c", f"import importlib.util as u; raise SystemExit(u.find_spec({package!r}) is None)"]
        if python and Path(python).exists() and subprocess.run(probe, check=False).returncode == 0:
            return python
    pytest.skip(f"{package} is not installed; run: make oracles")


def ask(package: str, jobs: list[dict[str, Any]], script: Path | None = None) -> list[dict[str, Any]]:
    script = script or Path(__file__).with_name(f"oracle_{package}.py")
    done = subprocess.run(
        [interpreter(package), str(script)], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def batches() -> list[Tokens]:
    """Every answer has tokens: TRL counts empty ones in its means of answers, verl and we do not."""
    made = []
    for seed in range(6):
        tokens = drawn(seed, drift=0.5 if seed % 2 else 0.1)  # verl cuts k3 at 10
        some = tokens.mask.any(1)
        made.append(replace(tokens, weight=None, entropy=None).rows(some))
    return made


def columns(tokens: Tokens) -> dict[str, Any]:
    clean = tokens.clean()
    return {n: (tokens if n == "advantage" else clean).columns()[n].tolist() for n in COLUMNS}


def agree(loss: Loss, tokens: Tokens, theirs: dict[str, Any], name: str) -> dict[str, float]:
    value, slope, metrics = gradient(loss, tokens, count(tokens, max_tokens=LIMIT))
    assert value == pytest.approx(theirs["value"], abs=1e-7), name
    np.testing.assert_allclose(slope.numpy(), np.array(theirs["gradient"]), atol=1e-7, err_msg=name)
    return metrics


def test_trl() -> None:
    k3 = [resolve_regulariser("k3", coefficient=0.04)]
    plain: dict[str, Any] = {"correction": None}
    sequence = {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}
    cases: dict[str, tuple[dict[str, Any], Loss]] = {
        "grpo": ({"loss_type": "grpo"}, resolve_loss("grpo", **plain)),
        "grpo with k3": ({"loss_type": "grpo", "beta": 0.04}, resolve_loss("grpo", regularisers=k3, **plain)),
        "bnpo": ({"loss_type": "bnpo"}, resolve_loss("bnpo", **plain)),
        "dr_grpo": ({"loss_type": "dr_grpo"}, resolve_loss("dr_grpo", **plain)),
        "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, resolve_loss("dapo", **plain)),
        "gspo": ({"loss_type": "grpo", **sequence}, resolve_loss("gspo", **plain)),
        "cispo": ({"loss_type": "cispo", "epsilon_high": 1.5}, resolve_loss("cispo", high=0.5, **plain)),
        "truncated": ({"loss_type": "dapo", "use_vllm": True, "beta": 0.04}, resolve_loss("bnpo", regularisers=k3)),
    }
    jobs = [{"options": options, "columns": columns(tokens)} for options, _ in cases.values() for tokens in batches()]
    answers = iter(ask("trl", jobs))
    for name, (_, loss) in cases.items():
        for tokens in batches():
            agree(loss, tokens, next(answers), name)


def test_verl() -> None:
    wide = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
    tight = {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}
    norm = resolve_aggregate("constant")
    k2 = [resolve_regulariser("k2", coefficient=0.1)]
    k3 = [resolve_regulariser("k3", coefficient=0.1)]
    none: dict[str, Any] = {"correction": None}
    cases: dict[str, tuple[dict[str, Any], Loss]] = {
        "dual clip": (
            {"loss": "vanilla", "aggregate": "token-mean", "options": wide},
            resolve_loss("dapo", dual=3.0, **none),
        ),
        "means of answers": (
            {"loss": "vanilla", "aggregate": "seq-mean-token-mean", "options": wide, "kl": "k2"},
            resolve_loss("dapo", dual=3.0, aggregate="seq_mean_token_mean", regularisers=k2, **none),
        ),
        "sums of answers": (
            {"loss": "vanilla", "aggregate": "seq-mean-token-sum", "options": wide, "kl": "k3"},
            resolve_loss("dapo", dual=3.0, aggregate="seq_mean_token_sum", regularisers=k3, **none),
        ),
        "constant": (
            {
                "loss": "vanilla",
                "aggregate": "seq-mean-token-sum-norm",
                "options": {**wide, "global_batch_info": {"loss_scale_factor": LIMIT}},
            },
            resolve_loss("dapo", dual=3.0, aggregate=norm, **none),
        ),
        "gspo": ({"loss": "gspo", "aggregate": "seq-mean-token-mean", "options": tight}, resolve_loss("gspo", **none)),
        "gspo by token": (
            {"loss": "gspo", "aggregate": "token-mean", "options": tight},
            resolve_loss("gspo", aggregate="token_mean", **none),
        ),
        "cispo": (
            {"loss": "cispo", "aggregate": "token-mean", "options": wide},
            resolve_loss("cispo", low=0.2, high=0.28, **none),
        ),
        "truncated": (
            {"loss": "vanilla", "aggregate": "token-mean", "options": wide, "corrected": True},
            resolve_loss("dapo", dual=3.0),
        ),
    }
    jobs = [
        {"corrected": False, "kl": "", **job, "columns": columns(tokens)}
        for job, _ in cases.values()
        for tokens in batches()
    ]
    answers = iter(ask("verl", jobs))
    for name, (_, loss) in cases.items():
        for tokens in batches():
            theirs = next(answers)
            metrics = agree(loss, tokens, theirs, name)
            found = metrics["clipped_low"] + metrics["clipped_high"]
            assert found == pytest.approx(theirs["clipped"], abs=1e-6), name


def test_trl_counts_empty_answers_in_means_of_answers_and_we_do_not() -> None:
    tokens = batches()[0]
    empty = tokens.rows(torch.tensor([0, 1, 0]))
    mask = empty.mask.clone()
    mask[2] = 0
    padded = replace(empty, mask=mask, sampler=empty.sampler)
    theirs = ask("trl", [{"options": {"loss_type": "grpo"}, "columns": columns(padded)}])[0]
    value, _, _ = gradient(resolve_loss("grpo", correction=None), padded)
    assert theirs["value"] == pytest.approx(value * 2 / 3)


def test_distillation_of_trl() -> None:
    """Through the chunked head, whose weight is the identity: hidden states are logits, and so is their gradient."""
    draw = torch.Generator().manual_seed(0)
    tokens, words = 12, 17
    cases = [(a, k, t) for a in (0.0, 0.3, 1.0) for k, t in ((1, True), (5, True), (5, False), (None, True))]
    jobs: list[dict[str, Any]] = []
    for alpha, k, tail in [*cases, (1.0, 0, True)]:
        student, teacher = 2 * torch.randn(2, tokens, words, generator=draw, dtype=torch.float64)
        written = torch.randint(words, (tokens,), generator=draw)
        logp = student.log_softmax(-1).gather(-1, written[:, None])[:, 0]
        old = logp + 0.8 * torch.randn(tokens, generator=draw, dtype=torch.float64)
        columns = {"student": student, "teacher": teacher, "written": written, "old": old}
        jobs.append({"alpha": alpha, "k": k, "tail": tail, "cap": 2.0, **{n: c.tolist() for n, c in columns.items()}})
    for job, theirs in zip(jobs, ask("trl", jobs, Path(__file__).with_name("oracle_sdpo.py")), strict=True):
        name = f"alpha={job['alpha']}, k={job['k']}, tail={job['tail']}"
        student = torch.tensor(job["student"], dtype=torch.float64, requires_grad=True)
        teacher, written = torch.tensor(job["teacher"], dtype=torch.float64), torch.tensor(job["written"])
        head = Head(weight=torch.eye(words, dtype=torch.float64))
        lesson = Lesson.of([Voice(hidden=teacher, head=head)], written, rows=5)
        at = torch.arange(tokens)
        if job["k"] == 0:
            logp, _ = token_scores(student, written, head, rows=5)
            terms = sampled_token(logp, lesson.logp)
        else:
            measure = Measure(alpha=job["alpha"], k=job["k"], tail=job["tail"])
            scores = taught_scores(student, written, head, lesson=lesson, at=at, measure=measure, rows=5)
            logp, terms = scores.logp, scores.divergence
        weight = torch.exp(logp.detach() - torch.tensor(job["old"])).clamp(max=job["cap"])
        (weight * terms).mean().backward()
        assert student.grad is not None
        np.testing.assert_allclose((weight * terms).detach().numpy(), theirs["value"], atol=1e-7, err_msg=name)
        np.testing.assert_allclose(student.grad.numpy(), np.array(theirs["gradient"]), atol=1e-7, err_msg=name)
