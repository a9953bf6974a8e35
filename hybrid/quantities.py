"""What the columns of a training curve are called, how they are written, and where they belong. Light to import.

One table for the lines of progress, the trackers and the report. A column that is not in it (a metric of a loss of your
own) is shown under its own name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Topic: TypeAlias = Literal["reward", "answers", "policy", "machine"]
TOPICS: dict[Topic, str] = {
    "reward": "What the answers were worth",
    "answers": "What was written",
    "policy": "What the update did",
    "machine": "Speed and memory",
}
PART = "part/"
KL = "kl_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """One column: `form` is how a number is written, in the words of `format`."""

    title: str
    topic: Topic
    about: str = ""
    form: str = ".3f"
    unit: str = ""
    brief: bool = False  # shown while the run goes on

    def words(self, value: float) -> str:
        """A number with its unit.

        Example:
            >>> QUANTITIES["mixed"].words(0.4), QUANTITIES["length"].words(12.25), QUANTITIES["lr"].words(1e-05)
            ('40%', '12.2 tokens', '1e-05')
        """
        return f"{value:{self.form}}{self.unit}"


def _share(title: str, topic: Topic, about: str, *, brief: bool = False) -> Quantity:
    return Quantity(title=title, topic=topic, about=about, form=".0%", brief=brief)


QUANTITIES: dict[str, Quantity] = {
    "reward": Quantity(title="reward", topic="reward", about="mean over the answers, before the update", brief=True),
    "success": _share("success", "reward", "answers that count as right", brief=True),
    "mixed": _share("mixed groups", "reward", "groups with right and wrong answers", brief=True),
    "zero_variance": _share(
        "zero variance", "reward", "groups whose answers all have the same reward: nothing to learn from", brief=True
    ),
    "reward_std": Quantity(
        title="reward spread", topic="reward", about="standard deviation within a group, mean over groups"
    ),
    "length_reward": Quantity(
        title="length with reward", topic="reward", about="correlation within groups, -1 to 1", form="+.2f"
    ),
    "length": Quantity(
        title="length", topic="answers", about="of an answer", form=".1f", unit=" tokens", brief=True
    ),
    "truncated": _share("cut off", "answers", "answers that reached the most tokens allowed", brief=True),
    "missing": Quantity(title="missing", topic="answers", about="answers that were not written or scored", form=".0f"),
    "answers": Quantity(title="learned from", topic="answers", about="answers", form=".0f"),
    "skipped": Quantity(title="not learned from", topic="answers", about="answers", form=".0f"),
    "route/taught": Quantity(title="taught", topic="answers", about="answers that learn from a teacher", form=".0f"),
    "route/policy": Quantity(title="by reward", topic="answers", about="answers that learn from rewards", form=".0f"),
    "taught/kl": Quantity(title="KL to the teacher", topic="policy", about="at taught tokens", unit=" nats"),
    "taught/teacher_entropy": Quantity(
        title="teacher's entropy", topic="policy", about="at taught tokens", form=".2f", unit=" nats"
    ),
    "taught/student_entropy": Quantity(
        title="student's entropy", topic="policy", about="at taught tokens", form=".2f", unit=" nats"
    ),
    "loss": Quantity(title="loss", topic="policy", form="+.4f"),
    "policy": Quantity(title="policy term", topic="policy", about="the loss without regularisers", form="+.4f"),
    "entropy": Quantity(
        title="entropy", topic="policy", about="of the distributions over the next token", form=".2f", unit=" nats",
        brief=True,
    ),
    "surprise": Quantity(
        title="surprise", topic="policy", about="mean -log p of the tokens that were written", form=".2f", unit=" nats"
    ),
    "kl_k1": Quantity(
        title="KL to start (k1)", topic="policy", about="per token, to the model before training", form=".2e",
        unit=" nats", brief=True,
    ),
    "kl_k2": Quantity(
        title="KL to start (k2)", topic="policy", about="per token, to the model before training", form=".2e",
        unit=" nats", brief=True,
    ),
    "kl_k3": Quantity(
        title="KL to start (k3)", topic="policy", about="per token, to the model before training", form=".2e",
        unit=" nats", brief=True,
    ),
    "parity_k3": Quantity(
        title="KL to sampler (k3)", topic="policy", about="of the same weights: 0 but for rounding", form=".1e",
        unit=" nats", brief=True,
    ),
    "parity_mean": Quantity(
        title="parity", topic="policy", about="mean |log p of the trainer - of the sampler| before the update",
        form=".1e", unit=" nats", brief=True,
    ),
    "parity_max": Quantity(title="parity, worst token", topic="policy", form=".1e", unit=" nats"),
    "ratio": Quantity(title="ratio", topic="policy", about="new by old probability of a token, mean", form=".4f"),
    "ratio_sequence": Quantity(title="ratio of answers", topic="policy", about="mean", form=".4f"),
    "clipped_low": _share("clipped below", "policy", "tokens without a gradient", brief=True),
    "clipped_high": _share("clipped above", "policy", "tokens without a gradient", brief=True),
    "clipped_dual": _share("clipped twice", "policy", "tokens at the second bound of bad answers", brief=True),
    "dropped": _share("dropped by the loss", "policy", "tokens that its mask leaves out", brief=True),
    "sampler_capped": _share("weights capped", "policy", "tokens whose trainer/sampler weight was cut", brief=True),
    "sampler_dropped": _share("weights dropped", "policy", "tokens too far from the sampler to count", brief=True),
    "sampler_gap": Quantity(
        title="gap to the sampler", topic="policy", about="mean |log p at the start of the update - of the sampler|",
        form=".1e", unit=" nats",
    ),
    "grad_norm": Quantity(title="gradient norm", topic="policy", about="before clipping", form=".2f", brief=True),
    "lr": Quantity(title="learning rate", topic="policy", form=".3g"),
    "updates": Quantity(title="updates so far", topic="policy", form=".0f"),
    "rows": Quantity(title="packed rows", topic="machine", form=".0f"),
    "packed_tokens": Quantity(title="packed tokens", topic="machine", about="prompts and answers", form=",.0f"),
    "tokens_per_s": Quantity(
        title="written", topic="machine", about="while sampling", form=",.0f", unit=" tokens/s", brief=True
    ),
    "sample_s": Quantity(title="sampling", topic="machine", about="and scoring", form=".1f", unit=" s"),
    "update_s": Quantity(title="update", topic="machine", form=".1f", unit=" s"),
    "renew_s": Quantity(title="new weights to the sampler", topic="machine", form=".1f", unit=" s"),
    "memory_gib": Quantity(
        title="memory", topic="machine", about="the most this process held so far", form=".2f", unit=" GiB", brief=True
    ),
    "gpu_gib": Quantity(
        title="GPU memory", topic="machine", about="the most its tensors held so far", form=".2f", unit=" GiB",
        brief=True,
    ),
}  # fmt: skip
"""In the order in which they are shown."""


def quantity(name: str) -> Quantity:
    """What a column is; parts of the reward and unknown columns too.

    Example:
        >>> quantity("part/format").title, quantity("mine").topic
        ('part format', 'policy')
    """
    if name.startswith(PART):
        about = "mean over the answers it applies to"
        return Quantity(title=f"part {name.removeprefix(PART)}", topic="reward", about=about, brief=True)
    return QUANTITIES.get(name) or Quantity(title=name, topic="policy", form=".4g")


def ordered(names: Iterable[str]) -> list[str]:
    """Columns as they are shown: parts of the reward behind the reward, unknown ones last; `step` is no quantity.

    Example:
        >>> ordered(["mine", "step", "length", "part/b", "reward"])
        ['reward', 'part/b', 'length', 'mine']
    """
    known = list(QUANTITIES)

    def place(name: str) -> tuple[float, str]:
        return (0.5, name) if name.startswith(PART) else (known.index(name) if name in known else len(known), name)

    return sorted((name for name in set(names) if name != "step"), key=place)
