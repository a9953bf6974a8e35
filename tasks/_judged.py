"""The model that a task's reward asks, however it was named."""

from __future__ import annotations

from tfgrpo.late import LateCaller
from tfgrpo.policy import Policy, connect


def late_caller(judge: str | Policy | LateCaller) -> LateCaller:
    """A judge by name, a policy, or one that waits for its run already."""
    if isinstance(judge, LateCaller):
        return judge
    return LateCaller(connect(judge) if isinstance(judge, str) else judge)
