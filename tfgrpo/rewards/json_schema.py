"""1 when the first JSON object of the answer fits a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError, RewardError
from tfgrpo.rewards.base import Reward, reward
from tfgrpo.rewards.text import answer_text
from tfgrpo.types import Completion, Problem, Score


def json_schema(*, schema: Mapping[str, Any] | str | None = None) -> Reward:
    """The schema is the option (an object, or the path of a file) or each problem's `meta["schema"]`.

    Example:
        >>> import asyncio
        >>> texts = ('So: {"n": 5}', '{"n": "5"}')
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        >>> [score.value for score in asyncio.run(json_schema(schema=schema)(Problem(id="p", messages=()), said))]
        [1.0, 0.0]
    """
    import jsonschema  # noqa: PLC0415

    fixed = _loaded(schema) if isinstance(schema, str) else schema

    def validator(given: Any, problem: Problem | None = None) -> Any:
        kind = jsonschema.validators.validator_for(given, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(given)
        except jsonschema.SchemaError as error:
            if problem is None:
                raise InputError(f"json_schema: the schema is not valid: {error.message}") from error
            raise RewardError(f"the schema of problem {problem.id!r} is not valid: {error.message}") from error
        return kind(given)

    fixed_validator = None if fixed is None else validator(fixed)

    def score(problem: Problem, completion: Completion) -> Score:
        if fixed_validator is None and "schema" not in problem.meta:
            raise RewardError(f"json_schema needs a schema: the option, or a column 'schema'; problem {problem.id!r}")
        found = first_json(answer_text(problem, completion))
        if found is None:
            return Score(value=0.0, feedback="The answer holds no JSON object.")
        check = fixed_validator or validator(problem.meta["schema"], problem)
        problems = sorted(check.iter_errors(found), key=lambda e: list(map(str, e.absolute_path)))
        if not problems:
            return Score(value=1.0)
        return Score(value=0.0, feedback="\n".join(_words(e) for e in problems[:3]))

    return reward(score, name="json_schema")


def _words(error: Any) -> str:
    where = "/".join(map(str, error.absolute_path))
    return f"{where or 'the object'}: {error.message[:200]}"


def _loaded(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"json_schema: {path!r} is no readable JSON file: {error}") from error


def first_json(text: str) -> dict[str, Any] | None:
    """The first JSON object of a text, whatever stands around it; None when there is none.

    Example:
        >>> first_json('Sure: {"a": {"b": 1}} and {"c": 2}')
        {'a': {'b': 1}}
    """
    decoder = json.JSONDecoder(parse_constant=_refuse)
    start = text.find("{")
    for _ in range(200):  # a bound on the work that one answer of many braces can cause
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
