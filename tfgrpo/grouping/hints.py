"""Hints for problems that nobody solved: a ladder of them, climbed by the whole group or by one answer.

A ladder comes from `meta["hints"]`, a list from the weakest to the strongest (or a mapping of such lists: knowledge,
planning, solution), or it is cut from `meta["solution"]`, which never shows the step that tells the answer. A hint that
tells the answer is refused, save on the highest level of a ladder that somebody wrote.

What is learned is served without hints. So hinted answers are compared with each other and shown to the critic, and
the effect of an experience is measured on answers without hint alone: `tfgrpo.grouping.transfer` has the tests.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfgrpo.errors import InputError
from tfgrpo.grouping.base import Asks, Embeds, Stage, check_size, failed, with_words
from tfgrpo.grouping.leaks import gold_texts, leaks
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Message, Problem, Prompt, Rollout

HINT = "Hint: {}"
MAX_CHARS = 2_000
"""Of one hint; a longer one would bury the question."""

SELF_HINTS = """Below are a question and its reference solution. Write {n} hints for someone who failed to answer it, \
from the weakest to the strongest: the first names the idea or the rule that is needed, the last also says which steps \
to take. None of them may state the answer or a number from which it can be read off. One to three sentences each.

<question>
{question}
</question>

<solution>
{solution}
</solution>

Reply with JSON only: {{"hints": ["...", "..."]}}"""

_HINTS = {
    "type": "object",
    "properties": {"hints": {"type": "array", "items": {"type": "string"}}},
    "required": ["hints"],
    "additionalProperties": False,
}
_STEP = re.compile(r"(?<=[.!?])\s+(?=\S)|\n+")


def hint_ladder(problem: Problem, levels: int = 3, *, cumulative: bool = False) -> tuple[tuple[int, str], ...]:
    """The usable hints of a problem as (level, text), from the weakest; () when there is nothing to make them of.

    Of more hints than `levels` the weakest `levels` are taken. With `cumulative` each level shows the ones below it in
    its tier too.

    Example:
        >>> p = Problem(id="p", messages=(), answer="12", meta={"solution": "Add 3 and 4. That is 7. 7 + 5 = 12."})
        >>> hint_ladder(p)
        ((1, 'Add 3 and 4.'), (2, 'Add 3 and 4. That is 7.'))

    Raises:
        InputError: `meta["hints"]` is no list of texts, or mapping of such lists.
    """
    check_size(levels, 1, "a ladder of hints needs at least {} level")
    tiers = _written(problem)
    if tiers:
        texts = [t for tier in tiers for t in (_joined(tier) if cumulative else tier)][:levels]
        top = len(texts)
    else:
        texts, top = _cut(str(problem.meta.get("solution") or ""), levels), 0
    golds = gold_texts(problem)
    told = [level != top and any(leaks(text, g) for g in golds) for level, text in enumerate(texts, start=1)]
    usable = [(n, text[:MAX_CHARS]) for n, (text, bad) in enumerate(zip(texts, told, strict=True), start=1) if not bad]
    return tuple((n, text) for place, (n, text) in enumerate(usable) if text not in [t for _, t in usable[:place]])


def _written(problem: Problem) -> list[list[str]]:
    given = problem.meta.get("hints") or ()
    tiers = list(given.values()) if isinstance(given, Mapping) else [given]
    if isinstance(given, str) or not all(_is_texts(tier) for tier in tiers):
        raise InputError(
            f"meta['hints'] of problem {problem.id!r} must be a list of texts from the weakest to the strongest, or a "
            f"mapping of such lists; got {given!r}"
        )
    return [[text.strip() for text in tier if text.strip()] for tier in tiers if tier]


def _is_texts(tier: object) -> bool:
    return isinstance(tier, list | tuple) and all(isinstance(text, str) for text in tier)


def _joined(tier: Sequence[str]) -> list[str]:
    return [" ".join(tier[: k + 1]) for k in range(len(tier))]


def _cut(solution: str, levels: int) -> list[str]:
    """Beginnings of a solution: level k of L shows the first ceil(k S / (L + 1)) of its S steps, never the last.

    There are fewer levels where there are fewer steps.
    """
    steps = [step for step in _STEP.split(solution.strip()) if step.strip()]
    ends = [min(len(steps) - 1, math.ceil(k * len(steps) / (levels + 1))) for k in range(1, levels + 1)]
    return [" ".join(steps[:end]) for end in dict.fromkeys(ends) if end > 0]


def hinted(problem: Problem, level: int, hint: str) -> Prompt:
    """The problem with a hint after its question."""
    return Prompt(messages=with_words(problem.messages, HINT.format(hint)), variant=level, origin=f"hint/{level}")


@dataclass(frozen=True, kw_only=True)
class SharedHints:
    """A failed group is asked again as a whole, one level higher; see `hints`."""

    n: int
    levels: int = 3
    written_by_model: bool = False

    def __post_init__(self) -> None:
        check_size(self.n)
        check_size(self.levels, 1, "a ladder of hints needs at least {} level")

    @property
    def max_calls(self) -> int:
        """The bare group and one for each level."""
        return self.n * (1 + self.levels)

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        return (Prompt(messages=problem.messages),) * self.n

    def then(self, problem: Problem, number: int, stage: int, rollouts: Sequence[Rollout]) -> Stage | None:
        """The whole group with the next hint, until somebody succeeds or the ladder ends."""
        ladder = hint_ladder(problem, self.levels)
        if not failed(rollouts) or stage >= len(ladder):
            return None
        return Stage(prompts=(hinted(problem, *ladder[stage]),) * self.n)

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuses problems of which none has anything to make hints of."""
        _check_sources(problems, "hints")

    async def prepare(self, problem: Problem, caller: Asks, embedder: Embeds | None) -> Problem:
        """With `written_by_model`, hints by a model that sees question and solution; else the problem as it is."""
        if not self.written_by_model or problem.meta.get("hints") or not problem.meta.get("solution"):
            return problem
        return await make_hints(problem, caller, self.levels)


def hints(n: int, *, levels: int = 3, written_by_model: bool = False) -> SharedHints:
    """SAGE's shared ladder: only when all `n` failed, all are asked again with the hint of level 1, 2, ... `levels`.

    P(mixed group) = 1 - (1 - p)^n - p^n is largest at p = 1/2, and it is concave: different hints within one group
    would only lower it, so all share one. The bare failures stay beside the group as `Group.earlier`.

    Args:
        n: rollouts of a group; at most n (1 + levels) answers are asked for.
        levels: rungs of the ladder.
        written_by_model: problems with a `meta["solution"]` and no hints get them once, before the run, by the
            critic's model. In the source the policy writes new ones at every visit; once is ours.

    Source: SAGE, arXiv 2602.03143 (paper and code).

    Example:
        >>> from tfgrpo.types import Completion, Score
        >>> asked = ({"role": "user", "content": "3 + 4 + 5?"},)
        >>> problem = Problem(id="p", messages=asked, answer="12", meta={"hints": ["Add two of them first."]})
        >>> answer = Completion(prompt=asked, messages=(), text="13", policy="any")
        >>> wrong = Rollout(completion=answer, score=Score(value=0.0))
        >>> [prompt.origin for prompt in hints(2).then(problem, 0, 0, [wrong, wrong]).prompts]
        ['hint/1', 'hint/1']
    """
    return SharedHints(n=n, levels=levels, written_by_model=written_by_model)


@dataclass(frozen=True, kw_only=True)
class OneHinted:
    """One answer with a hint takes the place of a failed one; see `hints_replace_one`."""

    n: int
    levels: int = 12
    warmup: int = 0

    def __post_init__(self) -> None:
        check_size(self.n, 2, "a group of which one answer is replaced needs at least {} rollouts")
        check_size(self.levels, 1, "a ladder of hints needs at least {} level")

    @property
    def max_calls(self) -> int:
        """The bare group and one answer for each level."""
        return self.n + self.levels

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        return (Prompt(messages=problem.messages),) * self.n

    def then(self, problem: Problem, number: int, stage: int, rollouts: Sequence[Rollout]) -> Stage | None:
        """One answer with the next hint, until one succeeds; the failed ones with a hint leave the group."""
        bare = tuple(k for k, r in enumerate(rollouts) if not r.aided)
        solved = tuple(k for k, r in enumerate(rollouts) if r.aided and r.score.success)
        if solved:
            out = random.Random(f"{problem.id}/{number}").choice(bare)
            return Stage(keep=(*(k for k in bare if k != out), solved[0]))
        if number < self.warmup or not failed(rollouts):
            return None
        ladder = hint_ladder(problem, self.levels, cumulative=True)
        if stage < len(ladder):
            return Stage(prompts=(hinted(problem, *ladder[stage]),), keep=bare)
        return Stage(keep=bare) if len(bare) < len(rollouts) else None

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuses problems of which none has anything to make hints of."""
        _check_sources(problems, "hints_replace_one")


def hints_replace_one(n: int, *, levels: int = 12, warmup: int = 0) -> OneHinted:
    """Scaf-GRPO: when all `n` failed, one answer per level of hints until one succeeds; it replaces a failed one.

    `G' = (G \\ {o_j}) + {o*}` with o* from the lowest level that works and o_j drawn at random; 7 failures and o* have
    the advantages -0.3536 and 2.4749. Nothing changes when no level works. The group then mixes two prompts, which is
    what SAGE holds against it. The first `warmup` groups of a run get no hints; 15 % of the steps in the source.

    Source: arXiv 2510.19807 (paper and code); the code replaces the first one and asks all levels at once.

    Example:
        >>> from tfgrpo.types import Completion, Score
        >>> asked = ({"role": "user", "content": "3 + 4 + 5?"},)
        >>> problem = Problem(id="p", messages=asked, answer="12", meta={"hints": ["Add two of them first."]})
        >>> answer = Completion(prompt=asked, messages=(), text="13", policy="any")
        >>> wrong = Rollout(completion=answer, score=Score(value=0.0))
        >>> stage = hints_replace_one(2).then(problem, 0, 0, [wrong, wrong])
        >>> [prompt.origin for prompt in stage.prompts], stage.keep
        (['hint/1'], (0, 1))
    """
    return OneHinted(n=n, levels=levels, warmup=warmup)


def _check_sources(problems: Sequence[Problem], name: str) -> None:
    if not any(p.meta.get("hints") or p.meta.get("solution") for p in problems):
        raise InputError(
            f"grouping {name!r} needs something to hint with, and none of {len(problems)} problems has it: give "
            f"meta['hints'], a list from the weakest to the strongest, or meta['solution']"
        )


async def make_hints(problem: Problem, caller: Asks, levels: int = 3, *, tries: int = 3) -> Problem:
    """The problem with `meta["hints"]` by a model that sees question and solution; leaking hints are left out.

    An unreadable reply is asked again, up to `tries` times; the problem stays as it is when none could be read.

    Raises:
        PolicyError: the model could not be asked.
    """
    words = SELF_HINTS.format(n=levels, question=problem.question, solution=problem.meta.get("solution", ""))
    request: Message = {"role": "user", "content": words}
    sampling = Sampling(temperature=1.0, max_tokens=200 + 150 * levels, schema=_HINTS)
    for attempt in range(tries):
        reply = await caller.complete([request], CallKey(purpose="hint", problem=problem.id, sample=attempt), sampling)
        found = [hint for hint in _read(reply.text) if not any(leaks(hint, g) for g in gold_texts(problem))]
        if found:
            return replace(problem, meta={**problem.meta, "hints": found[:levels]})
    return problem


def _read(text: str) -> list[str]:
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        listed = json.loads(found[0])["hints"] if found else []
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        return []
    return [h.strip() for h in listed if isinstance(h, str) and h.strip()] if isinstance(listed, list) else []
