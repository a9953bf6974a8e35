"""Fetching data sets from the hub at a pinned revision; no data is shipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfgrpo.errors import InputError


def hub_file(repo: str, revision: str, name: str) -> Path:
    """One file of a data set at `revision`, from the local cache where it is already there."""
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise _missing("huggingface_hub", repo) from error
    try:
        return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(repo, error) from error


def hub_rows(repo: str, config: str, revision: str, split: str) -> Iterable[Mapping[str, Any]]:
    """The rows of one split at `revision`, through the `datasets` package."""
    try:
        from datasets import load_dataset  # noqa: PLC0415
    except ImportError as error:
        raise _missing("datasets", repo) from error
    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(repo, config, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise _unreachable(repo, error) from error
    return rows


def _missing(package: str, repo: str) -> InputError:
    return InputError(
        f"fetching {repo} from the hub needs the package {package!r}: pip install {package}; "
        f"or give the data as a file: data=..."
    )


def _unreachable(repo: str, error: Exception) -> InputError:
    return InputError(
        f"{repo} could not be fetched from the hub ({type(error).__name__}: {error}); "
        f"download it and give data=FILE instead"
    )
