"""Draft first, then refine: half of the calls look for a good draft, the other half start from the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfgrpo.errors import InputError
from tfgrpo.grouping.base import Stage, check_size, with_words
from tfgrpo.types import Problem, Prompt, Rollout

REFINE = """Here is a draft of an answer. Take it as guidance only: it may be wrong, and it must not be copied. Check \
it, and answer the question above in your own words and in the form that was asked for.

<draft>
{draft}
</draft>"""
MAX_CHARS = 2_000


@dataclass(frozen=True, kw_only=True)
class BestDraft:
    """Drafts, then refinements of the best of them; see `best_draft`."""

    n: int
    drafts: int
    skip_above: float = 0.75
    max_chars: int = MAX_CHARS

    def __post_init__(self) -> None:
        check_size(self.n, 3, "a group of drafts and refinements needs at least {} answers")
        if not 1 <= self.drafts <= self.n - 2:
            raise InputError(
                f"of {self.n} answers 1 to {self.n - 2} can be drafts, so that two refinements are left to compare; "
                f"got drafts={self.drafts}"
            )

    @property
    def max_calls(self) -> int:
        """Drafts and refinements together."""
        return self.n

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        return (Prompt(messages=problem.messages),) * self.drafts

    def then(self, problem: Problem, number: int, stage: int, rollouts: Sequence[Rollout]) -> Stage | None:
        """The refinements, which alone are compared; None after them, or when the drafts are good enough already."""
        if stage > 0:
            return None
        solved = sum(r.score.success for r in rollouts) / len(rollouts)
        if len(rollouts) > 1 and solved > self.skip_above:
            return None
        best = max(rollouts, key=lambda r: r.score.value)  # the first of equals
        draft = best.completion.text.strip()[-self.max_chars :] or "(empty)"
        refined = Prompt(messages=with_words(problem.messages, REFINE.format(draft=draft)), origin="draft")
        return Stage(prompts=(refined,) * (self.n - self.drafts))


def best_draft(n: int, *, drafts: int | None = None, skip_above: float = 0.75, max_chars: int = MAX_CHARS) -> BestDraft:
    """iGRPO: some drafts of the bare problem, then refinements that are shown the best one; `n` answers in all.

    `d = argmax_i r(d_i)`, the first of equals; the group are the refinements, compared under the prompt that shows d.
    Binary rewards give E[r(d)] = 1 - (1 - V)^drafts. When more than `skip_above` of several drafts are solved they are
    the group themselves (ours: refinements of a right draft are all right and teach nothing).

    Args:
        n: answers in all, as many as a plain group would have; 8 in the source.
        drafts: how many of them are drafts; None is half, 4 in the source.
        skip_above: share of solved drafts above which nothing is refined; 1 never skips.
        max_chars: the end of the draft that is shown.

    Source: arXiv 2602.09000 (paper; no official code).

    Example:
        >>> best_draft(8).drafts, best_draft(3).drafts
        (4, 1)
    """
    return BestDraft(n=n, drafts=n // 2 if drafts is None else drafts, skip_above=skip_above, max_chars=max_chars)


def best_of(value: float, drafts: int) -> float:
    """The chance that the best of some drafts is right: `1 - (1 - value) ** drafts`.

    Example:
        >>> [round(best_of(v, 4), 4) for v in (0.1, 0.25, 0.5)]
        [0.3439, 0.6836, 0.9375]
    """
    return 1.0 - (1.0 - value) ** drafts
