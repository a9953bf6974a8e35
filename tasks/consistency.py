"""Questions in several wordings, each with the documents that it retrieves: does the answer depend on the wording?

Retrieval-augmented question answering over a generated corpus in a Chroma collection. Every wording searches for
itself, so that a group shows what wording does to the whole chain. The reward is PS-GRPO's group similarity joined with
accuracy (arXiv 2510.04392); `measure` reports the consistency of the retriever, of the generator (documents held fixed)
and of both together apart from each other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experience_store.embed import Embedder
from tasks._corpus import Corpus, Workshop, workshops
from tasks._generated import Maker, generate, problem
from tasks._people import CITIES, NAMES, THINGS
from tfgrpo.advantage import resolve_advantage
from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.rewards.base import reward, score_answers
from tfgrpo.rewards.consistency import answer_consistency, ps_grpo, retriever_consistency
from tfgrpo.rewards.judge import Asks
from tfgrpo.rewards.similarity import Similarity, resolve_similarity, words
from tfgrpo.rewards.text import answer_text
from tfgrpo.task import Task
from tfgrpo.types import Completion, Message, Problem, Score

PROMPT = "Documents:\n{documents}\n\nQuestion: {question} Answer with one word."

QUESTIONS: dict[str, tuple[str, ...]] = {
    "city": (
        "In which city is the workshop {}?",
        "Where does {} have its workshop?",
        "Name the town in which {} works.",
        "I want to visit {} in its rooms. To which place do I travel?",
        "{}: what is the location of this workshop?",
        "Which town is home to {}?",
    ),
    "market": (
        "At the market of which city are the goods of {} sold?",
        "Where can one buy from {} on Saturdays?",
        "Name the town whose market has a stall of {}.",
        "To which market does {} bring what it makes?",
        "{}: in which town is its market stall?",
        "Which town's market sells goods made by {}?",
    ),
    "goods": (
        "What does the workshop {} make?",
        "Which goods come from {}?",
        "Name the product of {}.",
        "What would I buy from {}?",
        "{}: what is produced there?",
        "Which things are built by {}?",
    ),
    "founder": (
        "Who founded the workshop {}?",
        "Which person started {}?",
        "Name the founder of {}.",
        "By whom was {} set up?",
        "{}: who opened this workshop in the first place?",
        "To whom does {} owe its beginning?",
    ),
    "head": (
        "Who is the head of {} today?",
        "Which person leads {} now?",
        "Name the present head of {}.",
        "Who is in charge at {}?",
        "{}: who runs it these days?",
        "By whom is {} led at present?",
    ),
}
"""Wordings of each kind of question; the first is the problem's own."""

RIVALS = {"city": CITIES, "market": CITIES, "goods": THINGS, "founder": NAMES, "head": NAMES}
"""What else could be meant: an answer that names one of these as well does not answer."""


def task(
    *,
    learn: int = 40,
    gate: int = 20,
    test: int = 30,
    seed: int = 0,
    wordings: int = 6,
    k: int = 3,
    corpus: int = 40,
    embedder: str | Embedder = "hashing",
    folder: str | None = None,
) -> Task:
    """Questions about `corpus` workshops, in `wordings` wordings with the `k` documents that each retrieves.

    Args:
        embedder: "hashing" needs nothing; "minilm" is the better retriever where it is installed.
        folder: keeps the Chroma collection there; a temporary one otherwise.

    Raises:
        InputError: numbers out of range, or a folder that holds another corpus.
    """
    most = len(QUESTIONS["city"])
    if not 2 <= wordings <= most or k < 1:
        raise InputError(f"2 to {most} wordings and k >= 1 are needed, got wordings={wordings} and k={k}")
    shops = workshops(corpus, seed)
    dealt = generate(_maker(shops), (learn, gate, test), seed)
    documents = {name: text for shop in shops for name, text in shop.documents().items()}
    with Corpus(documents, embedder=embedder, folder=folder) as found:
        learning, gating, testing = (tuple(_with_documents(split, found, wordings, k)) for split in dealt)
    return Task(
        name="consistency",
        learn=learning,
        gate=gating,
        test=testing,
        reward=ps_grpo(with_=names_only_the_answer, similarity="token_f1"),
        objective="Answer from the documents with the one word asked for, the same for every wording of a question.",
        sampling=Sampling(temperature=0.8, max_tokens=24),
        grouping="paraphrases",
        advantage=resolve_advantage("grpo", by="variant"),
        grader_only=True,
    )


def _maker(shops: Sequence[Workshop]) -> Maker:
    def make(draw: random.Random) -> Problem:
        shop, kind = draw.choice(shops), draw.choice(list(QUESTIONS))
        plain = tuple(wording.format(shop.name) for wording in QUESTIONS[kind])
        answer = str(getattr(shop, kind))
        rivals = tuple(word for word in RIVALS[kind] if word != answer)
        return problem(plain[0], answer, wordings=plain, rivals=rivals)

    return make


def _with_documents(problems: Iterable[Problem], corpus: Corpus, wordings: int, k: int) -> Iterable[Problem]:
    """Each problem with the prompts of its wordings; what was retrieved for them stands in `meta`."""
    for plain in problems:
        asked = plain.meta["wordings"][:wordings]
        retrieved = corpus.search(asked, k)
        prompts = [prompted(q, [corpus.documents[i] for i in ids]) for q, ids in zip(asked, retrieved, strict=True)]
        meta = {
            **plain.meta,
            "wordings": asked,
            "retrieved": tuple(map(tuple, retrieved)),
            "documents": tuple(corpus.documents[i] for i in retrieved[0]),
        }
        own: Message = {"role": "user", "content": prompts[0]}
        yield dataclasses.replace(plain, messages=(own,), variants=tuple(prompts[1:]), meta=meta)


def prompted(question: str, documents: Sequence[str]) -> str:
    """What the model is asked: the documents, then the question."""
    listed = "\n".join(f"[{n}] {text}" for n, text in enumerate(documents, 1))
    return PROMPT.format(documents=listed, question=question)


@reward
def names_only_the_answer(problem: Problem, completion: Completion) -> Score:
    """1 when the answer names the reference and nothing else of its kind, so that copied documents are no answer."""
    said = set(words(answer_text(problem, completion)))
    wanted = str(problem.answer).casefold()
    rivals = sorted(said & {str(word).casefold() for word in problem.meta["rivals"]})
    if wanted in said and not rivals:
        return Score(value=1.0)
    if wanted in said:
        return Score(value=0.0, feedback=f"Name only {problem.answer}; {', '.join(rivals[:3])} was named too.")
    return Score(value=0.0, feedback=f"The answer is {problem.answer}.")


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Means over problems; None where nothing could be compared.

    `accuracy` is the share of right answers over wordings, each with its own documents. `missing` answers could not be
    had from the model and are in no mean.
    """

    retriever: float | None
    generator: float | None
    end_to_end: float | None
    accuracy: float | None
    problems: int
    missing: int


async def measure(
    problems: Sequence[Problem],
    caller: Asks,
    *,
    similarity: str | Similarity = "token_f1",
    max_tokens: int = 24,
) -> Consistency:
    """Asks every wording greedily with its own documents and with those of the first wording.

    C_ret is the mean pairwise Jaccard of what was retrieved, C_gen the mean pairwise likeness of the answers to the
    same documents, C_e2e that of the answers with own documents (arXiv 2510.04392). Costs 2 x wordings - 1 calls each.

    Args:
        problems: of this task, such as `task().test`.
        caller: a `Caller`, or anything with its `complete`.

    Example:
        >>> asyncio.run(measure(task().test, caller))  # doctest: +SKIP
    """
    chosen = resolve_similarity(similarity)
    rows = await asyncio.gather(*(_one(p, caller, chosen, max_tokens) for p in problems))
    return Consistency(
        retriever=_mean(retriever_consistency(p.meta["retrieved"]) for p in problems),
        generator=_mean(row.generator for row in rows),
        end_to_end=_mean(row.end_to_end for row in rows),
        accuracy=_mean(value for row in rows for value in row.right),
        problems=len(problems),
        missing=sum(row.missing for row in rows),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    generator: float | None
    end_to_end: float | None
    right: tuple[float, ...]
    missing: int


async def _one(problem: Problem, caller: Asks, similarity: Similarity, max_tokens: int) -> _Row:
    own = [problem.question, *problem.variants]
    fixed = [prompted(question, problem.meta["documents"]) for question in problem.meta["wordings"]]
    asked = list(dict.fromkeys([*own, *fixed]))
    replies = await asyncio.gather(*(_ask(problem, caller, text, k, max_tokens) for k, text in enumerate(asked)))
    known = {text: reply for text, reply in zip(asked, replies, strict=True) if reply is not None}
    answers = {text: answer_text(problem, reply) for text, reply in known.items()}
    outcomes = await score_answers(names_only_the_answer, problem, [known[t] for t in own if t in known])
    return _Row(
        generator=await answer_consistency(problem, [answers[t] for t in fixed if t in answers], similarity),
        end_to_end=await answer_consistency(problem, [answers[t] for t in own if t in answers], similarity),
        right=tuple(o.value for o in outcomes if isinstance(o, Score)),
        missing=len(asked) - len(known),
    )


async def _ask(problem: Problem, caller: Asks, text: str, sample: int, max_tokens: int) -> Completion | None:
    key = CallKey(purpose="consistency", problem=problem.id, sample=sample)
    message: Message = {"role": "user", "content": text}
    try:
        return await caller.complete([message], key, Sampling(temperature=0.0, max_tokens=max_tokens))
    except (TransportError, RequestError):
        return None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
