"""Answer questions about small databases with SQL, which is run on real sqlite; four levels of difficulty."""

from __future__ import annotations

import dataclasses
import functools
import random
import sqlite3

from tasks._databases import DOMAINS, Domain, filled
from tasks._generated import Maker, generate, problem
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.sql import sql_execution, sql_partial
from tfgrpo.task import Task
from tfgrpo.types import Problem

SYSTEM = "You write SQLite queries. Reply with one query that returns exactly what is asked for, and nothing else."
QUESTION = "{tables}\n\n{question}"
LEVELS = (1, 2, 3, 4)
DATABASES = 6
"""Of each domain in each part of the task; the test problems are about databases that occur in no other part."""


def task(
    *, learn: int = 60, gate: int = 30, test: int = 80, seed: int = 0, level: int | None = None, partial: bool = False
) -> Task:
    """Questions about a shop, a school and a fleet: filters (1), aggregates (2), joins (3), nested queries (4).

    `level` keeps only one of these. The reward is execution accuracy; `partial` gives partial credit, with sqlglot.
    """
    if level not in (None, *LEVELS):
        raise InputError(f"text_to_sql has the levels {', '.join(map(str, LEVELS))}; got level={level!r}")
    seen, unseen = _maker(f"{seed}/learn", level), _maker(f"{seed}/test", level)
    learning, gating, testing = generate((seen, seen, unseen), (learn, gate, test), seed)
    return Task(
        name="text_to_sql",
        learn=learning,
        gate=gating,
        test=testing,
        reward=sql_partial() if partial else sql_execution(),
        objective="Write one SQLite query that returns exactly the rows and columns that are asked for.",
        sampling=Sampling(temperature=0.7, max_tokens=160),
        setting="a 0.5B instruct coder model at temperature 0.7: about 0.55",
    )


def _maker(part: str, level: int | None) -> Maker:
    chances = [(domain, p) for domain in DOMAINS for p in domain.patterns if level in (None, p.level)]

    def make(draw: random.Random) -> Problem:
        while True:
            domain, pattern = draw.choice(chances)
            database = filled(domain, f"{part}/{draw.randrange(DATABASES)}")
            values = _values(domain, database, draw)
            sql = pattern.sql.format(**values)
            if _answers(database, sql):
                break
        first, *others = draw.sample(pattern.questions, len(pattern.questions))
        made = problem(
            QUESTION.format(tables=domain.tables, question=first.format(**values)), sql, system=SYSTEM,
            schema=database, level=pattern.level, domain=domain.name,
        )  # fmt: skip
        wordings = [QUESTION.format(tables=domain.tables, question=other.format(**values)) for other in others]
        return dataclasses.replace(made, variants=tuple(wordings))

    return make


def _values(domain: Domain, database: str, draw: random.Random) -> dict[str, object]:
    """For each placeholder one of the values that stand in the database."""
    connection = _opened(database)
    return {name: draw.choice(connection.execute(sql).fetchall())[0] for name, sql in domain.values.items()}


def _answers(database: str, sql: str) -> bool:
    """Whether a query finds anything; an empty result, or a sum of nothing, tells right from wrong badly."""
    rows = _opened(database).execute(sql).fetchall()
    return bool(rows) and rows not in ([(None,)], [(0,)])


@functools.lru_cache(maxsize=4 * DATABASES * len(DOMAINS))
def _opened(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(database)
    return connection
