"""Losses as compositions, in a line each; their names stand in `presets`."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hybrid.batch import Tokens, Totals
from hybrid.losses.aggregate import resolve_aggregate
from hybrid.losses.compose import Composed, compose
from hybrid.losses.credit import dcpo_advantage, dcpo_share, dcpo_temperature, thr_advantage
from hybrid.losses.parts import Credit
from hybrid.losses.regularisers import kl as kl_to_reference
from hybrid.losses.regularisers import likelihood, near_old, near_old_answers
from hybrid.losses.surrogates import Level, MaskKind, Weight, capped, clipped, masked, mixed


def grpo(*, low: float = 0.2, high: float = 0.2, dual: float | None = None, beta: float = 0.0) -> Composed:
    """Clipped ratios of tokens, every answer weighs the same; `beta` times k3 to the reference.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(grpo()(tokens, tokens.totals())[0].item(), 4)
        -0.85
    """
    penalty = [kl_to_reference("k3", coefficient=beta)] if beta else []
    return compose(clipped(low=low, high=high, dual=dual), *penalty, aggregate="seq_mean_token_mean")


def dr_grpo(*, low: float = 0.2, high: float = 0.2, limit: int | None = None) -> Composed:
    """GRPO whose sums are divided by a constant, so that length is no advantage.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(dr_grpo(limit=4)(tokens, tokens.totals())[0].item(), 4)
        -0.425
    """
    return compose(clipped(low=low, high=high), aggregate=resolve_aggregate("constant", limit=limit))


def dapo(*, low: float = 0.2, high: float = 0.28, dual: float | None = None) -> Composed:
    """A higher bound above, every token weighs the same.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(dapo()(tokens, tokens.totals())[0].item(), 4)
        -0.89
    """
    return compose(clipped(low=low, high=high, dual=dual), aggregate="token_mean")


def gspo(*, low: float = 3e-4, high: float = 4e-4) -> Composed:
    """One ratio per answer.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(gspo()(tokens, tokens.totals())[0].item(), 4)
        -0.8367
    """
    return compose(clipped(level="sequence", low=low, high=high), aggregate="seq_mean_token_mean")


def gspo_token(*, low: float = 3e-4, high: float = 4e-4) -> Composed:
    """GSPO's ratio with advantages that may differ by token.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[[1, 0]])
        >>> round(gspo_token()(tokens, tokens.totals())[0].item(), 4)
        -0.4183
    """
    return compose(clipped(level="sequence_token", low=low, high=high), aggregate="seq_mean_token_mean")


def cispo(*, low: float | None = None, high: float = 4.0) -> Composed:
    """Clipped weights instead of clipped gradients.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(cispo()(tokens, tokens.totals())[0].item(), 4)
        0.8253
    """
    return compose(capped(low=low, high=high), aggregate="token_mean")


def reinforce() -> Composed:
    """No ratio, no clip: right only for fresh samples.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(reinforce()(tokens, tokens.totals())[0].item(), 4)
        1.3296
    """
    return compose(masked("none"), aggregate="token_mean")


def rec(
    mask: MaskKind = "one_side",
    *,
    weight: Weight = "none",
    low: float = 0.2,
    high: float = 0.2,
    far_low: float = 0.6,
    far_high: float = 2.0,
) -> Composed:
    """REINFORCE on tokens whose ratio the mask allows. Wide bounds (0.6, 2.0) learn faster and hold.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(rec()(tokens, tokens.totals())[0].item(), 4)
        1.1513
    """
    part = masked(mask, weight=weight, low=low, high=high, far_low=far_low, far_high=far_high)
    return compose(part, aggregate="token_mean")


def opmd(*, coefficient: float = 0.1, tau: float | None = None) -> Composed:
    """No ratio in the gradient, held near the policy that sampled. `tau` of the advantage "opmd" divides by 1 + tau.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(opmd()(tokens, tokens.totals())[0].item(), 4)
        1.3593
    """
    factor = 1.0 if tau is None else 1 / (1 + tau)
    return compose(masked("none"), near_old(coefficient=coefficient), aggregate="token_mean", factor=factor)


def opmd_answers(*, tau: float = 1.0) -> Composed:
    """OPMD on log-probs of whole answers, in Kimi's form.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(opmd_answers()(tokens, tokens.totals())[0].item(), 4)
        2.7229
    """
    return compose(masked("none"), near_old_answers(tau=tau), aggregate="seq_mean_token_sum")


def asymre(*, coefficient: float = 0.1) -> Composed:
    """REINFORCE that raises every answer a little more than its advantage says.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(asymre()(tokens, tokens.totals())[0].item(), 4)
        1.4626
    """
    return compose(masked("none"), likelihood(coefficient=coefficient), aggregate="token_mean")


def dhpo(
    *,
    share: float | Literal["entropy"] = 0.5,
    low: float = 0.2,
    high: float = 0.28,
    sequence_low: float = 3e-4,
    sequence_high: float = 4e-4,
) -> Composed:
    """Between GRPO's ratio of tokens and GSPO's of answers. A reconstruction; the bounds are ours.

    Example:
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(dhpo()(tokens, tokens.totals())[0].item(), 4)
        -0.8933
    """
    part = mixed(share=share, token_clip=(low, high), sequence_clip=(sequence_low, sequence_high))
    return compose(part, aggregate="token_mean")


def dcpo(*, target: float = 0.5, low: float = 0.2, high: float = 0.2) -> Composed:
    """GRPO with a pull of right answers towards the same policy at another temperature, so that its entropy keeps
    to `target` nats per token. Tokens bring `tempered`, totals the entropy.

    Example:
        >>> right, tempered = torch.tensor([True]), torch.tensor([[0.6]]).log()  # it teaches, though A is 0
        >>> tokens = Tokens.of_probabilities(new=[[0.7]], advantage=[0], success=right, tempered=tempered)
        >>> round(dcpo(target=0.5)(tokens, tokens.totals(entropy=0.42))[0].item(), 4)
        -0.0635
    """

    def step(tokens: Tokens, totals: Totals) -> Tensor:
        assert tokens.success is not None and tokens.tempered is not None  # `needs` was checked
        share = dcpo_share(totals.entropy, totals.successes / max(totals.sequences, 1.0), target=target)
        return dcpo_advantage(tokens.advantage, tokens.success, tokens.tempered, tokens.old, share)

    heat = partial(dcpo_temperature, target=target)
    credit = Credit(name="dcpo", run=step, needs=frozenset({"success", "tempered", "old"}), heat=heat)
    return compose(clipped(low=low, high=high), credits=[credit], aggregate="seq_mean_token_mean")


def thr(*, p: float = 0.1, threshold: float = 0.0, level: Level = "token") -> Composed:
    """GRPO, or with level "sequence_token" GSPO-token, on the tokens that matter to the group's right answers. A
    reconstruction. Tokens bring `influence`.

    Example:
        >>> tokens = Tokens.of_probabilities(
        ...     new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1], influence=torch.tensor([[1.0, -1.0]])
        ... )
        >>> round(thr(p=0.2)(tokens, tokens.totals())[0].item(), 4)
        -0.92
    """
    tight = level != "token"
    part = clipped(level=level, low=3e-4 if tight else 0.2, high=4e-4 if tight else 0.2)

    def step(tokens: Tokens, totals: Totals) -> Tensor:
        assert tokens.influence is not None  # `needs` was checked
        return thr_advantage(tokens.advantage, tokens.influence, p=p, threshold=threshold)

    thr_advantage(torch.zeros(1), torch.zeros(1), p=p)  # refuses a bad p now
    credit = Credit(name="thr", run=step, needs=frozenset({"influence"}))
    return compose(part, credits=[credit], aggregate="seq_mean_token_mean")
