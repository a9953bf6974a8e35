"""Who is asked next and how often.

A sampler orders the problems of a run and says how many rollouts each group gets. `resolve_sampler(name)` gives one by
name, `tfgrpo methods` lists them.
"""

from __future__ import annotations

from tfgrpo.samplers.base import Sampler, SamplerFactory
from tfgrpo.samplers.named import DEFAULT, SAMPLERS, SCHEDULES, resolve_sampler

__all__ = ["DEFAULT", "SAMPLERS", "SCHEDULES", "Sampler", "SamplerFactory", "resolve_sampler"]
