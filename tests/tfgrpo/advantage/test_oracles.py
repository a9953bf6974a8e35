"""Agreement with the estimators of TRL and verl on random groups.

They pin other versions than we do, so they run in an environment of their own (`make oracles`; TFGRPO_ORACLES_PYTHON
names another interpreter) and are skipped where they are not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfgrpo.advantage import Advantage, Table, chain, decoupled, resolve_advantage, sum_parts, whiten

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
EPS = 1e-4  # TRL's
Parts = np.ndarray[Any, np.dtype[np.float64]]  # [K, N]


def interpreter(package: str) -> str:
    """The first interpreter that has the package."""
    own = [os.environ.get("TFGRPO_ORACLES_PYTHON", ""), str(ROOT / ".venv-oracles/bin/python"), sys.executable]
    for python in own:
        probe = [python, "-c", f"import importlib.util as u; raise SystemExit(u.find_spec({package!r}) is None)"]
        if python and Path(python).exists() and subprocess.run(probe, check=False).returncode == 0:
            return python
    pytest.skip(f"{package} is not installed; run: make oracles")


def ask(package: str, jobs: list[dict[str, Any]]) -> list[list[float]]:
    script = Path(__file__).with_name(f"oracle_{package}.py")
    done = subprocess.run(
        [interpreter(package), str(script)], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[list[float]] = json.loads(done.stdout)
    return answers


def drawn(seed: int, parts: int, rows: int, *, gaps: bool = False) -> Parts:
    """Rewards in quarters, which every float width holds exactly; some groups are all equal, some rewards missing."""
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 5, (parts, rows)) / 4
    values[:, :4] = 0.75
    if gaps:
        values[draw.random(values.shape) < 0.15] = np.nan
        values[:, 9] = np.nan
    return values


def ours(advantage: Advantage, parts: Parts, group: Any) -> Any:
    names = {f"part{k}": column for k, column in enumerate(parts)}
    known = np.where(np.isfinite(parts).any(axis=0), 0.0, np.nan)
    return advantage(Table.of_columns(reward=known, group=group, parts=names))


def plain(parts: Parts) -> list[list[float | None]]:
    return [[None if np.isnan(v) else float(v) for v in column] for column in parts]


def test_trl() -> None:
    weights, size = [1.0, 0.5], 4
    summed = sum_parts({"part0": 1.0, "part1": 0.5})
    whitened = chain(decoupled({"part0": 1.0, "part1": 0.5}, eps=EPS), whiten(eps=EPS))
    cases: dict[str, tuple[str, dict[str, Any], Advantage]] = {
        "group": ("grpo", {"scale_rewards": "group"}, chain(summed, resolve_advantage("grpo", eps=EPS))),
        "batch": (
            "grpo",
            {"scale_rewards": "batch"},
            chain(summed, resolve_advantage("grpo", eps=EPS, scaling="batch")),
        ),
        "none": ("grpo", {"scale_rewards": "none"}, chain(summed, resolve_advantage("dr_grpo"))),
        "gdpo": ("grpo", {"multi_objective_aggregation": "normalize_then_sum"}, whitened),
        "rloo": ("rloo", {}, chain(summed, resolve_advantage("rloo"))),
    }
    tables = [drawn(seed, 2, 24, gaps=seed % 2 == 1) for seed in range(6)]
    jobs = [
        {"trainer": trainer, "options": options, "parts": plain(parts), "weights": weights, "size": size}
        for trainer, options, _ in cases.values()
        for parts in tables
    ]
    answers = iter(ask("trl", jobs))
    group = np.arange(24) // size
    for name, (_, _, advantage) in cases.items():
        for parts in tables:
            np.testing.assert_allclose(ours(advantage, parts, group), next(answers), atol=2e-5, err_msg=name)


def test_verl() -> None:
    weights = [1.0, 0.5]
    summed = sum_parts({"part0": 1.0, "part1": 0.5})
    gdpo = resolve_advantage("gdpo", weights={"part0": 1.0, "part1": 0.5})
    cases: dict[str, tuple[str, dict[str, Any], Advantage]] = {
        "grpo": ("grpo", {}, chain(summed, resolve_advantage("grpo"))),
        "dr_grpo": ("grpo", {"norm_adv_by_std_in_grpo": False}, chain(summed, resolve_advantage("dr_grpo"))),
        "vectorised": ("grpo_vectorized", {}, chain(summed, resolve_advantage("grpo"))),
        "rloo": ("rloo", {}, chain(summed, resolve_advantage("rloo"))),
        "rloo vectorised": ("rloo_vectorized", {}, chain(summed, resolve_advantage("rloo"))),
        "gdpo": ("gdpo", {}, gdpo),
    }
    draw = np.random.default_rng(9)
    ragged = [np.repeat(np.arange(6), draw.integers(2, 8, 6)) for _ in range(6)]
    ragged = [draw.permutation(g) if n % 2 else g for n, g in enumerate(ragged)]
    tables = [(drawn(n, 2, len(group)), group) for n, group in enumerate(ragged)]
    jobs = [
        {"estimator": name, "options": options, "parts": plain(p), "weights": weights, "group": g.tolist()}
        for name, options, _ in cases.values()
        for p, g in tables
    ]
    answers = iter(ask("verl", jobs))
    for name, (_, _, advantage) in cases.items():
        for parts, group in tables:
            np.testing.assert_allclose(ours(advantage, parts, group), next(answers), atol=1e-4, err_msg=name)


def test_verl_lets_a_rollout_alone_keep_its_reward_and_we_do_not() -> None:
    job = {"estimator": "grpo", "options": {}, "parts": [[0.5, 1.0, 0.0]], "weights": [1.0], "group": [0, 1, 1]}
    theirs = ask("verl", [job])[0]
    values = resolve_advantage("grpo")(Table.of_rewards([[0.5], [1, 0]]))
    assert theirs[0] == pytest.approx(0.5, abs=1e-5)
    assert values[0] == 0
    np.testing.assert_allclose(values[1:], theirs[1:], atol=1e-5)
