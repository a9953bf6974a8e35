"""Where a store is and which of its versions is meant: "./experience@v7" -> ("./experience", "v7")."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from experience_store.errors import StoreError

NAMESPACE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,60}[A-Za-z0-9])?")
TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,60}")
_NUMBER = re.compile(r"v?([0-9]+)")


def parse_ref(spec: str) -> tuple[str, str]:
    """Splits a location from the version behind its last "@"; without one, "head" is meant.

    Example:
        >>> parse_ref("./experience@v7"), parse_ref("http://127.0.0.1:8000")
        (('./experience', 'v7'), ('http://127.0.0.1:8000', 'head'))
    """
    location, at, ref = spec.rpartition("@")
    is_ref = bool(TAG.fullmatch(ref) or _NUMBER.fullmatch(ref))
    if not at or not location or not is_ref or ("://" not in spec and Path(spec).exists()):
        return spec, "head"
    return location, ref


def version_number(ref: int | str) -> int | None:
    """The number in 7, "7" or "v7"; None for a tag."""
    if isinstance(ref, int):
        return ref
    found = _NUMBER.fullmatch(ref.strip())
    return int(found[1]) if found else None


def checked_url(url: str) -> str:
    """The URL of a Chroma server, or an error that shows nothing of it: places stand in logs, errors and pages.

    Example:
        >>> checked_url("http://127.0.0.1:8000")
        'http://127.0.0.1:8000'
    """
    try:
        parts = urlsplit(url)
        plain = bool(parts.hostname) and parts.username is None and (parts.port is None or parts.port > 0)
    except ValueError:
        plain = False
    if not plain:
        raise StoreError(
            "the URL of a Chroma server is http(s)://HOST:PORT and holds no user and no password; give token=..."
        )
    return url


def checked_namespace(name: str) -> str:
    """The name, or an error that says what a namespace may look like."""
    if not NAMESPACE.fullmatch(name):
        raise StoreError(
            f"{name!r} is no namespace: use 1-62 letters, digits, '-' and '_', with a letter or digit at both ends."
        )
    return name
