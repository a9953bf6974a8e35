"""Problems from a user's data: JSON lines, JSON, CSV, Parquet, or rows in memory such as a `datasets.Dataset`.

A row has the question as `messages`, `prompt`, `question`, `problem` or `input` (a text, or a list of chat messages),
the reference as `answer`, `target`, `expected_answer` or `ground_truth`, and optionally `id` and `variants` (other
wordings). All other columns go to `meta`. Data sets made for other trainers are read as they are:

    TRL          prompt (a text or messages) and solution: its boxed answer, or else the solution as it stands
    verl         prompt (messages) and reward_model.ground_truth; data_source and extra_info stay in meta
    verifiers    prompt or question, answer, info, task

Every row is checked before anything is returned.

Example:
    {"id": "ducks", "prompt": "How many eggs are left?", "answer": "9"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError
from tfgrpo.problem_files import BadRowError, Row, file_rows, memory_rows, shown
from tfgrpo.rewards.text import boxed
from tfgrpo.types import Message, Problem

QUESTION_COLUMNS = ("messages", "prompt", "question", "problem", "input")
ANSWER_COLUMNS = ("answer", "target", "expected_answer", "ground_truth")
ROLES = ("system", "developer", "user", "assistant", "tool")
_FINAL = re.compile(r"(?:^|\n)\s*####\s*(?P<answer>[^\n]+?)\s*$")
_SHOWN_ERRORS = 10


def load_problems(path: str | Path, *, limit: int | None = None) -> tuple[Problem, ...]:
    """All problems of a file, in its order. Rows without id that repeat another exactly are kept once.

    Raises:
        InputError: the file or some of its rows are malformed; the message lists file, line, expected and got.
        MissingExtraError: a Parquet file without pyarrow.
    """
    path = Path(path)
    return _checked(file_rows(path), str(path))[:limit]


def problems_from(rows: Iterable[Any], *, name: str = "rows", limit: int | None = None) -> tuple[Problem, ...]:
    """Problems from rows in memory: a list of dicts, a `datasets.Dataset`, anything that yields mappings.

    Example:
        >>> problems_from([{"prompt": "2 + 3?", "solution": "5"}])[0].answer
        '5'

    Raises:
        InputError: as `load_problems`, with the number of the row and `name`.
    """
    return _checked(memory_rows(rows, name), name)[:limit]


def _checked(rows: Iterable[Row], source: str) -> tuple[Problem, ...]:
    problems: dict[str, tuple[Problem, str]] = {}
    errors: list[str] = []
    for row in rows:
        try:
            if isinstance(row.value, BadRowError):
                raise row.value
            problem = _problem(row.value)
            _keep(problems, problem, row, given=row.value.get("id") is not None)
        except BadRowError as error:
            errors.append(f"{row.where}: {error}")
    if errors:
        more = f"\n... and {len(errors) - _SHOWN_ERRORS} more" if len(errors) > _SHOWN_ERRORS else ""
        raise InputError("\n".join(errors[:_SHOWN_ERRORS]) + more)
    if not problems:
        raise InputError(f"{source}: expected at least one problem, got none")
    return tuple(problem for problem, _ in problems.values())


def _keep(problems: dict[str, tuple[Problem, str]], problem: Problem, row: Row, *, given: bool) -> None:
    earlier = problems.get(problem.id)
    if earlier is not None and given:
        raise BadRowError(f"expected an id of its own, got {problem.id!r}, which is the id of {earlier[1]}")
    if earlier is not None and earlier[0] != problem:  # the same question with something else beside it
        problem = replace(problem, id=f"{problem.id}-{content_id((), [problem.variants, dict(problem.meta)])[:8]}")
    problems.setdefault(problem.id, (problem, row.where))


def content_id(messages: Sequence[Message], answer: Any) -> str:
    """The id of a problem that was given none: a hash of what it asks and expects."""
    text = json.dumps([list(messages), answer], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _problem(row: Any) -> Problem:
    if not isinstance(row, Mapping):
        raise BadRowError(f"expected an object with a question and an answer, got {shown(row)}")
    column = next((name for name in QUESTION_COLUMNS if row.get(name) not in (None, "")), None)
    if column is None:
        raise BadRowError(f"expected one of the columns {', '.join(QUESTION_COLUMNS)}, got {shown(list(row))}")
    messages = _messages(row[column], column)
    used, answer, extra = _answer(row)
    used = used or next((name for name in ANSWER_COLUMNS if name in row), "")  # there, but empty
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
        raise BadRowError(f"expected {column!r} to be a text or a list of chat messages, got {shown(value)}")
    messages = tuple(_message(message) for message in value)
    if messages[-1]["role"] not in ("user", "tool"):
        raise BadRowError(f"expected the last message of {column!r} to be the user's, got role {value[-1]['role']!r}")
    return messages


def _message(value: Any) -> Message:
    """A message without the empty fields that tables add to every one of them."""
    message = {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else {}
    speaks = isinstance(message.get("content"), str | list) or bool(message.get("tool_calls"))
    if message.get("role") not in ROLES or not speaks:
        raise BadRowError(f"expected a message with a role ({', '.join(ROLES)}) and content, got {shown(value)}")
    return message


def _answer(row: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """The column it came from, the reference, and a worked answer for `meta` where the file has one."""
    column = next((name for name in ANSWER_COLUMNS if row.get(name) not in (None, "")), "")
    value = row.get(column)
    if isinstance(value, str) and (final := _FINAL.search(value)):
        return column, final["answer"].replace(",", ""), {"gold": value}
    if column:
        return column, value, {}
    model, solution = row.get("reward_model"), row.get("solution")
    if isinstance(model, Mapping) and model.get("ground_truth") is not None:
        return "", model["ground_truth"], {}
    if isinstance(solution, str) and solution.strip():
        found = boxed(solution)
        return "", solution.strip() if found is None else found, {}
    return "", solution if solution != "" else None, {}


def _id(row: Mapping[str, Any]) -> str:
    given = row.get("id")
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise BadRowError(f"expected 'id' to be a text or a whole number, got {shown(given)}")
    return str(given)


def _variants(value: Any) -> tuple[str, ...]:
    if value in (None, ""):
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise BadRowError(f"expected 'variants' to be a list of texts, got {shown(value)}")
    return tuple(value)
