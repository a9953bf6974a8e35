"""A verified reference solution as one more answer of a group in which all others failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfgrpo.errors import InputError
from tfgrpo.grouping.base import Stage, check_size
from tfgrpo.types import Completion, Problem, Prompt, Rollout


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """A plain group that gets the reference when nobody solved it; see `anchors`."""

    n: int
    pass_rate: float = 0.0

    def __post_init__(self) -> None:
        check_size(self.n)
        if not 0.0 <= self.pass_rate < 1.0:
            raise InputError(f"pass_rate must lie in 0..1, without 1; got {self.pass_rate}")

    @property
    def max_calls(self) -> int:
        """The anchor is not asked for."""
        return self.n

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        return (Prompt(messages=problem.messages),) * self.n

    def then(self, problem: Problem, number: int, stage: int, rollouts: Sequence[Rollout]) -> Stage | None:
        """The same group and the reference solution."""
        solution = reference(problem)
        rate = sum(r.score.success for r in rollouts) / len(rollouts)
        if stage > 0 or solution is None or rate > self.pass_rate:
            return None
        return Stage(keep=tuple(range(len(rollouts))), given=(solution,))

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuses problems of which none has a reference."""
        if all(reference(p) is None for p in problems):
            raise InputError(
                f"grouping 'anchors' needs a reference solution, and none of {len(problems)} problems has one: give "
                f"meta['solution'], meta['gold'] or a text as answer"
            )


def anchors(n: int, *, pass_rate: float = 0.0) -> Anchored:
    """`n` answers, and the reference as number n + 1 when at most `pass_rate` of them are solved.

    The reference is scored like any answer and joins only when the reward calls it solved. It was written by nobody
    who saw the prompt, so it is no evidence for an experience, and with parameter updates its ratio is 1 or one-sided.
    Three failures and the anchor have the advantages -0.5, -0.5, -0.5, 1.5.

    Source: DaGRPO, arXiv 2512.06337 (abstract and independent accounts). A reconstruction. SAGE's authors saw foreign
    solutions destabilise training: prefer hints.

    Example:
        >>> from tfgrpo.types import Score
        >>> problem = Problem(id="p", messages=(), answer="12")
        >>> answer = Completion(prompt=(), messages=(), text="13", policy="any")
        >>> wrong = Rollout(completion=answer, score=Score(value=0.0))
        >>> stage = anchors(3).then(problem, 0, 0, [wrong] * 3)
        >>> stage.keep, [completion.text for completion in stage.given]
        ((0, 1, 2), ['12'])
    """
    return Anchored(n=n, pass_rate=pass_rate)


def reference(problem: Problem) -> Completion | None:
    """The reference solution as an answer: `meta["solution"]`, `meta["gold"]` or a text that is the answer.

    Example:
        >>> reference(Problem(id="p", messages=(), answer="Paris")).text
        'Paris'
    """
    candidates = (problem.meta.get("solution"), problem.meta.get("gold"), problem.answer)
    text = next((c.strip() for c in candidates if isinstance(c, str) and c.strip()), None)
    if text is None:
        return None
    return Completion(
        prompt=problem.messages,
        messages=({"role": "assistant", "content": text},),
        text=text,
        policy="reference",
        cost_usd=0.0,
        origin="anchor",
    )
