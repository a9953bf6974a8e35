"""How long the estimators take on a million rollouts, as a ratio to the same formula written by hand for that shape.

    python benchmarks/advantages.py [--rollouts 1000000] [--size 8] [--runs 15]

The hand-written form is numpy on a matrix [groups, size]: equal groups, no missing reward, no filter. Ours is the
preset on a table with labels, which allows for all of that; the table is made anew for every run, so that finding the
groups is part of the time. Runs alternate, and medians are compared. "mixed up" has the same rows in random order,
"ragged" has groups of 1 to 2 * size - 1: a matrix cannot hold those, so that their ratio is to the even case.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tfgrpo.advantage import Table, resolve_advantage

Matrix = NDArray[np.float64]  # [groups, size]
EPS = 1e-6


def grpo(r: Matrix) -> Matrix:
    off = r - r.mean(1, keepdims=True)
    deviation = np.sqrt((off * off).sum(1, keepdims=True) / (r.shape[1] - 1))
    return off / (deviation + EPS)


def rloo(r: Matrix) -> Matrix:
    return (r - r.mean(1, keepdims=True)) * (r.shape[1] / (r.shape[1] - 1))


def gdpo(r: Matrix, other: Matrix) -> Matrix:
    total = grpo(r) + grpo(other)
    return (total - total.mean()) / (total.std(ddof=1) + EPS)


def ngrpo(r: Matrix) -> Matrix:
    size = r.shape[1]
    off = r - (r.sum(1, keepdims=True) + 1) / (size + 1)
    virtual = 1 - (r.sum(1, keepdims=True) + 1) / (size + 1)
    return off / (np.sqrt(((off * off).sum(1, keepdims=True) + virtual**2) / size) + EPS)


def mc_grpo(r: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
    middle = (r.shape[1] - 1) // 2
    off = r - np.partition(r, middle, axis=1)[:, middle, None]
    distance = np.partition(np.abs(off), middle, axis=1)[:, middle, None]
    deviation = r.std(1, ddof=1, keepdims=True)
    values = off / (np.where(distance > 1e-9, distance, deviation) + 1e-3)
    in_loss = np.ones(r.shape, dtype=np.bool_)
    in_loss[np.arange(len(r)), (off == 0).argmax(1)] = False
    return values, in_loss


HAND: dict[str, Callable[..., object]] = {"grpo": grpo, "rloo": rloo, "gdpo": gdpo, "ngrpo": ngrpo, "mc_grpo": mc_grpo}


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def table_of(reward: NDArray[np.float64], group: NDArray[np.int64], other: NDArray[np.float64]) -> Table:
    """A table whose groups have not been looked at."""
    return Table.of_columns(reward=reward, group=group, parts={"first": reward, "second": other})


def compare(
    name: str, hand: Callable[[], object], tables: dict[str, Callable[[], Table]], runs: int
) -> dict[str, float]:
    """Median seconds by hand and of each table, in turns."""
    advantage = resolve_advantage(name)
    taken: dict[str, list[float]] = {case: [] for case in ("by hand", *tables)}
    for _ in range(runs + 1):
        taken["by hand"].append(seconds(hand))
        for case, make in tables.items():
            table = make()
            taken[case].append(seconds(lambda table=table: advantage.columns(table)))  # type: ignore[misc]
    return {case: statistics.median(times[1:]) for case, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    groups = options.rollouts // options.size
    rows = groups * options.size
    reward, other, group = draw.random(rows), draw.random(rows), np.arange(rows) // options.size
    order = draw.permutation(rows)
    sizes = draw.integers(1, 2 * options.size, 2 * groups)
    ragged = np.repeat(np.arange(len(sizes)), sizes)[:rows]
    tables: dict[str, Callable[[], Table]] = {
        "even": lambda: table_of(reward, group, other),
        "ragged": lambda: table_of(reward[: len(ragged)], ragged, other[: len(ragged)]),
        "mixed up": lambda: table_of(reward[order], group[order], other[order]),
    }
    matrix, second = reward.reshape(groups, options.size), other.reshape(groups, options.size)
    print(f"{rows} rollouts in groups of {options.size}, median of {options.runs} runs")
    for name, formula in HAND.items():
        hand = (lambda: gdpo(matrix, second)) if name == "gdpo" else (lambda formula=formula: formula(matrix))  # type: ignore[misc]
        expected = formula(matrix, second) if name == "gdpo" else formula(matrix)
        values = expected[0] if isinstance(expected, tuple) else expected
        columns = resolve_advantage(name).columns(tables["even"]())
        kept = expected[1].reshape(-1) if isinstance(expected, tuple) else columns.in_loss
        np.testing.assert_allclose(columns.advantage, np.asarray(values).reshape(-1) * kept, atol=1e-9)
        medians = compare(name, hand, tables, options.runs)
        times = "  ".join(
            f"{case} {1000 * taken:6.1f} ms ({taken / medians['by hand']:4.2f} x)" for case, taken in medians.items()
        )
        print(f"{name:8} {times}")


if __name__ == "__main__":
    main()
