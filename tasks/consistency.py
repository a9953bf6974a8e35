"""Questions in several wordings, each with the documents that it retrieves: does the answer depend on the wording?

Retrieval-augmented question answering over a generated corpus in a Chroma collection. Every wording searches for
itself, so that a group shows what wording does to the whole chain. The reward is PS-GRPO's group similarity joined with
accuracy (arXiv 2510.04392). Every measurement of the task says, beside the score, how consistent the retriever, the
generator (documents held fixed) and both together are, and how often the answers to all wordings are right: a model
that answers everything with the same words is perfectly consistent, and that shows there.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence

from experience_store.embed import Embedder
from tasks._corpus import Corpus, Workshop, workshops
from tasks._generated import Maker, generate, problem
from tasks._people import CITIES, NAMES, THINGS
from tfgrpo.errors import InputError
from tfgrpo.measures import Answers, Probe, Said
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.base import reward, score_answers
from tfgrpo.rewards.consistency import answer_consistency, entropy_gap, ps_grpo, retriever_consistency
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
    probe: bool = True,
) -> Task:
    """Questions about `corpus` workshops, in `wordings` wordings with the `k` documents that each retrieves.

    Args:
        embedder: "hashing" needs nothing; "minilm" is the better retriever where it is installed.
        folder: keeps the Chroma collection there; a temporary one otherwise.
        probe: measures consistency at every test, which costs 2 x wordings - 1 more calls for each test problem.

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
        advantage="ps_grpo",
        grader_only=True,
        probes=(over_wordings(),) if probe else (),
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

SAYS = (
    "end_to_end_consistency",
    "generator_consistency",
    "retriever_consistency",
    "accuracy_over_wordings",
    "entropy_gap",
)


def over_wordings(*, similarity: str | Similarity = "token_f1") -> Probe:
    """Asks every wording greedily with its own documents and with those of the first wording: 2 x wordings - 1 calls.

    end to end: mean pairwise likeness of the answers with own documents; generator: of the answers to the same
    documents; retriever: mean pairwise Jaccard of what was retrieved, which no learning of the generator moves (all
    three arXiv 2510.04392). accuracy: the share of right answers over wordings, each with its own documents.
    entropy_gap: mean pairwise difference of the answers' word entropies in nats, 0 being equally informative (arXiv
    2512.12858).
    """
    chosen = resolve_similarity(similarity)

    async def read(problem: Problem, replies: Answers) -> Said:
        known = {text: reply for text, reply in zip(_asked(problem), replies, strict=True) if reply is not None}
        own, fixed = ([t for t in texts if t in known] for texts in (_own(problem), _fixed(problem)))
        answers = {text: answer_text(problem, reply) for text, reply in known.items()}
        right = await score_answers(names_only_the_answer, problem, [known[t] for t in own])
        scores = [o.value for o in right if isinstance(o, Score)]
        said = (
            await answer_consistency(problem, [answers[t] for t in own], chosen),
            await answer_consistency(problem, [answers[t] for t in fixed], chosen),
            retriever_consistency(problem.meta["retrieved"]),
            math.fsum(scores) / len(scores) if scores else None,
            entropy_gap([answers[t] for t in own]),
        )
        return dict(zip(SAYS, said, strict=True))

    return Probe(name="wordings", says=SAYS, ask=_requests, read=read)


def _requests(problem: Problem) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in _asked(problem)]


def _asked(problem: Problem) -> list[str]:
    return list(dict.fromkeys([*_own(problem), *_fixed(problem)]))


def _own(problem: Problem) -> list[str]:
    """Every wording with the documents that it retrieves."""
    return [problem.question, *problem.variants]


def _fixed(problem: Problem) -> list[str]:
    """Every wording with the documents of the first one."""
    return [prompted(question, problem.meta["documents"]) for question in problem.meta["wordings"]]
