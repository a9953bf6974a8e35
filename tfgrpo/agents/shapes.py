"""Replies in the shape of the openai package's objects, without loading it: attribute access over plain JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfgrpo.types import Completion, Message


class Shaped(Mapping[str, Any]):
    """A JSON object whose fields are attributes too; one that is absent reads None, as an optional field does.

    It is a mapping, so `messages.append(reply.choices[0].message)` and `dict(message)` work as with plain messages.

    Example:
        >>> Shaped({"message": {"content": "4"}}).message.content
        '4'
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = dict(data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _shaped(self._data.get(name))

    def __getitem__(self, name: str) -> Any:
        return _shaped(self._data[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._data == plain_json(other)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def __repr__(self) -> str:
        return f"Shaped({self._data!r})"

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Plain JSON. Of pydantic's options `exclude_none` is honoured; the others change nothing here."""
        data: dict[str, Any] = plain_json(self._data)
        return _without_none(data) if options.get("exclude_none") else data

    def to_dict(self) -> dict[str, Any]:
        """As `model_dump`."""
        return self.model_dump()

    def model_dump_json(self, **options: Any) -> str:
        """The same as text; `indent` is honoured."""
        return json.dumps(self.model_dump(**options), ensure_ascii=False, indent=options.get("indent"))


def chat_completion(completion: Completion, number: int) -> Shaped:
    """A recorded reply as the answer of `chat.completions.create`; `number` makes its id unique in the rollout."""
    usage = completion.usage
    message = completion.messages[-1] if completion.messages else {"role": "assistant", "content": completion.text}
    reason = "stop" if completion.finish_reason == "unknown" else completion.finish_reason
    return Shaped(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,  # a resumed run sees the same reply
            "model": completion.model or completion.policy,
            "choices": [{"index": 0, "message": dict(message), "finish_reason": reason, "logprobs": None}],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            },
        }
    )


def plain_message(message: Any) -> Message:
    """A message as plain JSON, whether it is a mapping, one of ours, or an object of the openai package.

    Raises:
        TypeError: it is none of these.
    """
    dump = getattr(message, "model_dump", None)
    found = dump(exclude_none=True) if callable(dump) else message
    if not isinstance(found, Mapping) or not isinstance(found.get("role"), str):
        raise TypeError(
            f"a message is a mapping with a role, such as {{'role': 'user', 'content': ...}}; got {message!r}"
        )
    plain: Message = plain_json(found)
    return plain


def plain_json(value: Any) -> Any:
    """Mappings and sequences of any kind as dicts and lists; objects of pydantic as what they dump."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain_json(item) for item in value]
    dump = getattr(value, "model_dump", None)
    return plain_json(dump(exclude_none=True)) if callable(dump) else value


def _shaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value if isinstance(value, Shaped) else Shaped(value)
    return [_shaped(item) for item in value] if isinstance(value, list | tuple) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
