"""The process that runs and parses a model's SQL; run as a script, standard library and sqlglot only.

Requests, one JSON object per line:
    {"do": "run", "database" | "schema", "golds", "sql", "ordered", "timeout_s", "max_rows", "tolerance"}
        -> {"equal": bool, "error": str, "gold_error": str, "empty": bool, "shown": str}
    {"do": "parse", "golds", "sql", "dialect"}
        -> {"syntax": bool, "schema": float, "error": str}

Every query gets a connection of its own that can only read: a file is opened read-only, a schema is copied from a
template in memory, and an authorizer refuses everything but reading. A progress handler stops a query at its time
limit; where one single step of sqlite takes longer than that, whoever asked kills this process.
"""

from __future__ import annotations

import json
import math
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

MEMORY_BYTES = 1 << 30
MAX_RESULT_BYTES = 64 << 20
MAX_MATCHED = 300
"""So many rows that differ in the last digits of their numbers are matched with each other exactly; more by sorting."""

_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_REFUSED_FUNCTIONS = ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "sqlite_log")
_REFUSED_IN_SCHEMA = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}

Row = tuple[Any, ...]
Result = tuple[tuple[Row, ...], str]  # rows, or the error that took their place


class _RefusedError(Exception):
    """Why a query that sqlite would answer gets no result."""


# --------------------------------------------------------------------------------------------- comparing results


def same_result(gold: Sequence[Row], got: Sequence[Row], *, ordered: bool = False, tolerance: float = 1e-6) -> bool:
    """Whether two results hold the same rows, as often, and in the same order where `ordered`.

    Columns are compared by position, their names do not matter. Whole numbers must be equal; where one of two numbers
    is a float, they may differ by `tolerance`, or by 1e-9 of their size. NULL equals NULL, and no text equals a number.

    Example:
        >>> same_result([(1, "a"), (2, None)], [(2.0, None), (1, "a")])
        True
        >>> same_result([(1,), (1,), (2,)], [(1,), (2,), (2,)])
        False
    """
    if len(gold) != len(got) or {len(r) for r in gold} != {len(r) for r in got}:
        return False
    if ordered:
        return all(same_row(a, b, tolerance) for a, b in zip(gold, got, strict=True))
    left, right = Counter(gold), Counter(got)
    missing, surplus = _by_shape(left - right), _by_shape(right - left)
    return missing.keys() == surplus.keys() and all(_matched(missing[k], surplus[k], tolerance) for k in missing)


def same_row(a: Row, b: Row, tolerance: float) -> bool:
    """Whether two rows of equal length hold the same cells."""
    return all(same_cell(x, y, tolerance) for x, y in zip(a, b, strict=True))


def same_cell(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two values that sqlite returned are the same."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=tolerance)
    return type(a) is type(b) and bool(a == b)


def _by_shape(rows: Counter[Row]) -> dict[Row, list[Row]]:
    """Rows that can only be equal to each other: the same cells but for the numbers."""
    shapes: dict[Row, list[Row]] = defaultdict(list)
    for row in rows.elements():
        shapes[tuple("number" if isinstance(c, int | float) else ("cell", c) for c in row)].append(row)
    return shapes


def _matched(gold: list[Row], got: list[Row], tolerance: float) -> bool:
    """Whether the rows can be paired so that the two of each pair are the same."""
    if len(gold) != len(got):
        return False
    pairs = zip(sorted(gold, key=_numbers), sorted(got, key=_numbers), strict=True)
    if all(same_row(a, b, tolerance) for a, b in pairs):
        return True
    if len(gold) > MAX_MATCHED:
        return False
    fitting = [[k for k, b in enumerate(got) if same_row(a, b, tolerance)] for a in gold]
    owner: dict[int, int] = {}
    return all(_placed(n, fitting, owner, set()) for n in range(len(gold)))


def _numbers(row: Row) -> list[float]:
    return [cell for cell in row if isinstance(cell, int | float)]


def _placed(n: int, fitting: list[list[int]], owner: dict[int, int], tried: set[int]) -> bool:
    """Kuhn's augmenting path: finds a partner for row n, moving others where needed."""
    for k in fitting[n]:
        if k in tried:
            continue
        tried.add(k)
        if k not in owner or _placed(owner[k], fitting, owner, tried):
            owner[k] = n
            return True
    return False


# ------------------------------------------------------------------------------------------------ running queries


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs the reference queries and then the model's; see the head of the module."""
    reply = {"equal": False, "error": "", "gold_error": "", "empty": False, "shown": ""}
    limits = float(request["timeout_s"]), int(request["max_rows"])
    source = _source(request)
    golds = [_remembered(source, gold, *limits) for gold in request["golds"]]
    failed = next((error for _, error in golds if error), "")
    if failed or request["sql"] is None:
        return {**reply, "gold_error": failed, "empty": not any(rows for rows, _ in golds)}
    rows, error = execute(source, request["sql"], *limits)
    if error:
        return {**reply, "error": error}
    equal = [
        same_result(gold, rows, ordered=ordered, tolerance=request["tolerance"])
        for (gold, _), ordered in zip(golds, request["ordered"], strict=True)
    ]
    shown = f"{len(rows)} rows, first {_shown(rows)}; expected {len(golds[0][0])}, first {_shown(golds[0][0])}"
    return {**reply, "equal": any(equal), "empty": not rows and any(equal), "shown": shown}


def _shown(rows: Sequence[Row]) -> str:
    return repr(rows[0])[:120] if rows else "none"


def _source(request: dict[str, Any]) -> tuple[str, str, int]:
    """What is queried: kind, path or SQL text, and the time of the file's last change."""
    if "schema" in request:
        return "schema", str(request["schema"]), 0
    path = Path(request["database"])
    return "database", str(path), path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=16)
def _remembered(source: tuple[str, str, int], sql: str, timeout_s: float, max_rows: int) -> Result:
    return execute(source, sql, timeout_s, max_rows)


def execute(source: tuple[str, str, int], sql: str, timeout_s: float, max_rows: int) -> Result:
    """The rows of one query over a connection of its own, or none and the error in words."""
    started = time.perf_counter()

    def out_of_time() -> bool:
        return time.perf_counter() - started > timeout_s

    connection: sqlite3.Connection | None = None
    try:
        connection = _connected(source)
        connection.set_progress_handler(out_of_time, 2_000)
        return _fetched(connection.execute(sql), max_rows, out_of_time), ""
    except (sqlite3.Error, sqlite3.Warning, _RefusedError, ValueError, OverflowError) as error:
        words = f"took longer than {timeout_s:g} s" if out_of_time() else str(error)
        return (), words or type(error).__name__
    except MemoryError:
        return (), "ran out of memory"
    finally:
        if connection is not None:
            connection.close()


def _fetched(cursor: sqlite3.Cursor, max_rows: int, out_of_time: Any) -> tuple[Row, ...]:
    rows: list[Row] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if len(rows) > max_rows:
            raise _RefusedError(f"returns more than {max_rows} rows")
        if size > MAX_RESULT_BYTES:
            raise _RefusedError(f"returns more than {MAX_RESULT_BYTES >> 20} MiB")
        if not len(rows) % 1_000 and out_of_time():
            raise _RefusedError("takes too long")
    if cursor.description is None:
        raise _RefusedError("is no query: it returns no columns")
    return tuple(rows)


def _connected(source: tuple[str, str, int]) -> sqlite3.Connection:
    kind, place, _ = source
    connection = _opened(Path(place)) if kind == "database" else sqlite3.connect(":memory:")
    if kind == "schema":
        _template(place).backup(connection)
    connection.text_factory = _text
    connection.execute("PRAGMA temp_store = MEMORY")  # a large sort must not write files
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(_reads_only)
    return connection


def _opened(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise sqlite3.OperationalError(f"there is no database file {path}")
    journalled = any(path.with_name(path.name + ending).exists() for ending in ("-wal", "-journal"))
    options = "mode=ro" if journalled else "mode=ro&immutable=1"  # immutable: no locks, no files beside it
    return sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True)


@lru_cache(maxsize=8)
def _template(schema: str) -> sqlite3.Connection:
    """A database in memory built from SQL text, of which every query gets a copy."""
    connection = sqlite3.connect(":memory:")
    connection.set_authorizer(_stays_inside)
    try:
        connection.executescript(schema)
        connection.commit()
    except (sqlite3.Error, sqlite3.Warning) as error:
        connection.close()
        raise _RefusedError(f"the schema cannot be built: {error}") from error
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")  # a text that is not UTF-8 is a value like any other


def _reads_only(action: int, first: str | None, second: str | None, *_: Any) -> int:
    if action not in _READING or (action == sqlite3.SQLITE_FUNCTION and second in _REFUSED_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _stays_inside(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_DENY if action in _REFUSED_IN_SCHEMA else sqlite3.SQLITE_OK


# ------------------------------------------------------------------------------------------------ parsing queries


def parse(request: dict[str, Any]) -> dict[str, Any]:
    """Whether the model's SQL is one query, and how many tables and columns it shares with a reference (Jaccard)."""
    tree, error = _tree(request["sql"], request["dialect"])
    if tree is None:
        return {"syntax": False, "schema": 0.0, "error": error}
    named = _schema_items(tree)
    references = [t for t, _ in (_tree(gold, request["dialect"]) for gold in request["golds"]) if t is not None]
    shared = max((jaccard(named, _schema_items(t)) for t in references), default=0.0)
    return {"syntax": True, "schema": shared, "error": "" if references else "no reference query can be parsed"}


def jaccard(a: set[Any], b: set[Any]) -> float:
    """|a and b| / |a or b|, 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def _tree(sql: str, dialect: str) -> tuple[Any, str]:
    import sqlglot  # noqa: PLC0415
    from sqlglot import exp  # noqa: PLC0415

    try:
        found = [statement for statement in sqlglot.parse(sql, read=dialect) if statement is not None]
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError) as error:
        return None, " ".join(str(error).split())[:200] or type(error).__name__
    if len(found) != 1 or not isinstance(found[0], exp.Query):
        return None, f"expected one query, got {len(found)} statements of another kind or number"
    return found[0], ""


def _schema_items(tree: Any) -> set[tuple[str, str]]:
    """The tables and columns that a query names, in lower case; names that it made up itself are none."""
    from sqlglot import exp  # noqa: PLC0415

    own = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    aliases = {a.alias.lower() for a in tree.find_all(exp.Alias) if a.alias.lower() != a.this.name.lower()}
    tables = {t.name.lower() for t in tree.find_all(exp.Table)} - own
    columns = {c.name.lower() for c in tree.find_all(exp.Column) if c.table or c.name.lower() not in aliases}
    stars = {"*" for star in tree.find_all(exp.Star) if not isinstance(star.parent, exp.Count)}
    return {("table", name) for name in tables} | {("column", name) for name in (columns | stars)}


def limit_memory() -> None:
    """Bounds the address space where the system can."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main() -> None:
    """Answers requests until its input ends."""
    limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = parse(request) if request["do"] == "parse" else run(request)
        except MemoryError:
            reply = {"equal": False, "syntax": False, "schema": 0.0, "error": "ran out of memory"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
