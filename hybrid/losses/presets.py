"""Losses by name. A new one is a composition in `recipes` and a row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

from hybrid.losses.aggregate import Aggregate
from hybrid.losses.compose import DEFAULT_CORRECTION, Composed, Loss, TokenLoss, changed, compose
from hybrid.losses.corrections import resolve_correction
from hybrid.losses.parts import Correction, Regulariser
from hybrid.losses.recipes import (
    asymre,
    cispo,
    dapo,
    dcpo,
    dhpo,
    dr_grpo,
    grpo,
    gspo,
    gspo_token,
    opmd,
    opmd_answers,
    rec,
    reinforce,
    thr,
)
from hybrid.losses.regularisers import Gate, llds, nll_on_correct, resolve_regulariser
from tfgrpo.advantage.chain import make_row
from tfgrpo.errors import InputError
from tfgrpo.method import Method
from tfgrpo.user_code import load_object


def with_llds(*, base: str = "grpo", coefficient: float = 0.2, gate: Gate = "action") -> Composed:
    """A loss by name that does not let likely good answers become unlikely.

    Example:
        >>> from hybrid.batch import Tokens
        >>> tokens = Tokens.of_probabilities(new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1])
        >>> round(with_llds()(tokens, tokens.totals())[0].item(), 4)
        -0.7807
    """
    return changed(_named(base), regularisers=[llds(coefficient=coefficient, gate=gate)])


def with_nll(*, base: str = "grpo", coefficient: float = 0.1) -> Composed:
    """A loss by name plus supervised learning of the right answers.

    Example:
        >>> import torch
        >>> from hybrid.batch import Tokens
        >>> tokens = Tokens.of_probabilities(
        ...     new=[[0.7, 0.1]], old=[[0.5, 0.2]], advantage=[1], success=torch.tensor([True])
        ... )
        >>> round(with_nll()(tokens, tokens.totals())[0].item(), 4)
        -0.717
    """
    return changed(_named(base), regularisers=[nll_on_correct(coefficient=coefficient)])


def _named(name: str) -> Composed:
    return replace(make_row("loss", name, LOSSES, {}), name=name)


Options: TypeAlias = Mapping[str, Any]
REC = "arXiv 2509.24203"
LOSSES: dict[str, Method[Callable[..., Composed]]] = {
    "grpo": Method(
        make=grpo,
        formula="-min(rho A, clip(rho, 1 - low, 1 + high) A), mean of answers' means",
        source="arXiv 2402.03300",
        confidence="paper and code",
        note="the paper's beta is 0.04, R1's 0.001; here 0",
    ),
    "grpo_kl": Method(
        make=partial(grpo, beta=0.04),
        formula="grpo + 0.04 k3 to the model that training began with",
        source="arXiv 2402.03300",
        confidence="paper and code",
        note="keeps a copy of the weights; for rewards that are themselves learned, and wrong far from their labels",
    ),
    "dr_grpo": Method(
        make=dr_grpo,
        formula="-min(rho A, clip(rho) A) summed over tokens / (N L)",
        source="arXiv 2503.20783",
        confidence="code",
        note="L is limit=, else the most tokens an answer may have; with advantage dr_grpo",
    ),
    "dapo": Method(
        make=dapo,
        formula="-min(rho A, clip(rho, 0.8, 1.28) A), mean of tokens",
        source="arXiv 2503.14476",
        confidence="code",
        note="its dropping of uniform groups is advantage dapo",
    ),
    "bnpo": Method(
        make=partial(dapo, high=0.2),
        formula="-min(rho A, clip(rho, 0.8, 1.2) A), mean of tokens",
        source="TRL's loss_type bnpo",
        confidence="code",
        note="there the mean is of each micro-batch, here of the whole batch",
    ),
    "gspo": Method(
        make=gspo,
        formula="-min(s A, clip(s, 1 - low, 1 + high) A), s = exp(mean_t(logp - old))",
        source="arXiv 2507.18071",
        confidence="code",
        note="refused with advantages per token and with sums over tokens; four updates per set of rollouts",
    ),
    "gspo_token": Method(
        make=gspo_token,
        formula="-min(s_t A_t, clip(s_t) A_t), s_t = sg[s] exp(logp - sg[logp])",
        source="arXiv 2507.18071",
        confidence="code",
    ),
    "cispo": Method(
        make=cispo,
        formula="-sg[clip(rho, 1 - low, 1 + high)] A logp, mean of tokens",
        source="arXiv 2506.13585",
        confidence="code",
        note="high = 4 caps the weight at 5, as TRL advises; without low, as the paper",
    ),
    "reinforce": Method(
        make=reinforce, formula="-A logp, mean of tokens", source="REINFORCE (Williams 1992)", confidence="code"
    ),
    "rec_one_side": Method(
        make=rec,
        formula="-A logp 1[A >= 0 and rho <= 1 + high, or A <= 0 and rho >= 1 - low]",
        source=REC,
        confidence="code",
        note="with advantage rec; wide bounds low=0.6, high=2.0",
    ),
    "rec_one_side_is": Method(
        make=partial(rec, weight="token"),
        formula="-A logp sg[rho] 1[A >= 0 and rho <= 1 + high, or A <= 0 and rho >= 1 - low]",
        source=REC,
        confidence="code",
        note="has the gradient of PPO's clip",
    ),
    "rec_two_side": Method(
        make=partial(rec, "two_side"), formula="-A logp 1[1 - low <= rho <= 1 + high]", source=REC, confidence="code"
    ),
    "rec_two_side_is": Method(
        make=partial(rec, "two_side", weight="token"),
        formula="-A logp sg[rho] 1[1 - low <= rho <= 1 + high]",
        source=REC,
        confidence="code",
    ),
    "rec_ring": Method(
        make=partial(rec, "ring"),
        formula="-A logp M, M: near 1, or A >= 0 and rho <= 1 - far_low, or A <= 0 and rho >= 1 + far_high",
        source=REC,
        confidence="code",
    ),
    "rec_ring_is": Method(
        make=partial(rec, "ring", weight="token"),
        formula="-A logp sg[rho] M, M as in rec_ring",
        source=REC,
        confidence="code",
    ),
    "opmd": Method(
        make=opmd,
        formula="-A logp + c (logp - old)^2, mean of tokens",
        source=REC,
        confidence="code",
        note="with advantage rec, or opmd and tau=1.0",
    ),
    "opmd_answers": Method(
        make=opmd_answers,
        formula="-A LP + tau/2 (LP - LP_old)^2, LP = sum_t logp, mean of answers",
        source=REC,
        confidence="code",
        note="Kimi's form; with advantage rec",
    ),
    "asymre": Method(
        make=asymre,
        formula="-(A + c) logp, mean of tokens",
        source=REC,
        confidence="code",
        note="with advantage rec; advantage asymre shifts by itself, together they count twice",
    ),
    "red": Method(
        make=reinforce,
        formula="-A logp, mean of tokens",
        source=REC,
        confidence="code",
        note="the method is in the advantage: red_drop or red_weight",
    ),
    "dhpo": Method(
        make=dhpo,
        formula="-min(q A, q' A), q = w rho + (1 - w) s, q' of both clipped",
        source="arXiv 2601.05607",
        confidence="reconstruction",
        note="share='entropy' weighs the token's ratio by its entropy",
    ),
    "llds": Method(
        make=with_llds,
        formula="base + 0.2 (what good answers lost in likelihood)",
        source="arXiv 2512.04220",
        confidence="paper and code",
        note="two or more updates per set of rollouts; base='gspo' works too",
    ),
    "dcpo": Method(
        make=dcpo,
        formula="grpo on (1 - a) A + a b rho_T",
        source="DCPO (released code)",
        confidence="code",
        note="needs the column tempered and the entropy of the last update; a = 0 when nothing is right (ours)",
    ),
    "thr": Method(
        make=thr,
        formula="grpo on A 1[|THR| > threshold] (1 + sign(THR) p), THR = sign(A) s",
        source="arXiv 2510.03669",
        confidence="reconstruction",
        note="needs the column influence, of hidden states; p > 0 sharpens, p < 0 explores",
    ),
    "nll_on_correct": Method(
        make=with_nll,
        formula="base - 0.1 logp of right answers",
        source="LightningRL",
        confidence="code",
    ),
}


def resolve_loss(
    spec: str | Loss | TokenLoss,
    *,
    aggregate: str | Aggregate | None = None,
    correction: Correction | Options | str | None = DEFAULT_CORRECTION,
    regularisers: Sequence[Regulariser] | Options = (),
    **options: Any,
) -> Loss:
    """The loss of that name with its options, or your own.

    Regularisers and the correction may be given in plain words, as on the command line: `{"k3": 0.01}` is a name with
    its coefficient, `{"entropy_band": {"low": 0.2, "high": 1.0}}` one with its options, "dropped" a name alone.

    Your own is a function, or "module:function" of one: with two arguments, tokens and totals, it is a whole loss;
    with one, tokens, it returns token losses [B, T], and the rest is as for the named ones.

    Example:
        >>> loss = resolve_loss("dapo", high=0.3, aggregate="seq_mean_token_mean")
        >>> loss.name, loss.aggregate.name
        ('dapo(high=0.3)', 'seq_mean_token_mean')

    Raises:
        InputError: unknown name or option (near ones are listed), parts that contradict each other, or user code that
            does not load.
    """
    more: dict[str, Any] = {
        "aggregate": aggregate,
        "correction": _correction(correction),
        "regularisers": _regularisers(regularisers),
    }
    if isinstance(spec, str) and ":" not in spec:
        said = ", ".join(f"{n}={o!r}" for n, o in options.items())
        made = changed(make_row("loss", spec, LOSSES, options), **more)
        return replace(made, name=f"{spec}({said})" if said else spec)
    if options:
        raise InputError(f"a loss of your own takes no options, got {', '.join(options)}")
    own = load_object(spec, kind="loss") if isinstance(spec, str) else spec
    if isinstance(own, Composed):
        return changed(own, **more)
    return _yours(own, more, str(spec) if isinstance(spec, str) else "")


def _regularisers(given: Sequence[Regulariser] | Options) -> tuple[Regulariser, ...]:
    if not isinstance(given, Mapping):
        return tuple(given)
    plain = {name: o if isinstance(o, Mapping) else {"coefficient": o} for name, o in given.items()}
    return tuple(resolve_regulariser(name, **options) for name, options in plain.items())


def _correction(given: Correction | Options | str | None) -> Correction | None:
    if isinstance(given, str):
        return resolve_correction(given)
    if not isinstance(given, Mapping):
        return given
    if len(given) != 1:
        raise InputError(f"a loss has one correction, got {', '.join(given) or 'none; give null for none'}")
    ((name, options),) = given.items()
    return resolve_correction(name, **(options if isinstance(options, Mapping) else {"cap": options}))


def _yours(own: Any, more: dict[str, Any], name: str) -> Loss:
    if not callable(own):
        raise InputError(f"the loss {name!r} is no function but {own!r}")
    taken = [p for p in inspect.signature(own).parameters.values() if p.default is p.empty]
    if len(taken) == 1:
        given = compose(cast(TokenLoss, own), name=name)
        return changed(given, **more)
    if len(taken) != 2:
        raise InputError(
            f"a loss of your own takes tokens, or tokens and totals, not {len(taken)} arguments: "
            f"{', '.join(p.name for p in taken) or 'none'}"
        )
    if more != {"aggregate": None, "correction": DEFAULT_CORRECTION, "regularisers": ()}:
        raise InputError("a whole loss of your own has its own aggregation, correction and regularisers; give none")
    return cast(Loss, own)
