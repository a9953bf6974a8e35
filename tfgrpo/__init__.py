"""An SDK that makes language models better with learned experience and, when it pays, with learned weights.

    report = tfgrpo.learn("problems.jsonl", model="openai/gpt-4.1-mini", budget=tfgrpo.Budget(usd=3))

Importing this package loads neither numpy nor any model, store or network library; names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfgrpo.api import alearn, learn
    from tfgrpo.budget import Budget
    from tfgrpo.comparing import acompare, compare
    from tfgrpo.contrast import Contrast
    from tfgrpo.errors import TfgrpoError
    from tfgrpo.forecast import Estimate, estimate
    from tfgrpo.late import LateCaller
    from tfgrpo.measure import aevaluate, evaluate
    from tfgrpo.measurement import Measurement
    from tfgrpo.policy import Policy, Price, Sampling, connect
    from tfgrpo.report import Report
    from tfgrpo.rewards.base import group_reward, reward
    from tfgrpo.serving.following import follow
    from tfgrpo.serving.wrapping import wrap
    from tfgrpo.task import Task, load_task
    from tfgrpo.types import Completion, Group, Problem, Rollout, Score

__version__ = "0.1.0"

_HOMES = {
    "Budget": "tfgrpo.budget",
    "Completion": "tfgrpo.types",
    "Contrast": "tfgrpo.contrast",
    "Estimate": "tfgrpo.forecast",
    "Group": "tfgrpo.types",
    "LateCaller": "tfgrpo.late",
    "Measurement": "tfgrpo.measurement",
    "Policy": "tfgrpo.policy",
    "Price": "tfgrpo.policy",
    "Problem": "tfgrpo.types",
    "Report": "tfgrpo.report",
    "Rollout": "tfgrpo.types",
    "Sampling": "tfgrpo.policy",
    "Score": "tfgrpo.types",
    "Task": "tfgrpo.task",
    "TfgrpoError": "tfgrpo.errors",
    "acompare": "tfgrpo.comparing",
    "aevaluate": "tfgrpo.measure",
    "alearn": "tfgrpo.api",
    "compare": "tfgrpo.comparing",
    "connect": "tfgrpo.policy",
    "estimate": "tfgrpo.forecast",
    "evaluate": "tfgrpo.measure",
    "follow": "tfgrpo.serving.following",
    "group_reward": "tfgrpo.rewards.base",
    "learn": "tfgrpo.api",
    "load_task": "tfgrpo.task",
    "reward": "tfgrpo.rewards.base",
    "wrap": "tfgrpo.serving.wrapping",
}

__all__ = [
    "Budget",
    "Completion",
    "Contrast",
    "Estimate",
    "Group",
    "LateCaller",
    "Measurement",
    "Policy",
    "Price",
    "Problem",
    "Report",
    "Rollout",
    "Sampling",
    "Score",
    "Task",
    "TfgrpoError",
    "acompare",
    "aevaluate",
    "alearn",
    "compare",
    "connect",
    "estimate",
    "evaluate",
    "follow",
    "group_reward",
    "learn",
    "load_task",
    "reward",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfgrpo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
