"""The rows of a user's file or data set with the place they came from: JSON lines, JSON, CSV, Parquet, in memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError, missing_extra

LIST_COLUMNS = ("examples", "problems", "data", "rows")
PARQUET_ROWS = 1_000
"""So many rows of a Parquet file are in memory at once, beside the problems made of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row, or what is wrong with it."""

    where: str  # "file.jsonl:3"
    value: Any


class BadRowError(ValueError):
    """What is wrong with one row; collected, so that a user sees all of them at once."""


def shown(value: Any) -> str:
    """A value in a message, cut to a length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file by its ending.

    Raises:
        InputError: an unknown ending, or a file that cannot be read as what it claims to be.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: expected a file ending in {', '.join(READERS)}, got {path.suffix or 'no ending'!r}")
    return reader(path)


def memory_rows(rows: Iterable[Any], name: str) -> Iterator[Row]:
    """The rows of a list of dicts, a `datasets.Dataset`, or anything else that yields mappings.

    Raises:
        InputError: it is one mapping (a `DatasetDict`, or columns instead of rows), or no iterable.
    """
    if isinstance(rows, Mapping):
        raise InputError(f"{name}: expected rows, got a mapping with {', '.join(map(str, rows))}; choose one of them")
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise InputError(f"{name}: expected a list of mappings or a data set, got {shown(rows)}")
    for number, row in enumerate(rows, start=1):
        yield Row(f"{name}: item {number}", plain(row))


def plain(value: Any) -> Any:
    """Arrays and their scalars, as some data sets hold them, as lists and Python numbers."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    to_list = getattr(value, "tolist", None)
    return plain(to_list()) if callable(to_list) else value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from error


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", _parsed(line))


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return BadRowError(f"expected one JSON object, got {shown(line.strip())} ({error})")


def _json(path: Path) -> Iterator[Row]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: expected JSON: {error.msg} (column {error.colno})") from error
    if isinstance(value, Mapping):
        value = next((value[name] for name in LIST_COLUMNS if isinstance(value.get(name), list)), value)
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of problems, or an object with one under {', '.join(LIST_COLUMNS)}")
    for number, row in enumerate(value, start=1):
        yield Row(f"{path}: item {number}", row)


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                got = f"expected {len(reader.fieldnames or ())} columns, got another number"
                yield Row(where, BadRowError(got))
            else:
                yield Row(where, {k: v for k, v in row.items() if v != ""})
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: expected CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("pyarrow", "data", f"reading {path}") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", value)
    except OSError as error:
        raise InputError(f"{path}: cannot be read after row {number}: {error.strerror or error}") from error
    except ValueError as error:  # pyarrow's own errors about damaged or foreign files are ValueErrors
        raise InputError(f"{path}: expected a Parquet file: {error} (after row {number})") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
