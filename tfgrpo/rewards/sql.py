"""Text-to-SQL: the answer's query is run on a real sqlite database, read-only and with limits, and compared.

The database of a problem is `meta["database"]`, the path of a file, or `meta["schema"]`, SQL text that builds one in
memory. The reference query is the problem's answer (of several, any of them counts).

Example:
    >>> meta = {"schema": "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);"}
    >>> asked = {"role": "user", "content": "How many rows?"}
    >>> problem = Problem(id="rows", messages=(asked,), answer="SELECT count(*) FROM t", meta=meta)
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experience_store.embed import Embedder, cosine, default_embedder, resolve_embedder
from tfgrpo.errors import InputError, RewardError, missing_extra, unknown_name
from tfgrpo.rewards.base import Outcome, Reward, each_alone, group_reward, score_answers
from tfgrpo.rewards.sql_text import find_sql, ngram_overlap, orders_rows, sql_as_words, tokens
from tfgrpo.rewards.text import answer_text, golds
from tfgrpo.rewards.worker import Workers
from tfgrpo.types import Completion, Problem, Score

THIRD_PARTY_WEIGHTS = {"execution": 3.0, "judge": 2.0, "syntax": 1.0, "schema": 1.0, "ngram": 1.0, "format": 1.0}
"""Of an independent re-implementation of Reasoning-SQL; with them a similar wrong query can outrank a right one."""
WEIGHTS = {name: weight if name == "execution" else 0.4 * weight for name, weight in THIRD_PARTY_WEIGHTS.items()}
"""The same with partial credit scaled so that all of it together (2.4) weighs less than the execution."""
CONTRASTIVE_WEIGHTS = {"execution": 1.0, "format": 0.1, "contrast": 0.4}

_PARSE_TIMEOUT_S = 30.0  # the first request loads the parser
_SPARE_S = 1.0  # what a process may need beyond the time limits of its queries


def sql_execution(
    *, timeout_s: float = 5.0, max_rows: int = 20_000, tolerance: float = 1e-6, folder: str | Path = ""
) -> Reward:
    """1 when the query returns the rows of the reference query, else 0 (execution accuracy).

    Rows are compared as a multiset, in their order only where the reference has an ORDER BY, and numbers within
    `tolerance`. A query that fails, writes, takes longer than `timeout_s` or returns more than `max_rows` rows scores
    0. Where both results are empty, only the reference query itself scores: emptiness proves nothing.

    Args:
        folder: where `meta["database"]` is looked for.

    Example:
        >>> problem = Problem(id="p", messages=(), answer="SELECT 2", meta={"schema": "CREATE TABLE t (a)"})
        >>> texts = ("SELECT 1 + 1", "SELECT a FROM t")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [score.value for score in asyncio.run(sql_execution()(problem, said))]
        [1.0, 0.0]

    Raises:
        RewardError: (as outcome) the problem has no database, or its own reference query fails.
    """
    database = _Database(timeout_s=timeout_s, max_rows=max_rows, tolerance=tolerance, folder=Path(folder))

    async def scores(problem: Problem, completions: Sequence[Completion]) -> Any:
        found = [find_sql(answer_text(problem, c)) for c in completions]
        runs = await database.run(problem, [sql for sql, _ in found])
        return [
            Score(value=float(run.equal), parts={"execution": float(run.equal)}, feedback=run.words) for run in runs
        ]

    return each_alone(group_reward(scores, name="sql_execution"))


def sql_partial(
    *,
    weights: Mapping[str, float] | None = None,
    judge: Reward | None = None,
    dialect: str = "sqlite",
    timeout_s: float = 5.0,
    max_rows: int = 20_000,
    tolerance: float = 1e-6,
    folder: str | Path = "",
) -> Reward:
    """Reasoning-SQL's partial rewards (arXiv 2503.23157): execution, syntax, schema linking, n-grams, format, judge.

    R = w_e exec + [exec = 0] w_j judge + w_s syntax + w_l J(tables, columns) + w_n J(token bigrams) + w_f format,
    divided by the largest R that a right answer can get. An answer is solved when its execution is right, whatever
    its value. `judge` (any reward) is asked only about answers whose execution is wrong.

    Reconstruction: the components are the paper's; weights and the sum are those of a re-implementation
    (`THIRD_PARTY_WEIGHTS`), by default scaled down (`WEIGHTS`) so that no wrong query outranks a right one.

    Example:
        >>> schema = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2)"
        >>> problem = Problem(id="p", messages=(), answer="SELECT a FROM t", meta={"schema": schema})
        >>> texts = ("SELECT a FROM t", "SELECT b FROM t")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [round(score.value, 3) for score in asyncio.run(sql_partial()(problem, said))]
        [1.0, 0.22]

    Raises:
        MissingExtraError: sqlglot is not installed.
    """
    if find_spec("sqlglot") is None:
        raise missing_extra("sqlglot", "sql", "the reward 'sql_partial'")
    chosen = _checked_weights({**WEIGHTS, **(weights or {})}, WEIGHTS)
    database = _Database(timeout_s=timeout_s, max_rows=max_rows, tolerance=tolerance, folder=Path(folder))

    async def scores(problem: Problem, completions: Sequence[Completion]) -> Any:
        found = [find_sql(answer_text(problem, c)) for c in completions]
        runs = await database.run(problem, [sql for sql, _ in found])
        wrong = [k for k, run in enumerate(runs) if not run.equal]
        opinions = await _opinions(judge, problem, completions, wrong)
        return await asyncio.gather(
            *(
                _partial(problem, sql, form, run, opinion, chosen, dialect)
                for (sql, form), run, opinion in zip(found, runs, opinions, strict=True)
            )
        )

    return each_alone(group_reward(scores, name="sql_partial"))


def sql_contrastive(
    *,
    negatives: Sequence[str] = (),
    embedder: str | Embedder = "",
    weights: Mapping[str, float] | None = None,
    temperature: float | None = None,
    timeout_s: float = 5.0,
    max_rows: int = 20_000,
    tolerance: float = 1e-6,
    folder: str | Path = "",
) -> Reward:
    """Execution, format, and how much nearer the query is to its own question than to others (arXiv 2510.13827).

    R = w_e exec + w_f format + w_c contrast, divided by the sum of the weights of the parts that apply. The query is
    embedded in words (`sql_as_words`); contrast is `contrast` of its cosine similarities, or `info_nce` where a
    `temperature` is given. The other questions are `meta["negatives"]` or the option; without any the part does not
    apply. Questions in several languages need a multilingual embedder.

    Reconstruction from an abstract: the formula is ours.

    Example:
        >>> meta = {"schema": "CREATE TABLE t (a)", "negatives": ["the mean of b"]}
        >>> asked = {"role": "user", "content": "a from t"}
        >>> problem = Problem(id="p", messages=(asked,), answer="SELECT a FROM t", meta=meta)
        >>> answer = Completion(prompt=(), messages=(), text="SELECT a FROM t", policy="any")
        >>> (score,) = asyncio.run(sql_contrastive(embedder="hashing")(problem, [answer]))
        >>> {name: round(part, 3) for name, part in score.parts.items()}
        {'execution': 1.0, 'format': 1.0, 'contrast': 0.804}
        >>> round(score.value, 3)  # (1 + 0.1 + 0.4 x 0.804) / 1.5
        0.948

    Raises:
        RewardError: (as outcome) the other questions are no list of texts, or as for `sql_execution`.
    """
    if temperature is not None and not 0 < temperature < math.inf:
        raise InputError(f"sql_contrastive: the temperature must be a number above 0, got {temperature}")
    chosen = _checked_weights({**CONTRASTIVE_WEIGHTS, **(weights or {})}, CONTRASTIVE_WEIGHTS)
    encoder = resolve_embedder(embedder or default_embedder())
    database = _Database(timeout_s=timeout_s, max_rows=max_rows, tolerance=tolerance, folder=Path(folder))

    async def scores(problem: Problem, completions: Sequence[Completion]) -> Any:
        found = [find_sql(answer_text(problem, c)) for c in completions]
        runs = await database.run(problem, [sql for sql, _ in found])
        others = _other_questions(problem, negatives)
        queries = [sql_as_words(sql) for sql, _ in found]
        vectors = await asyncio.to_thread(encoder.embed, [problem.question, *others, *queries]) if others else []
        made = []
        for k, ((_, form), run) in enumerate(zip(found, runs, strict=True)):
            parts = {"execution": float(run.equal), "format": float(form)}
            if others:
                own, *rest = (cosine(vectors[1 + len(others) + k], v) for v in vectors[: 1 + len(others)])
                near = contrast(own, rest) if temperature is None else info_nce(own, rest, temperature)
                parts["contrast"] = near if queries[k] else 0.0
            total = math.fsum(chosen[name] for name in parts)
            value = math.fsum(chosen[name] * part for name, part in parts.items()) / total
            made.append(Score(value=value, parts=parts, feedback=run.words, solved=run.equal))
        return made

    return each_alone(group_reward(scores, name="sql_contrastive"))


def _other_questions(problem: Problem, default: Sequence[str]) -> list[str]:
    given = problem.meta.get("negatives")
    listed = default if given is None else given
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
        raise RewardError(
            f"reward 'sql_contrastive' needs a list of texts, in a column 'negatives' or as the option; "
            f"problem {problem.id!r} has {listed!r}"
        )
    return [text for text in listed if text != problem.question]


# ------------------------------------------------------------------------------------------------------- formulas


def partial_reward(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """sum_k w_k part_k, where the judge's part counts only while the execution is wrong.

    Example:
        >>> parts = {"execution": 0, "judge": 0.5, "syntax": 1, "schema": 1, "ngram": 5 / 9, "format": 1}
        >>> round(partial_reward(parts, THIRD_PARTY_WEIGHTS), 3)
        4.556
    """
    counted = [name for name in parts if name != "judge" or not parts.get("execution")]
    return math.fsum(weights[name] * parts[name] for name in counted)


def contrast(own: float, negatives: Sequence[float]) -> float:
    """max(0, cos(own question) - mean cos(other questions)).

    Example:
        >>> round(contrast(0.8, [0.5, 0.3]), 4)
        0.4
    """
    return max(0.0, own - math.fsum(negatives) / len(negatives))


def info_nce(own: float, negatives: Sequence[float], temperature: float) -> float:
    """exp(own / T) / sum over own and negatives of exp(cos / T): the softmax share of the own question.

    Example:
        >>> round(info_nce(0.8, [0.5, 0.3], 0.1), 4)
        0.9465
    """
    return 1.0 / (1.0 + math.fsum(math.exp((n - own) / temperature) for n in negatives))


def _checked_weights(weights: Mapping[str, float], known: Mapping[str, float]) -> Mapping[str, float]:
    for name, weight in weights.items():
        if name not in known:
            raise unknown_name("part of the SQL reward", name, known)
        if not 0 <= weight < math.inf:
            raise InputError(f"weights of an SQL reward must be finite and >= 0, got {name}={weight!r}")
    if not weights["execution"] > 0:
        raise InputError("an SQL reward without weight on 'execution' pays for wrong queries; give it one > 0")
    return weights


# -------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    equal: bool
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class _Database:
    """Runs queries on the database of a problem, in processes that are killed when they exceed the limits."""

    timeout_s: float
    max_rows: int
    tolerance: float
    folder: Path

    async def run(self, problem: Problem, queries: Sequence[str]) -> list[_Run]:
        """Whether each query returns what a reference query returns; equal queries are run once.

        Raises:
            RewardError: the problem has no usable database, or a reference query fails.
        """
        references = [gold.strip().rstrip(";") for gold in golds(problem, "sql")]
        request = {
            "do": "run",
            **self._source(problem),
            "golds": references,
            "ordered": [orders_rows(gold) for gold in references],
            "timeout_s": self.timeout_s,
            "max_rows": self.max_rows,
            "tolerance": self.tolerance,
        }
        limit_s = self.timeout_s * (1 + len(references)) + _SPARE_S
        checked = await _WORKERS.ask({**request, "sql": None}, limit_s)
        failed = f"no result within {limit_s:g} s" if checked is None else checked["gold_error"]
        if failed:
            raise RewardError(f"the reference query of problem {problem.id!r} cannot be used: {failed}")
        wanted = list(dict.fromkeys(q for q in queries if q))
        runs = await asyncio.gather(*(self._one(request, sql, references, limit_s) for sql in wanted))
        made = dict(zip(wanted, runs, strict=True))
        return [made.get(q, _Run(equal=False, words="The answer holds no SQL query.")) for q in queries]

    async def _one(self, request: Mapping[str, Any], sql: str, references: Sequence[str], limit_s: float) -> _Run:
        reply = await _WORKERS.ask({**request, "sql": sql}, limit_s)
        if reply is None:
            return _Run(equal=False, words=f"The query ran out of its {self.timeout_s:g} s or of memory.")
        if reply["error"]:
            return _Run(equal=False, words=f"The query fails: {reply['error'][:300]}")
        if not reply["equal"]:
            return _Run(equal=False, words=f"The result differs: {reply['shown']}.")
        if reply["empty"] and tokens(sql) not in [tokens(gold) for gold in references]:
            return _Run(equal=False, words="Both results are empty, which shows nothing about the query.")
        return _Run(equal=True)

    def _source(self, problem: Problem) -> dict[str, str]:
        if problem.meta.get("database"):
            path = self.folder / str(problem.meta["database"])
            if not path.is_file():
                raise RewardError(f"the database of problem {problem.id!r} is not there: {path}")
            return {"database": str(path.resolve())}
        if isinstance(problem.meta.get("schema"), str):
            return {"schema": problem.meta["schema"]}
        raise RewardError(
            f"an SQL reward needs a database: a column 'database' (the path of an sqlite file) or 'schema' (SQL text "
            f"that builds one); problem {problem.id!r} has {', '.join(problem.meta) or 'neither'}"
        )


async def _partial(
    problem: Problem,
    sql: str,
    form: bool,
    run: _Run,
    opinion: Outcome,
    weights: Mapping[str, float],
    dialect: str,
) -> Score | RewardError:
    if isinstance(opinion, RewardError):
        return opinion
    references = golds(problem, "sql_partial")
    request = {"do": "parse", "golds": references, "sql": sql, "dialect": dialect}
    parsed = await _WORKERS.ask(request, _PARSE_TIMEOUT_S) if sql else None
    parts = {
        "execution": float(run.equal),
        "syntax": float(bool(parsed and parsed["syntax"])),
        "schema": float(parsed["schema"]) if parsed else 0.0,
        "ngram": max(ngram_overlap(gold, sql) for gold in references) if sql else 0.0,
        "format": float(form),
    }
    words = [run.words]
    if opinion is not None:
        parts["judge"] = opinion.value
        words.append(opinion.feedback)
    top = math.fsum(weight for name, weight in weights.items() if name != "judge")
    value = partial_reward(parts, weights) / top
    return Score(value=value, parts=parts, feedback="\n".join(w for w in words if w), solved=run.equal)


async def _opinions(
    judge: Reward | None, problem: Problem, completions: Sequence[Completion], wrong: Sequence[int]
) -> list[Outcome]:
    """The judge's scores of the answers at `wrong`, None for all others."""
    opinions: list[Outcome] = [None] * len(completions)
    if judge is not None and wrong:
        asked = await score_answers(judge, problem, [completions[k] for k in wrong])
        for k, outcome in zip(wrong, asked, strict=True):
            opinions[k] = outcome
    return opinions


_WORKERS = Workers("sql_worker.py", purpose="sql", size=max(1, min(4, os.cpu_count() or 1)))
