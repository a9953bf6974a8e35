"""What is said of every named method: where it comes from and how sure we are. docs/methods.md is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")
Confidence: TypeAlias = Literal["paper and code", "paper", "code", "third party", "reconstruction", "ours"]
"""What was read: the paper and the official code, one of them, an independent account, only an abstract, or nothing
because the method is our own."""


@dataclass(frozen=True, kw_only=True)
class Method(Generic[T]):
    """One named preset: what to call, its formula, its source.

    Example:
        >>> Method(make=max, formula="max_i r_i", source="ours", confidence="ours").formula
        'max_i r_i'
    """

    make: T
    formula: str
    source: str  # "arXiv 2402.03300"
    confidence: Confidence
    note: str = ""  # what to know before it is used
