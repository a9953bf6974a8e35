"""A real model as solver and critic, through a server by URL: the default, the paper's preset, and no gate.

    python benchmarks/real_models.py --model http://127.0.0.1:8000/v1#NAME --tasks house_extraction word_sorting

One line per task and configuration: test accuracy before and after with 95 % intervals, the paired gain, calls, tokens
and seconds. A gain inside the noise is called that. Each run keeps its folder, so that a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import tfgrpo
from tfgrpo import Budget
from tfgrpo.critic import CriticSpec
from tfgrpo.learner import Gate

CONFIGURATIONS: dict[str, tuple[str, Gate]] = {
    "default": ("lessons", "evidence"),
    "paper": ("paper", "none"),
    "no gate": ("lessons", "none"),
    "references": ("references", "evidence"),
}


def measure(options: argparse.Namespace, name: str, configuration: str, seed: int) -> dict[str, Any]:
    """One run."""
    task = tfgrpo.load_task(name)
    task = dataclasses.replace(task, test_samples=options.samples)
    home = Path(options.out) / f"{name}-{configuration.replace(' ', '-')}-{seed}"
    kind, gate = CONFIGURATIONS[configuration]
    report = tfgrpo.learn(
        task,
        model=options.model,
        critic=CriticSpec(kind, options.model, options.critic_tokens),
        gate=gate,
        store=str(home / "store"),
        runs=home / "runs",
        budget=Budget(calls=options.calls),
        group=options.group,
        concurrency=options.concurrency,
        seed=seed,
    )
    return {
        "task": name,
        "configuration": configuration,
        "seed": seed,
        "before": report.before and report.before.words(),
        "after": report.after and report.after.words(),
        "gain": report.gain_words or report.why,
        "gate": report.gate_words,
        "served": len(report.learned),
        "calls": report.total["calls"],
        "tokens": report.total["prompt_tokens"] + report.total["completion_tokens"],
        "seconds": round(report.seconds),
        "texts": [row["text"][:160] for row in report.learned],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", nargs="+", default=["house_extraction", "json_record", "word_sorting"])
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--group", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--critic-tokens", type=int, default=1200, help="limit of one reply; small models ramble")
    parser.add_argument("--out", default="runs/real-models")
    options = parser.parse_args()
    for name in options.tasks:
        for configuration in options.configurations:
            for seed in options.seeds:
                print(json.dumps(measure(options, name, configuration, seed)), flush=True)


if __name__ == "__main__":
    main()
