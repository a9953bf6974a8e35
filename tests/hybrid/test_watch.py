"""Alarms: each fires on its pattern, none on healthy noise, and each is told once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from tinycounting import Stop, counting, stop_at, train
from tinymodel import save_tiny

from hybrid.progress import Lines
from hybrid.watch import ALARMS, FALSE_ALARMS, WINDOW, Watch, Watched, alarms_of, change, columns, length_drift
from tfgrpo.events import Event
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward
from tfgrpo.task import Task
from tfgrpo.types import Completion, Problem, Score

STEPS = 100
Column = NDArray[np.float64]
Points = list[dict[str, float]]


def noise(rng: Generator, deviation: float, *, steps: int = STEPS, hold: float = 0.5) -> Column:
    """Noise [S] that hangs together from step to step, of a given deviation."""
    made, now = np.empty(steps), rng.normal() * deviation
    for n in range(steps):
        now = hold * now + math.sqrt(1 - hold**2) * rng.normal() * deviation
        made[n] = now
    return made


def way(start: float, end: float, *, steps: int = STEPS) -> Column:
    """From one value to another, fast at first [S]."""
    return start + (end - start) * (1 - np.exp(-3 * np.arange(steps) / steps))


def healthy(rng: Generator, *, steps: int = STEPS) -> Points:
    """A run as it should be: rewards rise or stay, lengths wander, entropy falls a little, parity is noise."""
    shake = partial(noise, rng, steps=steps)
    begin, end = rng.uniform(0.05, 0.4), rng.uniform(0.4, 0.85)
    up = (way(begin, end if rng.random() < 0.8 else begin, steps=steps) + shake(0.05)).clip(0, 1)
    length = rng.uniform(20, 400)
    made = {
        "step": np.arange(1.0, steps + 1),
        "reward": up,
        "success": up,
        "part/right": up,
        "part/form": (way(rng.uniform(0.3, 0.6), rng.uniform(0.6, 0.9), steps=steps) + shake(0.05)).clip(0, 1),
        "part/brief": rng.uniform(0.2, 0.8) + shake(0.05),
        "mixed": (rng.uniform(0.4, 0.7) + shake(0.12)).clip(0, 1),
        "zero_variance": (way(0.4, rng.uniform(0.2, 0.7), steps=steps) + shake(0.12)).clip(0, 1),
        "reward_std": (way(0.35, rng.uniform(0.2, 0.4), steps=steps) + shake(0.04)).clip(0.02, 1),
        "length_reward": (rng.uniform(-0.3, 0.3) + shake(0.2)).clip(-1, 1),
        "length": way(length, length * rng.uniform(0.75, 1.3), steps=steps) * np.exp(shake(0.1)),
        "truncated": (way(rng.uniform(0, 0.5), rng.uniform(0, 0.3), steps=steps) + shake(0.08)).clip(0, 1),
        "entropy": way(1.0, rng.uniform(0.35, 1.1), steps=steps) * np.exp(shake(0.15)),
        "kl_k3": way(0.0, rng.uniform(0.005, 0.1), steps=steps) * np.exp(shake(0.4)),
        "parity_mean": 0.02 * np.exp(shake(0.3)),
    }
    points = [{name: float(column[n]) for name, column in made.items()} for n in range(steps)]
    for point in points:
        if rng.random() < 0.1:  # a step without anything to learn measures nothing
            for name in ("entropy", "kl_k3", "parity_mean"):
                del point[name]
    return points


def planted(points: Points, *, at: int = 30, over: int = 10, **columns: tuple[float, float]) -> Points:
    """The same curve, with columns that from step `at` on go from one value to another within `over` steps.

    Their noise is a tenth of the way; before, they stand at the first value.
    """
    rng = np.random.default_rng(7)
    changed = [dict(point) for point in points]
    for name, (start, end) in columns.items():
        for n, point in enumerate(changed):
            share = min(1.0, max(0.0, (n - at) / over))
            point[name] = start + (end - start) * share + rng.normal() * abs(end - start) * 0.1
    return changed


PATTERNS: dict[str, dict[str, tuple[float, float]]] = {
    "one_part": {
        "reward": (0.2, 0.6), "part/form": (0.2, 0.95), "part/right": (0.5, 0.2), "part/brief": (0.5, 0.3),
    },
    "variance_collapse": {"zero_variance": (0.4, 0.97), "success": (0.3, 0.05), "reward": (0.3, 0.05)},
    "length_drift": {"length": (100, 260), "reward": (0.3, 0.3), "length_reward": (0.1, 0.1)},
    "entropy_collapse": {"entropy": (1.2, 0.06), "success": (0.2, 0.3)},
    "kl_blowup": {"kl_k3": (0.01, 2.0)},
    "parity_drift": {"parity_mean": (0.01, 0.09)},
    "all_cut": {"truncated": (0.2, 1.0), "success": (0.3, 0.1)},
}  # fmt: skip


@pytest.mark.parametrize("name", ALARMS)
def test_every_alarm_fires_on_its_pattern_once_and_soon(name: str) -> None:
    for seed in range(5):
        curve = planted(healthy(np.random.default_rng(seed), steps=60), **PATTERNS[name])
        told = [alarm for alarm in alarms_of(curve) if alarm.name == name]
        assert len(told) == 1, (seed, alarms_of(curve))
        assert 30 <= told[0].step <= 30 + 10 + 2 * WINDOW
        assert told[0].numbers and all(math.isfinite(value) for value in told[0].numbers.values())


def test_patterns_and_alarms_are_the_same_names() -> None:
    assert set(PATTERNS) == set(ALARMS)


def quiet_share(count: int, steps: int) -> float:
    alarmed = [bool(alarms_of(healthy(np.random.default_rng(seed), steps=steps))) for seed in range(count)]
    return sum(alarmed) / count


def test_healthy_runs_are_left_alone() -> None:
    assert quiet_share(200, 40) <= FALSE_ALARMS


@pytest.mark.slow
def test_long_healthy_runs_are_left_alone() -> None:
    assert quiet_share(2000, STEPS) <= FALSE_ALARMS


def flat(steps: int = 40, **columns: tuple[float, float]) -> Points:
    """A curve of a few columns and nothing else, without noise: half at one value, half at another."""
    return [
        {"step": n + 1.0, **{name: (start if n < steps // 2 else end) for name, (start, end) in columns.items()}}
        for n in range(steps)
    ]


def names(points: Points) -> list[str]:
    return [alarm.name for alarm in alarms_of(points)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"length": (100, 200), "reward": (0.3, 0.3)}, ["length_drift"]),
        ({"length": (100, 140), "reward": (0.3, 0.3)}, []),  # not by much
        ({"length": (100, 200), "reward": (0.3, 0.5)}, []),  # it pays, and not by length alone
        ({"length": (100, 200), "reward": (0.3, 0.5), "length_reward": (0.0, 0.8)}, ["length_drift"]),
        ({"length": (200, 100), "reward": (0.3, 0.3)}, ["length_drift"]),
        ({"length": (200, 100), "reward": (0.3, 0.5), "length_reward": (-0.8, -0.8)}, []),  # short and better
        ({"entropy": (1.0, 0.1), "success": (0.2, 0.3)}, ["entropy_collapse"]),
        ({"entropy": (1.0, 0.1), "success": (0.2, 0.95)}, []),  # it knows the answers
        ({"entropy": (1.0, 0.3), "success": (0.2, 0.3)}, []),
        ({"zero_variance": (0.95, 0.95)}, []),  # it never was otherwise: no collapse
        ({"reward_std": (0.4, 0.05)}, ["variance_collapse"]),
        ({"kl_k3": (0.0, 0.6)}, ["kl_blowup"]),
        ({"parity_k3": (0.0, 0.6)}, []),  # not a KL to the start
        ({"parity_mean": (1e-6, 9e-5)}, []),  # rounding of float32
        ({"parity_mean": (1e-6, 3e-4)}, ["parity_drift"]),
        ({"truncated": (1.0, 1.0), "success": (0.6, 0.6)}, []),  # right although cut
        ({"truncated": (1.0, 1.0), "success": (0.1, 0.1)}, ["all_cut"]),
        ({"reward": (0.2, 0.6), "part/a": (0.2, 0.9), "part/b": (0.5, 0.2)}, ["one_part"]),
        ({"reward": (0.2, 0.6), "part/a": (0.2, 0.9), "part/b": (0.5, 0.5)}, []),  # the other one stayed
        ({"reward": (0.2, 0.6), "part/a": (0.2, 0.9), "part/b": (0.2, 0.5), "part/c": (0.5, 0.2)}, []),  # two rose
        ({"reward": (0.6, 0.2), "part/a": (0.2, 0.9), "part/b": (0.9, 0.2)}, []),  # no gain
        ({"reward": (0.2, 0.6), "part/a": (0.2, 0.9)}, []),  # nothing to compare with
    ],
)
def test_where_the_lines_are(columns: dict[str, tuple[float, float]], expected: list[str]) -> None:
    assert names(flat(**columns)) == expected


def test_a_solved_task_is_told_as_such() -> None:
    solved = flat(zero_variance=(0.3, 1.0), success=(0.5, 0.98))
    assert "unless the reward can be fooled" in alarms_of(solved)[0].words
    stuck = flat(zero_variance=(0.3, 1.0), success=(0.3, 0.0))
    assert "few groups teach anything" in alarms_of(stuck)[0].words


def test_one_odd_token_is_no_blowup() -> None:
    curve = flat(kl_k3=(0.01, 0.01))
    curve[30]["kl_k3"] = 500.0
    assert names(curve) == []


def test_a_watch_with_little_memory_sees_what_the_rules_see_in_the_whole_curve() -> None:
    rng = np.random.default_rng(3)
    curve = planted(healthy(rng, steps=60), **PATTERNS["length_drift"])
    curve = planted(curve, at=25, **PATTERNS["kl_blowup"])
    first: dict[str, int] = {}
    for n in range(1, len(curve) + 1):
        for name, watched in ALARMS.items():
            if watched.rule(columns(curve[:n]), window=WINDOW) is not None:
                first.setdefault(name, n)
    assert {alarm.name: alarm.step for alarm in alarms_of(curve)} == first
    assert len(first) >= 2


def test_other_limits_and_rules_are_arguments() -> None:
    wide: Callable[..., Watched] = lambda factor: Watched(rule=partial(length_drift, factor=factor), harmless="")  # noqa: E731
    curve = flat(length=(100, 200), reward=(0.3, 0.3))
    assert alarms_of(curve, {"length_drift": wide(3.0)}) == []
    assert [a.name for a in alarms_of(curve, {"length_drift": wide(1.9)})] == ["length_drift"]


def test_short_runs_and_missing_columns_are_quiet() -> None:
    assert alarms_of([]) == []
    assert alarms_of([{"step": 1.0}, {"step": 2.0, "reward": 0.5}]) == []
    assert Watch().see({"step": 1.0, "mine": 3.0}) == []


def test_a_change_is_sure_in_standard_errors() -> None:
    steady = columns([{"x": 1.0}] * 20)
    assert change(steady, "x") is not None and change(steady, "x").sure == 0.0  # type: ignore[union-attr]
    jump = columns([{"x": 0.0}] * 10 + [{"x": 1.0}] * 10)
    found = change(jump, "x")
    assert found is not None and found.sure == math.inf and found.gain == 1.0 and found.ratio == math.inf
    assert change(columns([{"x": 0.0}] * 19), "x") is None
    half = [{"x": float(n % 2)} if n < 4 else {} for n in range(10)] + [{"x": 1.0}] * 10
    assert change(columns(half), "x") is None  # 4 of 10 steps were measured


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its name decides what is sampled, so it is the same each time."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def one_word() -> Task:
    """Every answer is cut off after one token, and none counts as right."""
    return dataclasses.replace(counting(), sampling=Sampling(temperature=1.0, max_tokens=1), test=(), reward=never)


@reward
def never(problem: Problem, completion: Completion) -> Score:
    return Score(value=float(len(completion.text) % 7) / 10, solved=False)


def told(events: list[Event]) -> list[int]:
    return [event.data["step"] for event in events if event.name == "alarm" and event.data["alarm"] == "all_cut"]


def test_a_run_tells_an_alarm_once_and_goes_on(folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    given: dict[str, Any] = {"task": one_word(), "group": 4, "prompts": 1, "on_event": events.append}
    report = train(folder, tmp_path / "whole", steps=13, **given)
    assert told(events) == [WINDOW] and report.steps == 13
    assert [n for n in report.notices if n.startswith(f"alarm all_cut after step {WINDOW}: ")]
    assert "note      alarm all_cut" in str(report)
    with pytest.raises(Stop):
        train(folder, tmp_path / "parts", steps=13, **{**given, "on_event": stop_at("group_done", 6)})
    events.clear()
    train(folder, tmp_path / "parts", steps=13, **given)
    assert told(events) == [WINDOW]  # the steps before the kill count
    events.clear()
    again = train(folder, tmp_path / "parts", steps=15, **given)
    assert told(events) == [] and len(again.notices) == len(report.notices)


def test_an_alarm_is_one_line_on_stderr(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(folder, tmp_path, steps=12, task=one_word(), group=4, prompts=1, on_event=Lines())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alarm all_cut")]
    assert len(lines) == 1 and f"after step {WINDOW}: " in lines[0] and "% of the last answers were cut off" in lines[0]
