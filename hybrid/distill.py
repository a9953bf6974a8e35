"""What a run distils: which rollouts, from which teacher, under which prompt, by which divergence. Plain data, light.

The teacher is the model itself (or a copy that lags behind) under a prompt that says more than the student's: a
solution that was right, what the reward said, or a library of experiences. It scores the tokens that the student wrote
and writes none. SDPO, arXiv 2601.20802, and SRPO, arXiv 2604.02288; the numbers of both are the defaults.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tfgrpo.errors import InputError, unknown_name

Rows: TypeAlias = Literal["wrong", "all"]
Others: TypeAlias = Literal["policy", "mask"]
Feedback: TypeAlias = Literal["without_solution", "always", "never"]
TeacherKind: TypeAlias = Literal["ema", "live", "trust_region"]

CHOICES = {
    "rows": ("wrong", "all"),
    "others": ("policy", "mask"),
    "feedback": ("without_solution", "always", "never"),
    "teacher": ("ema", "live", "trust_region"),
}
SWITCHES = ("siblings", "exclude_self", "strip_thinking", "tail")
PLACES = {"solution_words": "{solution}", "feedback_words": "{feedback}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Distill:
    """One way to distil. `hybrid.routing` says who is taught, `hybrid.reprompt` what the teacher reads.

    Example:
        >>> Distill(teacher="live", k=20).words()
        'wrong rows from the live teacher, Jensen-Shannon 0.5 on 20 tokens and a tail'

    Raises:
        InputError: an unknown choice, or a number out of its range.
    """

    rows: Rows = "wrong"  # which rollouts are taught if there is something to teach them with
    others: Others = "policy"  # all other rollouts: policy gradient, or out of the loss
    siblings: bool = True  # a right answer of the same group is shown to the teacher
    feedback: Feedback = "without_solution"  # when the words of the reward are
    exclude_self: bool = True  # no rollout is its own sibling
    strip_thinking: bool = True  # from the answer that is shown
    teacher: TeacherKind = "ema"
    rate: float = 0.05  # of the moving average per update; the live share of the logits in a trust region
    alpha: float = 0.5  # 0: KL(teacher || student), 1: KL(student || teacher), between: Jensen-Shannon
    k: int | None = 100  # of the student's most likely tokens; None: the whole vocabulary; 0: the written token alone
    tail: bool = True  # all other tokens count as one more; False: as if there were none
    is_cap: float = 2.0  # of exp(logp - old), by which a token's divergence is multiplied
    beta: float = 1.0  # a teacher of entropy H counts exp(-beta H), over the batch's mean; 0: all the same
    max_prompt: int = 10_240  # tokens of the teacher's prompt; what is shown is cut, the answer never
    solution_words: str = "\n\nA correct answer:\n\n{solution}"
    feedback_words: str = "\n\nWhat was said about an earlier attempt:\n\n{feedback}"
    closing_words: str = "\n\nAnswer the question."
    library: str | None = None  # exported file, or FOLDER[@VERSION] of a store, that the teacher reads instead of both

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown_name(f"{name} of distillation", str(getattr(self, name)), known)
        for name in SWITCHES:
            _check(name, isinstance(getattr(self, name), bool), "true or false", getattr(self, name))
        for name, place in PLACES.items():
            _check(name, place in getattr(self, name), f"words with {place} in them", getattr(self, name))
        _check("rate", 0 <= self.rate <= 1, "a number from 0 to 1", self.rate)
        _check("alpha", 0 <= self.alpha <= 1, "a number from 0 to 1", self.alpha)
        _check("k", self.k is None or self.k >= 0, "a whole number of at least 0, or null", self.k)
        _check("is_cap", self.is_cap >= 1, "a number of at least 1", self.is_cap)
        _check("beta", 0 <= self.beta < 60, "a number from 0 to below 60", self.beta)
        _check("max_prompt", self.max_prompt >= 2, "at least 2 tokens", self.max_prompt)
        if self.k == 0 and self.alpha != 1:
            raise InputError(
                f"k=0 compares the written token alone, which estimates KL(student || teacher): give alpha=1, "
                f"got alpha={self.alpha}"
            )
        shows = self.siblings or self.feedback != "never"
        if self.library is None and not shows:
            raise InputError("a teacher without siblings and without feedback knows no more than the student")
        if self.library is not None:
            given = self.library if isinstance(self.library, str) else ""
            _check("library", given.strip(), "an exported file, or a store's FOLDER[@VERSION]", self.library)
            if shows:
                raise InputError(
                    "a teacher reads a library, or answers and words of the same group: with library=... give "
                    "siblings=False and feedback='never'"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON; of a library not its place: a run keeps a hash of what is in it."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "library"}

    def words(self) -> str:
        """Who is taught by whom, in a line."""
        teacher = {
            "ema": f"a moving average at rate {self.rate:g}",
            "live": "the live teacher",
            "trust_region": f"the first model with {self.rate:g} of the live one" if self.rate else "the first model",
        }[self.teacher]
        teacher += f" that reads {self.library}" if self.library else ""
        kinds = {0.0: "KL(teacher || student)", 1.0: "KL(student || teacher)"}
        kind = kinds.get(self.alpha, f"Jensen-Shannon {self.alpha:g}")
        others = "and a tail" if self.tail else "alone"
        support = {None: "on all tokens", 0: "at the written token"}.get(self.k, f"on {self.k} tokens {others}")
        return f"{self.rows} rows from {teacher}, {kind} {support}"


def _check(name: str, fine: object, wanted: str, got: Any) -> None:
    if not fine:
        raise InputError(f"{name} of distillation must be {wanted}, got {got!r}")
