"""Text-to-SQL: result comparison, hostile queries, partial credit, the contrastive term, problems that are broken."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience_store.embed import HashingEmbedder
from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Outcome, Reward, reward, score_answers
from tfgrpo.rewards.sql import (
    THIRD_PARTY_WEIGHTS,
    WEIGHTS,
    contrast,
    info_nce,
    partial_reward,
    sql_contrastive,
    sql_execution,
    sql_partial,
)
from tfgrpo.rewards.sql_text import find_sql, ngram_overlap, orders_rows, sql_as_words, tokens
from tfgrpo.rewards.sql_worker import execute, same_result
from tfgrpo.types import Completion, Problem, Score

SCHEMA = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, city TEXT);
INSERT INTO users VALUES (1, 'Ada', 30, 'Bergen'), (2, 'Leo', 41, NULL), (3, 'Ada', 30, 'Porto'), (4, 'Mira', 25, NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, price REAL);
INSERT INTO orders VALUES (1, 1, 9.99), (2, 1, 0.1), (3, 2, 0.2), (4, 4, 5.0);
"""
FOR_EVER = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT sum(n) FROM r"
ENDLESS_ROWS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r"
ONE_LONG_STEP = "SELECT instr(hex(zeroblob(7000000)), hex(zeroblob(3000000)) || '1')"


def problem(gold: Any = "SELECT name FROM users WHERE age > 30", **meta: Any) -> Problem:
    asked = {"role": "user", "content": "Who is older than thirty years?"}
    return Problem(id="p1", messages=(asked,), answer=gold, meta=meta or {"schema": SCHEMA})


def answer(text: str) -> Completion:
    return Completion(prompt=(), messages=({"role": "assistant", "content": text},), text=text, policy="scripted")


async def scored(given: Reward, asked: Problem, *texts: str) -> tuple[Outcome, ...]:
    return await score_answers(given, asked, [answer(t) for t in texts])


async def values(given: Reward, asked: Problem, *texts: str) -> list[float]:
    found = await scored(given, asked, *texts)
    assert all(isinstance(o, Score) for o in found), found
    return [o.value for o in found if isinstance(o, Score)]


# ------------------------------------------------------------------------------------------------- whole answers


@pytest.mark.parametrize(
    ("gold", "sql", "right"),
    [
        ("SELECT name FROM users WHERE age > 30", "SELECT name FROM users WHERE age >= 31", True),
        ("SELECT name FROM users WHERE age > 30", "SELECT name FROM users WHERE age >= 30", False),
        ("SELECT name FROM users", "SELECT DISTINCT name FROM users", False),  # a multiset
        ("SELECT name FROM users", "SELECT name FROM users ORDER BY id DESC", True),  # the reference does not order
        ("SELECT name FROM users ORDER BY id", "SELECT name FROM users ORDER BY id DESC", False),
        ("SELECT name FROM users ORDER BY id", "SELECT name FROM users ORDER BY age", False),
        ("SELECT id, name FROM users", "SELECT name, id FROM users", False),  # columns have a place
        ("SELECT name AS a FROM users", "SELECT name AS b FROM users", True),  # but their names do not matter
        ("SELECT city FROM users", "SELECT city FROM users WHERE city IS NOT NULL", False),  # NULL is a value
        ("SELECT city FROM users WHERE id = 2", "SELECT NULL", True),
        ("SELECT name, name FROM users", "SELECT name, name FROM users", True),  # duplicate columns
        ("SELECT name, name FROM users", "SELECT name FROM users", False),
        ("SELECT sum(price) FROM orders WHERE id IN (2, 3)", "SELECT 0.3", True),  # 0.1 + 0.2
        ("SELECT count(*) FROM users", "SELECT 4.0", True),
        ("SELECT count(*) FROM users", "SELECT '4'", False),
        ("SELECT name FROM users WHERE age > 90", "SELECT name FROM users WHERE age > 95", False),  # both empty
        ("SELECT name FROM users WHERE age > 90", "select name\nfrom users where age>90;", True),  # the reference
        (["SELECT 1", "SELECT name FROM users WHERE id = 2"], "SELECT 'Leo'", True),
    ],
)
async def test_execution(gold: Any, sql: str, right: bool) -> None:
    assert await values(sql_execution(), problem(gold), sql) == [float(right)]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("WITH gone AS (SELECT 1) DELETE FROM users", "not authorized"),
        ("```sql\nWITH x AS (SELECT 1) INSERT INTO users SELECT 9, 'x', 1, 'y'\n```", "not authorized"),
        ("```sql\nSELECT 1; DROP TABLE users\n```", "one statement at a time"),
        ("SELECT * FROM pragma_database_list", "not authorized"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT nix FROM users", "no such column: nix"),
        ("SELECT hex(zeroblob(500000000))", "too big"),
        ("SELECT 'a' LIKE '" + "%a" * 900 + "'", "pattern too complex"),
        ("SELECT \ud800", "surrogates"),
        ("SELECT \x00", "null character"),
        ("DROP TABLE users", "holds no SQL query"),
        ("ATTACH DATABASE '/tmp/x.db' AS x", "holds no SQL query"),
        ("PRAGMA table_info(users)", "holds no SQL query"),
        ("I do not know.", "holds no SQL query"),
        ("", "holds no SQL query"),
        ("SELECT 1", "The result differs: 1 rows, first (1,); expected 1, first ('Leo',)"),
    ],
)
async def test_refused_and_wrong_queries_score_zero_and_say_why(sql: str, said: str) -> None:
    (score,) = await scored(sql_execution(), problem(), sql)
    assert isinstance(score, Score) and score.value == 0.0 and said in score.feedback, score


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM users", "ATTACH DATABASE ':memory:' AS x", "PRAGMA query_only = 0", "BEGIN", "VACUUM",
     "CREATE TABLE x (a)", "UPDATE users SET age = 1", "REPLACE INTO users VALUES (1, 'x', 1, 'y')"],
)  # fmt: skip
def test_every_statement_but_a_query_is_refused(statement: str) -> None:
    rows, error = execute(("schema", SCHEMA, 0), statement, 5.0, 100)
    assert rows == () and "authoriz" in error
    assert execute(("schema", SCHEMA, 0), "SELECT count(*) FROM users", 5.0, 100) == (((4,),), "")


async def test_queries_that_never_end_are_stopped_and_cost_nobody_else() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    heart = asyncio.create_task(tick())
    started = time.perf_counter()
    asked = problem("SELECT count(*) FROM users")
    found = await scored(sql_execution(timeout_s=0.5), asked, FOR_EVER, ENDLESS_ROWS, "SELECT 4", FOR_EVER, "SELECT 5")
    heart.cancel()
    assert [o.value for o in found if isinstance(o, Score)] == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert isinstance(found[0], Score) and "took longer than 0.5 s" in found[0].feedback
    assert isinstance(found[1], Score) and "more than 20000 rows" in found[1].feedback
    assert time.perf_counter() - started < 15 and ticks > 5


async def test_one_step_of_sqlite_that_takes_too_long_is_killed() -> None:
    """A single function call never reaches the progress handler; only ending the process stops it."""
    slow, right = await scored(sql_execution(timeout_s=0.2), problem("SELECT 1"), ONE_LONG_STEP, "SELECT 1")
    assert isinstance(slow, Score) and slow.feedback == "The query ran out of its 0.2 s or of memory."
    assert isinstance(right, Score) and right.value == 1.0


async def test_huge_results_are_refused() -> None:
    wide = "SELECT " + ", ".join(["printf('%.*c', 100000, 'x')"] * 50) + " FROM users, orders, users AS u"
    reward_ = sql_execution(max_rows=3)
    many, big = await scored(reward_, problem("SELECT 1"), "SELECT id FROM users", wide)
    assert isinstance(many, Score) and "more than 3 rows" in many.feedback
    assert isinstance(big, Score) and big.value == 0.0
    (bytes_,) = await scored(sql_execution(), problem("SELECT 1"), wide)
    assert isinstance(bytes_, Score) and "more than 64 MiB" in bytes_.feedback


def written(path: Path, wal: bool = False) -> Path:
    with sqlite3.connect(path) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        connection.execute("INSERT INTO users VALUES (9, CAST(x'ff41' AS TEXT), 50, x'00ff')")
    connection.close()
    return path


def list_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("wal", [False, True])
async def test_a_database_file_is_read_and_stays_as_it_is(tmp_path: Path, wal: bool) -> None:
    path = written(tmp_path / "shop ?#%.db", wal)
    before = path.read_bytes()
    asked = problem("SELECT name, city FROM users WHERE age > 30", database=str(path))
    texts = (
        "SELECT name, city FROM users WHERE age >= 31",
        "WITH a AS (SELECT 1) DELETE FROM users",
        "SELECT name FROM users",
    )
    assert await values(sql_execution(), asked, *texts) == [1.0, 0.0, 0.0]  # with text that is not UTF-8, and bytes
    assert path.read_bytes() == before and list_of(tmp_path) == [path.name]
    relative = problem("SELECT count(*) FROM users", database=path.name)
    assert await values(sql_execution(folder=tmp_path), relative, "SELECT 5") == [1.0]


async def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "shop.db")
    asked = problem("SELECT count(*) FROM users", database=str(path))
    assert await values(sql_execution(), asked, "SELECT 5") == [1.0]
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM users WHERE id = 9")
    connection.close()
    assert await values(sql_execution(), asked, "SELECT 4") == [1.0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (problem("SELECT a FROM nix"), "the reference query of problem 'p1' cannot be used: no such table"),
        (problem("SELECT 1", schema="CREATE TABLE ("), "the schema cannot be built"),
        (problem("SELECT 1", schema="ATTACH ':memory:' AS x"), "the schema cannot be built: not authorized"),
        (problem(FOR_EVER), "cannot be used: "),  # by its own clock or, on a busy machine, by the process's
        (problem("SELECT 1", other=1), "needs a database: a column 'database'"),
        (problem("SELECT 1", database="none.db"), "the database of problem 'p1' is not there: none.db"),
        (problem(None), "needs an answer to compare with"),
    ],
)
async def test_a_broken_problem_is_missing_and_not_wrong(asked: Problem, said: str) -> None:
    for outcome in await scored(sql_execution(timeout_s=0.5), asked, "SELECT 1", "SELECT 2"):
        assert isinstance(outcome, RewardError) and said in str(outcome), outcome


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database at all, just words" * 50)
    (outcome,) = await scored(sql_execution(), problem("SELECT 1 FROM t", database=str(tmp_path / "x.db")), "SELECT 1")
    assert isinstance(outcome, RewardError) and "file is not a database" in str(outcome)


# ------------------------------------------------------------------------------------------------ partial credit


def test_golden_numbers() -> None:
    parts = {"execution": 0.0, "judge": 0.5, "syntax": 1.0, "schema": 1.0, "ngram": 5 / 9, "format": 1.0}
    assert partial_reward(parts, THIRD_PARTY_WEIGHTS) == pytest.approx(4.556, abs=5e-4)
    right = dict.fromkeys(THIRD_PARTY_WEIGHTS, 1.0)
    assert partial_reward(right, THIRD_PARTY_WEIGHTS) == 7.0  # the judge drops out
    gold, got = "SELECT name FROM users WHERE age > 30", "SELECT name FROM users WHERE age >= 30"
    assert ngram_overlap(gold, got) == pytest.approx(5 / 9)
    assert contrast(0.8, [0.5, 0.3]) == pytest.approx(0.4)
    assert contrast(0.3, [0.5]) == 0.0
    assert info_nce(0.8, [0.5, 0.3], 0.1) == pytest.approx(0.946, abs=5e-4)


async def test_partial_credit() -> None:
    half = reward(lambda p, c: 0.5, name="half")
    asked = problem("SELECT name FROM users WHERE age > 30")
    near, right, none = await scored(
        sql_partial(weights=THIRD_PARTY_WEIGHTS, judge=half), asked,
        "SELECT name FROM users WHERE age >= 30", "SELECT name FROM users WHERE age > 30", "hm",
    )  # fmt: skip
    assert isinstance(near, Score) and isinstance(right, Score) and isinstance(none, Score)
    assert near.value == pytest.approx(4.5556 / 7, abs=1e-4) and not near.success
    assert near.parts == pytest.approx(
        {"execution": 0, "syntax": 1, "schema": 1, "ngram": 5 / 9, "format": 1, "judge": 0.5}
    )
    assert right.value == 1.0 and right.success and "judge" not in right.parts
    assert none.value == pytest.approx(2 * 0.5 / 7) and none.parts["format"] == 0.0


async def test_by_default_no_wrong_query_outranks_a_right_one() -> None:
    sure = reward(lambda p, c: 1.0, name="sure")
    asked = problem("SELECT name FROM users WHERE age > 30 AND city IS NULL")
    wrong, right = await scored(
        sql_partial(judge=sure), asked, "SELECT name FROM users WHERE age > 30 AND NOT city IS NULL",
        "Well:\nWITH zz AS (SELECT 'Leo' AS q) SELECT q FROM zz;\nThat is all.",
    )  # fmt: skip
    assert isinstance(wrong, Score) and isinstance(right, Score)
    assert right.success and not wrong.success and right.value > wrong.value
    assert sum(w for n, w in WEIGHTS.items() if n != "execution") < WEIGHTS["execution"]


@pytest.mark.parametrize(
    ("sql", "schema"),
    [
        ("SELECT u.name FROM users AS u WHERE u.age > 30", 1.0),
        ("SELECT name AS n FROM users WHERE age > 30 ORDER BY n", 1.0),  # an alias is no column of the schema
        ("WITH old AS (SELECT name FROM users WHERE age > 30) SELECT name FROM old", 1.0),
        ("SELECT * FROM users", 1 / 4),
        ("SELECT count(*) FROM users", 1 / 3),
        ("SELECT total FROM bills", 0.0),
    ],
)
async def test_schema_overlap(sql: str, schema: float) -> None:
    (score,) = await scored(sql_partial(), problem(), sql)
    assert isinstance(score, Score) and score.parts["schema"] == pytest.approx(schema) and score.parts["syntax"] == 1


NESTED = "SELECT " + "(" * 3000 + "1" + ")" * 3000
NO_QUERY = [
    "SELECT (",
    "SELECT FROM WHERE",
    "```sql\nSELECT 1; SELECT 2\n```",
    NESTED,
    "WITH a AS (SELECT 1) DELETE FROM t",
]


@pytest.mark.parametrize("sql", NO_QUERY)
async def test_what_is_not_one_query_has_no_syntax(sql: str) -> None:
    (score,) = await scored(sql_partial(), problem(), sql)
    assert isinstance(score, Score) and score.parts["syntax"] == 0 and not score.success


async def test_a_judge_that_fails_loses_only_the_answers_it_was_asked_about() -> None:
    def breaks(p: Problem, c: Completion) -> float:
        raise RuntimeError("down")

    wrong, right = await scored(sql_partial(judge=reward(breaks)), problem(), "SELECT 1", "SELECT 'Leo'")
    assert isinstance(wrong, RewardError) and isinstance(right, Score) and right.success


async def test_the_contrastive_term() -> None:
    others = ["How much do all orders cost?", "Which cities are there?"]
    asked = problem("SELECT name FROM users WHERE age > 30", schema=SCHEMA, negatives=[*others])
    made = sql_contrastive(embedder=HashingEmbedder())
    near, far, none = await scored(made, asked, "SELECT older_than, thirty_years FROM users",
                                   "SELECT orders_cost, cities FROM orders", "no")  # fmt: skip
    assert isinstance(near, Score) and isinstance(far, Score) and isinstance(none, Score)
    assert near.parts["contrast"] > 0 == far.parts["contrast"] == none.parts["contrast"]
    (share,) = await scored(
        sql_contrastive(embedder=HashingEmbedder(), temperature=0.1), asked, "SELECT name FROM users"
    )
    assert isinstance(share, Score) and 0 < share.parts["contrast"] < 1
    (alone,) = await scored(made, problem(), "SELECT name FROM users WHERE age > 30")
    assert isinstance(alone, Score) and "contrast" not in alone.parts and alone.value == 1.0 and alone.success


async def test_other_questions_are_a_list_of_texts() -> None:
    made, query = sql_contrastive(embedder=HashingEmbedder(), negatives=["Which cities are there?"]), "SELECT 1"
    (one_text,) = await scored(made, problem(query, schema=SCHEMA, negatives="Which cities are there?"), query)
    assert isinstance(one_text, RewardError) and "list of texts" in str(one_text)
    (empty_cell,) = await scored(made, problem(query, schema=SCHEMA, negatives=None), query)
    assert isinstance(empty_cell, Score) and "contrast" in empty_cell.parts


def test_bad_weights() -> None:
    with pytest.raises(InputError, match="unknown part of the SQL reward 'exec'; did you mean 'execution'"):
        sql_partial(weights={"exec": 1})
    with pytest.raises(InputError, match="must be finite and >= 0, got syntax=-1"):
        sql_partial(weights={"syntax": -1})
    with pytest.raises(InputError, match="finite"):
        sql_partial(weights={"syntax": float("inf")})
    with pytest.raises(InputError, match="temperature must be a number above 0, got 0"):
        sql_contrastive(temperature=0)
    with pytest.raises(InputError, match="pays for wrong queries"):
        sql_contrastive(weights={"execution": 0})


# ------------------------------------------------------------------------------------------------- reading texts


@pytest.mark.parametrize(
    ("text", "sql", "form"),
    [
        ("```sql\nSELECT a FROM t;\n```", "SELECT a FROM t", True),
        ("Sure!\n```\nselect 1\n```\nDone.", "select 1", True),
        ("```sql\nselect 1\n```\nbetter:\n```sql\nselect 2\n```", "select 2", False),
        ("<sql>SELECT 1</sql>", "SELECT 1", True),
        ("-- thirty\nSELECT 1", "-- thirty\nSELECT 1", True),
        ("SQL: SELECT 1;", "SELECT 1", False),
        ("SELECT 1;\n\nThis selects one.", "SELECT 1", False),
        ("```python\nprint(1)\n```", "", False),
        (
            "Select the rows you like",
            "Select the rows you like",
            True,
        ),  # words that start like a query are run, and fail
        ("We select 1.", "", False),
    ],
)
def test_find_sql(text: str, sql: str, form: bool) -> None:
    assert find_sql(text) == (sql, form)


def test_tokens_and_order() -> None:
    assert tokens("SELECT \"A b\", 'It''s' FROM [t] /* x */ WHERE a!=1.5e3") == [
        "select", "a b", ",", "'It''s'", "from", "t", "where", "a", "!=", "1.5e3",
    ]  # fmt: skip
    assert orders_rows("SELECT a FROM t WHERE b = 'order by' ORDER /* x */ BY c LIMIT 1")
    assert not orders_rows("SELECT row_number() OVER (ORDER BY a) FROM t -- order by a")
    assert not orders_rows("SELECT 'order', by FROM t")
    assert sql_as_words("SELECT count(*) FROM t WHERE a <> 'x'") == "select count all from t where a is not x"


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    sql, _ = find_sql(text)
    tokens(sql), orders_rows(text), sql_as_words(text), ngram_overlap(text, sql)


@pytest.mark.parametrize(
    "piece", ["```sql\n", "select ", "<sql>", "/*", "'", "\n\nselect", "(", "with a as (", "-- ", '"']
)
def test_hostile_texts_are_read_quickly(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    started = time.process_time()
    find_sql(text), tokens(text), orders_rows(text)
    assert time.process_time() - started < 2.0


# -------------------------------------------------------------------------------------------- comparing results

CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([0, 0.0, -0.0, 1, 1.0, "1", b"1", float("inf")]),
)
RESULTS = st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[CELLS] * width), max_size=8))


@given(RESULTS, st.randoms(use_true_random=False))
def test_a_result_is_the_same_in_any_order(rows: list[Any], draw: random.Random) -> None:
    shuffled = draw.sample(rows, len(rows))
    assert same_result(rows, shuffled)
    assert same_result(rows, rows, ordered=True)
    assert same_result(rows, shuffled, ordered=True) or shuffled != rows


@given(RESULTS, RESULTS)
def test_comparing_is_symmetric(a: list[Any], b: list[Any]) -> None:
    assert same_result(a, b) == same_result(b, a)
    assert same_result(a, b, ordered=True) <= same_result(a, b)


@given(RESULTS.filter(bool), st.data())
def test_a_row_more_or_less_is_another_result(rows: list[Any], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(rows) - 1))
    assert not same_result(rows, rows[:k] + rows[k + 1 :])
    assert not same_result(rows, [*rows, rows[k]])
    assert not same_result(rows, [(*r, None) for r in rows])


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.sampled_from("ab")), min_size=1, max_size=12), st.data())
def test_small_deviations_do_not_matter_and_large_ones_do(rows: list[Any], data: st.DataObject) -> None:
    tenths = [(n / 10, word) for n, word in rows]
    wobbly = [(x + data.draw(st.floats(-4e-7, 4e-7)), word) for x, word in tenths]
    assert same_result(tenths, wobbly[::-1])
    assert not same_result(tenths, [(wobbly[0][0] + 5000.0, wobbly[0][1]), *wobbly[1:]])


@pytest.mark.parametrize(
    ("gold", "got", "same"),
    [
        ([(1,)], [(1.0,)], True),
        ([(10**15,)], [(10**15 + 1,)], False),  # whole numbers are exact
        ([(1e15,)], [(1e15 + 1,)], True),
        ([(True,)], [(1,)], True),
        ([("a", 1.0), ("b", 1.0 + 1e-7)], [("b", 1.0), ("a", 1.0 + 1e-7)], True),  # equal to the last digits, swapped
        ([(1.0, 2.0), (1.0 + 1e-7, 3.0)], [(1.0, 3.0), (1.0 + 1e-7, 2.0)], True),  # sorting alone would not pair them
        ([("a", 1.0), ("b", 2.0)], [("a", 2.0), ("b", 1.0)], False),
        ([(None,)], [("",)], False),
        ([("x",)], [(b"x",)], False),
        ([], [], True),
    ],
)
def test_results_that_are_the_same_or_not(gold: list[Any], got: list[Any], same: bool) -> None:
    assert same_result(gold, got) is same


def test_many_rows_that_differ_in_the_last_digits_are_compared_quickly() -> None:
    gold = [(k / 7, float(k)) for k in range(20_000)]
    started = time.process_time()
    assert same_result(gold, [(a + 1e-9, b) for a, b in reversed(gold)])
    assert time.process_time() - started < 5.0


def test_the_worker_loads_nothing_of_ours() -> None:
    import subprocess

    path = Path(__file__).parents[2] / "tfgrpo" / "rewards" / "sql_worker.py"
    code = (
        f"import runpy, sys; runpy.run_path({str(path)!r}); print([m for m in sys.modules if m.startswith('tfgrpo')])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
