"""Reading problems from a user's file: JSON lines, JSON or CSV.

A row has the question as `messages`, `prompt`, `question`, `problem` or `input` (a text, or a list of chat messages),
the reference as `answer`, `target` or `expected_answer` (or a `solution` that ends in a boxed answer), and optionally
`id` and `variants` (other wordings). All other columns go to `meta`. Every row is checked before anything is returned.

Example:
    {"id": "ducks", "prompt": "How many eggs are left?", "answer": "9"}
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError
from tfgrpo.rewards.text import boxed
from tfgrpo.types import Message, Problem

QUESTION_COLUMNS = ("messages", "prompt", "question", "problem", "input")
ANSWER_COLUMNS = ("answer", "target", "expected_answer")
LIST_COLUMNS = ("examples", "problems", "data", "rows")
ROLES = ("system", "developer", "user", "assistant", "tool")
_FINAL = re.compile(r"(?:^|\n)\s*####\s*(?P<answer>[^\n]+?)\s*$")
_SHOWN_ERRORS = 10


@dataclass(frozen=True, slots=True)
class _Row:
    where: str  # "file.jsonl:3"
    value: Any


class _BadRowError(ValueError):
    """What is wrong with one row; collected, so that a user sees all of them at once."""


def load_problems(path: str | Path, *, limit: int | None = None) -> tuple[Problem, ...]:
    """All problems of a file, in its order. Rows that repeat another exactly and have no id are kept once.

    Raises:
        InputError: the file or some of its rows are malformed; the message lists file, line, expected and got.
    """
    path = Path(path)
    problems: dict[str, tuple[Problem, str]] = {}
    errors: list[str] = []
    for row in _rows(path):
        try:
            if isinstance(row.value, _BadRowError):
                raise row.value
            problem = _problem(row.value)
            _keep(problems, problem, row, given="id" in row.value)
        except _BadRowError as error:
            errors.append(f"{row.where}: {error}")
    if errors:
        more = f"\n... and {len(errors) - _SHOWN_ERRORS} more" if len(errors) > _SHOWN_ERRORS else ""
        raise InputError("\n".join(errors[:_SHOWN_ERRORS]) + more)
    if not problems:
        raise InputError(f"{path}: expected at least one problem, got none")
    return tuple(problem for problem, _ in problems.values())[:limit]


def _keep(problems: dict[str, tuple[Problem, str]], problem: Problem, row: _Row, *, given: bool) -> None:
    earlier = problems.get(problem.id)
    if earlier is None:
        problems[problem.id] = (problem, row.where)
    elif given or earlier[0] != problem:
        raise _BadRowError(f"expected an id of its own, got {problem.id!r}, which is the id of {earlier[1]}")


def content_id(messages: Sequence[Message], answer: Any) -> str:
    """The id of a problem that was given none: a hash of what it asks and expects."""
    text = json.dumps([list(messages), answer], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _problem(row: Any) -> Problem:
    if not isinstance(row, Mapping):
        raise _BadRowError(f"expected an object with a question and an answer, got {_shown(row)}")
    column = next((name for name in QUESTION_COLUMNS if row.get(name) not in (None, "")), None)
    if column is None:
        raise _BadRowError(f"expected one of the columns {', '.join(QUESTION_COLUMNS)}, got {_shown(list(row))}")
    messages = _messages(row[column], column)
    used, answer, extra = _answer(row)
    rest = {k: v for k, v in row.items() if k not in (column, used, "id", "variants")}
    return Problem(
        id=_id(row) or content_id(messages, answer),
        messages=messages,
        answer=answer,
        variants=_variants(row.get("variants")),
        meta={**rest, **extra},
    )


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise _BadRowError(f"expected {column!r} to be a text or a list of chat messages, got {_shown(value)}")
    for message in value:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or message.get("role") not in ROLES or not isinstance(content, str | list):
            raise _BadRowError(
                f"expected a message with a role ({', '.join(ROLES)}) and content, got {_shown(message)}"
            )
    if value[-1]["role"] not in ("user", "tool"):
        raise _BadRowError(f"expected the last message of {column!r} to be the user's, got role {value[-1]['role']!r}")
    return tuple(value)


def _answer(row: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """The column it came from, the reference, and a worked answer for `meta` where the file has one."""
    column = next((name for name in ANSWER_COLUMNS if row.get(name) is not None), "")
    value = row.get(column)
    if isinstance(value, str) and (final := _FINAL.search(value)):
        return column, final["answer"].replace(",", ""), {"gold": value}
    if not column and isinstance(row.get("solution"), str):
        value = boxed(row["solution"])
    return column, value, {}


def _id(row: Mapping[str, Any]) -> str:
    given = row.get("id")
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise _BadRowError(f"expected 'id' to be a text or a whole number, got {_shown(given)}")
    return str(given)


def _variants(value: Any) -> tuple[str, ...]:
    if value in (None, ""):
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise _BadRowError(f"expected 'variants' to be a list of texts, got {_shown(value)}")
    return tuple(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _rows(path: Path) -> Iterator[_Row]:
    text = _text(path)
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: expected a file ending in {', '.join(readers)}, got {path.suffix or 'no ending'!r}")
    return reader(path, text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from error


def _json_lines(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _Row(f"{path}:{number}", _parsed(line))


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return _BadRowError(f"expected one JSON object, got {_shown(line.strip())} ({error})")


def _json(path: Path, text: str) -> Iterator[_Row]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: expected JSON: {error.msg} (column {error.colno})") from error
    if isinstance(value, Mapping):
        value = next((value[name] for name in LIST_COLUMNS if isinstance(value.get(name), list)), value)
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of problems, or an object with one under {', '.join(LIST_COLUMNS)}")
    for number, row in enumerate(value, start=1):
        yield _Row(f"{path}: item {number}", row)


def _csv(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                got = f"expected {len(reader.fieldnames or ())} columns, got another number"
                yield _Row(where, _BadRowError(got))
            else:
                yield _Row(where, {k: v for k, v in row.items() if v != ""})
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: expected CSV: {error}") from error
