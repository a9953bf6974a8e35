"""Models: the one place that touches a network. `connect` turns what a user writes into a `Policy`."""

from __future__ import annotations

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Policy, Price, Sampling
from tfgrpo.policy.kinds import FORMS, KINDS, Options, by_litellm, by_url
from tfgrpo.policy.prices import parse_price

__all__ = ["FORMS", "Policy", "Price", "Sampling", "connect", "parse_price"]


def connect(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 120.0,
    max_retries: int = 6,
    price: Price | str | None = None,
) -> Policy:
    """A model by its name; nothing is sent and no server or model is started until it is asked.

    Args:
        model: One of the forms in `FORMS`, such as "openai/gpt-4.1-mini" or "http://127.0.0.1:8000/v1#my-model".
        base_url: A server of your own for "openai/", "azure/", "vllm/" and litellm names.
        api_key: Instead of the environment's. A key is never written to an error, event or record.
        timeout_s: For one attempt.
        max_retries: After the first attempt: time-outs, broken connections, 408, 409, 5xx. 429 has more patience.
        price: Dollars per million tokens, as a `Price` or as "prompt/completion", where the list price is unknown.

    Raises:
        InputError: the name has none of the forms.
        AuthError: a key is needed and there is none.
        MissingExtraError: an optional package is needed.

    Example:
        >>> connect("http://127.0.0.1:8000/v1#my-model").name
        'http://127.0.0.1:8000/v1#my-model'
    """
    options = Options(
        base_url=base_url,
        api_key=api_key,
        timeout_s=timeout_s,
        max_retries=max_retries,
        price=parse_price(price) if isinstance(price, str) else price,
    )
    if "://" in model:
        return by_url(model, options)
    kind, _, name = model.partition("/")
    if not name or not kind:
        raise InputError(f"{model!r} names no model; use one of: {'; '.join(FORMS)}")
    return KINDS[kind](name, options) if kind in KINDS else by_litellm(model, options)
