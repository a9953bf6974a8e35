"""What a model costs. A stale price is worse than none, so there is no guessing: unknown stays unknown.

Looked up in this order: what the user says; the cost map of an installed litellm, whose file is read without importing
the package (2 s); the few dated rows below. A server under another URL has no price here, whatever its model is called.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Price

FREE = Price(prompt_usd_per_mtok=0.0, completion_usd_per_mtok=0.0)
LITELLM_MAP = "model_prices_and_context_window_backup.json"

PRICES_AS_OF = "2025-11-20"
PRICES: Mapping[str, Price] = {
    "gpt-4.1": Price(prompt_usd_per_mtok=2.0, completion_usd_per_mtok=8.0, cached_usd_per_mtok=0.5),
    "gpt-4.1-mini": Price(prompt_usd_per_mtok=0.4, completion_usd_per_mtok=1.6, cached_usd_per_mtok=0.1),
    "gpt-4.1-nano": Price(prompt_usd_per_mtok=0.1, completion_usd_per_mtok=0.4, cached_usd_per_mtok=0.025),
    "gpt-4o": Price(prompt_usd_per_mtok=2.5, completion_usd_per_mtok=10.0, cached_usd_per_mtok=1.25),
    "gpt-4o-mini": Price(prompt_usd_per_mtok=0.15, completion_usd_per_mtok=0.6, cached_usd_per_mtok=0.075),
    "gpt-5": Price(prompt_usd_per_mtok=1.25, completion_usd_per_mtok=10.0, cached_usd_per_mtok=0.125),
    "gpt-5-mini": Price(prompt_usd_per_mtok=0.25, completion_usd_per_mtok=2.0, cached_usd_per_mtok=0.025),
    "gpt-5-nano": Price(prompt_usd_per_mtok=0.05, completion_usd_per_mtok=0.4, cached_usd_per_mtok=0.005),
}


def find_price(provider: str, model: str) -> Price | None:
    """The list price of a provider's model, or None.

    Example:
        >>> find_price("openai", "no-such-model") is None
        True
    """
    rows = _litellm_map()
    for name in (f"{provider}/{model}", model):
        row = rows.get(name)
        if row is not None and row.get("litellm_provider", provider).startswith(provider):
            return _price_of_row(row)
    return PRICES.get(model) if provider == "openai" else None


def parse_price(text: str) -> Price:
    """Dollars per million tokens as "prompt/completion" or "prompt/cached/completion".

    Example:
        >>> parse_price("0.4/1.6")
        Price(prompt_usd_per_mtok=0.4, completion_usd_per_mtok=1.6, cached_usd_per_mtok=None)
    """
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise InputError(
            f"a price is dollars per million prompt/completion tokens, such as 0.4/1.6 (or prompt/cached/completion, "
            f"such as 0.4/0.1/1.6); got {text!r}"
        )
    cached = numbers[1] if len(numbers) == 3 else None
    return Price(prompt_usd_per_mtok=numbers[0], completion_usd_per_mtok=numbers[-1], cached_usd_per_mtok=cached)


def _price_of_row(row: Mapping[str, Any]) -> Price | None:
    prompt, completion = row.get("input_cost_per_token"), row.get("output_cost_per_token")
    if not isinstance(prompt, int | float) or not isinstance(completion, int | float):
        return None
    cached = row.get("cache_read_input_token_cost")
    return Price(
        prompt_usd_per_mtok=_per_million(prompt),
        completion_usd_per_mtok=_per_million(completion),
        cached_usd_per_mtok=_per_million(cached) if isinstance(cached, int | float) else None,
    )


def _per_million(per_token: float) -> float:
    return round(per_token * 1e6, 9)


@cache
def _litellm_map() -> Mapping[str, Any]:
    found = importlib.util.find_spec("litellm")
    for folder in found.submodule_search_locations or () if found else ():
        file = Path(folder) / LITELLM_MAP
        if file.exists():
            rows: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
            return rows
    return {}
