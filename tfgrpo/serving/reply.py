"""A whole answer of a server, and the way to one: what a strategy asks through, in the proxy and in a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tfgrpo.serving.refusal import Refused

if TYPE_CHECKING:
    from multidict import CIMultiDict


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The answer as it came; `plain` is its body unzipped, None where that is not possible.

    One that was chosen tells by which `strategy`, `why`, and after how many `calls`.
    """

    status: int
    headers: CIMultiDict[str]
    body: bytes
    plain: bytes | None = None
    strategy: str = ""
    calls: int = 1
    why: str = ""


Send: TypeAlias = Callable[[bytes], Awaitable[Reply]]
"""Sends a body to where the client's request goes, as its client.

Raises Refused when there is no whole answer.
"""


class Unsent(Refused):
    """A client in code got no answer; `error` is how it says so."""

    def __init__(self, error: Exception) -> None:
        super().__init__(502, "upstream_unreachable", str(error))
        self.error = error
