"""Which of a small model's own answers help it when they are shown as worked examples, and where to show them?

Samples groups on learning problems, takes winning answers as the example critic does, and measures each one alone on
problems that it never saw: accuracy with the example minus accuracy without it, by placement, with a 95 % interval
(bootstrap over problems). Nothing but the model's own verbatim answers is ever shown.

    python benchmarks/local_examples.py
    python benchmarks/local_examples.py --placements turns,user,system --candidates 6 --together 1,2,3
    python benchmarks/local_examples.py --question "Largest of {}, {}, {}?" --high 99 --temperature 0.7
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experience_store.render import apply
from experience_store.types import Experience, Layout
from tasks import largest_of_three
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.local import LocalPolicy
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem


class Bench:
    """A model and a task, asked many times; every answer has a seed of its own."""

    def __init__(self, policy: LocalPolicy, task: Task, sampling: Sampling) -> None:
        self.policy, self.task, self.sampling = policy, task, sampling
        self.speed = ""
        self._asked = 0

    async def answers(
        self, problems: Sequence[Problem], samples: int, shown: Sequence[Experience] = (), placement: str = "turns"
    ) -> tuple[np.ndarray, list[list[Completion]]]:
        """Scores [P, K] and the completions."""
        layout = Layout(placement=placement)  # type: ignore[arg-type]
        calls = []
        for problem in problems:
            messages = apply(problem.messages, shown, layout).messages
            for _ in range(samples):
                self._asked += 1
                calls.append(self.policy.complete(messages, replace(self.sampling, seed=self._asked)))
        begun, cpu = time.perf_counter(), time.process_time()
        done = await asyncio.gather(*calls)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        tokens = sum(c.usage.completion_tokens for c in done) / len(done)
        self.speed = f"{len(done) / wall:.0f} answers/s, {len(done) / cpu:.0f} per CPU second, {tokens:.1f} tokens each"
        rows = [list(done[i * samples : (i + 1) * samples]) for i in range(len(problems))]
        scores = [await self.task.reward(p, row) for p, row in zip(problems, rows, strict=True)]
        return np.array([[s.value if s else np.nan for s in row] for row in scores]), rows


def interval(values: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    picked = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[picked].mean(1), [2.5, 97.5])
    return float(low), float(high)


def winners(problems: Sequence[Problem], scores: np.ndarray, rows: list[list[Completion]]) -> list[Experience]:
    """The shortest winning answer of every mixed group, as the example critic takes it."""
    found = []
    for problem, values, row in zip(problems, scores, rows, strict=True):
        texts = [c.text.strip() for c, value in zip(row, values, strict=True) if value >= 1]
        if 0 < len(texts) < len(row):
            best = min(texts, key=len)
            found.append(Experience(id=f"E{len(found) + 1}", text=best, kind="example", question=problem.question))
    return found


async def study(bench: Bench, options: argparse.Namespace) -> None:
    learn, test = bench.task.learn, bench.task.test
    scores, rows = await bench.answers(learn, options.group)
    solved = scores.sum(1)
    mixed = float(((solved > 0) & (solved < options.group)).mean())
    print(f"learn: {len(learn)} groups of {options.group}: mean {scores.mean():.3f}, mixed {mixed:.2f}; {bench.speed}")
    found = winners(learn, scores, rows)[: options.candidates]
    base = (await bench.answers(test, 2 * options.samples))[0].mean(1)
    low, high = interval(base)
    print(f"without examples, {len(test)} unseen problems: {base.mean():.3f} [{low:.3f}, {high:.3f}]; {bench.speed}")
    print(f"model: {bench.policy.setup}")
    for placement in options.placements.split(","):
        gains: list[float] = []
        for size in map(int, options.together.split(",")):
            for start in range(0, len(found) - size + 1, size):
                shown = found[start : start + size]
                after = (await bench.answers(test, options.samples, shown, placement))[0].mean(1)
                low, high = interval(after - base)
                gains.append(float((after - base).mean()))
                words = " | ".join(e.text for e in shown)
                print(
                    f"{placement:6s} {after.mean():.3f} gain {gains[-1]:+.3f} [{low:+.3f}, {high:+.3f}] {words!r}; "
                    f"{bench.speed}",
                    flush=True,
                )
        helps = np.mean(np.array(gains) >= 0.15)
        print(f"{placement}: mean gain {np.mean(gains):+.3f}, best {max(gains):+.3f}, {helps:.0%} of them >= 0.15")


async def run(options: argparse.Namespace) -> None:
    if options.question:
        largest_of_three.QUESTION = options.question
    task = largest_of_three.task(
        learn=options.learn, gate=1, test=options.problems, low=options.low, high=options.high, seed=options.seed
    )
    policy = LocalPolicy(options.model, max_rows=options.rows)
    await policy.start()
    sampling = Sampling(temperature=options.temperature, max_tokens=options.max_tokens)
    print(f"{task.learn[0].question!r}, temperature {options.temperature}, {options.max_tokens} tokens")
    await study(Bench(policy, task, sampling), options)
    await policy.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="local/smollm2")
    parser.add_argument("--question", default="", help="other words, with {} for each of the three numbers")
    parser.add_argument("--low", type=int, default=10)
    parser.add_argument("--high", type=int, default=99)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--learn", type=int, default=30)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--together", default="1", help="how many examples at once, for example 1,2,3")
    parser.add_argument("--placements", default="turns")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
