"""Policy losses as a composition: ratio level x clip or mask x weight x aggregation, and regularisers.

    loss = resolve_loss("dapo", regularisers=[resolve_regulariser("k2", coefficient=0.001)])
    check_loss(loss, offered={"old", "reference"}, updates=4)          before anything is spent
    share, metrics = loss(tokens, totals)                              of one micro-batch; shares add up

Formulas are functions of arrays (`formulas`, `credit`); presets are rows of LOSSES. Your own loss is one function.
"""

from hybrid.losses import credit, formulas
from hybrid.losses.aggregate import AGGREGATES, Aggregate, resolve_aggregate
from hybrid.losses.compose import Composed, Loss, TokenLoss, changed, check_loss, compose
from hybrid.losses.corrections import CORRECTIONS, dropped, mismatch, resolve_correction, truncated
from hybrid.losses.credit import CREDITS, dcpo_temperature, nthr_advantage, thr_advantage, token_influence
from hybrid.losses.parts import Correction, Credit, Regulariser, Surrogate
from hybrid.losses.presets import LOSSES, resolve_loss
from hybrid.losses.regularisers import REGULARISERS, resolve_regulariser
from hybrid.losses.surrogates import capped, clipped, masked, mixed

__all__ = [
    "AGGREGATES",
    "CORRECTIONS",
    "CREDITS",
    "LOSSES",
    "REGULARISERS",
    "Aggregate",
    "Composed",
    "Correction",
    "Credit",
    "Loss",
    "Regulariser",
    "Surrogate",
    "TokenLoss",
    "capped",
    "changed",
    "check_loss",
    "clipped",
    "compose",
    "credit",
    "dcpo_temperature",
    "dropped",
    "formulas",
    "masked",
    "mismatch",
    "mixed",
    "nthr_advantage",
    "resolve_aggregate",
    "resolve_correction",
    "resolve_loss",
    "resolve_regulariser",
    "thr_advantage",
    "token_influence",
    "truncated",
]
