"""Recipes side by side on one model: accuracy by step, by token and by second, with intervals over seeds and problems.

    python benchmarks/recipes.py --out ./recipes [--recipes grpo sdpo srpo] [--seeds 0 1 2] [--steps 25]
    python benchmarks/recipes.py --out ./recipes --table                  # of what is there already
    python benchmarks/recipes.py --out ./recipes --option sdpo.teacher=live --option srpo.teacher=live

Every run is `tfgrpo train` with the same task, problems, order, learning rate and number of steps, in a process of its
own; a run is a folder and goes on where it was stopped. The table has one row for each recipe:

- before, after: test accuracy, mean over seeds, with a 95 % interval (Student's t, the unit is the seed; all seeds
  share the test problems, so it says nothing about other problems);
- gain: after minus before of the same seed; the difference to the first recipe's gain, paired by seed;
- by step, token and second: the mean success of training answers over the run (the area under its curve), the tokens
  that were written, seconds, and the gain in points per 100,000 tokens and per minute of training;
- how many answers were taught, and how far student and teacher were apart at the beginning and at the end.

Three seeds are few: that an interval holds 0 does not show that there is no difference. A reward whose feedback names
the right answer tells a teacher more than GRPO ever sees; `--option srpo.feedback=never` takes that away.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t by the number of seeds."""
RESULT = "result.json"
EDGE = 5  # steps at the beginning and at the end of a curve


def one(args: argparse.Namespace, name: str, seed: int) -> None:
    """One run, to its end; its report is left in its folder."""
    import hybrid
    from tfgrpo.cli.options import pairs_of
    from tfgrpo.task import load_task

    options = pairs_of([o.partition(".")[2] for o in args.option if o.startswith(f"{name}.")], "--option")
    out = args.out / f"{name}-{seed}"
    task = load_task(args.task, **pairs_of(args.task_option, "--task-option"))
    from dataclasses import replace

    report = hybrid.train(
        replace(task, test_samples=args.samples),
        model=args.model,
        recipe=hybrid.resolve_recipe(name, **options),
        group=args.group,
        prompts=args.prompts,
        steps=args.steps,
        out=out,
        seed=seed,
        settings=pairs_of(args.set, "--set"),
        on_event=lambda event: told(name, seed, event.name, event.data),
    )
    (out / RESULT).write_text(json.dumps(report.as_json()))


def ended(args: argparse.Namespace, name: str, seed: int) -> bool:
    result = args.out / f"{name}-{seed}" / RESULT
    return result.is_file() and json.loads(result.read_text())["steps"] >= args.steps


def told(name: str, seed: int, event: str, data: Mapping[str, Any]) -> None:
    from hybrid.command import step_words

    if event == "update_done":
        print(f"{name}-{seed} {step_words(data)}", flush=True)
    elif event in ("measured", "alarm", "teaching_failed"):
        print(f"{name}-{seed} {event}: {data.get('words') or data.get('error')}", flush=True)


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.3f} (one seed)"
    half = T_975[min(len(values), max(T_975))] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.3f} ({mean - half:+.3f}..{mean + half:+.3f})"


def mean_of(report: Mapping[str, Any], name: str, part: slice = slice(None)) -> float:
    """The mean of a column of the curve where it has a number."""
    values = [point[name] for point in report["curve"][part] if point.get(name) is not None]
    return statistics.mean(values) if values else math.nan


def gain(report: Mapping[str, Any]) -> float:
    return float(report["after"]["mean"] - report["before"]["mean"])


def learning_s(report: Mapping[str, Any]) -> float:
    """Seconds of sampling and updates, without tests."""
    return float(report["seconds_by"]["sample"] + report["seconds_by"]["update"])


COLUMNS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "mean success in training": lambda r: mean_of(r, "success"),
    "last steps": lambda r: mean_of(r, "success", slice(-EDGE, None)),
    "tokens written": lambda r: float(r["tokens"]),
    "points per 100k tokens": lambda r: 100 * gain(r) / r["tokens"] * 1e5,
    "s per step": lambda r: learning_s(r) / r["steps"],
    "update s per step": lambda r: r["seconds_by"]["update"] / r["steps"],
    "points per minute": lambda r: 100 * gain(r) / learning_s(r) * 60,
    "GiB": lambda r: float(r["memory_gib"]),
    "taught per step": lambda r: mean_of(r, "route/taught"),
    "KL at first": lambda r: mean_of(r, "taught/kl", slice(None, EDGE)),
    "KL at last": lambda r: mean_of(r, "taught/kl", slice(-EDGE, None)),
    "entropy at last": lambda r: mean_of(r, "entropy", slice(-EDGE, None)),
    "length at last": lambda r: mean_of(r, "length", slice(-EDGE, None)),
}


def table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Accuracies with intervals, then everything else as means over seeds."""
    first = next(iter(reports))
    lines = [f"| recipe | seeds | before | after | gain | gain minus {first}'s |", "|---|---|---|---|---|---|"]
    for name, done in reports.items():
        before, after = (statistics.mean(r[when]["mean"] for r in done) for when in ("before", "after"))
        apart = [gain(mine) - gain(other) for mine, other in zip(done, reports[first], strict=False)]
        against = "–" if name == first else interval(apart)
        lines.append(
            f"| {name} | {len(done)} | {before:.3f} | {after:.3f} | {interval([gain(r) for r in done])} | {against} |"
        )
    lines += ["", f"| mean over seeds | {' | '.join(reports)} |", "|---|" + "---|" * len(reports)]
    for column, of in COLUMNS.items():
        cells = [statistics.mean(of(r) for r in done) for done in reports.values()]
        lines.append(f"| {column} | {' | '.join('–' if math.isnan(c) else f'{c:.4g}' for c in cells)} |")
    lines += ["", *curves(reports)]
    return "\n".join(lines)


def curves(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Success of training answers, means over seeds and parts of the run: by steps, then by seconds of training."""
    steps = max(len(r["curve"]) for done in reports.values() for r in done)
    parts = min(8, steps)
    edges = [round(n * steps / parts) for n in range(parts + 1)]
    names = [f"{a + 1}-{b}" for a, b in pairwise(edges)]
    lines = [f"| success in steps | {' | '.join(names)} |", "|---|" + "---|" * parts]
    for name, done in reports.items():
        cells = [statistics.mean(mean_of(r, "success", slice(a, b)) for r in done) for a, b in pairwise(edges)]
        lines.append(f"| {name} | {' | '.join(f'{c:.3f}' for c in cells)} |")
    shortest = min(learning_s(r) for done in reports.values() for r in done)
    bounds = [shortest * (n + 1) / parts for n in range(parts)]
    lines += ["", f"| success after seconds | {' | '.join(f'{b:.0f}' for b in bounds)} |", "|---|" + "---|" * parts]
    for name, done in reports.items():
        cells = [statistics.mean(_success_at(r, bound) for r in done) for bound in bounds]
        lines.append(f"| {name} | {' | '.join(f'{c:.3f}' for c in cells)} |")
    return lines


def _success_at(report: Mapping[str, Any], seconds: float) -> float:
    """Mean success of the EDGE steps before that many seconds of training had passed."""
    spent, seen = 0.0, []
    for point in report["curve"]:
        seen.append(point["success"])
        spent += point["sample_s"] + point["update_s"]
        if spent >= seconds:
            break
    return statistics.mean(seen[-EDGE:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=["grpo", "sdpo", "srpo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--task", default="largest_of_three")
    parser.add_argument("--task-option", action="append", default=[], help="K=V, such as learn=200")
    parser.add_argument("--model", default="local/smollm2")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4, help="of each test problem")
    parser.add_argument("--set", action="append", default=[], help="settings of all runs, K=V")
    parser.add_argument("--option", action="append", default=[], help="of one recipe: NAME.K=V")
    parser.add_argument("--table", action="store_true", help="only of runs that have ended")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args, args.one[0], int(args.one[1]))
        return
    for seed in () if args.table else args.seeds:  # all recipes of a seed, so that what there is can be compared
        for name in args.recipes:
            if not ended(args, name, seed):
                subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name, str(seed)], check=True)
    found = {name: [args.out / f"{name}-{seed}" / RESULT for seed in args.seeds] for name in args.recipes}
    reports = {n: [json.loads(p.read_text()) for p in places if p.is_file()] for n, places in found.items()}
    print(table({name: done for name, done in reports.items() if done}))


if __name__ == "__main__":
    main()
