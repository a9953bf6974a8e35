"""The tables of methods that this package adds to those of tfgrpo. Loads no torch by itself."""

from tfgrpo.methods import Kind

KINDS = (
    Kind(
        name="recipe",
        title="Ways to train",
        places=("hybrid.recipes:RECIPES",),
        about="Choices that belong together, for `tfgrpo train --recipe NAME`; what is chosen explicitly wins. `l` is "
        "the loss of a token, `D` its divergence from a teacher: the model itself, shown a right answer.",
    ),
    Kind(
        name="loss",
        title="From log-probs and advantages to a loss",
        places=("hybrid.losses:LOSSES",),
        about="`rho = exp(logp - old)` of a token, `s` of an answer, `A` the advantage. Losses are minimised, and "
        "divided once over the whole batch. Only for training: `tfgrpo train --loss NAME`, or a function of your own.",
    ),
    Kind(
        name="regulariser",
        title="What is added to a loss",
        places=("hybrid.losses:REGULARISERS",),
        about="Each with a coefficient and its own denominator.",
    ),
    Kind(
        name="correction",
        title="Where the sampler's probabilities are not the trainer's",
        places=("hybrid.losses:CORRECTIONS",),
    ),
    Kind(
        name="credit",
        title="From one advantage per answer to one per token",
        places=("hybrid.losses:CREDITS",),
        about="Functions on arrays of the model's numbers: `s` is the influence of a token, `b` whether it is right.",
    ),
)
