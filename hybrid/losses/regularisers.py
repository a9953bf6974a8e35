"""Terms beside the policy's own, each with its own denominator over the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

from torch import Tensor

from hybrid.batch import Tokens
from hybrid.losses import formulas
from hybrid.losses.aggregate import Named, preserved_mean, seq_mean_token_mean, success_token_mean
from hybrid.losses.parts import Regulariser, at_least
from tfgrpo.advantage.chain import make_row
from tfgrpo.errors import InputError, unknown_name
from tfgrpo.method import Method

Gate: TypeAlias = Literal["action", "answer", "token"]
GATES = ("action", "answer", "token")
BY_ANSWER = Named(name="seq_mean_token_mean", run=seq_mean_token_mean)


def _reference(tokens: Tokens) -> Tensor:
    assert tokens.reference is not None  # `needs` was checked
    return tokens.reference


def kl(kind: Literal["k1", "k2", "k3"] = "k3", *, coefficient: float = 0.001) -> Regulariser:
    """KL to the reference model by one of three estimators, whose gradients follow different things: k1 nothing,
    k2 KL(policy || reference), k3 KL(reference || policy). `coefficient` is 0.04 in the first GRPO, 0.001 in R1.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7]], reference=[[0.5]], advantage=[1])
        >>> [round(kl(k).run(tokens).item(), 4) for k in ("k1", "k2", "k3")]
        [0.3365, 0.0566, 0.0508]
    """
    estimators = {"k1": formulas.k1, "k2": formulas.k2, "k3": formulas.k3}
    if kind not in estimators:
        raise unknown_name("KL estimator", kind, estimators)
    estimate = estimators[kind]
    return Regulariser(
        name=f"kl_{kind}",
        coefficient=coefficient,
        run=lambda tokens: estimate(tokens.logp, _reference(tokens)),
        needs=frozenset({"reference"}),
    )


def near_old(*, coefficient: float = 0.1) -> Regulariser:
    """`(logp - old)^2` of each token: what holds OPMD near the policy that sampled. The usual half is in the
    coefficient.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> [round(n, 4) for n in near_old().run(tokens)[0].tolist()]
        [0.1132, 0.4805]
    """
    return Regulariser(
        name="near_old",
        coefficient=coefficient,
        run=lambda tokens: (tokens.logp - tokens.old).square(),
        needs=frozenset({"old"}),
    )


def near_old_answers(*, tau: float = 1.0) -> Regulariser:
    """`tau/2 (LP - LP_old)^2` of whole answers' log-probs, as Kimi's form of OPMD has it.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> [round(n, 4) for n in near_old_answers().run(tokens)[0].tolist()]
        [0.1272, 0.1272]
    """

    def run(tokens: Tokens) -> Tensor:
        return ((tokens.logp - tokens.old) * tokens.mask).sum(1, keepdim=True).square().expand_as(tokens.logp)

    return Regulariser(
        name="near_old_answers",
        coefficient=tau / 2,
        run=run,
        needs=frozenset({"old"}),
        aggregate=BY_ANSWER,
    )


def likelihood(*, coefficient: float = 0.1) -> Regulariser:
    """`-logp` of every sampled token: a forward KL on the samples, the same as raising all advantages by the
    coefficient, which is AsymRE's shift.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> [round(n, 4) for n in likelihood().run(tokens)[0].tolist()]
        [0.3567, 2.3026]
    """
    return Regulariser(name="likelihood", coefficient=coefficient, run=lambda tokens: -tokens.logp)


def llds(*, coefficient: float = 0.2, gate: Gate = "action") -> Regulariser:
    """What answers with an advantage >= 0 lost in likelihood since the batch was sampled. Exactly 0 in the first
    update of a batch: it needs two or more. Actions are told by `Tokens.segment`, else an answer is one.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> [round(n, 4) for n in llds().run(tokens.clean())[0].tolist()]
        [0.0, 0.6931]
    """
    if gate not in GATES:
        raise unknown_name("gate of llds", gate, GATES)

    def run(tokens: Tokens) -> Tensor:
        lost = formulas.lost_likelihood(tokens.logp, tokens.old, tokens.mask, segment=tokens.segment, gate=gate)
        return lost * (tokens.advantage >= 0)

    return Regulariser(
        name="llds",
        coefficient=coefficient,
        run=run,
        needs=frozenset({"old"}),
        aggregate=Named(name="preserved_mean", run=preserved_mean),
        silent_at_first=True,
    )


def nll_on_correct(*, coefficient: float = 0.1) -> Regulariser:
    """`-logp` of the tokens of right answers, per such token: an anchor of supervised learning.

    Example:
        >>> import torch
        >>> right = torch.tensor([True, False])
        >>> tokens = Tokens.of_probabilities(new=[[0.7], [0.1]], advantage=[1, -1], success=right)
        >>> [round(abs(n), 4) for n in nll_on_correct().run(tokens)[:, 0].tolist()]
        [0.3567, 0.0]
    """

    def run(tokens: Tokens) -> Tensor:
        assert tokens.success is not None  # `needs` was checked
        return -tokens.logp * tokens.success[:, None]

    return Regulariser(
        name="nll_on_correct",
        coefficient=coefficient,
        run=run,
        needs=frozenset({"success"}),
        aggregate=Named(name="success_token_mean", run=success_token_mean),
    )


def _entropy(tokens: Tokens) -> Tensor:
    assert tokens.entropy is not None  # `needs` was checked
    return tokens.entropy


def entropy_band(*, low: float, high: float, coefficient: float = 0.01) -> Regulariser:
    """How far each answer's mean entropy, in nats per token, lies outside low..high. The coefficient is ours.

    Example:
        >>> import torch
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], advantage=[1], entropy=torch.tensor([[0.1, 0.3]]))
        >>> [round(n, 4) for n in entropy_band(low=0.3, high=1.0).run(tokens)[0].tolist()]
        [0.1, 0.1]
    """
    if not 0 <= low <= high:
        raise InputError(f"the band of entropies is low..high with 0 <= low <= high, got {low}..{high}")

    def run(tokens: Tokens) -> Tensor:
        outside = formulas.outside_band(_entropy(tokens), tokens.mask, low=low, high=high)
        return outside.expand_as(tokens.logp)

    return Regulariser(
        name="entropy_band",
        coefficient=at_least("coefficient", coefficient, 0.0),
        run=run,
        needs=frozenset({"entropy"}),
        aggregate=BY_ANSWER,
    )


def entropy_bonus(*, coefficient: float = 0.001) -> Regulariser:
    """`-H` of every token: more exploration, without a bound.

    Example:
        >>> import torch
        >>> tokens = Tokens.of_probabilities(new=[[0.7]], advantage=[1], entropy=torch.tensor([[0.25]]))
        >>> entropy_bonus().run(tokens).item()
        -0.25
    """
    return Regulariser(
        name="entropy_bonus",
        coefficient=coefficient,
        run=lambda tokens: -_entropy(tokens),
        needs=frozenset({"entropy"}),
    )


REGULARISERS: dict[str, Method[Callable[..., Regulariser]]] = {
    "k1": Method(
        make=partial(kl, "k1"),
        formula="x = logp - ref",
        source="Schulman's note on approximating KL",
        confidence="code",
        note="its expected gradient is 0 on the policy's own samples: it only adds noise",
    ),
    "k2": Method(
        make=partial(kl, "k2"),
        formula="x^2 / 2",
        source="Schulman's note on approximating KL",
        confidence="code",
        note="its gradient is that of KL(policy || ref), the penalty one usually means",
    ),
    "k3": Method(
        make=partial(kl, "k3"),
        formula="exp(-x) + x - 1",
        source="arXiv 2402.03300",
        confidence="paper and code",
        note="customary; its gradient is that of KL(ref || policy)",
    ),
    "near_old": Method(make=near_old, formula="(logp - old)^2", source="OPMD, arXiv 2509.24203", confidence="code"),
    "near_old_answers": Method(
        make=near_old_answers,
        formula="tau/2 (LP - LP_old)^2 per answer",
        source="Kimi's OPMD, arXiv 2509.24203",
        confidence="code",
    ),
    "likelihood": Method(
        make=likelihood,
        formula="-logp",
        source="AsymRE, arXiv 2509.24203",
        confidence="code",
        note="the same as advantage asymre with delta = -coefficient: choose one of them",
    ),
    "llds": Method(
        make=llds,
        formula="mean over answers with A >= 0 of 1/n sum max(0, old - logp) in actions that lost",
        source="arXiv 2512.04220",
        confidence="paper and code",
        note="0 in the first update of a batch: needs two or more; the released code divides by all tokens instead",
    ),
    "nll_on_correct": Method(
        make=nll_on_correct,
        formula="-logp, mean over tokens of right answers",
        source="LightningRL",
        confidence="code",
    ),
    "entropy_band": Method(
        make=entropy_band,
        formula="max(0, H_i - high) + max(0, low - H_i)",
        source="arXiv 2604.08539",
        confidence="paper",
        note="H_i is the mean of one answer (ours, the paper does not say)",
    ),
    "entropy_bonus": Method(make=entropy_bonus, formula="-H", source="TRL's entropy bonus", confidence="code"),
}


def resolve_regulariser(name: str, **options: Any) -> Regulariser:
    """The regulariser of that name with its options.

    Example:
        >>> resolve_regulariser("k2", coefficient=0.01).name
        'kl_k2'

    Raises:
        InputError: unknown name or option; the near ones are listed.
    """
    return make_row("regulariser", name, REGULARISERS, options)
