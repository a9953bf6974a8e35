"""Rewards: how answers are scored. Functions are lifted with `reward`, known ones are found with `resolve_reward`."""

from __future__ import annotations

from tfgrpo.rewards.base import Outcome, Reward, group_reward, reward, score_answers, to_score, weighted
from tfgrpo.rewards.named import REWARDS, as_reward, resolve_reward
from tfgrpo.rewards.simple import contains, exact, numeric, regex
from tfgrpo.rewards.trl import from_trl
from tfgrpo.rewards.verifiers import from_verifiers
from tfgrpo.rewards.verl import from_verl

__all__ = [
    "REWARDS",
    "Outcome",
    "Reward",
    "as_reward",
    "contains",
    "exact",
    "from_trl",
    "from_verifiers",
    "from_verl",
    "group_reward",
    "numeric",
    "regex",
    "resolve_reward",
    "reward",
    "score_answers",
    "to_score",
    "weighted",
]
