"""Samplers by name: one row each. A new one is a class and a row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method
from tfgrpo.samplers.base import Sampler, SamplerFactory
from tfgrpo.samplers.epochs import EasyToHard, LeastCovered, uniform
from tfgrpo.samplers.formulas import length_budget
from tfgrpo.samplers.gdro import PromptGdro, RolloutGdro
from tfgrpo.samplers.vas import VarianceAware
from tfgrpo.types import Problem
from tfgrpo.user_code import load_object

DEFAULT = "least_covered"

SAMPLERS: dict[str, Method[Callable[..., Sampler]]] = {
    "least_covered": Method(
        make=LeastCovered,
        formula="shuffled epochs; of the next 12 problems the one with the least summed effect of known entries",
        source="ours",
        confidence="ours",
        note="the default",
    ),
    "uniform": Method(
        make=uniform,
        formula="shuffled epochs",
        source="customary",
        confidence="ours",
        note="what the others are compared with",
    ),
    "easy_to_hard": Method(
        make=EasyToHard,
        formula="epochs by falling pass rate (c + 1/2) / (n + 1)",
        source="SARI (no text at hand)",
        confidence="reconstruction",
        note="the first epoch is a plain shuffle unless `rates` are given",
    ),
    "vas": Method(
        make=VarianceAware,
        formula="half of the draws by VPS = 0.8 var(r) + 0.2 (1 - selfBLEU), half uniform, with replacement",
        source="arXiv 2509.21268",
        confidence="paper and code",
        note="the released self-BLEU prefers answers that are alike; turned round here. Scores are renewed by every "
        "group instead of every 28 steps",
    ),
    "prompt_gdro": Method(
        make=PromptGdro,
        formula="S <- (1 - b) S + b loss per bin of pass rates; q = (1 - g) softmax(eta S) + g / B; draw a bin by q",
        source="arXiv 2601.19280",
        confidence="paper and code",
        note="the source multiplies advantages by exp(eta S) instead of drawing by q; drawing is ours",
    ),
    "rollout_gdro": Method(
        make=RolloutGdro,
        formula="max sum_b log p_b(n_b) with sum_b share_b n_b = mean; loss of an arm -J_b + price n",
        source="arXiv 2601.19280",
        confidence="paper and code",
        note="ragged groups; J is the share of groups with unequal rewards, ours",
    ),
}

SCHEDULES: dict[str, Method[Callable[..., int]]] = {
    "length_budget": Method(
        make=length_budget,
        formula="B(t) = max(1, floor(B0 g^floor(t / T))), B0 = 256, g = 0.7, T = 150",
        source="arXiv 2508.08940",
        confidence="paper",
        note="the number is told in the prompt and rewarded by the triangle or band around it",
    ),
}
"""What changes with the steps of a run and chooses no problem."""


@dataclass(frozen=True, kw_only=True)
class NamedSampler:
    """A sampler that was chosen by name: makes a fresh one for every run.

    Example:
        >>> resolve_sampler("vas", share=0.7).name
        'vas(share=0.7)'
    """

    name: str
    make: SamplerFactory
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, problems: Sequence[Problem], seed: int) -> Sampler:
        return self.make(problems, seed, **self.options)


def resolve_sampler(spec: str | SamplerFactory, **options: Any) -> SamplerFactory:
    """The sampler of that name with its options, the user's own by "module:function", or the given object itself.

    Example:
        >>> resolve_sampler("uniform").name
        'uniform'

    Raises:
        InputError: unknown name or option (near ones are listed), or user code that does not load.
    """
    if not isinstance(spec, str):
        return _without_options(spec, options)
    if ":" in spec:
        return NamedSampler(name=spec, make=_without_options(load_object(spec, kind="sampler"), options))
    if spec not in SAMPLERS:
        raise unknown_name("sampler", spec, [*SAMPLERS, "module:function"])
    make = SAMPLERS[spec].make
    known = [n for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise unknown_name(f"option of sampler {spec!r}", name, known)
    said = ", ".join(f"{n}={o!r}" for n, o in options.items())
    return NamedSampler(name=f"{spec}({said})" if said else spec, make=make, options=options)


def _without_options(found: Any, options: Mapping[str, Any]) -> SamplerFactory:
    if not callable(found):
        raise InputError(f"a sampler is a name or a function (problems, seed) -> Sampler, got {found!r}")
    if options:
        raise InputError(f"a sampler of your own takes no options here, got {', '.join(options)}; bind them yourself")
    made: SamplerFactory = found
    return made
