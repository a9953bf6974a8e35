"""How each kind of model name becomes a policy; `connect` in this package chooses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tfgrpo.errors import AuthError, InputError
from tfgrpo.policy.base import Policy, Price
from tfgrpo.policy.capabilities import Dialect
from tfgrpo.policy.chat import ChatPolicy
from tfgrpo.policy.openai_compatible import azure_wire, openai_wire, shown_url
from tfgrpo.policy.prices import FREE, find_price
from tfgrpo.policy.wire import Wire

OPENAI_URL = "https://api.openai.com/v1"
AZURE_API_VERSION = "2024-10-21"
FORMS = (
    "openai/NAME (OPENAI_API_KEY, OPENAI_BASE_URL)",
    "http://HOST:8000/v1#NAME (any OpenAI-compatible server; TFGRPO_API_KEY if it wants a key)",
    "azure/DEPLOYMENT (AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY, OPENAI_API_VERSION)",
    "vllm/MODEL (started here, or a running one with base_url)",
    "local/smollm2 or local/PATH (transformers, on this machine)",
    "PROVIDER/NAME (any provider that litellm knows)",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What `connect` was given beside the name."""

    base_url: str | None
    api_key: str | None
    timeout_s: float
    max_retries: int
    price: Price | None

    def policy(self, wire: Wire, name: str, model: str, where: str, dialect: Dialect | None = None) -> Policy:
        return ChatPolicy(
            wire,
            name=name,
            model=model,
            where=where,
            price=self.price,
            timeout_s=self.timeout_s,
            max_retries=self.max_retries,
            dialect=dialect,
        )

    def where(self) -> str:
        return shown_url(self.base_url) if self.base_url is not None else ""

    def priced(self, found: Price | None) -> Options:
        return self if self.price is not None else replace(self, price=found)


def by_url(model: str, options: Options) -> Policy:
    """http://HOST:PORT/v1#NAME: any server that speaks the protocol, with a key of its own or none."""
    url, name = address(model)
    shown = shown_url(url)
    if options.base_url is not None:
        raise InputError(f"the model {shown!r} is a URL already; leave base_url out")
    key = checked_key(options.api_key or os.environ.get("TFGRPO_API_KEY"))
    return options.policy(openai_wire(url, key, foreign=True), f"{shown}#{name}", name, shown)


def address(model: str) -> tuple[str, str]:
    """The base URL and the model's name in http://HOST:PORT/v1#NAME.

    Example:
        >>> address("http://127.0.0.1:8000#my-model")
        ('http://127.0.0.1:8000/v1', 'my-model')

    Raises:
        InputError: it has another form, or holds a password.
    """
    url, _, name = model.partition("#")
    if not name or not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise InputError(f"{shown_url(url)!r} needs the form http://HOST:PORT/v1#NAME, with the model's name after '#'")
    if urlsplit(url).username is not None:
        raise InputError(
            f"the URL {shown_url(url)!r} holds a user or password; give a key as api_key or TFGRPO_API_KEY"
        )
    return (f"{url.rstrip('/')}/v1" if urlsplit(url).path in ("", "/") else url), name


def _openai(name: str, options: Options) -> Policy:
    url = options.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    official = urlsplit(url).hostname == urlsplit(OPENAI_URL).hostname
    key = checked_key(options.api_key or os.environ.get("OPENAI_API_KEY"))
    if key is None and official:
        raise AuthError(
            f"no key for openai/{name}: set OPENAI_API_KEY, or give a base_url if the server is your own and needs none"
        )
    dialect = Dialect(limit_field="max_completion_tokens" if official else "max_tokens")
    options = options.priced(find_price("openai", name) if official else None)
    return options.policy(openai_wire(url, key), f"openai/{name}", name, shown_url(url), dialect)


def _azure(name: str, options: Options) -> Policy:
    endpoint = options.base_url or os.environ.get("AZURE_OPENAI_ENDPOINT")
    key = checked_key(options.api_key or os.environ.get("AZURE_OPENAI_API_KEY"))
    if not endpoint:
        raise InputError(f"azure/{name} needs the endpoint: set AZURE_OPENAI_ENDPOINT or give base_url")
    if key is None:
        raise AuthError(f"no key for azure/{name}: set AZURE_OPENAI_API_KEY")
    wire = azure_wire(endpoint, key, os.environ.get("OPENAI_API_VERSION") or AZURE_API_VERSION)
    dialect = Dialect(limit_field="max_completion_tokens")
    options = options.priced(find_price("azure", name))
    return options.policy(wire, f"azure/{name}", name, shown_url(endpoint), dialect)


def _vllm(name: str, options: Options) -> Policy:
    from tfgrpo.policy.vllm import VLLMServer, VLLMWire  # noqa: PLC0415

    options = options.priced(FREE)
    key = checked_key(options.api_key or os.environ.get("VLLM_API_KEY"))
    if options.base_url is not None:
        return options.policy(openai_wire(options.base_url, key, foreign=True), f"vllm/{name}", name, options.where())
    wire = VLLMWire(VLLMServer(name), lambda url: openai_wire(url, None, foreign=True))
    return options.policy(wire, f"vllm/{name}", name, "vLLM on this machine")


def _local(name: str, options: Options) -> Policy:
    from tfgrpo.policy.local import LocalPolicy  # noqa: PLC0415

    if options.base_url is not None or options.api_key is not None:
        raise InputError(f"local/{name} runs in this process; leave base_url and api_key out")
    return LocalPolicy(f"local/{name}")


def by_litellm(model: str, options: Options) -> Policy:
    """Any other provider, through litellm."""
    from tfgrpo.policy.litellm import LiteLLMWire, known_provider, load_litellm  # noqa: PLC0415

    litellm = load_litellm()
    if not known_provider(litellm, model):
        raise InputError(f"{model!r}: litellm knows no such provider; use one of: {'; '.join(FORMS)}")
    provider, _, name = model.partition("/")
    options = options.priced(find_price(provider, name) if options.base_url is None else None)
    wire = LiteLLMWire(litellm, base_url=options.base_url, api_key=checked_key(options.api_key))
    return options.policy(wire, model, model, options.where() or provider, Dialect(send_neutral=False))


def checked_key(key: str | None) -> str | None:
    """The key without the line end that files leave behind. What no header can carry is refused without showing it."""
    key = (key or "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthError("the API key holds spaces or characters that no key has; copy it again (it is not shown here)")
    return key


KINDS: Mapping[str, Callable[[str, Options], Policy]] = {
    "openai": _openai,
    "azure": _azure,
    "vllm": _vllm,
    "local": _local,
}
