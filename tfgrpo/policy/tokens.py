"""How many tokens a prompt may have, without the model's tokeniser: careful rather than close."""

from __future__ import annotations

from collections.abc import Sequence

from tfgrpo.policy.base import Sampling
from tfgrpo.types import Message

BYTES_PER_TOKEN = 3  # English is near 4, source code near 3, a Chinese character is 3 bytes and about one token
TOKENS_PER_MESSAGE = 8  # role, separators and what a chat template adds
TOKENS_PER_REQUEST = 16
TOKENS_PER_IMAGE = 1600


def estimate_tokens(messages: Sequence[Message], sampling: Sampling | None = None) -> int:
    """A careful estimate of a prompt's tokens: bytes of UTF-8 / 3, rounded up, plus what surrounds them.

    Example:
        >>> estimate_tokens([{"role": "user", "content": "abcdef"}])
        26
    """
    size = sum(_content_bytes(message) for message in messages)
    if sampling is not None and (sampling.schema or sampling.extra):
        size += len(repr(sampling.schema)) + len(repr(sampling.extra))
    images = sum(_images(message) for message in messages)
    words = -(-size // BYTES_PER_TOKEN)
    return words + TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_IMAGE * images


def text_tokens(text: str) -> int:
    """The same for a piece of text alone."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def _content_bytes(message: Message) -> int:
    content = message.get("content")
    size = len(repr(message["tool_calls"])) if message.get("tool_calls") else 0
    if isinstance(content, str):
        return size + len(content.encode(errors="replace"))
    if not isinstance(content, Sequence):
        return size
    return size + sum(len(str(part.get("text", "")).encode(errors="replace")) for part in content)


def _images(message: Message) -> int:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return 0
    return sum(1 for part in content if "text" not in part)
