"""Draft and refine: the model reads its own answer again, and writes a better one or keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tfgrpo.errors import BudgetExhausted
from tfgrpo.grouping.drafts import MAX_CHARS, REFINE
from tfgrpo.late import LateCaller
from tfgrpo.rewards.tournament import transcript
from tfgrpo.strategies.base import LOST, Chosen, Sample, check_count
from tfgrpo.strategies.readings import Reading, reading_name, resolve_reading
from tfgrpo.types import Completion, Problem

CRITIQUE = """Here is a draft of an answer to the question above. Do not answer the question: find what is wrong in \
the draft. Check each step and the form of the answer, and name every error with its correction in a few sentences; if \
there is none, say so.

<draft>
{draft}
</draft>"""

CRITICISED = """What a reader found in it; this may be wrong, too:

<critique>
{critique}
</critique>"""


def refine(n: int = 2, *, critique: bool = False, reading: Reading | str = "auto") -> Refine:
    """A draft, then up to `n` - 1 revisions, each of the answer before; it ends when a revision says the same.

    The draft is the plain answer. A revision that cannot be had leaves the answer before it. Whether a model can
    correct itself without being told what is wrong is an open question (arXiv 2310.01798 says mostly not): measure it.

    Args:
        n: answers, the draft with them.
        critique: a call of its own that looks for errors before each revision, as in the source; else a revision
            checks and answers in one call.
        reading: what two answers must share to be the same.

    Source: arXiv 2303.17651 (Self-Refine; its prompts are per task, ours is one).

    Example:
        >>> import asyncio
        >>> from tfgrpo.strategies.scripted import Said
        >>> chosen = asyncio.run(refine(3)(Problem(id="p", messages=()), Said("7", "5", "5")))
        >>> chosen.completion.text, chosen.why
        ('5', 'revised 2 times, and the last 2 say the same')
    """
    check_count("refine", n, 2)
    resolve_reading(reading)
    return Refine(n=n, critique=critique, reading=reading)


@dataclass(frozen=True, kw_only=True)
class Refine:
    """See `refine`."""

    n: int
    critique: bool
    reading: Reading | str = "auto"
    models: tuple[LateCaller, ...] = field(default=(), init=False)
    oracle: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        return f"refine(n={self.n}, critique={self.critique}, reading={reading_name(self.reading)})"

    @property
    def always(self) -> int:
        """The draft."""
        return 1

    @property
    def max_calls(self) -> int:
        """A draft, and one or two calls for each revision."""
        return 1 + (self.n - 1) * (1 + self.critique)

    async def __call__(self, problem: Problem, sample: Sample) -> Chosen:
        read = resolve_reading(self.reading)
        answers: dict[int, Completion] = {0: await sample(0)}
        path, why, failed = [0], "", 0
        number = 1
        while number < self.max_calls and not why:
            last = path[-1]
            try:
                words = REFINE.format(draft=_shown(answers[last]))
                if self.critique:
                    answers[number] = await sample(number, CRITIQUE.format(draft=_shown(answers[last])))
                    path.append(last)  # a critique is paid for and is no answer
                    words = f"{words}\n\n{CRITICISED.format(critique=_shown(answers[number]))}"
                    number += 1
                answers[number] = await sample(number, words)
            except LOST:
                failed, why = 1, ", and the next revision got no reply"
                break
            except BudgetExhausted:
                why = ", and the budget is over"
                break
            path.append(number)
            number += 1
            said = read(problem, answers[last]), read(problem, answers[path[-1]])
            why = ", and the last 2 say the same" if said[0] is not None and said[0] == said[1] else ""
        revisions = len(set(path)) - 1
        return Chosen(
            number=path[-1],
            answers=answers,
            why=f"revised {revisions} time{'s' * (revisions != 1)}{why}",
            path=tuple(path),
            failed=failed,
        )


def _shown(answer: Completion) -> str:
    return transcript(answer).strip()[-MAX_CHARS:] or "(empty)"
