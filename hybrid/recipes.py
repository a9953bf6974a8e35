"""Ways to train, by name: what `tfgrpo train TASK --recipe NAME` fixes. What its user says explicitly always wins.

A recipe is data: which advantage, which loss, who is taught by whom, and what it changes about the task. A new one is
a function and a row here. Loads no torch.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hybrid.distill import Distill
from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method
from tfgrpo.rewards.consistency import consistent
from tfgrpo.rewards.safety import guarded
from tfgrpo.task import Task

if TYPE_CHECKING:
    from hybrid.losses import Loss
    from tfgrpo.advantage import Advantage
    from tfgrpo.grouping import GroupingSpec
    from tfgrpo.rewards.base import Reward
    from tfgrpo.samplers import SamplerFactory

DEFAULT_LOSS = "dapo"
OF_TASK = ("advantage", "grouping", "sampler")


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """What a recipe fixes; None leaves it to the task, or to what training does by default.

    Example:
        >>> srpo().without("advantage").advantage is None
        True
    """

    name: str
    advantage: Advantage | str | None = None
    loss: Loss | str | None = None
    distill: Distill | None = None
    grouping: GroupingSpec = None
    sampler: SamplerFactory | str | None = None
    reward: Callable[[Reward], Reward] | None = None  # made of the task's own
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of `Settings`

    def of_task(self, task: Task) -> Task:
        """The task as the recipe wants it."""
        given: dict[str, Any] = {name: getattr(self, name) for name in OF_TASK if getattr(self, name) is not None}
        given |= {"reward": self.reward(task.reward)} if self.reward else {}
        return replace(task, **given)

    def without(self, *names: str) -> TrainRecipe:
        """The same with some of its choices left to others."""
        nothing: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **nothing)

    def taught(self, **options: Any) -> TrainRecipe:
        """The same with other options of `Distill`.

        Raises:
            InputError: it distils nothing, or has no such option; the near ones are listed.
        """
        if not options:
            return self
        if self.distill is None:
            raise InputError(f"the recipe {self.name!r} distils nothing and takes no options, got {', '.join(options)}")
        known = [f.name for f in dataclasses.fields(Distill)]
        for name in options:
            if name not in known:
                raise unknown_name(f"option of recipe {self.name!r}", name, known)
        return replace(self, distill=replace(self.distill, **options))


def grpo() -> TrainRecipe:
    """Policy gradient for every answer, and nothing else: what training does without a recipe, for comparisons.

    Example:
        >>> grpo().loss, grpo().distill
        ('dapo', None)
    """
    return TrainRecipe(name="grpo", advantage="grpo", loss=DEFAULT_LOSS)


def sdpo() -> TrainRecipe:
    """Every answer learns from a teacher that was shown a right answer of another rollout, or what the reward said.
    Answers for which there is neither are left out.

    Example:
        >>> sdpo().distill.words()
        'all rows from a moving average at rate 0.05, Jensen-Shannon 0.5 on 100 tokens and a tail'
    """
    return TrainRecipe(
        name="sdpo",
        advantage="dr_grpo",
        loss=DEFAULT_LOSS,
        distill=Distill(rows="all", others="mask", beta=0.0),
    )


def srpo() -> TrainRecipe:
    """Right answers get the policy gradient, wrong ones a teacher, most of it where the teacher is sure; what has no
    teacher gets the policy gradient too.

    Example:
        >>> srpo().distill.words()
        'wrong rows from a moving average at rate 0.05, Jensen-Shannon 0.5 on 100 tokens and a tail'
    """
    return TrainRecipe(name="srpo", advantage="dr_grpo", loss=DEFAULT_LOSS, distill=Distill())


def ps_grpo() -> TrainRecipe:
    """The same answer to every wording of a question: groups are sets of paraphrases, an answer is worth its agreement
    with those to other wordings besides the task's own reward, and is compared with answers to its own wording. A
    reconstruction.

    Example:
        >>> ps_grpo().advantage, ps_grpo().grouping
        ('ps_grpo', 'paraphrases')
    """
    return TrainRecipe(name="ps-grpo", advantage="ps_grpo", loss="grpo", grouping="paraphrases", reward=consistent)


def safety() -> TrainRecipe:
    """Several heads at once: every part of the reward is normalised by itself, and the reward's gate takes an unsafe
    answer out of all of them. For rewards with heads of safety; kept near the first model, since heads are learned. A
    reconstruction.

    Example:
        >>> safety().advantage, safety().loss
        ('gdpo', 'grpo_kl')
    """
    return TrainRecipe(name="safety", advantage="gdpo", loss="grpo_kl", reward=guarded)


def distill_library(library: str = "") -> TrainRecipe:
    """The model as it was at the start, with a library of experiences in its prompt, teaches the one that is trained
    and sees none: by reverse KL, on what the student writes. No reward decides anything; it is only measured.

    Example:
        >>> distill_library("experience.json").distill.words()
        'all rows from the first model that reads experience.json, KL(student || teacher) on 100 tokens and a tail'

    Raises:
        InputError: no library is given.
    """
    if not library:
        raise InputError(
            "the recipe 'distill-library' needs the library that its teacher reads, an exported file or a store: "
            "--recipe-option library=FILE or library=FOLDER@VERSION, in Python "
            "resolve_recipe('distill-library', library=...)"
        )
    return TrainRecipe(
        name="distill-library",
        advantage="dr_grpo",
        loss=DEFAULT_LOSS,
        distill=Distill(
            rows="all",
            others="mask",
            siblings=False,
            feedback="never",
            teacher="trust_region",
            rate=0.0,
            alpha=1.0,
            beta=0.0,
            library=library,
        ),
    )


RECIPES: dict[str, Method[Callable[..., TrainRecipe]]] = {
    "grpo": Method(
        make=grpo,
        formula="sum l / M, M all trained tokens",
        source="arXiv 2402.03300, with the clip and the mean of arXiv 2503.14476",
        confidence="paper and code",
        note="advantage grpo, loss dapo",
    ),
    "sdpo": Method(
        make=sdpo,
        formula="sum min(rho, 2) D(student, teacher) / M, M tokens of taught answers",
        source="arXiv 2601.20802",
        confidence="code",
        note="options of hybrid.distill.Distill: teacher, rate, alpha, k, ...; divides by the tokens of the whole "
        "batch, the released code by those of a micro-batch",
    ),
    "srpo": Method(
        make=srpo,
        formula="(sum_policy l + sum_taught w min(rho, 2) D) / M, w = exp(-beta H_teacher) / mean",
        source="arXiv 2604.02288",
        confidence="paper",
        note="advantage dr_grpo, loss dapo; options of hybrid.distill.Distill; right means what the score calls solved",
    ),
    "ps-grpo": Method(
        make=ps_grpo,
        formula="A of the answers to one wording; r = agreement over wordings + the task's reward",
        source="arXiv 2510.04392",
        confidence="reconstruction",
        note="grouping paraphrases, advantage ps_grpo, loss grpo, reward ps_grpo(the task's own)",
    ),
    "safety": Method(
        make=safety,
        formula="A = sum_k w_k norm(y_k), behind 1[safety >= 0.5]",
        source="arXiv 2503.21819 and 2601.05242",
        confidence="reconstruction",
        note="advantage gdpo, loss grpo_kl, a reward with heads behind a gate; not measured on real labels",
    ),
    "distill-library": Method(
        make=distill_library,
        formula="sum min(rho, 2) KL(student, first model with the library) / M",
        source="arXiv 2209.15189 (context distillation), on the student's own answers as arXiv 2306.13649",
        confidence="ours",
        note="needs --recipe-option library=FILE or FOLDER[@VERSION]; into adapters with --set lora=16; "
        "hybrid.retire(...) then decides which experiences can go",
    ),
}


def resolve_recipe(spec: str | TrainRecipe, **options: Any) -> TrainRecipe:
    """The recipe of that name, with options: those of its function, and of `Distill` where it distils.

    Example:
        >>> resolve_recipe("srpo", teacher="live", k=20).distill.words()
        'wrong rows from the live teacher, Jensen-Shannon 0.5 on 20 tokens and a tail'

    Raises:
        InputError: unknown name or option; the near ones are listed.
    """
    if isinstance(spec, TrainRecipe):
        return spec.taught(**options)
    if not isinstance(spec, str):
        raise InputError(f"a recipe is a name or a TrainRecipe, got {type(spec).__name__}")
    if spec not in RECIPES:
        raise unknown_name("recipe", spec, RECIPES)
    make = RECIPES[spec].make
    own = {name: options[name] for name in inspect.signature(make).parameters if name in options}
    return make(**own).taught(**{name: value for name, value in options.items() if name not in own})
