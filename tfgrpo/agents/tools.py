"""Plain Python functions as tools: the schema comes from signature and docstring, pydantic checks the arguments."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from tfgrpo.errors import InputError
from tfgrpo.events import recorded

RESULT_CHARS = 8000
_ARGUMENT = re.compile(r"^\s*(?P<name>\w+)(?:\s*\([^)]*\))?:\s*(?P<words>.+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that a model may call. `schema` is the JSON schema of its arguments."""

    name: str
    about: str
    schema: Mapping[str, Any]
    function: Callable[..., Any]
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    @property
    def spec(self) -> dict[str, Any]:
        """As an entry of `tools` in a chat request."""
        about = {"name": self.name, "description": self.about, "parameters": self.schema}
        return {"type": "function", "function": about}

    async def call(self, arguments: str | Mapping[str, Any]) -> str:
        """The result as text; what goes wrong is text too, for the model to read and mend.

        A function that is no coroutine runs in a thread. What must stop the run (no budget, no key) is raised.
        """
        guard = recorded(None, "")
        async with guard:
            given = json.loads(arguments, strict=False) if isinstance(arguments, str) else arguments
            if not isinstance(given, Mapping):
                raise TypeError(f"the arguments are a JSON object, got {type(given).__name__}")
            checked = self.check(given)
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(**checked)
            else:
                result = await asyncio.to_thread(self.function, **checked)
                result = await result if inspect.isawaitable(result) else result
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
            return _cut(text)
        return _cut(f"error: {_words(guard.error)}")


def tool_of(function: Callable[..., Any] | Tool) -> Tool:
    """A function as a tool: every parameter needs an annotation, and the docstring says what it is good for.

    Lines "name: words" under "Args:" describe the parameters.

    Raises:
        InputError: a parameter without annotation, *args, **kwargs, or no docstring.

    Example:
        >>> def add(a: int, b: int = 1) -> int:
        ...     '''The sum of two numbers.'''
        ...     return a + b
        >>> tool_of(add).schema["required"]
        ['a']
    """
    if isinstance(function, Tool):
        return function
    from pydantic import create_model  # noqa: PLC0415
    from pydantic.fields import FieldInfo  # noqa: PLC0415

    name = getattr(function, "__name__", type(function).__name__)
    about, described = _documented(inspect.getdoc(function) or "")
    if not about:
        raise InputError(f"the tool {name!r} has no docstring; a model decides by it when to use the tool")
    hints, fields = get_type_hints(function), {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name not in hints:
            raise InputError(f"the tool {name!r} needs an annotation for {parameter.name!r}, and no * or ** arguments")
        default = ... if parameter.default is parameter.empty else parameter.default
        info = FieldInfo(default=default, description=described.get(parameter.name))
        fields[parameter.name] = (hints[parameter.name], info)
    model: Any = create_model(name, __config__={"extra": "forbid"}, **fields)  # type: ignore[call-overload]

    def check(given: Mapping[str, Any]) -> Mapping[str, Any]:
        checked = model.model_validate(given)
        return {field: getattr(checked, field) for field in fields}

    schema = model.model_json_schema()
    schema.pop("title", None)
    return Tool(name=name, about=about, schema=schema, function=function, check=check)


def _documented(doc: str) -> tuple[str, dict[str, str]]:
    """The docstring up to its sections, and what it says of each argument."""
    about, _, rest = doc.partition("\nArgs:")
    block = re.split(r"\n\S", rest)[0]
    found = (_ARGUMENT.match(line) for line in block.splitlines())
    return about.strip(), {m["name"]: m["words"].strip() for m in found if m}


def _words(error: Exception | None) -> str:
    from pydantic import ValidationError  # noqa: PLC0415

    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    return f"{type(error).__name__}: {error}"


def _cut(text: str) -> str:
    if len(text) <= RESULT_CHARS:
        return text
    half = RESULT_CHARS // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
