"""The same question in several wordings, which a model that never sees the answer makes once, and groups over them.

A wording is used when it is new, keeps every number, turns no word into its opposite, does not give the answer away,
means the same to an embedder that knows meaning, and, where a judge is given, asks for the same answer in its eyes.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from experience_store.embed import cosine
from tfgrpo.errors import InputError, PolicyError
from tfgrpo.grouping.base import Asks, Embeds, Grouping, check_size, last_user
from tfgrpo.grouping.leaks import gold_texts, leaks
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.types import Message, Problem, Prompt

PARAPHRASE = """Write {n} other wordings of the question below. Each must ask for exactly the same answer, keep every \
number, name, list of choices and demand on the form of the answer, and must not answer it or hint at the answer.

<question>
{question}
</question>

Reply with JSON only: {{"wordings": ["...", "..."]}}"""

EQUIVALENT = """Do these two questions ask for exactly the same answer, whatever the answer is?

<first>
{question}
</first>

<second>
{wording}
</second>

Reply with JSON only: {{"difference": "what differs, or empty", "same": true or false}}"""

_WORDINGS = {
    "type": "object",
    "properties": {"wordings": {"type": "array", "items": {"type": "string"}}},
    "required": ["wordings"],
    "additionalProperties": False,
}
_SAME = {
    "type": "object",
    "properties": {"difference": {"type": "string"}, "same": {"type": "boolean"}},
    "required": ["difference", "same"],
    "additionalProperties": False,
}

LEAST_OF_DUPLICATE = 0.9
"""Share of the embedder's threshold for duplicates that a wording must reach: "minilm" puts 8 paraphrases of questions
at 0.81 to 0.98 and 6 other questions on the same subject at 0.56 to 0.79; one word's opposite it puts at 0.96."""
BLIND = frozenset({"hashing"})
"""Embedders that see shared words and not meaning: to them a paraphrase is farther than another question."""

OPPOSITES = """
largest/smallest biggest/smallest greatest/least highest/lowest most/least more/less more/fewer maximum/minimum max/min
longest/shortest before/after first/last earliest/latest increase/decrease ascending/descending always/never all/none
with/without true/false add/subtract include/exclude above/below same/different
"""
REFUSED = "refused_wordings"
"""Where in a problem's `meta` the wordings stand that were not used, each with the reason."""
_PAIRS = tuple(frozenset(pair.split("/")) for pair in OPPOSITES.split())
_NEGATIONS = frozenset({"not", "no", "never", "without", "except", "unless", "cannot", "isn't", "doesn't", "don't"})


def paraphrases(n_each: int) -> Grouping:
    """Every wording of the problem, its own one first, `n_each` times."""
    check_size(n_each)

    def grouping(problem: Problem, number: int) -> tuple[Prompt, ...]:
        wordings = range(len(problem.variants) + 1)
        return tuple(p for v in wordings for p in (Prompt(messages=worded(problem, v), variant=v),) * n_each)

    return grouping


@dataclass(frozen=True, kw_only=True)
class ParaphraseSet:
    """`n` rollouts spread over the wordings of a problem; see `paraphrase_set`."""

    n: int
    each: int = 2
    fresh: bool = False
    judge: Asks | None = None

    def __post_init__(self) -> None:
        check_size(self.n, 2, "a group over wordings needs at least {} rollouts")
        check_size(self.each)

    @property
    def wordings(self) -> int:
        """How many wordings are wanted, the problem's own among them."""
        return max(2, math.ceil(self.n / self.each))

    def __call__(self, problem: Problem, number: int) -> tuple[Prompt, ...]:
        there = min(self.wordings, len(problem.variants) + 1)
        variants = sorted(k % there for k in range(self.n))
        return tuple(Prompt(messages=worded(problem, v, fresh=self.fresh), variant=v) for v in variants)

    async def prepare(self, problem: Problem, caller: Asks, embedder: Embeds | None) -> Problem:
        """The problem with as many wordings as are wanted, or as could be made."""
        lacking = self.wordings - 1 - len(problem.variants)
        if lacking < 1:
            return problem
        return await make_paraphrases(problem, caller, lacking, embedder=embedder, judge=self.judge)


def paraphrase_set(n: int, *, each: int = 2, judge: Asks | None = None) -> ParaphraseSet:
    """`n` rollouts over ceil(n / each) wordings (at least two), each `each` times or so; 24 and 4 in the source.

    Wordings that a problem lacks are made once, before the run, by the critic's model; `judge` then checks that they
    ask the same (list it in the task's `models`). A problem for which none could be made is repeated.
    Source: the groups of PS-GRPO, arXiv 2510.04392, a reconstruction; its own paraphraser is said to have seen the
    answer, ours does not.

    Example:
        >>> p = Problem(id="p", messages=({"role": "user", "content": "2 + 3?"},), variants=("Add 2 and 3.",))
        >>> [prompt.variant for prompt in paraphrase_set(4)(p, 0)]
        [0, 0, 1, 1]
    """
    return ParaphraseSet(n=n, each=each, judge=judge)


def context_reset(n: int, *, each: int = 2, judge: Asks | None = None) -> ParaphraseSet:
    """As `paraphrase_set`, and every wording opens a conversation of its own: system messages and the question only.

    For problems with earlier turns, so that nothing but the wording differs; the question must make sense alone.
    Source: arXiv 2512.12858, a reconstruction from a reader's note of it.

    Example:
        >>> said = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"})
        >>> p = Problem(id="p", messages=(*said, {"role": "user", "content": "2 + 3?"}), variants=("Add 2 and 3.",))
        >>> [m["content"] for m in context_reset(2)(p, 0)[1].messages]
        ['Add 2 and 3.']
    """
    return ParaphraseSet(n=n, each=each, judge=judge, fresh=True)


def worded(problem: Problem, variant: int, *, fresh: bool = False) -> tuple[Message, ...]:
    """The messages of one wording: 0 is the problem's own, v the v-th of its variants in the last user message.

    With `fresh` the earlier turns are left out; system messages stay.
    """
    if not 0 <= variant <= len(problem.variants):
        raise InputError(f"problem {problem.id!r} has wordings 0..{len(problem.variants)}, not {variant}")
    if variant == 0 and not fresh:
        return problem.messages
    last = last_user(problem.messages)
    words = problem.variants[variant - 1] if variant else problem.messages[last].get("content")
    changed = {**problem.messages[last], "content": words}
    before = problem.messages[:last]
    kept = tuple(m for m in before if m.get("role") == "system") if fresh else before
    return (*kept, changed, *problem.messages[last + 1 :])


async def make_paraphrases(
    problem: Problem, caller: Asks, n: int, *, embedder: Embeds | None = None, judge: Asks | None = None
) -> Problem:
    """The problem with up to `n` more wordings by a model that is never shown the answer.

    There may be fewer than `n`, or none when the reply is no JSON or no wording passes. Those that were refused stand
    in `meta["refused_wordings"]`, each with the reason, so that a run can say what its paraphraser did wrong.

    Args:
        problem: its variants stay and come first.
        caller: the model that writes them; recorded under the purpose "paraphrase".
        n: how many more are wanted.
        embedder: leaves out wordings below `LEAST_OF_DUPLICATE` of its threshold for duplicates; a blind one is not
            asked.
        judge: leaves out wordings that in its eyes ask something else; one call each.

    Raises:
        PolicyError: the model that writes them could not be asked.
    """
    check_size(n)
    request: Message = {"role": "user", "content": PARAPHRASE.format(n=n, question=problem.question)}
    sampling = Sampling(temperature=1.0, max_tokens=200 + n * (100 + len(problem.question) // 2), schema=_WORDINGS)
    reply = await caller.complete([request], CallKey(purpose="paraphrase", problem=problem.id), sampling)
    found = {wording: why_not(problem, wording) for wording in _wordings(reply.text)}
    usable = [wording for wording, why in found.items() if not why]
    if embedder is not None and getattr(embedder, "name", "") not in BLIND and usable:
        near = await asyncio.to_thread(_near, problem.question, usable, embedder)
        found |= {w: "means something else, by its embedding" for w in usable if w not in near}
        usable = near
    if judge is not None:
        verdicts = await asyncio.gather(*(_same(problem, w, k, judge) for k, w in enumerate(usable)))
        different = [w for w, same in zip(usable, verdicts, strict=True) if not same]
        found |= dict.fromkeys(different, "asks for something else, says the judge")
        usable = [w for w, same in zip(usable, verdicts, strict=True) if same]
    refused = {wording: why for wording, why in found.items() if why}
    return replace(
        problem,
        variants=tuple(dict.fromkeys((*problem.variants, *usable)))[: len(problem.variants) + n],
        meta={**problem.meta, REFUSED: refused} if refused else problem.meta,
    )


def refused_wordings(problems: Sequence[Problem]) -> str:
    """Why wordings were not used, with how many of each, such as "wordings refused: 12 changes the numbers"."""
    counts = Counter(why for problem in problems for why in problem.meta.get(REFUSED, {}).values())
    return "wordings refused: " + ", ".join(f"{n} {why}" for why, n in counts.most_common()) if counts else ""


def wordings_notice(grouping: object, problems: Sequence[Problem]) -> list[str]:
    """What a reader of a report should know when a run over wordings had problems with one wording only."""
    alone = sum(not problem.variants for problem in problems)
    if not isinstance(grouping, ParaphraseSet) or not alone:
        return []
    why = refused_wordings(problems) or "no more could be made"
    return [f"{alone} of {len(problems)} problems have one wording, whose answers were compared with no other ({why})"]


def _wordings(text: str) -> list[str]:
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        listed = json.loads(found[0])["wordings"] if found else []
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        return []
    return [w.strip() for w in listed if isinstance(w, str) and w.strip()] if isinstance(listed, list) else []


def why_not(problem: Problem, wording: str) -> str:
    """What code finds against a wording, "" for nothing: it is new, keeps numbers and sense, and tells no answer.

    Example:
        >>> p = Problem(id="p", messages=({"role": "user", "content": "Which is the largest: 3 or 5?"},), answer="5")
        >>> why_not(p, "Of 3 and 5, which is the largest?"), why_not(p, "Which is the smallest: 3 or 5?")
        ('', 'turns a word into its opposite')
    """
    question = problem.question
    if not wording or wording == question:
        return "is no other wording"
    told = any(g in wording.casefold() and g not in question.casefold() for g in gold_texts(problem))
    if told or any(leaks(wording, g) and not leaks(question, g) for g in gold_texts(problem)):
        return "tells the answer"
    if sorted(re.findall(r"\d+", wording)) != sorted(re.findall(r"\d+", question)):
        return "changes the numbers"
    return "turns a word into its opposite" if _turned(question, wording) else ""


def _turned(question: str, wording: str) -> bool:
    """Whether a word became its opposite, or a negation came or went."""
    asked, said = (frozenset(re.findall(r"[a-z']+", text.casefold())) for text in (question, wording))
    if bool(asked & _NEGATIONS) != bool(said & _NEGATIONS):
        return True
    return any(len(pair & asked) == 1 and pair & said and not pair & asked & said for pair in _PAIRS)


def _near(question: str, wordings: Sequence[str], embedder: Embeds) -> list[str]:
    first, *others = embedder.embed([question, *wordings])
    least = LEAST_OF_DUPLICATE * embedder.duplicate_threshold
    return [w for w, vector in zip(wordings, others, strict=True) if cosine(first, vector) >= least]


async def _same(problem: Problem, wording: str, place: int, judge: Asks) -> bool:
    """A judge that cannot be asked or read has not said yes."""
    request: Message = {"role": "user", "content": EQUIVALENT.format(question=problem.question, wording=wording)}
    key = CallKey(purpose="judge", problem=problem.id, sample=place)
    try:
        reply = await judge.complete([request], key, Sampling(temperature=0.0, max_tokens=200, schema=_SAME))
    except PolicyError:
        return False
    found = re.search(r"\{.*\}", reply.text, re.DOTALL)
    try:
        return found is not None and json.loads(found[0])["same"] is True
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        return False
